"""The column loop of SparseGPT and GPTQ on a GPU: one Triton kernel for a block of columns.

The loop as torch operations is four launches a column, each of them over a few thousand numbers. Here a program takes
some outputs through all columns of the block with their weights in registers. It does what ``sparsegpt`` and ``gptq``
do in plain operations, in the same order; only the updates are summed in another order, in fp32.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # comes with torch for NVIDIA GPUs; elsewhere the plain torch operations are used
    triton = None

WIDEST = 128  # columns that fit into the registers
TILE, WARPS = 16, 1  # outputs of a program, and its warps: one, so that no column waits for another warp


def usable(columns: Tensor) -> bool:
    """Whether the kernel serves for columns [b, out]: Triton, a GPU, fp32, at most 128 columns."""
    return (
        triton is not None and columns.is_cuda and columns.dtype == torch.float32 and len(columns) <= WIDEST
    )


def prune(columns: Tensor, kept: Tensor, factor: Tensor, n: int = 0, m: int = 0) -> Tensor:
    """Drop what ``kept`` [b, out] says, or with ``m`` the n least of every m columns (``kept`` is then written).

    ``columns`` fp32 [b, out] are updated in place; ``factor`` [b, b] of rows in memory: the block of U. Returns the
    errors [b, out] that the columns after the block have to make up for.
    """
    errors = torch.empty_like(columns)
    _launch(columns, kept, factor, errors, None, n=n, m=m)
    return errors


def quantize(
    columns: Tensor,
    factor: Tensor,
    scales: Tensor,
    zeros: Tensor,
    codes: Tensor,
    bits: int,
    kept: Tensor | None,
) -> Tensor:
    """Round the columns one after the other and write their ``codes`` (uint8 [b, out]); otherwise as :func:`prune`.

    ``scales`` and ``zeros`` [1, out], or [b, out] where every column has its own; ``kept``: weights that are not zero.
    """
    errors = torch.empty_like(columns)
    scales, zeros = (value.to(columns.dtype).contiguous() for value in (scales, zeros))
    _launch(columns, kept, factor, errors, codes, scales, zeros, top=2**bits - 1)
    return errors


def _launch(columns, kept, factor, errors, codes, scales=None, zeros=None, n=0, m=0, top=0) -> None:
    count, outputs = columns.shape
    with torch.cuda.device_of(columns):  # a model may be spread over several
        _walk[(triton.cdiv(outputs, TILE),)](
            columns,
            errors if kept is None else kept,  # never read then; a kernel cannot be given nothing
            factor,
            errors,
            errors if codes is None else codes,
            errors if scales is None else scales,
            errors if zeros is None else zeros,
            count,
            outputs,
            factor.stride(0),
            0 if scales is None or len(scales) == 1 else outputs,
            n,
            top,
            M=m,
            ROUND=codes is not None,
            MASKED=kept is not None,
            COUNT=triton.next_power_of_2(count),
            TILE=TILE,
            num_warps=WARPS,
        )


if triton is not None:

    @triton.jit
    def _walk(
        columns,
        kept,
        factor,
        errors,
        codes,
        scales,
        zeros,
        count,
        outputs,
        stride,
        stride_scales,
        n,
        top,
        M: tl.constexpr,
        ROUND: tl.constexpr,
        MASKED: tl.constexpr,
        COUNT: tl.constexpr,
        TILE: tl.constexpr,
    ):
        output = tl.program_id(0) * TILE + tl.arange(0, TILE)
        column = tl.arange(0, COUNT)
        there = output < outputs
        inside = (column < count)[:, None] & there[None, :]
        place = column[:, None] * outputs + output[None, :]
        weight = tl.load(columns + place, mask=inside, other=0.0)
        diagonal = tl.load(factor + column * (stride + 1), mask=column < count, other=1.0)
        alive = tl.zeros((COUNT, TILE), dtype=tl.int32)
        for c in range(count):
            if M > 0:  # noqa: SIM102 (known when it is compiled; the other is not)
                if c % M == 0:
                    scores = tl.div_rn(weight, diagonal[:, None] + tl.zeros_like(weight))
                    scores = scores * scores
                    rank = tl.zeros((COUNT, TILE), dtype=tl.int32)  # how many of the group go before it
                    for other in range(M):
                        rival = tl.sum(tl.where((column == c + other)[:, None], scores, 0.0), 0)[None, :]
                        later = (column > c + other)[:, None]  # of equals the first goes first
                        rank += tl.where(later, rival <= scores, rival < scores).to(tl.int32)
                    group = ((column >= c) & (column < c + M))[:, None]
                    alive = tl.where(group, (rank >= n).to(tl.int32), alive)
            here = (column == c)[:, None]
            value = tl.sum(tl.where(here, weight, 0.0), 0)
            if ROUND:
                scale = tl.load(scales + c * stride_scales + output, mask=there, other=1.0)
                zero = tl.load(zeros + c * stride_scales + output, mask=there, other=0.0)
                steps = tl.div_rn(value, tl.where(scale == 0.0, 1.0, scale))
                steps = tl.where(scale == 0.0, 0.0, steps)
                steps = tl.minimum(tl.maximum(steps, -1024.0), 1024.0)
                steps = (
                    steps + 12582912.0
                ) - 12582912.0  # 1.5 x 2^23: to the nearest integer, halves to even
                code = tl.minimum(tl.maximum(steps + zero, 0.0), top)
                if MASKED:
                    code = tl.where(
                        tl.load(kept + c * outputs + output, mask=there, other=1) != 0, code, zero
                    )
                tl.store(codes + c * outputs + output, code.to(tl.uint8), mask=there)
                rest = value - (code - zero) * scale
            elif M > 0:
                rest = tl.where(tl.sum(tl.where(here, alive, 0), 0) != 0, 0.0, value)
            else:
                rest = tl.where(tl.load(kept + c * outputs + output, mask=there, other=1) != 0, 0.0, value)
            error = tl.div_rn(rest, tl.load(factor + c * (stride + 1)) + tl.zeros_like(rest))
            tl.store(errors + c * outputs + output, error, mask=there)
            right = (column > c) & (column < count)
            row = tl.load(factor + c * stride + column, mask=right, other=0.0)
            weight -= row[:, None] * error[None, :]
        tl.store(columns + place, weight, mask=inside)
        if M > 0:
            tl.store(kept + place, alive != 0, mask=inside)
