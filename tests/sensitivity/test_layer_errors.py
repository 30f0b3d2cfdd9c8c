"""Errors of weights and outputs against the outputs themselves."""

import pytest
import torch
from sensing import MODELS, assert_untouched, model_and_batches, rounding, snapshot
from tiny import tiny_model, tiny_tokens

from lmcompress.models import block_linears
from lmcompress.sensitivity.layer_errors import activation_weighted, weight_error
from lmcompress.sensitivity.scores import quantization_step


@pytest.mark.parametrize("family", MODELS)
def test_activation_weighted_is_the_mean_squared_output_error(family):
    model, batches = model_and_batches(family)
    before = snapshot(model)
    found = activation_weighted(model, batches, rounding, [3, 4])
    assert_untouched(model, before)
    name = list(block_linears(model))[-1]
    step = quantization_step(name, model.get_submodule(name).weight, rounding, 4)
    seen = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _m, x: seen.append(x[0].flatten(0, -2))
    )
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    expected = float((torch.cat(seen) @ step.T).square().sum(-1).mean())
    assert found.at(4)[name] == pytest.approx(expected, rel=1e-4)
    by_block = activation_weighted(model, batches, rounding, [3], per="block").per_layer
    assert sum(by_block.values()) == pytest.approx(sum(found.at(3).values()), rel=1e-5)


def test_padding_is_left_out():
    model, ids = tiny_model("llama"), tiny_tokens(2, 10)
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], 1)
    batch = {"input_ids": padded, "attention_mask": (padded != 0).long()}
    plain = activation_weighted(model, [{"input_ids": ids}], rounding, [3]).per_layer
    assert activation_weighted(model, [batch], rounding, [3]).per_layer == pytest.approx(plain, rel=1e-3)


def test_weight_error():
    model = tiny_model("opt")
    found = weight_error(model, None, rounding, [3, 4])
    for name, layer in block_linears(model).items():
        error = float((rounding(layer.weight, 4) - layer.weight).square().sum())
        assert found.at(4)[name] == pytest.approx(error)
        assert found.at(3)[name] > error
