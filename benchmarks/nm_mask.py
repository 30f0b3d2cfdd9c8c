"""N:M masks in one call against the official loop over columns (PERP, ``PruneUtils.get_n_m_pruning_mask``).

Both get the same scores; equal masks are checked first. Aim: 50 times as fast on a GPU.

    git clone https://github.com/ZIB-IOL/PERP
    python benchmarks/nm_mask.py --perp PERP --out records
"""

import bench
import official
import torch

from lmcompress.cost import paired
from lmcompress.prune.mask import mask
from lmcompress.prune.pattern import NofM, parse

SHAPES = ((2048, 2048), (4096, 4096), (16384, 4096), (4096, 16384))
TINY = ((64, 128),)


def main(argv: list[str] | None = None) -> dict:
    options = bench.parser(__doc__, "perp").parse_args(argv)
    code = official.load(options.perp, "utilities").PruneUtils
    rows = []
    for shape in TINY if options.tiny else SHAPES:
        scores = bench.seeded(shape, 0, options.device).abs()
        for text in ("2:4", "4:8"):
            rows.append(compare(code, scores, parse(text), options))
    return bench.finish("nm_mask", options, rows, agrees=all(row["agrees"] for row in rows))


def compare(code: type, scores: torch.Tensor, pattern: NofM, options) -> dict:
    """One row: are the masks equal, and how long does each take."""

    def theirs() -> torch.Tensor:
        return code.get_n_m_pruning_mask(scores, pattern.n, pattern.m)  # True = dropped

    def ours() -> torch.Tensor:
        return mask(scores, pattern)

    agrees = torch.equal(ours(), ~theirs())
    found = paired({"ours": ours, "official": theirs}, options.device, repeats=3 if options.tiny else 10)
    return {
        "shape": f"{scores.shape[0]}x{scores.shape[1]}",
        "pattern": str(pattern),
        "ours ms": 1e3 * found["ours"].median,
        "official ms": 1e3 * found["official"].median,
        "speed-up": found["official"].median / found["ours"].median,
        "agrees": agrees,
    }


if __name__ == "__main__":
    bench.script(main)
