"""Window losses against the models' own, and replaying from a block against running the whole model."""

import pytest
import torch
from sensing import MODELS, assert_untouched, model_and_batches, snapshot
from tiny import FAMILIES, tiny_model, tiny_tokens
from transformers import AutoModelForMaskedLM

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import blocks, linears
from lmcompress.sensitivity.losses import Replay, block_of, predictions, window_losses


@pytest.mark.parametrize("family", MODELS)
def test_mean_equals_the_models_own_loss(family):
    model, batches = model_and_batches(family)
    labels = batches[0].get("labels", batches[0]["input_ids"])
    own = model(input_ids=batches[0]["input_ids"], labels=labels).loss
    losses = window_losses(model, batches[0])
    assert losses.shape == (8,)
    assert float(losses.mean()) == pytest.approx(float(own), rel=1e-5)


def test_padding_does_not_count():
    model, ids = tiny_model("llama"), tiny_tokens(2, 10)
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], 1)
    mask = (padded != 0).long()
    masked = window_losses(model, {"input_ids": padded, "attention_mask": mask})
    assert torch.allclose(masked, window_losses(model, {"input_ids": ids}), atol=1e-5)


def test_models_without_a_fitting_output_are_refused():
    causal, batches = model_and_batches("llama")
    with pytest.raises(ParameterError, match="labels"):
        predictions(causal, {**batches[0], "labels": torch.zeros(8, dtype=torch.long)})
    masked = AutoModelForMaskedLM.from_config(model_and_batches("bert")[0].config)
    with pytest.raises(ParameterError, match="a causal language model"):
        predictions(masked, batches[0])


@pytest.mark.parametrize("family", [*(f for f in FAMILIES if f != "bert"), "bert"])
def test_replay_equals_the_whole_model(family):
    model, batches = model_and_batches(family)
    before = snapshot(model)
    replay = Replay(model, batches)
    assert torch.equal(replay.base, _whole(model, batches))
    for index, block in enumerate(blocks(model).values()):
        replay.move_to(index)
        weight = next(iter(linears(block).values())).weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1.5)
        changed = replay.losses(index, "it")
        assert torch.equal(changed, _whole(model, batches))
        assert not torch.equal(changed, replay.base)
        with torch.no_grad():
            weight.copy_(kept)
    assert_untouched(model, before)


def _whole(model, batches):
    with torch.no_grad():
        return torch.cat([window_losses(model, batch).double() for batch in batches])


def test_blocks_before_are_not_run_again():
    model, batches = model_and_batches("opt")
    replay = Replay(model, batches)
    replay.move_to(2)
    runs = []
    for number, block in enumerate(blocks(model).values()):
        next(iter(linears(block).values())).register_forward_hook(
            lambda *_, number=number: runs.append(number)
        )
    replay.losses(2, "it")
    assert runs == [2, 2]


def test_blocks_go_in_order_and_trouble_is_named():
    model, batches = model_and_batches("llama")
    replay = Replay(model, batches)
    with pytest.raises(ParameterError, match="move_to"):
        replay.losses(1, "it")
    replay.move_to(1)
    for block in (0, 3):
        with pytest.raises(ParameterError, match="block"):
            replay.move_to(block)
    with torch.no_grad():
        next(iter(linears(blocks(model)["model.layers.1"]).values())).weight.fill_(float("nan"))
    with pytest.raises(NumericError, match="layer it: loss is not finite"):
        replay.losses(1, "it")
    with pytest.raises(ParameterError, match="batches"):
        Replay(model, [])


def test_block_of():
    where = block_of(tiny_model("opt"))
    assert where["model.decoder.layers.2"] == where["model.decoder.layers.2.self_attn.k_proj"] == 2
