"""CCA and its relatives against known correlations, scikit-learn, plain formulas and their invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cross_decomposition import CCA

from lmcompress.errors import NumericError, ParameterError
from lmcompress.sensitivity.similarity import (
    basis,
    correlations,
    held_out_correlations,
    linear_cka,
    mean_cca,
    permutation_null,
    pwcca,
)


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(rho, n: int = 60, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """X, Y [n, len(rho)] whose sample canonical correlations are exactly ``rho``."""
    k = len(rho)
    z = noise(seed, n, 2 * k)
    q = torch.linalg.qr(z - z.mean(0)).Q
    rho = torch.tensor(rho, dtype=torch.float64)
    return q[:, :k], q[:, :k] * rho + q[:, k:] * (1 - rho**2).sqrt()


def test_known_correlations_are_found_through_any_linear_map():
    x, y = pair([0.9, 0.5, 0.1])
    a, b = basis(x @ noise(1, 3, 5) + 7), basis(y @ noise(2, 3, 3) - 2)
    assert correlations(a, b).tolist() == pytest.approx([0.9, 0.5, 0.1], abs=1e-9)
    assert mean_cca(a, b) == pytest.approx(0.5, abs=1e-9)


def test_agrees_with_scikit_learn():
    shared = noise(0, 200, 2)
    x = torch.cat([shared + 0.5 * noise(1, 200, 2), noise(2, 200, 1)], 1) @ noise(3, 3, 3)
    y = (shared + 0.3 * noise(4, 200, 2)) @ noise(5, 2, 2)
    left, right = CCA(n_components=2, max_iter=5000, tol=1e-12).fit_transform(x.numpy(), y.numpy())
    theirs = [np.corrcoef(left[:, i], right[:, i])[0, 1] for i in range(2)]
    assert correlations(basis(x), basis(y)).tolist() == pytest.approx(theirs, abs=1e-5)


def test_ridge_is_the_ridge_of_the_covariance_formula():
    x, y, ridge = noise(0, 50, 4) * torch.tensor([3.0, 1, 1, 0.1]), noise(1, 50, 3), 0.2
    y[:, 0] += x[:, 0]
    roots = []
    for z in (x, y):
        covariance = (z - z.mean(0)).T @ (z - z.mean(0))
        values, vectors = torch.linalg.eigh(
            covariance + ridge * covariance.trace() / len(covariance) * torch.eye(len(covariance))
        )
        roots.append(vectors @ torch.diag(values**-0.5) @ vectors.T)
    expected = torch.linalg.svdvals(roots[0] @ ((x - x.mean(0)).T @ (y - y.mean(0))) @ roots[1])
    assert torch.allclose(correlations(basis(x), basis(y), ridge), expected, atol=1e-10)


def test_pwcca_and_cka_equal_their_formulas():
    x, y = noise(0, 40, 3), noise(1, 40, 2)
    y[:, 0] += 2 * x[:, 1]
    x, y = x - x.mean(0), y - y.mean(0)
    qx, qy = torch.linalg.qr(x).Q, torch.linalg.qr(y).Q
    u, rho, _ = torch.linalg.svd(qx.T @ qy, full_matrices=False)
    alpha = ((qx @ u).T @ x).abs().sum(1)
    assert pwcca(basis(x), basis(y)) == pytest.approx(float((alpha * rho).sum() / alpha.sum()))
    cka = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka(basis(x), basis(y)) == pytest.approx(float(cka))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.integers(1, 5), q=st.integers(1, 5))
def test_invariances(seed, p, q):
    x, y = noise(seed, 40, p), noise(seed + 1, 40, q)
    y[:, 0] += x[:, 0]
    orthogonal = torch.linalg.qr(noise(seed + 2, p, p)).Q
    invertible = (
        orthogonal
        @ torch.diag(torch.linspace(0.5, 20, p).double())
        @ torch.linalg.qr(noise(seed + 3, p, p)).Q
    )
    a, b, moved = basis(x), basis(y), basis(x @ invertible + 3)
    rho = correlations(a, b)
    assert ((rho >= 0) & (rho <= 1)).all()
    assert torch.allclose(correlations(moved, b), rho, atol=1e-8)
    assert torch.allclose(correlations(b, a), rho, atol=1e-10)
    assert linear_cka(basis(5 * x @ orthogonal - 1), b) == pytest.approx(linear_cka(a, b), abs=1e-9)
    assert mean_cca(a, a) == pytest.approx(1)
    assert pwcca(a, a) == pytest.approx(1)
    assert linear_cka(a, a) == pytest.approx(1)


def test_cka_sees_a_scale_that_cca_cannot():
    x = noise(0, 100, 3)
    scaled = x * torch.tensor([100.0, 1, 1])
    assert mean_cca(basis(x), basis(scaled)) == pytest.approx(1)
    assert linear_cka(basis(x), basis(scaled)) < 0.8


def test_energy_keeps_the_fewest_directions_and_rank_the_real_ones():
    x = noise(0, 100, 3) @ torch.diag(torch.tensor([10.0, 3.0, 0.01], dtype=torch.float64))
    assert basis(x, energy=0.99).s.shape == (2,)
    assert basis(x, energy=0.5).s.shape == (1,)
    twice = torch.cat([x, x], 1)
    assert basis(twice).s.shape == (3,)
    assert correlations(basis(twice), basis(x)).tolist() == pytest.approx([1, 1, 1])


def test_too_few_samples_correlate_perfectly_in_sample_but_not_held_out():
    x, y = noise(0, 60, 20), noise(1, 60, 20)
    assert correlations(basis(x[:30]), basis(y[:30]))[0] == pytest.approx(1)
    assert held_out_correlations(x, y, train=30).abs().mean() < 0.4


def test_held_out_finds_what_is_shared():
    x = noise(0, 2000, 3)
    y = torch.cat([x[:, :1] + 0.5 * noise(1, 2000, 1), noise(2, 2000, 2)], 1)
    found = held_out_correlations(x, y, train=1000)
    assert found[0] == pytest.approx(1 / 1.25**0.5, abs=0.03)
    assert found[1:].abs().max() < 0.1
    assert held_out_correlations(x, y, train=1000, count=1).tolist() == pytest.approx([found[0].item()])


def test_held_out_pairs_without_variance_count_as_zero():
    x = noise(0, 20, 1)
    x[10:] = 3.0
    assert held_out_correlations(x, noise(1, 20, 1), train=10).tolist() == [0.0]


def test_permutation_null():
    x = noise(0, 100, 4)
    related = permutation_null(basis(x), basis(x + 0.1 * noise(1, 100, 4)), mean_cca, draws=19)
    assert related["p"] == pytest.approx(0.05)
    assert 0.05 < related["null_mean"] <= related["null_high"] < 0.4 < related["observed"]
    assert permutation_null(basis(x), basis(noise(2, 100, 4)), mean_cca, draws=19)["p"] > 0.05


def test_bad_input_is_refused():
    good = basis(noise(0, 10, 2))
    for bad in (torch.ones(5, 2), torch.ones(1, 2), torch.ones(4)):
        with pytest.raises(ParameterError, match="x:"):
            basis(bad)
    with pytest.raises(ParameterError, match="energy"):
        basis(noise(0, 10, 2), energy=0)
    with pytest.raises(NumericError):
        basis(torch.tensor([[1.0], [float("nan")]]))
    with pytest.raises(ParameterError, match="y:"):
        correlations(good, basis(noise(0, 11, 2)))
    with pytest.raises(ParameterError, match="ridge"):
        correlations(good, good, ridge=-1)
    with pytest.raises(ParameterError, match="train"):
        held_out_correlations(noise(0, 4, 1), noise(1, 4, 1), train=3)
    with pytest.raises(ParameterError, match="draws"):
        permutation_null(good, good, mean_cca, draws=0)
