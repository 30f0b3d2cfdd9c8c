"""Rounding to nearest: every weight goes to the closest of the 2^bits values of its group.

The values of a group are ``(code - zero) * scale``, code in 0 .. 2^bits - 1. The scale is rounded to fp16, as
it is stored, before any weight is rounded: what is evaluated is what is stored. 0 is always one of the
values, so that a pruned weight stays exactly zero.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lmcompress.errors import NumericError, ParameterError
from lmcompress.quantize.formats import Bits
from lmcompress.stats import require_finite


@dataclass(frozen=True)
class Quantized:
    """A weight [out, in] as codes.

    ``codes``: uint8 [out, in]; at 16 bits the weight itself in half precision. ``scales``: fp16 [rows,
    groups] as ``format.scales_shape`` says, None at 16 bits. ``zeros``: uint8 [rows, groups], None unless
    affine (a symmetric format has the middle code 2^(bits-1) everywhere). ``dtype``: of the weight that it
    came from and reads as.
    """

    codes: Tensor
    scales: Tensor | None
    zeros: Tensor | None
    format: Bits
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)


def half(dtype: torch.dtype) -> torch.dtype:
    """Half precision in which values of ``dtype`` are stored: bf16 stays bf16, any other becomes fp16."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float16


def to_half(values: Tensor, layer: str) -> Tensor:
    """``values`` in half precision. :class:`NumericError` naming ``layer`` for what it cannot hold."""
    result = values.detach().to(half(values.dtype))
    require_finite(result, layer, "value, or one beyond the range of fp16 (65504)")
    return result


def quantize(weight: Tensor, format: Bits, *, layer: str = "weight") -> Quantized:
    """Round ``weight`` [out, in] to ``format``. Raises :class:`NumericError` naming ``layer`` for non-finite
    values.

    The arithmetic is in fp32, fp64 for an fp64 weight.
    """
    if weight.ndim != 2:
        raise ParameterError("weight", tuple(weight.shape), "a matrix [out, in]")
    require_finite(weight, layer, "weight")
    if format.bits == 16:
        return Quantized(to_half(weight, layer), None, None, format, weight.dtype)
    values = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    scales, zeros = grid(values, format, layer=layer)
    scale, zero = (spread(part, format, values.shape) for part in (scales, zeros))
    codes = closest(values, scale, format) if format.values else nearest(values, scale, zero, format.bits)
    return Quantized(codes, scales, None if format.symmetric else zeros, format, weight.dtype)


def dequantize(quantized: Quantized) -> Tensor:
    """The weight [out, in] that the codes mean, in ``quantized.dtype``; exact in fp32, then rounded to the
    dtype.
    """
    codes, format = quantized.codes, quantized.format
    if quantized.scales is None:
        return codes.to(quantized.dtype)
    if format.values:
        table = torch.tensor(format.values, device=codes.device)
        scales = spread(quantized.scales, format, codes.shape)
        return (table[codes.int()] * scales.float()).to(quantized.dtype)
    zeros = quantized.zeros
    if zeros is None:
        zeros = torch.full_like(quantized.scales, format.zero, dtype=torch.uint8)
    scales, zeros = (spread(value, format, codes.shape) for value in (quantized.scales, zeros))
    return values_of(codes, scales, zeros).to(quantized.dtype)


def quantizer(like: Bits = Bits(8)) -> Callable[[Tensor, int], Tensor]:  # noqa: B008  a value, not a call
    """``quantizer(weight [out, in], bits) -> [out, in]`` for the sensitivities: rounded and read back.

    like: the groups and symmetry of its formats; the width is that of the call.
    """

    def rounded(weight: Tensor, bits: int) -> Tensor:
        return dequantize(quantize(weight, like.at(bits)))

    return rounded


def as_released(weight: Tensor, bits: int) -> Tensor:
    """The quantizer of CPTQuant's released code (``LinearLSQ``, though nothing is learned), read back.

    Per-tensor, affine, from the least to the greatest weight: ``scale = (max - min) / (2^bits - 1)`` and a
    zero point that is *not* an integer, so that 0 is in general not one of the values (a pruned weight does
    not stay zero) and neither number is stored in any format. A
    :data:`~lmcompress.sensitivity.scores.Quantizer`. A constant weight, where the released code divides by
    zero, is returned as it is.
    """
    least, greatest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    low, high = weight.min(), weight.max()
    if low == high:
        return weight.clone()
    scale = (high - low) / (greatest - least)
    zero = least - low / scale
    return ((weight / scale + zero).round().clamp(least, greatest) - zero) * scale


def grid(values: Tensor, format: Bits, *, layer: str = "weight") -> tuple[Tensor, Tensor]:
    """Scales fp16 and zero points uint8, both [rows, groups], for ``values`` [out, in] (fp32 or fp64).

    Affine: from the least to the greatest value of the group (0 among them). Symmetric: the value of largest
    magnitude gets the code 0, farthest from the middle, so that all 2^bits codes serve; the scale is negative
    where that value is positive. A group of zeros, or one whose scale is below what fp16 holds, has scale 0
    and reads 0.
    """
    grouped = _grouped(values, format)
    if format.values:
        scales = (grouped.abs().amax(-1) / max(map(abs, format.values))).half()
        if not torch.isfinite(scales).all():
            raise NumericError(layer, "a scale is beyond the range of fp16 (65504)")
        return scales, torch.full_like(scales, format.zero, dtype=torch.uint8)
    low, high = grouped.amin(-1).clamp(max=0), grouped.amax(-1).clamp(min=0)
    middle = 2 ** (format.bits - 1)
    extreme = torch.where(high > -low, high, low)
    scales = (-extreme / middle if format.symmetric else (high - low) / (2 * middle - 1)).half()
    if not torch.isfinite(scales).all():
        raise NumericError(layer, "a scale is beyond the range of fp16 (65504)")
    if format.symmetric:
        return scales, torch.full_like(scales, middle, dtype=torch.uint8)
    zeros = (-low / scales.to(low)).nan_to_num(0).round().clamp(0, 2 * middle - 1)
    return scales, zeros.to(torch.uint8)


def spread(groups: Tensor, format: Bits, shape: Sequence[int]) -> Tensor:
    """What a group has, [rows, groups], for each of its weights: a view or tensor that broadcasts to [out,
    in].
    """
    if isinstance(format.group, str):
        return groups
    return groups.repeat_interleave(format.group, dim=1)[:, : shape[1]]


def nearest(values: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """Codes uint8 of the nearest values; ``scales`` and ``zeros`` broadcast to ``values``."""
    steps = (values / scales.to(values)).nan_to_num(0, 0, 0)  # only a scale of 0 makes them infinite or NaN
    return (steps.round() + zeros).clamp(0, 2**bits - 1).to(torch.uint8)


def closest(values: Tensor, scales: Tensor, format: Bits) -> Tensor:
    """Codes uint8 of the closest values of a codebook; ``scales`` broadcast to ``values``."""
    table = torch.tensor(format.values, dtype=values.dtype, device=values.device)
    steps = (values / scales.to(values)).nan_to_num(0, 0, 0)  # only a scale of 0 makes them infinite or NaN
    return torch.bucketize(steps, (table[1:] + table[:-1]) / 2).to(torch.uint8)


def values_of(codes: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """``(code - zero) * scale`` in fp32, where the product (8 by 11 significant bits) is exact."""
    return (codes.float() - zeros.float()) * scales.float()


def _grouped(values: Tensor, format: Bits) -> Tensor:
    """``values`` [out, in] as [rows, groups, weights of a group]; a short last group is filled with zeros."""
    if format.group == "tensor":
        return values.reshape(1, 1, -1)
    if isinstance(format.group, str):
        return values.unsqueeze(1)
    rest = -values.shape[1] % format.group
    return functional.pad(values, (0, rest)).reshape(len(values), -1, format.group)
