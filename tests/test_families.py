"""Families of models: every matrix of their blocks is pruned, retrained and quantized, or the report says which not."""

import copy

import pytest
import torch
import transformers as t
from tiny import tiny_tokens
from tiny_families import ENCODERS, FAMILIES, MOE

from lmcompress.model_folder import load, save
from lmcompress.models import block_linears, coverage
from lmcompress.prune import mask
from lmcompress.prune.model import prune_model
from lmcompress.quantize.model import quantize_model
from lmcompress.retrain import adapters
from lmcompress.retrain.train import train
from lmcompress.unbundle import Experts, as_linears, bundled

ROUTERS = (
    0.97  # of the blocks' weights: the routers, some hundred weights of these tiny models, are not compressed
)


@pytest.fixture(scope="module")
def models():
    """Family -> a random model, made once."""
    made = {}

    def of(family):
        if family not in made:
            torch.manual_seed(0)
            auto = t.AutoModelForMaskedLM if family in ENCODERS else t.AutoModelForCausalLM
            model = auto.from_config(FAMILIES[family](), dtype=torch.float32).eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
            made[family] = model
        return copy.deepcopy(made[family])

    return of


@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_retrained_and_quantized(models, family):
    model, windows = models(family), tiny_tokens(4)
    batches = [{"input_ids": windows}]
    report = prune_model(model, "wanda", "2:4", batches, output_errors=False, progress=False)
    if family == "Mamba":  # its convolutions and state matrices are no Linears, and the report names them
        assert {name.rpartition("mixer.")[2] for name in report.left} == {"A_log", "conv1d.weight"}
    else:
        assert report.coverage == 1 if family not in MOE else report.coverage > ROUTERS
    assert set(report.masks) == set(block_linears(model))
    mask.check(model, report.masks)
    assert report.sparsity == pytest.approx(0.5)
    labelled = [{"input_ids": windows, "labels": windows}]
    options = {"lr": 1e-3, "steps": 2, "batch_size": 4, "progress": False}
    for subset in (
        ("norms", "masklora") if family != "Olmo" else ("masklora",)
    ):  # its norms have no parameters
        trained = train(model, labelled, subset, report.masks, **options)
        assert trained.trainable > 0
        adapters.merge(model)
    mask.check(model, report.masks)
    quantized = quantize_model(model, dict.fromkeys(block_linears(model), "4bit"), masks=report.masks)
    assert len(quantized.layers) == len(report.masks)
    mask.check(model, report.masks)


@pytest.mark.parametrize("family", [*MOE, "GPT2"])
def test_linears_compute_the_same_and_are_put_back_bit_for_bit(models, family, tmp_path):
    model, windows = models(family), tiny_tokens(3)
    with torch.no_grad():
        before, weights = model(windows).logits, {k: v.clone() for k, v in model.state_dict().items()}
        after = as_linears(model)(windows).logits
    assert torch.allclose(before, after, atol=1e-5)
    assert coverage(model, block_linears(model))[0] > ROUTERS
    with bundled(model):
        again = model.state_dict()
        assert again.keys() == weights.keys()
        assert all(torch.equal(again[name], value) for name, value in weights.items())
    assert as_linears(model) is model
    report = prune_model(model, "magnitude", "50%")
    adapters.attach(model, "masklora", masks=report.masks)
    adapters.merge(model)  # leaves new Linears, which are to be put back as well
    save(model, None, tmp_path / "saved", masks=report.masks)
    plain = type(model).from_pretrained(tmp_path / "saved")
    loaded, _, masks = load(tmp_path / "saved", "cpu")
    with torch.no_grad():
        expected = model(windows).logits
        assert torch.allclose(plain(windows).logits, expected, atol=1e-5)
        assert torch.allclose(loaded(windows).logits, expected, atol=1e-5)
    assert masks.keys() == report.masks.keys()


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_an_expert_that_saw_no_token_is_said_and_pruned_by_magnitude(models, criterion):
    model = as_linears(models("Mixtral"))
    gate = model.model.layers[0].mlp.gate
    with torch.no_grad():
        gate.weight.zero_()
        gate.weight[:2] = 1.0  # the router sends all tokens to the experts 0 and 1, or to 2 and 3
    report = prune_model(model, criterion, "50%", [{"input_ids": tiny_tokens(1, 2)}], progress=False)
    unseen = [name for name, layer in report.layers.items() if layer.unseen]
    assert unseen
    assert all(".experts." in name for name in unseen)
    assert report.sparsity == pytest.approx(0.5, abs=0.01)


def test_experts_have_masks_of_their_own(models):
    model = models("Mixtral")
    report = prune_model(model, "wanda", "50%", [{"input_ids": tiny_tokens(8)}], progress=False)
    first, second = (report.masks[f"model.layers.0.mlp.experts.{n}.up"] for n in (0, 1))
    assert not torch.equal(first, second)
    assert isinstance(model.model.layers[0].mlp.experts, Experts)
