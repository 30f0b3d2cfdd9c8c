import copy

import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_tokens

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import block_linears
from lmcompress.prune.model import prune_model
from lmcompress.quantize import gptq, rtn
from lmcompress.quantize.formats import Bits
from lmcompress.quantize.model import quantize_model, rest, round_rest
from lmcompress.quantize.rtn import dequantize
from lmcompress.retrain.train import train
from lmcompress.stats import Gram


def batches(count=8, length=16, padded=False):
    found = []
    for tokens in tiny_tokens(count, length).split(2):
        mask = torch.ones_like(tokens)
        if padded:
            mask[0, length // 2 :] = 0
        found.append({"input_ids": tokens, "attention_mask": mask})
    return found


def uniform(model, format):
    return dict.fromkeys(block_linears(model), format)


def inputs_of(model, name, data):
    """What the Linear ``name`` sees in the model as it is: [tokens, in] without padding."""
    seen, module = [], model.get_submodule(name)
    for batch in data:
        handle = module.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        with torch.no_grad():
            model(**batch)
        handle.remove()
        seen[-1] = seen[-1][batch["attention_mask"].bool()]
    return torch.cat(seen)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, method):
    model = tiny_model(family)
    before = copy.deepcopy(model)
    names = list(block_linears(model))
    allocation = {name: Bits((3, 4, 16)[i % 3], 8) for i, name in enumerate(names)}
    report = quantize_model(model, allocation, method, batches(), progress=False)
    assert list(report.layers) == names
    for name, layer in block_linears(model).items():
        assert torch.equal(layer.weight, dequantize(report.quantized[name]))
        assert report.layers[name].bytes == allocation[name].bytes_for(layer.weight.shape)
        assert report.layers[name].format == str(allocation[name])
        assert 0 < report.layers[name].relative_error < 0.5
        assert (report.layers[name].damping is None) == (method == "rtn" or allocation[name].bits == 16)
    for name, value in rest(before, names).items():
        assert torch.equal(model.get_parameter(name), value.half().float())
    assert report.bytes == sum(layer.bytes for layer in report.layers.values())


def test_without_calibration():
    model, other = tiny_model("llama"), tiny_model("llama")
    report = quantize_model(model, uniform(model, "4bit-g8-asym"))
    measured = quantize_model(other, uniform(other, "4bit-g8-asym"), batches=batches(), progress=False)
    layer = next(iter(report.layers.values()))
    assert (layer.relative_error, layer.dead_columns, layer.damping) == (None, None, None)
    assert all(layer.relative_error > 0 for layer in measured.layers.values())
    for name in report.quantized:
        assert torch.equal(report.quantized[name].codes, measured.quantized[name].codes)
    assert report.average_bits == 4 + 16 / 8 + 4 / 8


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_gptq_sees_the_model_as_quantized_so_far(family):
    """The second block's Gram matrices come from a model whose first block (and embedding) is quantized."""
    model = tiny_model(family)
    dense = copy.deepcopy(model)
    data = batches(padded=family == "bert")
    names = list(block_linears(model))
    embedding = next(n for n, m in model.named_modules() if m is model.get_input_embeddings())
    allocation = {**uniform(model, "3bit-g8"), embedding: "4bit"}
    report = quantize_model(model, allocation, "gptq", data, progress=False)
    assert report.layers[embedding].method == "rtn"

    half = copy.deepcopy(dense)
    round_rest(half, allocation)
    with torch.no_grad():
        half.get_submodule(embedding).weight.copy_(model.get_submodule(embedding).weight)
        first = [name for name in names if ".0." in name]
        for name in first:
            half.get_submodule(name).weight.copy_(model.get_submodule(name).weight)
    second = [name for name in names if ".1." in name]
    for name in (second[0], second[-1]):
        gram = Gram(half.get_submodule(name).in_features)
        gram.update(inputs_of(half, name, data))
        expected = gptq.quantize(dense.get_submodule(name).weight, gram.result(), Bits(3, 8)).quantized
        different = (expected.codes != report.quantized[name].codes).float().mean()
        assert float(different) < 0.01  # sums in another order may turn a tie


def test_gptq_beats_rounding_in_the_output():
    data, dense = batches(16), tiny_model("llama")
    target = torch.cat([dense(**batch).logits.detach() for batch in data])
    errors = {}
    for method in ("rtn", "gptq"):
        model = tiny_model("llama")
        quantize_model(model, uniform(model, "3bit"), method, data, progress=False)
        errors[method] = float(
            (torch.cat([model(**batch).logits.detach() for batch in data]) - target).norm()
        )
    assert errors["gptq"] < 0.9 * errors["rtn"]


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("format", ["4bit-g8", "4bit-asym", "16bit"])
def test_pruned_weights_stay_zero(method, format):
    model = tiny_model("llama")
    masks = prune_model(model, "wanda", "50%", batches(), progress=False).masks
    report = quantize_model(model, uniform(model, format), method, batches(), masks=masks, progress=False)
    for name, kept in masks.items():
        assert not model.get_submodule(name).weight[~kept].any()
        assert report.layers[name].bytes < Bits(4, 8).bytes_for(kept.shape) or format == "16bit"


def test_norms_can_be_retrained_and_rounded_again():
    model = tiny_model("llama")
    report = quantize_model(model, uniform(model, "3bit-g8"))
    train(model, tiny_tokens(8), "norms", lr=1e-3, steps=3, batch_size=4, progress=False)
    norm = model.get_parameter("model.norm.weight")
    assert not torch.equal(norm, norm.half().float())
    round_rest(model, report.quantized)
    assert torch.equal(norm, norm.half().float())
    for name, value in report.quantized.items():
        assert torch.equal(model.get_submodule(name).weight, dequantize(value))


def test_tied_head_is_quantized_with_the_embedding():
    model = tiny_model("llama")
    quantize_model(model, {"model.embed_tokens": "4bit"})
    assert model.lm_head.weight is model.model.embed_tokens.weight
    fresh = tiny_model("llama").model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, dequantize(rtn.quantize(fresh, Bits(4))))
    with pytest.raises(ParameterError, match=r"model\.embed_tokens"):
        quantize_model(tiny_model("llama"), {"lm_head": "4bit"})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"method": "awq"}, "method"),
        ({"method": "gptq"}, "batches"),
        ({"allocation": {}}, "allocation"),
        ({"allocation": {"model.norm": "4bit"}}, "allocation"),
        ({"allocation": {"model.layers.9.mlp.up_proj": "4bit"}}, "allocation"),
        ({"allocation": {"model.layers.0.mlp.up_proj": "9bit"}}, "format"),
        ({"masks": {"model.layers.0.mlp.up_proj": torch.ones(2, 2, dtype=torch.bool)}}, "masks"),
    ],
)
def test_refuses_before_any_work(change, error):
    model = tiny_model("llama")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ParameterError, match=error):
        quantize_model(model, **{"allocation": uniform(model, "4bit"), **change})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_numbers_that_went_wrong_name_their_layer():
    model = tiny_model("llama")
    name = "model.layers.1.mlp.up_proj"
    with pytest.raises(NumericError, match=name):
        quantize_model(model, uniform(model, "4bit"), masks={name: torch.zeros(64, 32, dtype=torch.bool)})
    with torch.no_grad():
        model.get_submodule(name).weight[0, 0] = float("nan")
    with pytest.raises(NumericError, match=name):
        quantize_model(model, uniform(model, "4bit"))


@pytest.mark.parametrize(
    "other", [{"method": "rtn"}, {"act_order": True}, {"formats": "8bit"}, {"masked": True}], ids=str
)
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, other):
    def run(method="gptq", formats="4bit", masked=False, **options):
        model = tiny_model("llama")
        names = list(block_linears(model))
        masks = {}
        if masked:
            layer = model.get_submodule(names[0])
            masks = {names[0]: torch.ones_like(layer.weight, dtype=torch.bool)}
        batches = [{"input_ids": tiny_tokens(2)}]
        options |= {"masks": masks, "progress": False, "checkpoint": tmp_path}
        return quantize_model(model, dict.fromkeys(names, formats), method, batches, **options)

    first = run()
    assert run().layers == first.layers  # the same settings go on from what is there
    with pytest.raises(ParameterError, match="checkpoint"):
        run(**other)
