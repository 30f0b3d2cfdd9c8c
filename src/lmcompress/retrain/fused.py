"""Two GPU kernels for adapters, in Triton: what ``adapters`` does in steps over [out, in] matrices, in one
pass each.

A training step of an adapted layer has to read and write matrices as large as its weight a few times, which
on a GPU takes about as long as the products of a small batch. Here the rank-r products stay in registers:

* :func:`effective_weight` reads W and M and writes W_eff (4 bytes a weight in half precision; 9 in steps).
* :func:`gradients` reads dY^T X and M (or W) once for both dA and dB (3 bytes a weight; 9 in steps).

Sums over rows are written as partial sums and added afterwards, not with atomics: the same run gives the
same bits.
"""

import torch
from torch import Tensor

from lmcompress.prune.bits import pack

try:
    import triton
    import triton.language as tl
except ImportError:  # comes with torch for NVIDIA GPUs; elsewhere the plain torch operations are used
    triton = None

HALF = (torch.bfloat16, torch.float16)
MAX_RANK = 64
TILE = (64, 128)  # rows and columns that one program holds at a time
BAND = (128, 64)  # the same for the gradients: more rows, so that there are fewer partial sums of dA
SPANS = 8  # programs that share a band of rows in the gradients


def usable(weight: Tensor, rank: int) -> bool:
    """Whether the kernels serve: Triton, a GPU, half precision, a rank of at most 64."""
    return triton is not None and weight.is_cuda and weight.dtype in HALF and rank <= MAX_RANK


def effective_weight(
    weight: Tensor, a: Tensor, b: Tensor, mask: Tensor | None, scale: float | None
) -> Tensor:
    """W + scale M*(BA), or W * (BA) when ``scale`` is None, as in :func:`adapters.effective_weight`.

    ``mask`` is bool or packed; ``a`` and ``b`` are rounded to the weight's dtype; the product and the sum
    are fp32 and rounded once.
    """
    rows, columns = weight.shape
    bits = pack(mask) if mask is not None and mask.dtype == torch.bool else mask
    out = torch.empty_like(weight)
    grid = (triton.cdiv(columns, TILE[1]), triton.cdiv(rows, TILE[0]))
    with torch.cuda.device_of(weight):  # a kernel is launched on the current device, wherever its tensors are
        _effective_weight[grid](
            weight.contiguous(),
            bits if bits is not None else weight,  # never read then; a kernel cannot be given nothing
            a.contiguous(),
            b.contiguous(),
            out,
            rows,
            columns,
            len(a),
            1.0 if scale is None else scale,
            SCALING=scale is None,
            MASKED=bits is not None,
            RANK=_padded(len(a)),
            ROWS=TILE[0],
            COLUMNS=TILE[1],
        )
    return out


def gradients(
    product: Tensor, weight: Tensor, a: Tensor, b: Tensor, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """``(dA, dB)``, fp32, from ``product`` = dY^T X [out, in]: B^T H and H A^T with H as in ``adapters``."""
    rows, columns = product.shape
    bits = pack(mask) if mask is not None and mask.dtype == torch.bool else mask
    bands = triton.cdiv(rows, BAND[0])
    span = triton.cdiv(triton.cdiv(columns, BAND[1]), SPANS) * BAND[1]
    spans = triton.cdiv(columns, span)
    da = torch.empty(bands, len(a), columns, dtype=torch.float32, device=product.device)
    db = torch.empty(spans, rows, len(a), dtype=torch.float32, device=product.device)
    with torch.cuda.device_of(
        product
    ):  # a kernel is launched on the current device, wherever its tensors are
        _gradients[(spans, bands)](
            product,
            weight.contiguous(),
            bits if bits is not None else weight,
            a.contiguous(),
            b.contiguous(),
            da,
            db,
            rows,
            columns,
            len(a),
            span,
            1.0 if scale is None else scale,
            SCALING=scale is None,
            MASKED=bits is not None,
            RANK=_padded(len(a)),
            ROWS=BAND[0],
            COLUMNS=BAND[1],
        )
    return da.sum(0), db.sum(0)


def _padded(rank: int) -> int:
    """The matrix units take no fewer than 16."""
    return max(16, triton.next_power_of_2(rank))


if triton is not None:

    @triton.jit
    def _kept(mask, row, first, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        """Bits of a tile [ROWS, COLUMNS] as bool; every byte is loaded once. ``first``: a multiple of 8."""
        stride = tl.cdiv(columns, 8)
        place = first // 8 + tl.arange(0, COLUMNS // 8)
        byte = tl.load(
            mask + row.to(tl.int64)[:, None] * stride + place[None, :],
            mask=(row < rows)[:, None] & (place < stride)[None, :],
            other=0,
        )
        bits = (byte[:, :, None] >> tl.arange(0, 8)[None, None, :].to(tl.uint8)) & 1
        return tl.reshape(bits, (ROWS, COLUMNS)) != 0

    @triton.jit
    def _effective_weight(
        weight,
        mask,
        a,
        b,
        out,
        rows,
        columns,
        rank,
        scale,
        SCALING: tl.constexpr,
        MASKED: tl.constexpr,
        RANK: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
    ):
        row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
        k = tl.arange(0, RANK)
        inside = (row < rows)[:, None] & (column < columns)[None, :]
        place = row.to(tl.int64)[:, None] * columns + column[None, :]
        w = tl.load(weight + place, mask=inside, other=0.0)
        b_tile = tl.load(
            b + row[:, None] * rank + k[None, :], mask=(row < rows)[:, None] & (k < rank)[None, :], other=0.0
        )
        a_tile = tl.load(
            a + k[:, None] * columns + column[None, :],
            mask=(k < rank)[:, None] & (column < columns)[None, :],
            other=0.0,
        )
        low = tl.dot(b_tile.to(w.dtype), a_tile.to(w.dtype))
        if SCALING:
            result = w.to(tl.float32) * low
        else:
            if MASKED:
                kept = _kept(mask, row, tl.program_id(0) * COLUMNS, rows, columns, ROWS, COLUMNS)
                low = tl.where(kept, low, 0.0)
            result = w.to(tl.float32) + scale * low
        tl.store(out + place, result.to(w.dtype), mask=inside)

    @triton.jit
    def _gradients(
        product,
        weight,
        mask,
        a,
        b,
        da,
        db,
        rows,
        columns,
        rank,
        span,
        scale,
        SCALING: tl.constexpr,
        MASKED: tl.constexpr,
        RANK: tl.constexpr,
        ROWS: tl.constexpr,
        COLUMNS: tl.constexpr,
    ):
        band = tl.program_id(1)
        row = band * ROWS + tl.arange(0, ROWS)
        k = tl.arange(0, RANK)
        in_b = (row < rows)[:, None] & (k < rank)[None, :]
        place_b = row[:, None] * rank + k[None, :]
        b_tile = tl.load(b + place_b, mask=in_b, other=0.0).to(product.dtype.element_ty)
        sum_b = tl.zeros((ROWS, RANK), dtype=tl.float32)
        start = tl.program_id(0) * span
        for first in range(start, tl.minimum(start + span, columns), COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            inside = (row < rows)[:, None] & (column < columns)[None, :]
            place = row.to(tl.int64)[:, None] * columns + column[None, :]
            h = tl.load(product + place, mask=inside, other=0.0)
            if SCALING:
                h = h * tl.load(weight + place, mask=inside, other=0.0)
            if MASKED:
                h = tl.where(_kept(mask, row, first, rows, columns, ROWS, COLUMNS), h, 0.0).to(b_tile.dtype)
            in_a = (k < rank)[:, None] & (column < columns)[None, :]
            place_a = k[:, None] * columns + column[None, :]
            a_tile = tl.load(a + place_a, mask=in_a, other=0.0).to(h.dtype)
            sum_b += tl.dot(h, tl.trans(a_tile))
            part = tl.dot(tl.trans(b_tile), h)
            tl.store(da + band.to(tl.int64) * rank * columns + place_a, scale * part, mask=in_a)
        tl.store(db + tl.program_id(0).to(tl.int64) * rows * rank + place_b, scale * sum_b, mask=in_b)
