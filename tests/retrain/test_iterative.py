"""Iterative and one-shot: the ladder by hand, equal total steps, and a pattern that holds after every
round.
"""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokens
from torch import nn

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears
from lmcompress.prune import magnitude, mask
from lmcompress.prune.pattern import NofM, Unstructured, ladder, parse
from lmcompress.retrain.iterative import prune_and_retrain, split_steps

OPTIONS = {"lr": 1e-2, "batch_size": 2, "progress": False}


def prune(model, pattern):
    weights = {name: layer.weight.detach() for name, layer in block_linears(model).items()}
    masks = magnitude.per_matrix(weights, parse(pattern))
    mask.apply(model, masks)
    return masks


def test_each_rung_drops_the_same_share_of_what_remains():
    assert ladder(Unstructured(0.75), 2) == [Unstructured(0.5), Unstructured(0.75)]
    assert [one.sparsity for one in ladder(Unstructured(0.875), 3)] == pytest.approx([0.5, 0.75, 0.875])
    assert ladder(Unstructured(0.3), 1) == [Unstructured(0.3)]


def test_rounds_of_a_pattern_stay_patterns_and_end_at_it():
    assert ladder(NofM(2, 4), 2) == [NofM(1, 4), NofM(2, 4)]
    assert ladder(NofM(4, 8), 3) == [NofM(2, 8), NofM(3, 8), NofM(4, 8)]
    with pytest.raises(ParameterError, match="at most 2 for 2:4"):
        ladder(NofM(2, 4), 3)
    model = tiny_model("llama")
    masks, _ = prune_and_retrain(
        model, tiny_tokens(8), "norms", prune, ladder(NofM(2, 4), 2), steps=4, **OPTIONS
    )
    for kept in masks.values():
        assert (kept.view(-1, 4).sum(1) == 2).all()


def test_new_biases_go_on_in_every_round():
    model = tiny_model("llama")
    rounds = ladder(Unstructured(0.5), 3)
    _, reports = prune_and_retrain(model, tiny_tokens(8), "new-biases", prune, rounds, steps=6, **OPTIONS)
    assert len({report.trainable for report in reports}) == 1
    assert all(layer.bias.abs().sum() > 0 for layer in block_linears(model).values())


@given(st.integers(1, 40), st.integers(0, 500))
def test_shares_of_steps_add_up_and_differ_by_one_at_most(rounds, extra):
    shares = split_steps(rounds + extra, rounds)
    assert sum(shares) == rounds + extra
    assert max(shares) - min(shares) <= 1
    assert min(shares) >= 1


@pytest.mark.parametrize("spec", ["norms", "masklora", "full"])
def test_rounds_end_at_the_target_with_the_steps_of_one_shot(spec, tmp_path):
    for targets in (ladder(Unstructured(0.75), 3), [Unstructured(0.75)]):
        model = tiny_model("llama")
        place = tmp_path / str(len(targets))
        masks, reports = prune_and_retrain(
            model, tiny_tokens(8), spec, prune, targets, steps=10, folder=place, **OPTIONS
        )
        assert sum(len(report.losses) for report in reports) == 10
        assert len(reports) == len(list(place.iterdir())) == len(targets)
        assert mask.sparsity(masks) == pytest.approx(0.75, abs=2e-3)
        mask.check(model, masks)
        assert all(type(layer) is nn.Linear for layer in block_linears(model).values())


def test_magnitude_rounds_are_nested():
    seen = []

    def remember(model, sparsity):
        seen.append(prune(model, sparsity))
        return seen[-1]

    prune_and_retrain(
        tiny_model("opt"),
        tiny_tokens(8),
        "biases",
        remember,
        ladder(Unstructured(0.7), 3),
        steps=6,
        **OPTIONS,
    )
    for earlier, later in pairwise(seen):
        assert all(not (later[name] & ~earlier[name]).any() for name in later)


def test_a_diverged_round_is_the_last():
    def spoil(model, sparsity):
        masks = prune(model, sparsity)
        with torch.no_grad():
            model.model.norm.weight[0] = float("nan")
        return masks

    _, reports = prune_and_retrain(
        tiny_model("llama"), tiny_tokens(8), "norms", spoil, [0.2, 0.4], steps=4, **OPTIONS
    )
    assert [report.diverged for report in reports] == [True]


def test_impossible_schedules_are_refused():
    model, windows = tiny_model("llama"), tiny_tokens(8)
    with pytest.raises(ParameterError, match="merged"):
        prune_and_retrain(model, windows, "lora", prune, [0.3, 0.5], steps=4, **OPTIONS)
    with pytest.raises(ParameterError, match="targets"):
        prune_and_retrain(model, windows, "norms", prune, [], steps=4, **OPTIONS)
    with pytest.raises(ParameterError, match="at least one step"):
        prune_and_retrain(model, windows, "norms", prune, [0.1, 0.2], steps=1, **OPTIONS)
    with pytest.raises(ParameterError):
        ladder(Unstructured(0.5), 0)
