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
) -> Rounded:
    """Quantize ``weight`` [out, in] for inputs of Gram matrix ``gram`` [in, in] (fp32 or fp64, any scale).

    Columns go from left to right, with ``act_order`` from the largest diagonal entry of the Gram matrix to
    the smallest. Scales of groups of inputs are taken when the group's first column is reached, from the
    weights as updated so far; with ``act_order``, where the columns of a group are not neighbours in time,
    and for one scale a row or tensor, from the weights as given. ``kept`` (bool [out, in], True = kept) holds
    pruned weights at zero; the other columns make up for that too. Inputs that were always zero (dead) are
    rounded to nearest. The arithmetic is in the dtype of ``gram``.

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
    require_finite(gram, layer, "Gram matrix of the inputs")
    require_finite(weight, layer, "weight")

    order = (
        gram.diagonal().argsort(descending=True) if act_order else torch.arange(inputs, device=gram.device)
    )
    factor, damping, dead = inverse_factor(gram[order][:, order], layer)
    columns = weight.detach().to(gram).T[order].contiguous()  # [in, out]: a column is a row in memory
    dropped = None if kept is None else ~kept.to(gram.device).T[order]
    scales, zeros = grid(weight.detach().to(gram), format, layer=layer)
    size = format.group if isinstance(format.group, int) else inputs  # inputs that share a scale
    codes = torch.empty_like(columns, dtype=torch.uint8)

    renewed = not act_order and isinstance(format.group, int)
    block = max(BLOCK // size, 1) * size if renewed else BLOCK  # a group is never cut by the end of a block
    places = (order // size).tolist()
    for start in range(0, inputs, block):
        stop = min(start + block, inputs)
        errors = torch.zeros_like(columns[start:stop])
        for j in range(start, stop):
            if renewed and j % size == 0:
                scale, zero = grid(columns[j : j + size].T, replace(format, group="row"), layer=layer)
                scales[:, places[j]], zeros[:, places[j]] = scale[:, 0], zero[:, 0]
            scale, zero = scales[:, places[j]], zeros[:, places[j]]
            codes[j] = nearest(columns[j], scale, zero, format.bits)
            if dropped is not None:
                codes[j] = torch.where(dropped[j], zero, codes[j])
            errors[j - start] = (columns[j] - values_of(codes[j], scale, zero)) / factor[j, j]
            columns[j + 1 : stop].addr_(factor[j, j + 1 : stop], errors[j - start], alpha=-1)
        columns[stop:].addmm_(factor[start:stop, stop:].T, errors, alpha=-1)

    found = torch.empty_like(codes)
    found[order] = codes
    quantized = Quantized(
        found.T.contiguous(), scales, None if format.symmetric else zeros, format, weight.dtype
    )
    return Rounded(quantized, damping, int(dead.sum()))
