"""SparseGPT (Frantar and Alistarh, arXiv 2301.00774): drop weights, let those to their right make up for it.

The inverse Hessian of "all columns from j on" is needed for every column j. All of them are rows of one
matrix: the upper triangular U with ``H^-1 = U^T U`` (section 3). Dropping w_j costs ``w_j^2 / U_jj^2`` and
the best update of the columns to its right is ``-w_j / U_jj * U_j,right`` (optimal brain surgeon).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lmcompress.errors import NumericError
from lmcompress.prune import columns as kernel
from lmcompress.prune.mask import mask, require_divisible
from lmcompress.prune.pattern import NofM, Pattern
from lmcompress.stats import require_finite

INNER = 16  # columns that are updated one by one before the others of their block are, in one product
BLOCK = 128  # columns that share one threshold and are updated before the rest; not the number of samples
PANEL = 2048  # columns of a Hessian that are factored or inverted together
DAMPING = (0.01, 0.1, 1.0, 10.0)  # shares of the mean diagonal; the first that gives a factor is used


class Pruned(NamedTuple):
    """``weight`` [out, in], ``mask`` (True = kept), ``damping`` used, number of ``dead`` inputs."""

    weight: Tensor
    mask: Tensor
    damping: float
    dead: int


def prune(
    weight: Tensor,
    gram: Tensor,
    pattern: Pattern,
    *,
    block: int = BLOCK,
    layer: str = "weight",
    factor: tuple[Tensor, float, Tensor] | None = None,
) -> Pruned:
    """Prune and update a weight matrix [out, in] for inputs of Gram matrix ``gram`` [in, in] (fp32 or fp64).

    Columns go from left to right in blocks of ``block`` (rounded to a multiple of m for N:M). Unstructured:
    one threshold for each block of columns over all rows; N:M: chosen at every m-th column, from the weights
    as updated so far. Inputs that were always zero are dead: their weights become zero. The arithmetic is in
    the dtype of ``gram``, whose scale does not matter. ``factor``: what :func:`inverse_factor` gave for
    ``gram``, where it is at hand.

    Raises :class:`NumericError` naming ``layer`` for non-finite values or when no damping of the ladder
    helps, :class:`~lmcompress.errors.ParameterError` when ``m`` does not divide the inputs.
    """
    require_divisible(weight.shape[1], pattern, layer)
    require_finite(weight, layer, "weight")
    if factor is None:
        require_finite(gram, layer, "Gram matrix of the inputs")
    upper, damping, dead = factor or inverse_factor(gram, layer)
    columns = weight.detach().to(gram).T.contiguous()  # [in, out]: a column of the weight is a row in memory
    columns[dead] = 0
    kept = torch.ones_like(columns, dtype=torch.bool)
    if isinstance(pattern, NofM):
        block = max(block // pattern.m, 1) * pattern.m
    for start in range(0, len(columns), block):
        stop = min(start + block, len(columns))
        inside = slice(start, stop)
        errors = _prune_block(columns[inside], kept[inside], upper[inside, inside], pattern)
        columns[stop:].addmm_(upper[inside, stop:].T, errors, alpha=-1)
    pruned = columns.masked_fill_(~kept, 0).T.contiguous()
    return Pruned(pruned.to(weight.dtype), kept.T.contiguous(), damping, int(dead.sum()))


def _prune_block(columns: Tensor, kept: Tensor, factor: Tensor, pattern: Pattern) -> Tensor:
    """Prune columns [b, out] and set kept [b, out], both in place; returns the errors [b, out]."""
    if kernel.usable(columns):
        if isinstance(pattern, NofM):
            return kernel.prune(columns, kept, factor, pattern.n, pattern.m)
        scores = (columns / factor.diagonal().unsqueeze(1)).square()
        kept.copy_(mask(scores.T, pattern).T)
        return kernel.prune(columns, kept, factor)
    diagonal = factor.diagonal().unsqueeze(1)
    step = pattern.m if isinstance(pattern, NofM) else len(columns)
    errors = torch.zeros_like(columns)
    inner = max(INNER // pattern.m, 1) * pattern.m if isinstance(pattern, NofM) else INNER
    for start in range(0, len(columns), inner):
        stop = min(start + inner, len(columns))
        for j in range(start, stop):
            if j % step == 0:
                group = slice(j, j + step)
                scores = (columns[group] / diagonal[group]).square()
                kept[group] = mask(scores.T, pattern).T
            errors[j] = columns[j].masked_fill(kept[j], 0) / diagonal[j]
            columns[j + 1 : stop].addr_(factor[j, j + 1 : stop], errors[j], alpha=-1)
        columns[stop:].addmm_(factor[start:stop, stop:].T, errors[start:stop], alpha=-1)
    return errors


def inverse_factor(
    gram: Tensor, layer: str = "weight", *, overwrite: bool = False
) -> tuple[Tensor, float, Tensor]:
    """``(U, damping, dead)``: upper triangular U [in, in], ``(gram + damping * mean diagonal)^-1 = U^T U``.

    ``dead``: bool [in], the inputs with a zero diagonal; theirs is set to the mean of the others, which
    leaves them apart from the rest. Instead of two Cholesky factors and an inverse, one factor is enough:
    ``H = R R^T`` with R upper triangular gives ``U = R^-1``. Both are computed in the memory of one matrix (3 GB for
    28,672 inputs), with ``overwrite`` in that of ``gram``.
    """
    dead = gram.diagonal() == 0
    diagonal = gram.diagonal().clone()
    diagonal[dead] = diagonal[~dead].mean() if not dead.all() else 1.0
    mean = diagonal.mean()
    factor = gram if overwrite else gram.clone()
    spans = _spans(len(factor))
    corners = [factor[span, span].clone() for span in spans]
    for damping in DAMPING:
        factor.diagonal().copy_(diagonal + damping * mean)
        if _root(factor) and _inverted(factor):
            return factor.triu_(), damping, dead
        for span, corner in zip(spans, corners, strict=True):  # what is below the corners was never written
            factor[span, span] = corner
            factor[span, span.stop :] = factor[span.stop :, span].T
    raise NumericError(
        layer, f"no Cholesky factor of the Hessian, even with damping {DAMPING[-1]} x its mean diagonal"
    )


def _spans(size: int) -> list[slice]:
    return [slice(start, min(start + PANEL, size)) for start in range(0, size, PANEL)]


def _root(matrix: Tensor) -> bool:
    """Write the upper triangular R with ``matrix = R R^T`` over the corners of the symmetric ``matrix`` and above.

    False where it is not positive definite. Panels of columns go from right to left: one is solved for, and its
    product taken from what is left of it.
    """
    spans = _spans(len(matrix))
    for number, span in reversed(list(enumerate(spans))):
        lower, failed = torch.linalg.cholesky_ex(matrix[span, span].flip(0, 1))
        if failed:
            return False
        corner, panel = lower.flip(0, 1), matrix[: span.start, span]
        matrix[span, span] = corner
        panel.copy_(torch.linalg.solve_triangular(corner.T, panel, upper=False, left=False))
        for own in spans[:number]:
            matrix[: own.stop, own].addmm_(panel[: own.stop], panel[own].T, alpha=-1)
    return True


def _inverted(matrix: Tensor) -> bool:
    """Invert what :func:`_root` wrote, in place; False where the inverse is not finite.

    Panels from left to right: with the inverse X of the part before it, a panel (P, C) becomes (-X P C^-1, C^-1).
    """
    spans = _spans(len(matrix))
    finite = torch.ones((), dtype=torch.bool, device=matrix.device)
    for number, span in enumerate(spans):
        corner, panel = matrix[span, span], matrix[: span.start, span]
        inverse = torch.linalg.solve_triangular(
            corner, torch.eye(len(corner), dtype=matrix.dtype, device=matrix.device), upper=True
        )
        right = panel @ inverse
        for own in spans[:number]:
            torch.mm(matrix[own, own.start : span.start], right[own.start :], out=panel[own]).neg_()
        corner.copy_(inverse)
        finite &= torch.isfinite(panel.sum() + inverse.sum())  # of a sum that is finite no part is not
    return bool(finite)
