"""Curvature against exact Hessians of small problems."""

import pytest
import torch
from sensing import MODELS, NAMES, ONE, Tower, assert_untouched, model_and_batches, nudge, rounding, snapshot
from torch.func import functional_call, hessian, jacrev

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears
from lmcompress.sensitivity import hessian as curvature
from lmcompress.sensitivity.losses import predictions, window_losses
from lmcompress.sensitivity.measured import measure
from lmcompress.sensitivity.scores import quantization_step


def quadratic(seed: int = 3):
    """A loss b.w + 1/2 w'Aw over the 12 weights of a Tower, and its A."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    slope = torch.randn(12, generator=generator, dtype=torch.float64)
    matrix = root + root.T

    def loss(model, batch):
        return (slope @ model.flat + model.flat @ matrix @ model.flat / 2)[None]

    return loss, matrix


def test_second_order_is_exact_on_a_quadratic():
    loss, _ = quadratic()
    tower = Tower()
    truth = {}
    base = loss(tower, None).item()
    for index, name in enumerate(NAMES):
        weight = tower.layers[index][0].weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(rounding(weight, 2))
            truth[name] = abs(loss(tower, None).item() - base)
            weight.copy_(kept)
    several = [curvature.expansion(tower, ONE, rounding, [2], draws=4, seed=s, loss=loss) for s in range(100)]
    for name in NAMES:
        mean = sum(found.per_layer[name] for found in several) / 100
        assert mean == pytest.approx(truth[name], rel=0.1, abs=0.02)


def test_second_order_is_exact_for_one_layer_in_one_draw():
    loss, matrix = quadratic()
    matrix[:6, 6:] = 0
    matrix[6:, :6] = 0
    tower = Tower()
    found = curvature.expansion(tower, ONE, rounding, [2, 3], draws=1, loss=loss)
    base = loss(tower, None).item()
    for bits in (2, 3):
        weight = tower.layers[1][0].weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(rounding(weight, bits))
            change = loss(tower, None).item() - base
            weight.copy_(kept)
        assert found.at(bits)[NAMES[1]] == pytest.approx(abs(change), rel=1e-9)


def test_curvature_of_a_linear_loss_is_zero():
    tower = Tower()

    def linear(model, batch):
        return model.flat.sum()[None]

    first = abs(float(quantization_step(NAMES[0], tower.layers[0][0].weight, rounding, 2).sum()))
    assert curvature.expansion(tower, ONE, rounding, [2], loss=linear).per_layer[NAMES[0]] == pytest.approx(
        abs(first)
    )
    assert all(value == (0, 0) for value in curvature.hutchinson_traces(tower, ONE, loss=linear).values())


def test_hutchinson_finds_the_traces_of_a_quadratic():
    loss, matrix = quadratic()
    found = curvature.hutchinson_traces(Tower(), ONE, draws=2000, loss=loss)
    for name, part in zip(NAMES, (slice(0, 6), slice(6, 12)), strict=True):
        trace, error = found[name]
        assert abs(trace - float(matrix[part, part].trace())) < 4 * error
        assert error < 0.5


def _exact_hessian(model, batch, name):
    """[n, n] Hessian of the mean window loss in one Linear's weight, by plain autograd."""

    def loss(weight):
        def wrapped(**inputs):
            return functional_call(model, {f"{name}.weight": weight}, kwargs=inputs)

        return window_losses(_Callable(model, wrapped), batch).mean()

    weight = model.get_submodule(name).weight.detach()
    return hessian(loss)(weight).reshape(weight.numel(), weight.numel())


class _Callable:
    """A model whose call goes elsewhere."""

    def __init__(self, model, call):
        self.parameters, self.can_generate, self._call = model.parameters, model.can_generate, call

    def __call__(self, **inputs):
        return self._call(**inputs)


@pytest.fixture(scope="module")
def small():
    """OPT with plain attention (for exact Hessians), three windows, one small Linear."""
    model, batches = model_and_batches("opt", windows=3, double=True)
    model.set_attn_implementation("eager")
    batches = [{"input_ids": batches[0]["input_ids"][:, :6]}]
    return model, batches, "model.decoder.layers.1.self_attn.v_proj"


def test_trace_of_a_model_against_its_exact_hessian(small):
    model, batches, name = small
    before = snapshot(model)
    exact = _exact_hessian(model, batches[0], name).trace().item()
    trace, error = curvature.hutchinson_traces(model, batches, draws=200)[name]
    assert abs(trace - exact) < 4 * error
    scores = curvature.hawq(model, batches, rounding, [3], draws=5)
    step = quantization_step(name, model.get_submodule(name).weight, rounding, 3)
    mean = abs(scores.detail["trace"][name][0]) / step.numel()
    assert scores.per_layer[name] == pytest.approx(mean * float(step.square().sum()))
    assert_untouched(model, before)


def test_gauss_newton_of_a_model_against_its_exact_matrix(small):
    model, batches, name = small
    before = snapshot(model)
    weight = model.get_submodule(name).weight.detach()
    step = quantization_step(name, weight, rounding, 3).flatten()
    batch = {"input_ids": batches[0]["input_ids"][:1]}

    def logits(value):
        def call(**inputs):
            return functional_call(model, {f"{name}.weight": value}, kwargs=inputs)

        return predictions(_Callable(model, call), batch)[0][0]

    along = jacrev(logits)(weight).reshape(5, -1, weight.numel()) @ step  # [predictions, vocabulary]
    chance = logits(weight).softmax(-1)
    spread = (chance * along**2).sum(-1) - (chance * along).sum(-1) ** 2
    exact = spread.mean().item() / 2
    found = curvature.gauss_newton(model, [batch], rounding, [3], draws=1500)
    assert found.per_layer[name] == pytest.approx(exact, rel=0.15)
    assert_untouched(model, before)


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("per", ["linear", "block"])
def test_expansion_foresees_a_small_step(family, per):
    model, batches = model_and_batches(family, windows=2, double=True)
    change = nudge(1e-4)
    before = snapshot(model)
    truth = measure(model, batches, change, [4], per=per).per_layer
    found = curvature.expansion(model, batches, change, [4], per=per, draws=2).per_layer
    assert list(found) == list(truth)
    for name, value in truth.items():
        assert found[name] == pytest.approx(abs(value), rel=0.05, abs=1e-5)
    assert_untouched(model, before)


@pytest.mark.parametrize("family", MODELS)
def test_scores_of_blocks_and_linears(family):
    model, batches = model_and_batches(family, windows=2)
    for score in (curvature.hawq, curvature.gauss_newton):
        by_linear = score(model, batches, rounding, [3, 8], draws=2)
        assert set(by_linear.per_layer) == set(block_linears(model))
        assert sum(by_linear.at(3).values()) > sum(by_linear.at(8).values()) > 0
        assert len(score(model, batches, rounding, [3], per="block", draws=2).per_layer) == 3


def test_bad_parameters_are_refused():
    model, batches = model_and_batches("llama")
    for score in (curvature.hawq, curvature.expansion, curvature.gauss_newton):
        with pytest.raises(ParameterError, match="draws"):
            score(model, batches, rounding, [4], draws=0)
        with pytest.raises(ParameterError, match="widths"):
            score(model, batches, rounding, [])
        with pytest.raises(ParameterError, match="per:"):
            score(model, batches, rounding, [4], per="model")
