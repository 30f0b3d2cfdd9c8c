"""PMPQ: one layer pruned at a time, by magnitude or Wanda; what the released version does."""

import numpy as np
import pytest
import torch
from sensing import MODELS, assert_untouched, model_and_batches, snapshot

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears, blocks
from lmcompress.prune import wanda
from lmcompress.prune.magnitude import per_matrix
from lmcompress.prune.pattern import NofM, Unstructured
from lmcompress.sensitivity.losses import window_losses
from lmcompress.sensitivity.pruning import input_norms, pmpq, pmpq_as_released


def mean_loss(model, batches) -> float:
    with torch.no_grad():
        return float(torch.cat([window_losses(model, batch) for batch in batches]).double().mean())


@pytest.mark.parametrize("criterion", ["magnitude", "wanda"])
@pytest.mark.parametrize("family", MODELS)
def test_score_is_the_loss_increase_of_one_pruned_layer(family, criterion):
    model, batches = model_and_batches(family)
    before, base = snapshot(model), mean_loss(model, batches)
    scores = pmpq(model, batches, patterns=[0.5, "2:4"], criterion=criterion)
    assert_untouched(model, before)
    assert list(scores.per_layer) == list(block_linears(model))
    norms = input_norms(model, batches)
    name = list(block_linears(model))[-2]
    weight = model.get_submodule(name).weight
    kept, increases = weight.detach().clone(), []
    for pattern in (Unstructured(0.5), NofM(2, 4)):
        mask = per_matrix({name: kept}, pattern)[name]
        if criterion == "wanda":
            mask = wanda.prune(kept, norms[name], pattern)
        with torch.no_grad():
            weight.copy_(kept * mask)
        increases.append(mean_loss(model, batches) - base)
        assert scores.detail["per_pattern"][str(pattern)][name] == pytest.approx(increases[-1], abs=1e-7)
        low, high = scores.detail["intervals"][str(pattern)][name]
        assert low <= increases[-1] <= high
    assert scores.per_layer[name] == pytest.approx(sum(increases) / 2, abs=1e-7)


def test_a_block_is_pruned_whole():
    model, batches = model_and_batches("opt")
    base = mean_loss(model, batches)
    scores = pmpq(model, batches, patterns=[0.7], per="block")
    assert list(scores.per_layer) == list(blocks(model))
    name = "model.decoder.layers.2"
    weights = {n: layer.weight.detach() for n, layer in block_linears(model).items() if n.startswith(name)}
    masks = per_matrix(weights, Unstructured(0.7))
    with torch.no_grad():
        for layer, mask in masks.items():
            model.get_submodule(layer).weight.mul_(mask)
    assert scores.per_layer[name] == pytest.approx(mean_loss(model, batches) - base, abs=1e-7)


def test_wanda_norms_are_those_of_the_inputs():
    model, batches = model_and_batches("llama")
    name, seen = "model.layers.1.mlp.down_proj", []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _m, x: seen.append(x[0].flatten(0, -2))
    )
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    assert torch.allclose(input_norms(model, batches)[name], torch.cat(seen).norm(dim=0), rtol=1e-4)


def test_as_released_prunes_every_tensor_of_a_block():
    model, batches = model_and_batches("opt")
    before, base = snapshot(model), np.exp(mean_loss(model, batches))
    scores = pmpq_as_released(model, batches)
    assert_untouched(model, before)
    assert list(scores.per_layer) == list(blocks(model))
    with torch.no_grad():
        for parameter in model.model.decoder.layers[1].parameters():
            parameter[parameter.abs() <= torch.quantile(parameter.abs().double(), 0.3)] = 0
    expected = base - np.exp(mean_loss(model, batches))
    assert scores.per_layer["model.decoder.layers.1"] == pytest.approx(expected, rel=1e-4)


def test_as_released_turns_the_sign_round_for_language_models():
    model, _ = model_and_batches("llama")
    batches = [{"input_ids": torch.full((4, 16), 7)}]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):  # until it knows this text by heart: harm can only raise its loss
        optimizer.zero_grad()
        window_losses(model, batches[0]).mean().backward()
        optimizer.step()
    model.zero_grad()
    assert min(pmpq_as_released(model, batches, sparsity=0.95).per_layer.values()) < 0
    assert max(pmpq(model, batches, patterns=[0.95], per="block").per_layer.values()) > 0


def test_as_released_scores_classifiers_by_accuracy():
    model, batches = model_and_batches("bert")
    scores = pmpq_as_released(model, batches, sparsity=0.9)
    with torch.no_grad():
        inputs = [
            (model(input_ids=batch["input_ids"]).logits.argmax(-1), batch["labels"]) for batch in batches
        ]
    assert scores.detail["base"] == np.mean(
        [float((guess == label).float().mean()) for guess, label in inputs]
    )
    assert all(value * 16 == round(value * 16) for value in scores.per_layer.values())


def test_bad_parameters_are_refused():
    model, batches = model_and_batches("llama")
    for call in (
        lambda: pmpq(model, batches, criterion="sparsegpt"),
        lambda: pmpq(model, batches, patterns=[]),
        lambda: pmpq(model, batches, patterns=[1.5]),
        lambda: pmpq(model, batches, patterns=["3:7"]),
        lambda: pmpq(model, []),
        lambda: pmpq_as_released(model, batches, sparsity=1),
    ):
        with pytest.raises(ParameterError):
            call()
