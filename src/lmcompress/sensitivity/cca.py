"""CMPQ (CPTQuant, arXiv 2412.03599): a layer is sensitive when its states have little in common with others'.

The score looks at redundancy between depths, never at quantization: read it beside ``depth.depth_null`` (what
averaging over distance alone produces) and ``measured`` (the truth).
"""

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import blocks, linears
from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.scores import check_batches, check_count, layer_groups
from lmcompress.sensitivity.similarity import (
    Basis,
    basis,
    held_out_correlations,
    linear_cka,
    mean_cca,
    permutation_null,
    pwcca,
)
from lmcompress.stream import BlockVisit, stream

MEASURES = ("cca", "svcca", "pwcca", "cka")
LEAST_SAMPLES = 4096


def samples_for(features: int) -> int:
    """How many tokens :func:`cmpq` wants as samples for hidden states of so many ``features``: four a feature, and at
    least :data:`LEAST_SAMPLES`.

    With n samples of two unrelated sets of p features each, the squared correlations found in sample have the mean
    p / n: at four a feature a quarter, whatever the width (``null_draws`` measures it; tested on known correlations).
    """
    return max(LEAST_SAMPLES, 4 * features)


def samples_in(batches: Sequence[dict[str, Tensor]]) -> int:
    """How many tokens of ``batches`` can be samples (see :func:`sample_rows`)."""
    return sum(map(len, sample_rows(batches, sys.maxsize)))


def sample_rows(batches: Sequence[dict[str, Tensor]], tokens: int, seed: int = 0) -> list[Tensor]:
    """Which tokens serve as samples: per batch, indices into its flattened [B * T] positions, ascending.

    Padding and the first real token of every window (BOS, or whatever collects attention there) are left out;
    of the rest ``tokens`` are drawn at random, all of them if there are not so many.
    """
    check_batches(batches)
    usable = []
    for batch in batches:
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).cpu().bool()
        usable.append((mask & (mask.cumsum(1) > 1)).flatten())
    flat = torch.cat(usable).nonzero().flatten()
    if len(flat) > tokens:
        flat = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:tokens]]
    chosen = torch.zeros(sum(map(len, usable)), dtype=torch.bool)
    chosen[flat] = True
    return [part.nonzero().flatten() for part in chosen.split([len(part) for part in usable])]


def hidden_states(model: nn.Module, batches: Sequence[dict[str, Tensor]], rows: list[Tensor]) -> list[Tensor]:
    """Residual stream at the chosen tokens: [n, D] before the first block and after each of the L blocks."""
    found: list[Tensor] = []

    def visit(block: BlockVisit) -> dict[str, Any]:
        if not found:
            found.append(_pick(block.inputs, rows))
        found.append(_pick(block.run(), rows))
        return {}

    stream(model, list(batches), visit, progress=False)
    return found


def linear_outputs(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    rows: list[Tensor],
    use: Callable[[str, Tensor], None],
) -> None:
    """Call ``use(name, [n, out])`` with the output of every Linear in the blocks at the chosen tokens."""

    def visit(block: BlockVisit) -> dict[str, Any]:
        kept: dict[str, list[Tensor]] = {}

        def hook(name: str) -> Callable[..., Any]:
            return lambda _module, _inputs, output: kept.setdefault(name, []).append(output.cpu())

        handles = [
            part.register_forward_hook(hook(name)) for name, part in linears(block.module, block.name).items()
        ]
        try:
            for _ in block.run():
                pass
        finally:
            for handle in handles:
                handle.remove()
        for name, outputs in kept.items():
            use(name, _pick(outputs, rows))
        return {}

    stream(model, list(batches), visit, progress=False)


def _pick(outputs: Any, rows: list[Tensor]) -> Tensor:
    """The chosen tokens [n, D] in float64, on the CPU: its decompositions are faster than a GPU's at these sizes."""
    return (
        torch.cat([x.flatten(0, -2)[index.to(x.device)] for x, index in zip(outputs, rows, strict=True)])
        .double()
        .cpu()
    )


def _measure(measure: str, ridge: float) -> Callable[[Basis, Basis], float]:
    known: dict[str, Callable[[Basis, Basis], float]] = {
        "cca": partial(mean_cca, ridge=ridge),
        "svcca": partial(mean_cca, ridge=ridge),
        "pwcca": partial(pwcca, ridge=ridge),
        "cka": linear_cka,
    }
    return known[measure]


def cmpq(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    *,
    measure: str = "cca",
    per: str = "block",
    tokens: int | None = None,
    ridge: float = 1e-3,
    held_out: int = 0,
    null_draws: int = 0,
    seed: int = 0,
) -> Scores:
    """1 - mean similarity of a layer's output to the hidden states at all other depths.

    Per block: the output of block i against the embedding output and the outputs of all other blocks. Per
    Linear: its output against the outputs of all other blocks. (A Linear's own input would not do: CCA is
    invariant to any invertible linear map, so it finds a Linear's output identical to its input whatever the
    weight.)

    Samples are ``tokens`` tokens (see :func:`sample_rows`; None: :func:`samples_for` the model's width); they must
    outnumber the features of any two compared representations together, else correlations are 1 by construction
    (:class:`ParameterError`, before any forward pass).
    ``measure``: ``cca`` (mean over the spectrum), ``svcca`` (bases with 99 % of the variance), ``pwcca``,
    ``cka``; ``ridge`` as in ``similarity.correlations``. ``detail``: ``similarity`` [L + 1][L + 1] (row =
    target); with ``held_out`` = k the mean of the first k correlations, fitted on the first half of the
    tokens and found again on the other, between each block's input and output; with ``null_draws`` the
    permutation null of the same pairs.
    """
    started = time.perf_counter()
    if measure not in MEASURES:
        raise ParameterError("measure", measure, MEASURES)
    config: Any = model.config
    width: int = config.hidden_size
    tokens = samples_for(width) if tokens is None else tokens
    check_count("tokens", tokens)
    groups, rows = layer_groups(model, per), sample_rows(batches, tokens, seed)
    count = sum(map(len, rows))
    widest = max(linear.out_features for inside in groups.values() for linear in inside.values())
    features = width + (widest if per == "linear" else width)
    if count <= features:
        raise ParameterError(
            "tokens", count, f"more samples than the {features} features of the two sides together"
        )
    states = hidden_states(model, batches, rows)
    energy, similar = (0.99 if measure == "svcca" else 1.0), _measure(measure, ridge)
    bases = [_basis(name, x, energy) for name, x in zip(["embeddings", *blocks(model)], states, strict=True)]
    matrix = _similarities(bases, similar, symmetric=measure != "pwcca")
    names = list(blocks(model))
    if per == "block":
        scores = {name: 1 - _mean_but(matrix[i + 1], i + 1) for i, name in enumerate(names)}
    else:
        scores = {}

        def use(name: str, output: Tensor) -> None:
            own = next(i for i, block in enumerate(names) if name.startswith(f"{block}."))
            seen = _basis(name, output, energy)
            scores[name] = 1 - _mean_but([similar(seen, other) for other in bases[1:]], own)

        linear_outputs(model, batches, rows, use)
        scores = {name: scores[name] for name in groups}  # in the order of definition, as everywhere
    detail: dict[str, Any] = {
        "measure": measure,
        "samples": count,
        "features": states[0].shape[1],
        "similarity": matrix,
    }
    if held_out:
        detail["held_out"] = {
            name: float(
                held_out_correlations(states[i], states[i + 1], count // 2, ridge, energy, held_out).mean()
            )
            for i, name in enumerate(names)
        }
    if null_draws:
        detail["null"] = {
            name: permutation_null(bases[i], bases[i + 1], similar, null_draws, seed)
            for i, name in enumerate(names)
        }
    return Scores(scores, time.perf_counter() - started, detail)


def _basis(name: str, x: Tensor, energy: float) -> Basis:
    if not torch.isfinite(x).all():
        raise NumericError(name, "non-finite output")
    return basis(x, energy)


def _similarities(
    bases: list[Basis], similar: Callable[[Basis, Basis], float], symmetric: bool
) -> list[list[float]]:
    """Similarity of every pair; of a symmetric measure each pair is computed once."""
    matrix = [[0.0] * len(bases) for _ in bases]
    for i, a in enumerate(bases):
        for j, b in enumerate(bases):
            matrix[i][j] = matrix[j][i] if symmetric and j < i else similar(a, b)
    return matrix


def _mean_but(values: list[float], left_out: int) -> float:
    kept = [value for index, value in enumerate(values) if index != left_out]
    if not kept:
        raise ParameterError("model", 1, "at least two blocks: similarity to the other blocks is asked for")
    return sum(kept) / len(kept)


def cmpq_as_released(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Scores:
    """CMPQ as the authors' released code computes it, per block; kept to show what it does, not to be used.

    hidden_states[0..L] are averaged over all positions to one vector a text; for every i < L the score is 1 -
    the mean over j != i of the first canonical correlation between states i and j. Flaws, all kept:

    * padding positions are averaged in, and one text is one sample: with no more texts than features every
      correlation is exactly 1 and every score 0;
    * only the first correlation, in sample and without a ridge: it is near 1 for any two points of a residual
      stream;
    * state i is the *input* of block i, yet its score is given to block i; the last state is never a target;
    * the mean over all j falls with the distance to the others, so both ends look sensitive in any model.

    The released code fits the first pair iteratively (NIPALS); here it is the same pair in closed form. The
    first block's state is what the model gives to its blocks; the last is after the last block, before any
    final norm.
    """
    started = time.perf_counter()
    check_batches(batches)
    everything = [torch.arange(batch["input_ids"].numel()) for batch in batches]
    sizes = [tuple(batch["input_ids"].shape) for batch in batches]
    pooled = []
    for state in hidden_states(model, batches, everything):
        parts = state.split([texts * length for texts, length in sizes])
        pooled.append(
            torch.cat([part.view(*size, -1).mean(1) for part, size in zip(parts, sizes, strict=True)])
        )
    bases = [basis(x) for x in pooled]
    first = [[float(torch.linalg.svdvals(a.u.T @ b.u)[0].clamp(max=1)) for b in bases] for a in bases]
    scores = {name: 1 - _mean_but(first[i], i) for i, name in enumerate(blocks(model))}
    return Scores(scores, time.perf_counter() - started, {"similarity": first, "samples": len(pooled[0])})
