import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcompress.errors import NumericError, ParameterError
from lmcompress.prune import sparsegpt
from lmcompress.prune.magnitude import per_matrix
from lmcompress.prune.pattern import NofM, Unstructured
from lmcompress.prune.sparsegpt import DAMPING, inverse_factor, prune
from lmcompress.stats import relative_output_error


def correlated(rows, columns, seed=0, tokens=400):
    """A random weight [rows, columns] and the Gram matrix of strongly correlated inputs, both fp64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64) + torch.eye(columns)
    x = torch.randn(tokens, columns, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64), x.T @ x / tokens


def by_surgeon(weight, gram, pattern, block, damping=0.01):
    """Optimal brain surgeon, column by column: the Hessian of what is left is inverted afresh for every
    column.
    """
    hessian = gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weight, columns = weight.clone(), len(gram)
    inverses = [torch.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    price = torch.stack([inverse[0, 0] for inverse in inverses])
    kept = torch.ones_like(weight, dtype=torch.bool)
    for j in range(columns):
        width = pattern.m if isinstance(pattern, NofM) else block
        if j % width == 0:
            scores = weight[:, j : j + width] ** 2 / price[j : j + width]
            if isinstance(pattern, NofM):
                for row in range(len(weight)):
                    for place in scores[row].argsort()[: pattern.n]:
                        kept[row, j + place] = False
            elif pattern.sparsity:
                threshold = scores.flatten().sort().values[int(scores.numel() * pattern.sparsity)]
                kept[:, j : j + width] = scores > threshold
        for row in range(len(weight)):
            if not kept[row, j]:
                weight[row, j:] -= weight[row, j] / price[j] * inverses[j][0]
    return weight * kept, kept


@pytest.mark.parametrize(
    "pattern", [Unstructured(0.5), Unstructured(0.8), NofM(2, 4), NofM(4, 8), NofM(1, 4)]
)
def test_equals_optimal_brain_surgeon(pattern):
    weight, gram = correlated(8, 24)
    ours = prune(weight, gram, pattern, block=8)
    reference, kept = by_surgeon(weight, gram, pattern, block=8)
    assert torch.equal(ours.mask, kept)
    torch.testing.assert_close(ours.weight, reference, rtol=1e-8, atol=1e-10)
    assert (ours.damping, ours.dead) == (0.01, 0)


def test_two_inputs_by_hand():
    """H = [[2, 1], [1, 2]] undamped has H^-1 = [[2, -1], [-1, 2]] / 3: dropping w_0 = 1 adds 1/2 to w_1."""
    gram = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    damped = 2 * (1 + DAMPING[0])
    weight = torch.tensor([[1.0, 5.0]], dtype=torch.float64)
    pruned = prune(weight, gram, NofM(1, 2))
    assert torch.equal(pruned.mask, torch.tensor([[False, True]]))
    torch.testing.assert_close(pruned.weight, torch.tensor([[0.0, 5 + 1 / damped]], dtype=torch.float64))


def test_uncorrelated_inputs_are_pruned_by_weight_times_norm():
    weight, _ = correlated(8, 16)
    pruned = prune(weight, torch.eye(16, dtype=torch.float64), Unstructured(0.5))
    assert torch.equal(pruned.mask, per_matrix({"": weight}, Unstructured(0.5))[""])
    torch.testing.assert_close(pruned.weight, weight * pruned.mask)


PATTERNS = [Unstructured(0.3), Unstructured(0.7), NofM(2, 4), NofM(1, 4)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_error_is_below_that_of_magnitude(pattern):
    """On average: a greedy order from left to right can lose on a single matrix, and does at 30 %."""
    ours, magnitudes = 0.0, 0.0
    for seed in range(20):
        weight, gram = correlated(8, 16, seed)
        magnitude = weight * per_matrix({"": weight}, pattern)[""]
        ours += relative_output_error(weight, prune(weight.float(), gram.float(), pattern).weight, gram)
        magnitudes += relative_output_error(weight, magnitude, gram)
    assert ours < magnitudes


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(PATTERNS))
def test_dropped_weights_are_zero_and_as_many_as_the_pattern_says(seed, pattern):
    weight, gram = correlated(8, 16, seed)
    pruned = prune(weight.float(), gram.float(), pattern)
    assert not pruned.weight[~pruned.mask].any()
    wanted = int(8 * 16 * pattern.sparsity) + isinstance(pattern, Unstructured)
    assert int((~pruned.mask).sum()) == wanted


def test_the_scale_of_the_gram_matrix_does_not_matter():
    weight, gram = correlated(8, 16)
    one, other = prune(weight, gram, Unstructured(0.5)), prune(weight, gram * 1024, Unstructured(0.5))
    assert torch.equal(one.mask, other.mask)
    torch.testing.assert_close(one.weight, other.weight)


@pytest.mark.parametrize("pattern", [Unstructured(0.5), NofM(2, 4)])
def test_more_columns_than_a_block(pattern):
    weight, gram = correlated(4, 140, tokens=2000)
    ours = prune(weight, gram, pattern)
    reference, kept = by_surgeon(weight, gram, pattern, block=128)
    assert torch.equal(ours.mask, kept)
    torch.testing.assert_close(ours.weight, reference, rtol=1e-7, atol=1e-9)


def test_groups_do_not_straddle_blocks():
    weight, gram = correlated(4, 24)
    ours = prune(weight, gram, NofM(1, 3), block=8)
    assert torch.equal(ours.mask, by_surgeon(weight, gram, NofM(1, 3), block=8)[1])


def test_dense_and_dtype():
    weight, gram = correlated(8, 16)
    pruned = prune(weight.bfloat16(), gram.float(), Unstructured(0))
    assert pruned.weight.dtype == torch.bfloat16
    assert torch.equal(pruned.weight, weight.bfloat16())
    assert pruned.mask.all()


def test_dead_columns_become_zero_and_change_nothing_else():
    weight, gram = correlated(8, 16)
    gram[5], gram[:, 5] = 0, 0
    pruned = prune(weight, gram, Unstructured(0.5), block=16)
    alive = [j for j in range(16) if j != 5]
    assert pruned.dead == 1
    assert not pruned.weight[:, 5].any()
    assert not pruned.mask[:, 5].any()
    damping = torch.eye(16, dtype=torch.float64) * 0.01 * gram.diagonal()[alive].mean()
    factor, _, _ = inverse_factor(gram)
    without = torch.linalg.inv((gram + damping)[alive][:, alive])
    torch.testing.assert_close((factor.T @ factor)[alive][:, alive], without)
    nothing = prune(weight, torch.zeros(16, 16), Unstructured(0.5))
    assert nothing.dead == 16
    assert not nothing.weight.any()


@pytest.mark.parametrize("panel", [1, 5, 16, 24, 100])
def test_panels_of_any_width_give_the_inverse_in_place(panel, monkeypatch):
    _, gram = correlated(1, 24)
    monkeypatch.setattr(sparsegpt, "PANEL", panel)
    hessian = gram + 0.01 * gram.diagonal().mean() * torch.eye(24, dtype=torch.float64)
    given = gram.clone()
    factor, _, _ = inverse_factor(given, overwrite=True)
    assert factor.data_ptr() == given.data_ptr()
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor, torch.linalg.inv(hessian), rtol=1e-8, atol=1e-12)
    assert torch.equal(gram, correlated(1, 24)[1])
    given = gram.clone()
    assert inverse_factor(given)[0].data_ptr() != given.data_ptr()
    assert torch.equal(given, gram)


@pytest.mark.parametrize("panel", [5, 16])
def test_a_second_damping_starts_from_the_same_matrix(panel, monkeypatch):
    _, gram = correlated(1, 16)
    shifted = gram - 0.05 * gram.diagonal().mean() * torch.eye(16)
    whole, damping, _ = inverse_factor(shifted)
    monkeypatch.setattr(sparsegpt, "PANEL", panel)
    factor, same, _ = inverse_factor(shifted.clone(), overwrite=True)
    assert same == damping > DAMPING[0]
    torch.testing.assert_close(factor, whole, rtol=1e-7, atol=1e-10)


def test_damping_ladder_is_climbed_and_reported():
    weight, gram = correlated(8, 16)
    shifted = gram - 0.05 * gram.diagonal().mean() * torch.eye(16)  # indefinite as 0.01 leaves it
    assert torch.linalg.eigvalsh(shifted)[0] < 0
    pruned = prune(weight, shifted, Unstructured(0.5))
    assert pruned.damping == 0.1
    assert torch.isfinite(pruned.weight).all()
    with pytest.raises(NumericError, match=r"layer blocks\.3\.fc1: no Cholesky factor"):
        prune(
            weight,
            gram - 20 * gram.diagonal().max() * (1 - torch.eye(16)),
            Unstructured(0.5),
            layer="blocks.3.fc1",
        )


def test_rank_deficient_inputs_are_fine():
    """Fewer tokens than inputs: damping makes up for the missing directions."""
    x = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    weight = correlated(8, 16)[0].float()
    pruned = prune(weight, x.T @ x / 4, NofM(2, 4))
    assert pruned.damping == 0.01
    assert relative_output_error(weight, pruned.weight, x.T @ x) < 0.05


def test_bad_input_is_refused_by_name():
    weight, gram = correlated(8, 16)
    with pytest.raises(ParameterError, match=r"divides the 16 inputs of q"):
        prune(weight, gram, NofM(1, 3), layer="q")
    for bad_weight, bad_gram in ((weight * float("nan"), gram), (weight, gram * float("inf"))):
        with pytest.raises(NumericError, match="layer q: non-finite"):
            prune(bad_weight, bad_gram, Unstructured(0.5), layer="q")
