"""The common rule for scores that know no bit-width."""

import pytest
import torch
from tiny import tiny_model

from lmcompress.allocate.predict import FLOOR, loss_table, relative_errors, width_free_loss
from lmcompress.errors import ParameterError
from lmcompress.models import blocks, linears
from lmcompress.sensitivity.scores import Scores

ERROR = {"a": {"2": 0.5, "4": 0.1}, "b": {"2": 0.4, "4": 0.2}}


def test_product_of_score_and_relative_error():
    assert width_free_loss({"a": 2.0, "b": 10.0}, ERROR) == {
        "a": {"2": 1.0, "4": 0.2},
        "b": {"2": 4.0, "4": 2.0},
    }


def test_low_and_negative_scores_keep_a_small_price():
    table = width_free_loss({"a": -3.0, "b": 10.0}, ERROR)
    assert table["a"] == {"2": pytest.approx(10 * FLOOR * 0.5), "4": pytest.approx(10 * FLOOR * 0.1)}
    assert width_free_loss({"a": -3.0, "b": -1.0}, ERROR) == ERROR


def test_scores_that_know_the_width_stay_as_they_are():
    known = Scores(
        {"a": 1.0, "b": 3.0}, 0.0, {"per_width": {"2": {"a": 1.0, "b": 3.0}, "4": {"a": -1.0, "b": 0.0}}}
    )
    assert loss_table(known, (2, 4), ERROR) == {"a": {"2": 1.0, "4": -1.0}, "b": {"2": 3.0, "4": 0.0}}
    free = Scores({"a": 2.0, "b": 10.0}, 0.0)
    assert loss_table(free, (2, 4), ERROR) == width_free_loss(free.per_layer, ERROR)


def test_other_layers_are_refused():
    with pytest.raises(ParameterError, match="relative_error"):
        width_free_loss({"a": 1.0}, ERROR)


def test_relative_errors_of_a_step_of_known_size():
    model = tiny_model("llama")

    def shrink(weight, bits):
        return weight * (1 - 1 / bits)

    for per in ("linear", "block"):
        table = relative_errors(model, shrink, (2, 4), per)
        for offered in table.values():
            assert offered == {"2": pytest.approx(1 / 4, rel=1e-5), "4": pytest.approx(1 / 16, rel=1e-5)}
    assert list(table) == list(blocks(model))


def test_relative_error_of_a_block_weighs_its_linears_by_size():
    model = tiny_model("llama")
    name, block = next(iter(blocks(model).items()))
    inside = linears(block, name)
    first = next(iter(inside))

    def clear_first(weight, bits):
        return torch.zeros_like(weight) if weight.data_ptr() == inside[first].weight.data_ptr() else weight

    sizes = {key: float(linear.weight.detach().double().square().sum()) for key, linear in inside.items()}
    found = relative_errors(model, clear_first, (4,), "block")[name]["4"]
    assert found == pytest.approx(sizes[first] / sum(sizes.values()))
