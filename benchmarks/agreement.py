"""Do our magnitude, Wanda and SparseGPT agree with the official codes, on the same weights and inputs?

Masks of magnitude and Wanda must be equal but for ties; the squared output error of a layer after SparseGPT
must be within 1 %. A *tie* is a weight on which the two differ although its score equals the threshold of
its group within rounding (1e-5): the official magnitude code drops all weights at the threshold, ours
exactly the share asked for, and sums in another order can swap neighbours. Everything else that differs is
an error: exit status 1.

    git clone https://github.com/locuslab/wanda
    git clone https://github.com/IST-DASLab/sparsegpt
    python benchmarks/agreement.py --wanda wanda --sparsegpt sparsegpt --out records
    python benchmarks/agreement.py ... --model smollm2-135m --documents text.txt    # also blocks of a real
    model
"""

import contextlib
import io
import types
from pathlib import Path

import bench
import official
import torch
from torch import Tensor, nn

from lmcompress.models import load
from lmcompress.prune import magnitude, sparsegpt, wanda
from lmcompress.prune.mask import mask
from lmcompress.prune.pattern import NofM, Pattern, parse
from lmcompress.stats import ColumnNorms, Gram
from lmcompress.stream import BlockVisit, stream

PATTERNS = ("50%", "2:4", "4:8")
ROUNDING = 1e-5
SPARSEGPT_WITHIN = 0.01


def main(argv: list[str] | None = None) -> dict:
    options = arguments().parse_args(argv)
    codes = {
        "wanda": official.load(options.wanda, "lib.prune"),
        "sparsegpt": official.load(options.sparsegpt, "sparsegpt"),
    }
    shapes = (
        {"random 32x64": (32, 64)}
        if options.tiny
        else {"random 1536x576": (1536, 576), "random 576x1536": (576, 1536)}
    )
    rows = []
    for name, shape in shapes.items():
        for dtype in (torch.float32, torch.float16):
            weight, inputs = random_layer(*shape, options.device, dtype)
            rows += compare(f"{name} {str(dtype).removeprefix('torch.')}", weight, inputs, codes)
    if options.model is not None:
        rows += real_layers(options, codes)
    return bench.finish("agreement", options, rows, agrees=all(row["agrees"] for row in rows))


def arguments():
    parser = bench.parser(__doc__, "wanda", "sparsegpt")
    parser.add_argument("--model", help="also compare on the Linears of this model (needs --documents)")
    parser.add_argument("--documents", type=Path, help="text file for the calibration inputs of --model")
    parser.add_argument("--blocks", type=int, nargs="+", default=[0, 15], help="which blocks of --model")
    return parser


def random_layer(
    outputs: int, inputs: int, device: str, dtype: torch.dtype, sequences: int = 16, tokens: int = 128
) -> tuple[Tensor, list[Tensor]]:
    """A weight [out, in] and inputs [1, T, in] that are correlated and have a few large features, as in
    LLMs.
    """
    weight = bench.seeded((outputs, inputs), 0, device, dtype)
    mixing = bench.seeded((inputs, inputs), 1, device) / inputs**0.5 + torch.eye(inputs, device=device)
    scale = bench.seeded((inputs,), 2, device).exp()
    scale[:: max(inputs // 6, 1)] *= 20
    x = bench.seeded((sequences, tokens, inputs), 3, device) @ mixing * scale
    return weight, [sequence.unsqueeze(0).to(dtype) for sequence in x]


def real_layers(options, codes: dict) -> list[dict]:
    """The comparison on every Linear of some blocks of a model, with what they see of real text."""
    model, tokenizer = load(options.model, device=options.device)
    ids = tokenizer(options.documents.read_text(encoding="utf-8")[:200_000], return_tensors="pt")[
        "input_ids"
    ][0]
    length = 512
    windows = ids[: len(ids) // length * length].reshape(-1, length)[:16]
    rows: list[dict] = []

    def visit(block: BlockVisit) -> dict:
        if block.index in options.blocks:
            kept = block.statistics(lambda linear: KeptInputs())
            for name, seen in kept.items():
                weight = block.module.get_submodule(name).weight.detach()
                rows.extend(compare(f"{block.name}.{name}", weight, seen.inputs, codes))
        return {}

    stream(model, [{"input_ids": window.unsqueeze(0)} for window in windows], visit, store=options.device)
    return rows


class KeptInputs:
    """A "statistic" that keeps the inputs themselves."""

    def __init__(self):
        self.inputs: list[Tensor] = []

    def update(self, x: Tensor) -> None:
        self.inputs.append(x)


def compare(layer: str, weight: Tensor, inputs: list[Tensor], codes: dict) -> list[dict]:
    """One row for each criterion and pattern. Weights that are zero from the start tell nothing of a mask."""
    alive = weight != 0
    norms, gram = ColumnNorms(weight.shape[1]), Gram(weight.shape[1])
    for x in inputs:
        norms.update(x)
        gram.update(x)
    rows = []
    for text in PATTERNS:
        pattern = parse(text)
        ours = magnitude.per_matrix({"": weight}, pattern)[""] & alive
        theirs = official_magnitude(codes["wanda"], weight, pattern)
        rows.append(
            masks_row(layer, "magnitude", text, ours, theirs, weight.abs().float(), pattern, "tensor")
        )
        ours = wanda.prune(weight, norms.result(), pattern) & alive
        theirs = official_wanda(codes["wanda"], weight, inputs, pattern)
        scores = wanda.scores(weight, norms.result())
        rows.append(masks_row(layer, "wanda", text, ours, theirs, scores, pattern, "row"))
        ours = sparsegpt.prune(weight, gram.result(), pattern).weight
        theirs = official_sparsegpt(codes["sparsegpt"], weight, inputs, pattern)
        rows.append(errors_row(layer, text, weight, ours, theirs, inputs))
    return rows


def masks_row(layer, criterion, pattern_text, ours, theirs, scores, pattern, per) -> dict:
    """How many weights the two masks (True = kept) decide differently, and how many of those are no ties."""
    different = ours != theirs
    real = different & ~near_threshold(scores, pattern, per)
    return {
        "layer": layer,
        "criterion": criterion,
        "pattern": pattern_text,
        "ours": float((~ours).float().mean()),
        "official": float((~theirs).float().mean()),
        "different": int(different.sum()),
        "no ties": int(real.sum()),
        "agrees": not bool(real.any()),
    }


def near_threshold(scores: Tensor, pattern: Pattern, per: str) -> Tensor:
    """Where a score equals, within rounding, the largest score that is dropped in its group."""
    kept = mask(scores, pattern, per)
    shape = (-1, pattern.m) if isinstance(pattern, NofM) else (1, -1) if per == "tensor" else scores.shape
    grouped = scores.reshape(shape)
    threshold = grouped.masked_fill(kept.reshape(shape), 0).amax(-1, keepdim=True)
    return ((grouped - threshold).abs() <= ROUNDING * threshold).reshape(scores.shape)


def errors_row(layer, pattern_text, weight, ours, theirs, inputs) -> dict:
    """Squared output errors, as shares of the dense output's square, of the two pruned weights."""
    x = torch.cat([x.reshape(-1, x.shape[-1]) for x in inputs]).double()
    dense = (x @ weight.double().T).square().sum()
    mine, other = (
        float((x @ (weight.double() - pruned.double()).T).square().sum() / dense) for pruned in (ours, theirs)
    )
    return {
        "layer": layer,
        "criterion": "sparsegpt",
        "pattern": pattern_text,
        "ours": mine,
        "official": other,
        "different": int(((ours == 0) != (theirs == 0)).sum()),
        "no ties": None,
        "agrees": abs(mine - other) <= SPARSEGPT_WITHIN * other,
    }


def official_magnitude(code: types.ModuleType, weight: Tensor, pattern: Pattern) -> Tensor:
    """Mask (True = kept) by ``prune_magnitude`` of the Wanda repository."""
    model, asked = _one_linear(weight, 1), _asked(pattern, 1)
    with official.on_cpu_too():
        code.prune_magnitude(asked, model, None, weight.device, **_zeros(pattern))
    return model.model.layers[0].linear.weight != 0


def official_wanda(code: types.ModuleType, weight: Tensor, inputs: list[Tensor], pattern: Pattern) -> Tensor:
    """Mask (True = kept) by ``prune_wanda`` of the Wanda repository; only its data loader is replaced."""
    model, asked = _one_linear(weight, inputs[0].shape[1]), _asked(pattern, len(inputs))
    loader, code.get_loaders = code.get_loaders, lambda *_, **__: ([(x,) for x in inputs], None)
    try:
        with official.on_cpu_too(), contextlib.redirect_stdout(io.StringIO()):
            code.prune_wanda(asked, model, None, weight.device, **_zeros(pattern))
    finally:
        code.get_loaders = loader
    return model.model.layers[0].linear.weight != 0


def official_sparsegpt(
    code: types.ModuleType, weight: Tensor, inputs: list[Tensor], pattern: Pattern
) -> Tensor:
    """Weight after ``SparseGPT.fasterprune`` with its own defaults, from sequences one at a time."""
    linear = _linear(weight)
    pruner = code.SparseGPT(linear)
    for x in inputs:
        pruner.add_batch(x, None)
    zeros = {key.replace("_", ""): value for key, value in _zeros(pattern).items()}
    with official.on_cpu_too(), contextlib.redirect_stdout(io.StringIO()):
        pruner.fasterprune(pattern.sparsity, **zeros)
    return linear.weight.detach()


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    return linear


def _one_linear(weight: Tensor, tokens: int) -> official.OneLinear:
    return official.OneLinear(_linear(weight), tokens)


def _asked(pattern: Pattern, sequences: int) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        sparsity_ratio=pattern.sparsity, nsamples=sequences, seed=0, use_variant=False
    )


def _zeros(pattern: Pattern) -> dict[str, int]:
    return {"prune_n": pattern.n, "prune_m": pattern.m} if isinstance(pattern, NofM) else {}


if __name__ == "__main__":
    bench.script(main)
