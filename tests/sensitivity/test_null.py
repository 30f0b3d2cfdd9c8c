"""Controls: random and depth scores, and the U-shape that distance alone makes."""

import pytest
from tiny import tiny_model

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears, blocks
from lmcompress.sensitivity import depth, null


def test_random_draws_are_seeded_and_differ():
    model = tiny_model("llama")
    draws = null.random_draws(model, per="linear")
    assert len(draws) == 20
    assert all(list(draw.per_layer) == list(block_linears(model)) for draw in draws)
    assert len({tuple(draw.per_layer.values()) for draw in draws}) == 20
    again = null.random_draws(model, per="linear", draws=3)
    assert [draw.per_layer for draw in again] == [draw.per_layer for draw in draws[:3]]
    assert null.random_draws(model, draws=1, seed=1)[0].per_layer != draws[0].per_layer


def test_depth_heuristics():
    model = tiny_model("opt")
    ends = null.ends_high(model, per="block")
    assert list(ends.per_layer) == list(blocks(model))
    assert list(ends.per_layer.values()) == [1, 0, 1]
    assert list(null.middle_high(model, per="block").per_layer.values()) == [0, 1, 0]
    by_linear = null.ends_high(model, per="linear").per_layer
    assert all(value == ends.per_layer[".".join(name.split(".")[:4])] for name, value in by_linear.items())


def test_similarity_that_depends_on_distance_alone_is_explained_whole():
    similarity = [[0.9 ** abs(i - j) for j in range(13)] for i in range(13)]
    found = depth.depth_null(similarity)
    assert found.residual == pytest.approx([0] * 12)
    assert found.explained == pytest.approx(1)
    assert found.contrast == pytest.approx(found.expected_contrast)
    assert found.contrast > 0.05  # both ends look "sensitive" though all layers are alike
    assert len(depth.depth_null(similarity, range(12)).scores) == 12


def test_a_layer_of_its_own_shows_in_the_residual():
    similarity = [[0.9 ** abs(i - j) for j in range(9)] for i in range(9)]
    for j in (k for k in range(9) if k != 4):
        similarity[4][j] -= 0.3
        similarity[j][4] -= 0.3
    found = depth.depth_null(similarity)
    assert max(range(8), key=found.residual.__getitem__) == 3  # targets begin at depth 1
    assert found.explained < 0.5


def test_worked_example():
    similarity = [[1, 0.8, 0.4], [0.8, 1, 0.6], [0.4, 0.6, 1]]
    found = depth.depth_null(similarity, targets=[0, 1, 2])
    assert found.scores == pytest.approx([0.4, 0.3, 0.5])
    assert found.expected == pytest.approx([0.45, 0.3, 0.45])
    assert found.contrast == pytest.approx(0.15)
    assert found.explained == pytest.approx(1 - 0.005 / 0.02)


def test_constant_scores_have_nothing_to_explain():
    flat = [[1.0] * 5 for _ in range(5)]
    assert depth.depth_null(flat).explained == 0


def test_bad_parameters_are_refused():
    with pytest.raises(ParameterError, match="similarity"):
        depth.depth_null([[1, 0], [0, 1]])
    with pytest.raises(ParameterError, match="share"):
        depth.ends_contrast([1, 2, 3], 0.5)
    with pytest.raises(ParameterError, match="draws"):
        null.random_draws(tiny_model("llama"), draws=0)
