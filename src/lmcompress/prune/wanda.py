"""Wanda (Sun et al., arXiv 2306.11695): weights times norms of their inputs, compared within each output."""

from torch import Tensor

from lmcompress.prune.mask import mask
from lmcompress.prune.pattern import Pattern


def scores(weight: Tensor, norms: Tensor) -> Tensor:
    """``|W_ij| * ||X_j||_2`` (eq. 1): [out, in] weights and [in] column norms -> [out, in], fp32."""
    return weight.detach().abs().float() * norms.float()


def prune(weight: Tensor, norms: Tensor, pattern: Pattern) -> Tensor:
    """Mask (bool [out, in], True = kept) that drops the least scores of each output row.

    ``norms``: [in] from :class:`~lmcompress.stats.ColumnNorms`; only their ratios matter. Each row keeps the
    same number of weights: it is this comparison within a row that makes the criterion work on language
    models (section 3), and a threshold for the whole matrix is another method.
    """
    return mask(scores(weight, norms), pattern, per="row")
