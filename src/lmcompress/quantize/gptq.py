"""GPTQ (Frantar et al., arXiv 2210.17323): round one column, let those to its right make up for it.

The same factor as SparseGPT's serves: with ``H^-1 = U^T U``, U upper triangular, rounding column j of the
weight from w_j to q_j is made up for best by adding ``-(w_j - q_j) / U_jj * U_j,right`` to the columns to its
right.
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lmcompress.errors import ParameterError
from lmcompress.prune import columns as kernel
from lmcompress.prune.sparsegpt import BLOCK, inverse_factor
from lmcompress.quantize import rtn
from lmcompress.quantize.formats import Bits
from lmcompress.quantize.rtn import Quantized, grid, nearest, values_of
from lmcompress.stats import require_finite


class Rounded(NamedTuple):
    """``quantized`` weight; share of the mean diagonal used as ``damping`` (None at 16 bits, which are only
    rounded); number of ``dead`` inputs."""

    quantized: Quantized
    damping: float | None
    dead: int


def quantize(
    weight: Tensor,
    gram: Tensor,
    format: Bits,
    *,
    act_order: bool = False,
    kept: Tensor | None = None,
    layer: str = "weight",
    factor: tuple[Tensor, float, Tensor] | None = None,
) -> Rounded:
    """Quantize ``weight`` [out, in] for inputs of Gram matrix ``gram`` [in, in] (fp32 or fp64, any scale).

    Columns go from left to right, with ``act_order`` from the largest diagonal entry of the Gram matrix to
    the smallest. Scales of groups of inputs are taken when the group's first column is reached, from the
    weights as updated so far; with ``act_order``, where the columns of a group are not neighbours in time,
    and for one scale a row or tensor, from the weights as given. ``kept`` (bool [out, in], True = kept) holds
    pruned weights at zero; the other columns make up for that too. Inputs that were always zero (dead) are
    rounded to nearest. The arithmetic is in the dtype of ``gram``. ``factor``: what
    :func:`~lmcompress.prune.sparsegpt.inverse_factor` gave for ``gram``, where it is at hand; not with ``act_order``.

    Raises :class:`~lmcompress.errors.NumericError` naming ``layer`` for non-finite values, a scale that fp16
    cannot hold, or when no damping helps; :class:`ParameterError` for shapes that do not fit.
    """
    inputs = weight.shape[-1]
    if weight.ndim != 2 or tuple(gram.shape) != (inputs, inputs):
        raise ParameterError("gram", tuple(gram.shape), f"a matrix over the inputs of {tuple(weight.shape)}")
    if kept is not None and (kept.dtype != torch.bool or kept.shape != weight.shape):
        raise ParameterError("kept", tuple(kept.shape), f"a bool mask of shape {tuple(weight.shape)}")
    if format.bits == 16:
        return Rounded(rtn.quantize(weight, format, layer=layer), None, int((gram.diagonal() == 0).sum()))
    if format.values:
        raise ParameterError("format", str(format), "one of evenly spaced values for gptq (rtn takes any)")
    require_finite(gram, layer, "Gram matrix of the inputs")
    require_finite(weight, layer, "weight")

    renewed = not act_order and isinstance(format.group, int)  # scales are taken on the way
    order = torch.arange(inputs, device=gram.device)
    if act_order:
        order = gram.diagonal().argsort(descending=True)
        gram = gram[order[:, None], order]
    upper, damping, dead = factor or inverse_factor(gram, layer, overwrite=act_order)
    columns = weight.detach().to(gram).T[order].contiguous()  # [in, out]: a column is a row in memory
    held = None if kept is None else kept.to(gram.device).T[order].contiguous()
    scales, zeros = grid(weight.detach().to(gram), format, layer=layer)
    size = min(format.group, inputs) if isinstance(format.group, int) else inputs  # inputs that share a scale
    codes = torch.empty_like(columns, dtype=torch.uint8)

    places = order // size
    for start, stop in _blocks(inputs, size if renewed else inputs):
        inside = slice(start, stop)
        if renewed and start % size == 0:
            group = columns[start : start + size].T
            scale, zero = grid(group, replace(format, group="row"), layer=layer)
            scales[:, start // size], zeros[:, start // size] = scale[:, 0], zero[:, 0]
        own = places[start : start + 1] if renewed or size == inputs else places[inside]
        shape = (len(own), columns.shape[1])
        errors = _round_block(
            columns[inside],
            upper[inside, inside],
            scales[:, own].T.expand(shape),
            zeros[:, own].T.expand(shape),
            codes[inside],
            format.bits,
            None if held is None else held[inside],
        )
        columns[stop:].addmm_(upper[inside, stop:].T, errors, alpha=-1)

    found = torch.empty_like(codes)
    found[order] = codes
    quantized = Quantized(
        found.T.contiguous(), scales, None if format.symmetric else zeros, format, weight.dtype
    )
    return Rounded(quantized, damping, int(dead.sum()))


def _blocks(inputs: int, size: int) -> list[tuple[int, int]]:
    """Columns that are updated before the rest, (start, stop): of one group of ``size``, and no more than BLOCK."""
    return [
        (start, min(start + BLOCK, first + size, inputs))
        for first in range(0, inputs, size)
        for start in range(first, min(first + size, inputs), BLOCK)
    ]


def _round_block(
    columns: Tensor,
    factor: Tensor,
    scales: Tensor,
    zeros: Tensor,
    codes: Tensor,
    bits: int,
    kept: Tensor | None,
) -> Tensor:
    """Write the codes [b, out] of columns [b, out], which are updated in place; returns the errors [b, out]."""
    if kernel.usable(columns):
        return kernel.quantize(columns, factor, scales, zeros, codes, bits, kept)
    errors = torch.zeros_like(columns)
    for j in range(len(columns)):
        scale, zero = (value[min(j, len(value) - 1)] for value in (scales, zeros))
        codes[j] = nearest(columns[j], scale, zero, bits)
        if kept is not None:
            codes[j] = torch.where(kept[j], codes[j], zero)
        errors[j] = (columns[j] - values_of(codes[j], scale, zero)) / factor[j, j]
        columns[j + 1 :].addr_(factor[j, j + 1 :], errors[j], alpha=-1)
    return errors
