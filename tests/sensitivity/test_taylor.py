"""TDMPQ: exact where it must be, and the released version's noise."""

import pytest
import torch
from sensing import MODELS, NAMES, ONE, Tower, assert_untouched, model_and_batches, nudge, rounding, snapshot

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import block_linears, blocks
from lmcompress.sensitivity import taylor
from lmcompress.sensitivity.losses import window_losses
from lmcompress.sensitivity.measured import measure
from lmcompress.sensitivity.scores import quantization_step


def test_first_order_is_exact_on_a_linear_loss():
    tower = Tower()
    slope = torch.arange(12, dtype=torch.float64) - 5.5

    def linear(model, batch):
        return (slope * model.flat).sum()[None]

    found = taylor.first_order(tower, ONE, rounding, [2, 3], loss=linear)
    for bits in (2, 3):
        for layer, (name, part) in enumerate(zip(NAMES, slope.split(6), strict=True)):
            step = quantization_step(name, tower.layers[layer][0].weight, rounding, bits)
            assert found.at(bits)[name] == pytest.approx(abs(float((part * step.flatten()).sum())))
    assert found.per_layer == found.at(2)


@pytest.mark.parametrize(("family", "size"), [("llama", 1e-4), ("opt", 1e-6), ("bert", 1e-6)])
@pytest.mark.parametrize("per", ["linear", "block"])
def test_first_order_is_the_measured_slope(family, size, per):
    """Against central differences: small steps for the kinks of ReLU, larger ones where norms run in fp32."""
    model, batches = model_and_batches(family, double=True)
    up = measure(model, batches, nudge(size), [4], per=per).per_layer
    down = measure(model, batches, nudge(-size), [4], per=per).per_layer
    found = taylor.first_order(model, batches, nudge(size), [4], per=per).per_layer
    assert list(found) == list(up)
    for name, value in found.items():
        assert value == pytest.approx(abs(up[name] - down[name]) / 2, rel=0.01, abs=5e-4 * size)
    assert max(found.values()) > 0.1 * size


def test_fisher_is_the_mean_square_of_single_windows():
    model, batches = model_and_batches("opt", windows=3)
    before = snapshot(model)
    name = "model.decoder.layers.1.fc1"
    weight = model.get_submodule(name).weight
    step = quantization_step(name, weight, rounding, 3)
    total = 0.0
    for batch in batches:
        for ids in batch["input_ids"].split(1):
            (gradient,) = torch.autograd.grad(window_losses(model, {"input_ids": ids}).sum(), weight)
            total += float((gradient**2 * step**2).sum()) / 2 / 6
    moments = taylor.gradient_moments(model, batches)
    scores = taylor.fisher(model, batches, rounding, [3], moments=moments)
    assert scores.per_layer[name] == pytest.approx(total, rel=1e-4)
    assert scores.seconds > moments.seconds
    by_block = taylor.fisher(model, batches, rounding, [3], per="block", moments=moments).per_layer
    assert sum(by_block.values()) == pytest.approx(sum(scores.per_layer.values()))
    assert_untouched(model, before)


def test_weights_the_loss_does_not_see_have_no_sensitivity():
    tower = Tower()
    found = taylor.first_order(tower, ONE, rounding, [2], loss=lambda m, _: m.layers[0][0].weight.sum()[None])
    assert found.per_layer[NAMES[1]] == 0


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("per", ["linear", "block"])
def test_input_perturbation_is_the_spread_of_the_loss_under_noise(family, per):
    model, batches = model_and_batches(family, windows=1)
    before = snapshot(model)
    batches = [{key: value[:1] for key, value in batches[0].items()}]
    scores = taylor.input_perturbation(model, batches, per=per, relative=1e-3)
    names = list(block_linears(model) if per == "linear" else blocks(model))
    assert list(scores.per_layer) == names
    assert_untouched(model, before)
    model.double()
    name, generator = names[len(names) // 2], torch.Generator().manual_seed(0)

    def disturb(_module, arguments, keywords):
        x = arguments[0] if arguments else keywords["hidden_states"]
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + 1e-3 * x.square().mean(-1, keepdim=True).sqrt() * noise
        return ((x, *arguments[1:]), keywords) if arguments else (arguments, {**keywords, "hidden_states": x})

    handle = model.get_submodule(name).register_forward_pre_hook(disturb, with_kwargs=True)
    with torch.no_grad():
        losses = torch.stack([window_losses(model, batches[0])[0] for _ in range(200)])
    handle.remove()
    assert float(losses.std()) == pytest.approx(scores.per_layer[name], rel=0.25)


def test_as_released_sums_logits_under_noise_on_the_first_parameter():
    model, batches = model_and_batches("opt")
    before = snapshot(model)
    first, second = taylor.tdmpq_as_released(model, batches, draws=2)
    again = taylor.tdmpq_as_released(model, batches)[0]
    assert first.per_layer == again.per_layer != second.per_layer
    assert list(first.per_layer) == list(blocks(model))
    assert_untouched(model, before)
    weight = model.model.decoder.layers[0].self_attn.k_proj.weight
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight += noise
        total = sum(float(model(**batch).logits[:, :-1].double().sum()) for batch in batches)
    assert first.per_layer["model.decoder.layers.0"] == pytest.approx(total / 16)


def test_bad_parameters_are_refused_and_trouble_is_named():
    model, batches = model_and_batches("llama")
    for call in (
        lambda: taylor.first_order(model, batches, rounding, []),
        lambda: taylor.fisher(model, batches, rounding, [4], per="head"),
        lambda: taylor.first_order(model, [], rounding, [4]),
        lambda: taylor.input_perturbation(model, batches, relative=0),
        lambda: taylor.tdmpq_as_released(model, batches, draws=0),
    ):
        with pytest.raises(ParameterError):
            call()
    with torch.no_grad():
        model.lm_head.weight[5] = float("inf")
    with pytest.raises(NumericError, match=r"q_proj: gradient"):
        taylor.gradient_moments(model, batches)
