"""The linearity coefficient by hand: on a loss that is quadratic in the weights it is known."""

import pytest
import torch
from sensing import NAMES, ONE, Tower, assert_untouched, model_and_batches, snapshot

from lmcompress.errors import ParameterError
from lmcompress.sensitivity.linearity import higgs
from lmcompress.sensitivity.scores import Scores
from lmcompress.sensitivity.shrinkage import shrunk


def run(model):
    """The blocks, one after the other, as the measuring of single blocks expects."""
    for layer in model.layers:
        layer(torch.zeros(1, 3, dtype=torch.float64))


def test_the_slope_of_a_quadratic_loss():
    """||W||^2 grows by t^2 ||W||^2 on average, and by no more than chance beside it."""
    tower, factors = Tower(), (1.0, 5.0)

    def loss(model, _batch):
        run(model)
        return sum(
            k * layer[0].weight.square().sum() for k, layer in zip(factors, model.layers, strict=True)
        )[None]

    drawn = higgs(tower, ONE, levels=(1.0,), draws=400, loss=loss)
    for name, factor, layer in zip(NAMES, factors, tower.layers, strict=True):
        mean = sum(one.per_layer[name] for one in drawn) / len(drawn)
        assert mean == pytest.approx(factor * float(layer[0].weight.detach().square().sum()), rel=0.15)


def test_noise_has_the_size_that_was_asked_for_and_levels_are_fitted_through_the_origin():
    tower, seen = Tower(), []

    def loss(model, _batch):
        run(model)
        seen.append([layer[0].weight.detach().clone() for layer in model.layers])
        return torch.tensor(
            [float(len(seen))], dtype=torch.float64
        )  # 1 for the base, then 2 and 3 for the first layer

    found = higgs(tower, ONE, levels=(0.1, 0.2), loss=loss)[0]
    for index, level in ((1, 0.1), (2, 0.2)):
        step = seen[index][0] - seen[0][0]
        assert float(step.square().sum() / seen[0][0].square().sum()) == pytest.approx(level)
    assert found.per_layer[NAMES[0]] == pytest.approx((0.1 * 1 + 0.2 * 2) / (0.1**2 + 0.2**2))


def test_a_model_is_left_as_it_was_and_a_seed_repeats():
    model, batches = model_and_batches("llama")
    before = snapshot(model)
    first, again = (higgs(model, batches, per="block", seed=1)[0].per_layer for _ in range(2))
    assert_untouched(model, before)
    assert first == again != higgs(model, batches, per="block", seed=2)[0].per_layer
    with pytest.raises(ParameterError, match="levels"):
        higgs(model, batches, levels=(0.0,))


def truth(losses):
    """Costs [layer][width] of two windows each, over a base of 1."""
    tables = {
        layer: {bits: [1 + value for value in values] for bits, values in tried.items()}
        for layer, tried in losses.items()
    }
    return Scores(
        dict.fromkeys(losses, 0.0),
        1.0,
        {"per_width": {"2": {}, "4": {}}, "losses": tables, "base": [1, 1]},
    )


def test_without_noise_nothing_is_shrunk_but_costs_below_0_are_none():
    found = shrunk(
        truth({"a": {"2": [0.4, 0.4], "4": [0.1, 0.1]}, "b": {"2": [0.2, 0.2], "4": [-0.1, -0.1]}})
    )
    assert found.at(2) == pytest.approx({"a": 0.4, "b": 0.2})
    assert found.at(4) == pytest.approx({"a": 0.1, "b": 0.0})


def test_by_hand_half_noise_shrinks_half_way_and_more_bits_never_cost_more():
    # means 0 and 0.4: their variance is 0.08. Windows +-0.2 around each: variance 0.08, of a mean of two 0.04: half.
    noisy = {"a": {"2": [-0.2, 0.2], "4": [0.3, 0.3]}, "b": {"2": [0.2, 0.6], "4": [0.3, 0.3]}}
    found = shrunk(truth(noisy))
    assert found.at(2) == pytest.approx({"a": 0.1, "b": 0.3})
    assert found.at(4) == pytest.approx({"a": 0.1, "b": 0.3})
