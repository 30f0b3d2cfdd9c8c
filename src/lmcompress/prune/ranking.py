"""N:M masks on a GPU in one Triton kernel: scores are read once, the mask is written once.

The m - 1 comparisons in ``mask`` each go through memory; here those of a group stay in registers and cache,
so that 5 bytes a weight move for fp32 scores and 3 for half precision.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # comes with torch for NVIDIA GPUs; elsewhere the plain torch operations are used
    triton = None

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
TILE = 2048  # scores that one program holds


def usable(scores: Tensor, m: int) -> bool:
    """Whether the kernel serves: Triton, a GPU, floating scores, a group of at most one tile."""
    return triton is not None and scores.is_cuda and scores.dtype in DTYPES and m <= TILE


def keep(scores: Tensor, n: int, m: int) -> Tensor:
    """Bool mask of the shape of ``scores``, bit for bit as :func:`mask.mask` gives it for ``NofM(n, m)``.

    ``scores`` [..., in], of one of ``DTYPES``; m divides in. Half precision is compared as fp32, which is exact.
    """
    kept = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    groups, padded = scores.numel() // m, triton.next_power_of_2(m)
    grid = (triton.cdiv(groups, TILE // padded),)
    with torch.cuda.device_of(scores):  # a model may be spread over several
        _keep[grid](scores.contiguous(), kept, groups, n, M=m, PADDED=padded, GROUPS=TILE // padded)
    return kept


if triton is not None:

    @triton.jit
    def _keep(scores, kept, groups, n, M: tl.constexpr, PADDED: tl.constexpr, GROUPS: tl.constexpr):
        first = tl.program_id(0).to(tl.int64) * GROUPS
        group = tl.arange(0, GROUPS)[:, None]
        place = tl.arange(0, PADDED)[None, :]
        there = group < groups - first
        inside = there & (place < M)
        scores += first * M
        score = _wide(tl.load(scores + group * M + place, mask=inside, other=0))
        rank = tl.zeros((GROUPS, PADDED), dtype=tl.int32)  # how many of the group are dropped before it
        for other in range(M):
            rival = _wide(tl.load(scores + group * M + other, mask=there, other=0))  # from the cache
            # of equals the first goes first; both cases are written with > so that NaN ranks as in mask
            before = tl.where(other < place, (rival > score) == 0, score > rival)
            rank += before.to(tl.int32)
        tl.store(kept + first * M + group * M + place, rank >= n, mask=inside)

    @triton.jit
    def _wide(values):
        return values if values.dtype == tl.float64 else values.to(tl.float32)
