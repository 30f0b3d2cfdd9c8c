"""Masks of one matrix as small pictures: those of the published pruning runs on SmolLM2-135M, computed again.

A record of pruning holds numbers and no mask. Each run at 50 % or 2:4 is repeated with the parameters of its record,
about half a minute on one core; it agrees where the perplexity comes out in the record's interval. Another number of
threads sums bf16 in another order, so a few weights of a mask near the threshold may differ from those of the run.
The explorer shows the pictures beside the results (``lmcompress.report.mask_pictures``).

    python benchmarks/mask_pictures.py --out results/benchmarks
"""

import bench
import torch

from lmcompress import records
from lmcompress.experiments.one_shot import PrunedModel
from lmcompress.prune.criteria import CRITERIA
from lmcompress.prune.model import prune_model

MODEL, PATTERNS, LAYER = "smollm2-135m", ("50%", "2:4"), "model.layers.15.self_attn.q_proj"
BLOCK = 8  # weights a side that make one cell of the whole picture
CLOSE = 32  # weights a side of the corner that is shown one by one


def main(argv: list[str] | None = None) -> dict:
    options = bench.parser(__doc__).parse_args(argv)
    found = [
        record
        for record in records.published_records("pruned_model")
        if record.parameters["model"] == MODEL and record.parameters["pattern"] in PATTERNS
    ]
    rows, pictures = zip(*map(picture, found[: 1 if options.tiny else None]), strict=True)
    agrees = all(row["agrees"] for row in rows)
    return bench.finish("mask_pictures", options, list(rows), pictures=pictures, agrees=agrees)


def picture(record: records.Record) -> tuple[dict, dict]:
    """One row, and its picture, a text for each row of the matrix: ``whole``, two hexadecimal digits for the weights that
    each block keeps, and ``corner``, ``#`` for a weight that is kept and ``.`` for one that is dropped.
    """
    run = PrunedModel(**record.parameters)
    model = run.fresh()
    batches = run.batches() if CRITERIA[run.criterion].by_data else None
    report = prune_model(
        model, run.criterion, run.pattern, batches, seed=run.seed, output_errors=False, progress=False
    )
    mask, now = report.masks[LAYER], run.judged(model)["perplexity"]["value"]
    before = record.result["perplexity"]
    kept = mask.unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK).sum((-1, -2))
    row = {
        "record": record.key,
        "criterion": run.criterion,
        "pattern": run.pattern,
        "matrix": LAYER,
        "shape": list(mask.shape),
        "dropped": 1 - float(mask.float().mean()),
        "perplexity": now,
        "published": before["value"],
        "agrees": before["low"] <= now <= before["high"],
    }
    return row, {
        "whole": ["".join(f"{count:02x}" for count in line) for line in kept.tolist()],
        "corner": ["".join(".#"[bit] for bit in line) for line in mask[:CLOSE, :CLOSE].int().tolist()],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    bench.script(main)
