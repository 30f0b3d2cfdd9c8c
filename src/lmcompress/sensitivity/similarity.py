"""How much two sets of representations have in common: CCA, SVCCA, PWCCA, linear CKA, as pure functions.

X is [n, p] and Y [n, q]: the same n tokens (samples) seen at two places of a model. Everything is computed in
float64 from a thin SVD of each centred matrix, so that one SVD a layer serves all pairs and no covariance is
ever inverted. With X = Ux diag(sx) Vx' the canonical correlations are the singular values of Ux' Uy. A ridge
shrinks the basis, Ux -> Ux diag(sx / sqrt(sx^2 + n k)), which is the same as adding k to the diagonal of X's
covariance.

Sources: Hotelling 1936 (CCA); Bjorck and Golub 1973 (by QR/SVD); Raghu et al. 2017 (SVCCA, mean over the
spectrum); Morcos et al. 2018 (PWCCA, eq. 4); Kornblith et al. 2019 (linear CKA, eq. 5).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lmcompress.errors import NumericError, ParameterError


@dataclass(frozen=True)
class Basis:
    """Thin SVD of a centred matrix: ``u`` [n, k], ``s`` [k] descending, ``v`` [p, k]; ``mean`` [p]."""

    u: Tensor
    s: Tensor
    v: Tensor
    mean: Tensor

    def shrink(self, ridge: float) -> Tensor:
        """Factors [k] of a ridge of ``ridge`` times the mean variance of a column."""
        return self.s / (self.s**2 + ridge * (self.s**2).sum() / self.v.shape[0]).sqrt()


def basis(x: Tensor, energy: float = 1.0) -> Basis:
    """Thin SVD of ``x`` [n, p] after centring its columns, float64.

    Directions below the rounding error of the largest are dropped, then as many of the smallest as leave at
    least a share ``energy`` of the variance. Raises :class:`ParameterError` for an ``x`` that is not a matrix
    of two rows or more, or constant, or an ``energy`` outside (0, 1]; :class:`NumericError` for a non-finite
    ``x``.
    """
    if x.ndim != 2 or x.shape[0] < 2:
        raise ParameterError("x", tuple(x.shape), "a matrix [samples, features] with at least two samples")
    if not 0 < energy <= 1:
        raise ParameterError("energy", energy, "a share above 0, at most 1")
    if not torch.isfinite(x).all():
        raise NumericError("representation", "not finite")
    x = x.double()
    mean = x.mean(0)
    u, s, vt = torch.linalg.svd(x - mean, full_matrices=False)
    size = x.abs().max()
    rank = int((s > max(x.shape) * torch.finfo(s.dtype).eps * max(float(s[0]), float(size))).sum())
    if rank == 0:
        raise ParameterError("x", tuple(x.shape), "columns that are not all constant")
    if energy < 1:
        share = (s[:rank] ** 2).cumsum(0) / (s[:rank] ** 2).sum()
        rank = min(rank, int((share < energy).sum()) + 1)
    return Basis(u[:, :rank], s[:rank], vt[:rank].T, mean)


def _product(x: Basis, y: Basis, ridge: float) -> Tensor:
    if x.u.shape[0] != y.u.shape[0]:
        raise ParameterError("y", y.u.shape[0], f"as many samples as x has: {x.u.shape[0]}")
    if ridge < 0:
        raise ParameterError("ridge", ridge, "a number of at least 0")
    return x.shrink(ridge)[:, None] * (x.u.T @ y.u) * y.shrink(ridge)


def correlations(x: Basis, y: Basis, ridge: float = 0.0) -> Tensor:
    """All canonical correlations [min(rank x, rank y)], descending, in [0, 1].

    ``ridge`` is relative to the mean variance of a column. In sample: with n - 1 < rank x + rank y some are 1
    whatever the data are (see :func:`held_out_correlations`).
    """
    return torch.linalg.svdvals(_product(x, y, ridge)).clamp(0, 1)


def mean_cca(x: Basis, y: Basis, ridge: float = 0.0) -> float:
    """Mean of the canonical correlations. With bases of ``energy`` 0.99 this is SVCCA."""
    return float(correlations(x, y, ridge).mean())


def pwcca(x: Basis, y: Basis, ridge: float = 0.0) -> float:
    """Projection-weighted CCA: correlations weighted by how much of X the canonical variates account for.

    Weight of variate h_i (a unit vector over the samples): sum over the columns x_j of |<h_i, x_j>|. Not
    symmetric: the weights come from X.
    """
    left, rho, _ = torch.linalg.svd(_product(x, y, ridge), full_matrices=False)
    weights = ((left.T * x.s) @ x.v.T).abs().sum(1)
    return float((weights * rho.clamp(0, 1)).sum() / weights.sum())


def linear_cka(x: Basis, y: Basis) -> float:
    """Linear CKA, ||Y'X||^2 / (||X'X|| ||Y'Y||) in Frobenius norms; large directions dominate it."""
    shared = (y.s[:, None] * (y.u.T @ x.u) * x.s).square().sum()
    return float(shared / ((x.s**4).sum().sqrt() * (y.s**4).sum().sqrt()))


def held_out_correlations(
    x: Tensor, y: Tensor, train: int, ridge: float = 0.0, energy: float = 1.0, count: int | None = None
) -> Tensor:
    """Correlations [k] on rows ``train:`` of the canonical pairs fitted on rows ``:train``.

    Unlike in-sample ones they do not grow with p / n and can be negative. Put whole windows on either side,
    since neighbouring tokens are alike. ``count``: only the first so many pairs. Pairs that are constant on
    the held-out rows count as 0. Raises :class:`ParameterError` when either side has fewer than two rows.
    """
    if not 2 <= train <= x.shape[0] - 2:
        raise ParameterError("train", train, f"2 to {x.shape[0] - 2}: two rows or more on either side")
    a, b = basis(x[:train], energy), basis(y[:train], energy)
    left, rho, right = torch.linalg.svd(_product(a, b, ridge), full_matrices=False)
    scores = []
    for whole, fitted, direction in ((x, a, left), (y, b, right.T)):
        map_ = fitted.v @ ((fitted.shrink(ridge) / fitted.s)[:, None] * direction[:, : count or len(rho)])
        variate = (whole[train:].double() - fitted.mean) @ map_
        variate = variate - variate.mean(0)
        scores.append(variate / variate.norm(dim=0).clamp(min=torch.finfo(variate.dtype).tiny))
    return (scores[0] * scores[1]).sum(0)


def permutation_null(
    x: Basis, y: Basis, statistic: Callable[[Basis, Basis], float], draws: int = 20, seed: int = 0
) -> dict[str, float]:
    """What ``statistic(x, y)`` is when the samples of Y are shuffled, so that nothing is shared.

    Returns ``observed``, ``null_mean``, ``null_high`` (the largest draw) and ``p`` = (1 + draws at least as
    large) / (1 + draws). The finite-sample floor of CCA is ``null_mean``, not 0.
    """
    if draws < 1:
        raise ParameterError("draws", draws, "an integer of at least 1")
    generator = torch.Generator().manual_seed(seed)
    observed, null = statistic(x, y), []
    for _ in range(draws):
        order = torch.randperm(y.u.shape[0], generator=generator).to(y.u.device)
        null.append(statistic(x, Basis(y.u[order], y.s, y.v, y.mean)))
    reached = sum(value >= observed for value in null)
    return {
        "observed": observed,
        "null_mean": sum(null) / draws,
        "null_high": max(null),
        "p": (1 + reached) / (1 + draws),
    }
