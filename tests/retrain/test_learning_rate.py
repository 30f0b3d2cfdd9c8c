"""The rate is the one of least validation loss; a diverged rate never wins."""

import pytest
import torch
from pruned_tiny import pruned_model
from tiny import tiny_tokens

from lmcompress.errors import ParameterError
from lmcompress.retrain import subsets
from lmcompress.retrain.learning_rate import GRIDS, choose_lr, grid
from lmcompress.retrain.train import mean_loss, train

OPTIONS = {"steps": 12, "batch_size": 2, "progress": False}


def test_every_subset_has_a_grid_and_a_combination_takes_the_most_careful():
    assert set(GRIDS) == set(subsets.NAMES)
    assert grid("norms") == GRIDS["norms"]
    assert grid("norms+head") == GRIDS["head"]
    assert grid("biases+masklora") == GRIDS["masklora"]


def test_the_chosen_rate_has_the_least_validation_loss():
    validation = tiny_tokens(4, seed=9)
    found = choose_lr(
        pruned_model, "masklora", tiny_tokens(8), validation, rates=(1e-2, 1e-6, 50.0), **OPTIONS
    )
    assert [trial["lr"] for trial in found.trials] == [1e-6, 1e-2, 50.0]
    finite = [trial for trial in found.trials if not trial["diverged"]]
    assert found.lr == min(finite, key=lambda trial: trial["loss"])["lr"]
    model, masks = pruned_model()
    train(model, tiny_tokens(8), "masklora", masks, lr=1e-6, **OPTIONS)
    assert found.trials[0]["loss"] == pytest.approx(mean_loss(model, validation), rel=1e-5)
    assert found.at_edge == (found.lr in (1e-6, 50.0))


def test_when_every_rate_diverges_there_is_none():
    def broken():
        model, masks = pruned_model()
        with torch.no_grad():
            model.model.norm.weight[0] = float("nan")
        return model, masks

    found = choose_lr(broken, "norms", tiny_tokens(8), tiny_tokens(), rates=(1e-3,), **OPTIONS)
    assert found.lr is None
    assert found.trials == ({"lr": 1e-3, "loss": None, "diverged": True},)
    assert not found.at_edge


def test_an_empty_grid_is_refused():
    with pytest.raises(ParameterError):
        choose_lr(pruned_model, "norms", tiny_tokens(8), tiny_tokens(), rates=(), **OPTIONS)
