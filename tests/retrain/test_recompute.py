"""Checkpointed blocks: as many as asked for, with the gradients of a plain pass."""

import pytest
import torch
from tiny import tiny_model

from lmcompress.errors import ParameterError
from lmcompress.models import blocks
from lmcompress.retrain.recompute import Recomputed
from lmcompress.retrain.train import train


def gradients(model):
    tokens = torch.arange(3, 11)[None]
    model.zero_grad()
    model(input_ids=tokens, labels=tokens).loss.backward()
    return [value.grad.clone() for value in model.parameters() if value.grad is not None]


def test_released_blocks_run_once_and_all_give_the_same_gradients():
    model = tiny_model("opt").train()
    plain, modules = gradients(model), list(blocks(model).values())
    calls = []
    modules[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(0))
    modules[-1].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    recomputed = Recomputed(modules, True)
    assert recomputed.count == len(modules)
    assert all(map(torch.equal, gradients(model), plain))
    assert (calls.count(0), calls.count(1)) == (2, 2)
    recomputed._size = 100
    recomputed.release(199.0)  # room for one: the last
    calls.clear()
    assert all(map(torch.equal, gradients(model), plain))
    assert (calls.count(0), calls.count(1)) == (2, 1)
    recomputed.release(-5.0)
    assert recomputed.count == len(modules) - 1
    recomputed.end()
    assert not any("forward" in vars(module) for module in modules)


def test_without_a_gpu_auto_checkpoints_all_and_others_are_refused():
    model = tiny_model("opt")
    assert Recomputed(list(blocks(model).values()), "auto").count == len(blocks(model))
    with pytest.raises(ParameterError, match="checkpointing"):
        train(model, torch.zeros(2, 8, dtype=torch.long), "norms", lr=1.0, steps=1, checkpointing="some")


def test_a_training_says_how_many_blocks_it_recomputed():
    windows = torch.randint(3, 60, (4, 8), generator=torch.Generator().manual_seed(0))
    losses = {}
    for mode in (False, "auto"):
        torch.manual_seed(0)
        model = tiny_model("opt")
        report = train(
            model, windows, "norms", lr=1e-3, steps=2, batch_size=2, checkpointing=mode, progress=False
        )
        assert report.recomputed == (len(blocks(model)) if mode else 0)
        losses[mode] = report.losses
    assert losses[False] == pytest.approx(losses["auto"], rel=1e-6)
