"""How much of the blocks of every family of models each method reaches: tiny random models, seconds each.

    python benchmarks/families.py results/benchmarks/families.json

Each family of ``tests/tiny_families.py`` is pruned by Wanda to 2:4, its norms and masked adapters are retrained for two
steps, and it is quantized to 4 bits. What fails is in the record, by its message.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from tiny import tiny_tokens
from tiny_families import ENCODERS, FAMILIES

from lmcompress import __version__
from lmcompress.files import write_json
from lmcompress.models import block_linears
from lmcompress.prune import mask
from lmcompress.prune.model import prune_model
from lmcompress.quantize.model import quantize_model
from lmcompress.retrain import adapters
from lmcompress.retrain.subsets import count
from lmcompress.retrain.train import train

OPTIONS = {"lr": 1e-3, "steps": 2, "batch_size": 4, "progress": False}


def row(family: str) -> dict:
    """What each method reaches of a random model of the family."""
    torch.manual_seed(0)
    auto = transformers.AutoModelForMaskedLM if family in ENCODERS else transformers.AutoModelForCausalLM
    model, windows = auto.from_config(FAMILIES[family](), dtype=torch.float32).eval(), tiny_tokens(4)
    pruned = prune_model(model, "wanda", "2:4", [{"input_ids": windows}], output_errors=False, progress=False)
    found = {"family": family, "prune": pruned.coverage, "left": pruned.left, "sparsity": pruned.sparsity}
    for subset in ("norms", "masklora"):
        try:
            report = train(
                model, [{"input_ids": windows, "labels": windows}], subset, pruned.masks, **OPTIONS
            )
            adapters.merge(model)
            reached = count(model, subset).coverage
            found[subset] = report.trainable if subset == "norms" else reached
        except Exception as error:
            found[subset] = str(error)
    report = quantize_model(model, dict.fromkeys(block_linears(model), "4bit"), masks=pruned.masks)
    mask.check(model, pruned.masks)
    return found | {"quantize": report.coverage}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    rows = []
    for family in FAMILIES:
        rows.append(row(family))
        print(json.dumps({name: value for name, value in rows[-1].items() if name != "left"}), flush=True)
    versions = {
        "lmcompress": __version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    write_json(out, {"benchmark": "families", "versions": versions, "rows": rows})


if __name__ == "__main__":
    main()
