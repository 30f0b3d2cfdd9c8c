"""A training step recorded as a CUDA graph does what the same step does from Python."""

import accelerate
import pytest
import torch
from pruned_tiny import pruned_model
from tiny import tiny_tokens

from lmcompress.prune import mask
from lmcompress.retrain.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SPECS = ["norms", "full", "masklora", "scalelora", "biases+norms"]


def on_gpu(dtype=torch.bfloat16, family="opt"):
    model, masks = pruned_model(family, dtype)
    return model.cuda(), {name: kept.cuda() for name, kept in masks.items()}


def run(spec, graph, dtype=torch.bfloat16, **options):
    model, masks = on_gpu(dtype)
    settings = {"lr": 3e-3, "steps": 25, "batch_size": 4, "progress": False} | options
    report = train(model, tiny_tokens(8, 16), spec, masks, graph=graph, **settings)
    mask.check(model, masks)
    return model, report


@pytest.mark.parametrize("spec", SPECS)
def test_losses_are_those_of_the_plain_loop(spec):
    _, plain = run(spec, False)
    _, graph = run(spec, True)
    assert graph.preparation > 0
    assert plain.preparation == 0
    assert (graph.steps, graph.tokens, graph.trainable) == (plain.steps, plain.tokens, plain.trainable)
    assert graph.losses == pytest.approx(plain.losses, abs=0.03)  # bf16, 25 steps
    assert min(graph.losses[-5:]) < graph.losses[0]


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_neox"])
def test_other_families_are_recorded_too(family):
    losses = []
    for graph in (False, True):
        model, masks = on_gpu(torch.float32, family)
        windows = tiny_tokens(8, 24)  # longer than the sliding window of the Mistral
        options = {"lr": 1e-3, "steps": 12, "batch_size": 4, "progress": False, "graph": graph}
        report = train(model, windows, "norms", masks, **options)
        assert (report.preparation > 0) == graph
        losses.append(report.losses)
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_in_fp32_the_two_agree_closely_also_with_accumulation():
    _, plain = run("biases+norms", False, torch.float32, accumulation=2)
    _, graph = run("biases+norms", True, torch.float32, accumulation=2)
    assert graph.losses == pytest.approx(plain.losses, abs=2e-3)  # Adam lifts rounding to steps of full size


def test_evaluations_see_the_step_that_they_follow():
    def evaluate(model):
        return float(model.model.decoder.final_layer_norm.weight.float().sum())

    options = {"evaluate": evaluate, "evaluate_every": 7, "dtype": torch.float32}
    found = [run("norms", graph, **options)[1].evaluations for graph in (False, True)]
    assert [step for step, _ in found[1]] == [7, 14, 21, 25]
    for (_, own), (_, other) in zip(*found, strict=True):
        assert own == pytest.approx(other, abs=1e-3)


def test_a_resumed_run_goes_on_as_the_whole_one(tmp_path):
    class Killed(Exception):
        pass

    def kill(model):
        raise Killed

    _, whole = run("masklora", True, torch.float32)
    with pytest.raises(Killed):
        run("masklora", True, torch.float32, folder=tmp_path, save_every=5, evaluate=kill, evaluate_every=15)
    _, resumed = run("masklora", True, torch.float32, folder=tmp_path, save_every=5)
    assert len(resumed.losses) == 25
    assert resumed.losses == pytest.approx(whole.losses, abs=1e-5)


def test_divergence_stops_both_at_the_same_step():
    reports = []
    for graph in (False, True):
        model, masks = on_gpu(torch.float32)
        windows = tiny_tokens(8, 16)
        reports.append(
            train(model, windows, "full", masks, lr=3.0, steps=60, batch_size=4, progress=False, graph=graph)
        )
    assert [report.diverged for report in reports] == [True, True]
    assert len(reports[0].losses) == len(reports[1].losses) < 60


def test_a_second_run_of_a_shape_finds_its_compilation():
    from torch._dynamo.utils import counters

    run("norms", True)
    before = counters["stats"]["unique_graphs"]
    run("norms", True)
    assert counters["stats"]["unique_graphs"] == before > 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("spec", ["full", "masklora", "biases+norms"])
def test_a_model_on_two_gpus_is_trained_as_on_one(spec):
    losses = []
    for gpus in (1, 2):
        model, masks = pruned_model("opt", torch.float32)
        if gpus == 1:
            model.cuda()
        else:
            places = dict.fromkeys(("model.decoder.layers.0", "model.decoder.embed_tokens", "lm_head"), 0)
            rest = [
                name
                for name, _ in model.model.decoder.named_children()
                if name not in ("layers", "embed_tokens")
            ]
            places |= {f"model.decoder.{name}": 1 for name in rest}
            places |= {f"model.decoder.layers.{k}": 1 for k in range(1, model.config.num_hidden_layers)}
            accelerate.dispatch_model(model, places)
        report = train(
            model,
            tiny_tokens(8, 16),
            spec,
            masks,
            lr=1e-3,
            steps=8,
            batch_size=4,
            progress=False,
            graph=False,
        )
        mask.check(model, masks)
        losses.append(report.losses)
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
