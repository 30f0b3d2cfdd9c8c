"""Criteria that need no data: magnitude (per matrix, per row, over the whole model) and random.

All take ``weights``, a dict from layer name to weight [out, in], and return masks (bool, True = kept).
"""

import zlib
from functools import partial

import torch
from torch import Tensor

from lmcompress.errors import ParameterError
from lmcompress.prune import selection
from lmcompress.prune.mask import Masks, mask, threshold_count
from lmcompress.prune.pattern import Pattern, Unstructured


def per_matrix(weights: dict[str, Tensor], pattern: Pattern) -> Masks:
    """Least ``|w|`` of each matrix are dropped (uniform magnitude pruning, the usual baseline)."""
    return {name: mask(weight.abs(), pattern) for name, weight in weights.items()}


def per_row(weights: dict[str, Tensor], pattern: Pattern) -> Masks:
    """Least ``|w|`` of each output row are dropped, so that every output keeps the same number of inputs."""
    return {name: mask(weight.abs(), pattern, per="row") for name, weight in weights.items()}


def over_model(weights: dict[str, Tensor], pattern: Pattern) -> Masks:
    """Least ``|w|`` of all matrices together are dropped; a layer's own sparsity is what comes out.

    Exactly ``int(total * sparsity) + 1`` weights go (see :func:`~lmcompress.prune.mask.mask`), without a copy
    of the model (see :mod:`~lmcompress.prune.selection`).
    Raises :class:`ParameterError` for N:M, which fixes every layer's sparsity.
    """
    if not isinstance(pattern, Unstructured):
        raise ParameterError(
            "pattern", str(pattern), "an unstructured sparsity: N:M leaves nothing to share out globally"
        )
    count = threshold_count(sum(weight.numel() for weight in weights.values()), pattern)
    if not count:
        return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    kept = selection.keep_of(
        [partial(lambda weight: selection.ordered(weight.detach().abs()), one) for one in weights.values()],
        count,
    )
    return dict(zip(weights, kept, strict=True))


def at_random(weights: dict[str, Tensor], pattern: Pattern, seed: int = 0) -> Masks:
    """Weights are dropped at random, uniformly within each matrix: the control that a criterion has to beat.

    A layer's mask depends on ``seed``, its name and its shape, not on the device nor on the other layers.
    """
    masks = {}
    for name, weight in weights.items():
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
        masks[name] = mask(torch.rand(weight.shape, generator=generator), pattern).to(weight.device)
    return masks
