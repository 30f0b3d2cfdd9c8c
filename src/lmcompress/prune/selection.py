"""The least of very many scores, by bisection on their bits: a threshold in 32 counting passes.

Floats are ordered as their bits are, read as integers. ``kthvalue`` on a GPU gives one slice to one of its
processors, which takes a hundred times as long for a matrix of 200 million scores.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

LARGE = 1 << 16  # scores from which sorting or passes beat kthvalue on a GPU
SORTED = 1 << 23  # scores up to which one sort is faster than the passes, each of which waits for the device


def ordered(scores: Tensor) -> Tensor:
    """int32 of the shape of ``scores`` (fp32 or half precision) in the same order; -0 and 0 are one."""
    bits = (scores.float() + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def keep(scores: Tensor, count: int) -> Tensor:
    """Bool mask of any shape that drops the ``count`` least; of equals the first in row-major order goes."""
    if scores.numel() > SORTED or not count:
        return keep_of([lambda: ordered(scores)], count)[0]
    bits = ordered(scores)
    threshold = bits.flatten().sort().values[count - 1]
    below, ties = bits < threshold, bits == threshold
    first = ties.flatten().cumsum(0, dtype=torch.int32).view_as(bits) <= count - below.sum()
    return ~(below | ties & first)


def keep_of(parts: Sequence[Callable[[], Tensor]], count: int) -> list[Tensor]:
    """:func:`keep` over several tensors at once, given as functions that return their integers."""
    only = parts[0]() if len(parts) == 1 else None

    def each() -> Iterable[Tensor]:
        return (part() for part in parts) if only is None else [only]

    low, high = -(2**31), 2**31 - 1
    while low < high:
        middle = (low + high) // 2
        if sum(int((bits <= middle).sum()) for bits in each()) >= count:
            high = middle
        else:
            low = middle + 1
    wanted = count - sum(int((bits < low).sum()) for bits in each())
    masks = []
    for bits in each():
        kept = bits >= low
        ties = (bits == low).flatten().nonzero().flatten()[:wanted]
        kept.view(-1)[ties] = False
        wanted -= len(ties)
        masks.append(kept)
    return masks
