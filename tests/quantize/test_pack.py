import copy
import json

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_model, tiny_tokens
from tokenizers import Tokenizer, models

from lmcompress.errors import AssetError, NumericError, ParameterError
from lmcompress.models import block_linears, untie_head
from lmcompress.prune.model import prune_model
from lmcompress.quantize import pack
from lmcompress.quantize.formats import WIDTHS, Bits
from lmcompress.quantize.model import quantize_model, round_rest
from lmcompress.quantize.rtn import dequantize, quantize
from lmcompress.retrain.subsets import add_biases

NARROW = [bits for bits in WIDTHS if bits < 16]
GROUPS = ["row", "tensor", 8, 24]


def batches():
    return [{"input_ids": tokens} for tokens in tiny_tokens(4).split(2)]


def outputs(model):
    with torch.no_grad():
        found = model(input_ids=tiny_tokens())
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def cast(model, dtype):
    """The parameters in another dtype; rotary frequencies stay fp32, as in a model loaded in that dtype."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    return model


def mixed(model):
    """A format of another kind for every layer, all widths among them."""
    formats = [Bits(bits, GROUPS[i % 4], i % 2 == 0) for i, bits in enumerate(WIDTHS)]
    return {name: formats[i % len(formats)] for i, name in enumerate(block_linears(model))}


def test_packing_by_hand():
    """3-bit codes 5 1 7 0: 101 001 11|1 000 and four bits of padding."""
    assert pack.pack(np.array([5, 1, 7, 0], dtype=np.uint8), 3).tolist() == [0b10100111, 0b10000000]
    assert pack.pack(np.array([1, 2, 3, 4], dtype=np.uint8), 4).tolist() == [0x12, 0x34]
    assert pack.pack(np.array([[200], [7]], dtype=np.uint8), 8).tolist() == [200, 7]


@given(
    st.sampled_from(NARROW), st.integers(0, 70), st.integers(0, 2**32 - 1), st.sampled_from([8, 16, 2**20])
)
def test_packing_round_trip(bits, count, seed, chunk):
    codes = np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "CHUNK", chunk)
        packed = pack.pack(codes, bits)
        assert len(packed) == -(-count * bits // 8)
        assert (pack.unpack(packed, bits, count) == codes).all()
    whole = int("0" + "".join(f"{code:0{bits}b}" for code in codes), 2) << (-count * bits % 8)
    assert packed.tobytes() == whole.to_bytes(len(packed), "big")


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(WIDTHS),
    st.sampled_from(["row", "tensor", 1, 3, 8, 100]),
    st.booleans(),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sampled_from([None, 0.0, 0.3, 0.7, 1.0]),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_layer_round_trip(bits, group, symmetric, rows, columns, share, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator).to(dtype)
    kept = None if share is None else torch.rand(rows, columns, generator=generator) < share
    if kept is not None:
        weight = weight * kept
    value = quantize(weight, Bits(bits, group, symmetric))
    parts, entry = pack._pack_layer(value, kept)
    count = None if kept is None else int(kept.sum())
    assert entry["bytes"] == sum(part.nbytes for part in parts.values())
    assert entry["bytes"] == pack.stored_bytes(value.shape, value.format, count)
    everything = {part: parts.get(part) for part in ("codes", "scales", "zeros", "mask")}
    found, mask = pack._unpack_layer(everything, json.loads(json.dumps(entry)), dtype)
    assert torch.equal(found.codes, value.codes)
    assert torch.equal(dequantize(found), dequantize(value))
    assert dequantize(found).dtype == dtype
    assert (mask is not None) == (entry["layout"] == "sparse")
    assert mask is None or torch.equal(mask, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_are_the_same_bit_for_bit(family, dtype, tmp_path):
    model = cast(tiny_model(family), dtype)
    add_biases(block_linears(model))  # as a retraining does
    report = quantize_model(model, mixed(model), "gptq", batches(), progress=False)
    sizes = pack.save(model, None, tmp_path / "model", report.quantized)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loaded, tokenizer, masks = pack.load(tmp_path / "model", "cpu")
    assert torch.equal(torch.get_rng_state(), before)
    assert (type(loaded), tokenizer, masks) == (type(model), None, {})
    assert not loaded.training
    assert torch.equal(outputs(loaded), outputs(model))
    assert {n: p.dtype for n, p in loaded.named_parameters()} == {
        n: p.dtype for n, p in model.named_parameters()
    }
    assert sizes == pack.compression(tmp_path / "model")


@pytest.mark.parametrize("format", ["4bit-g8", "4bit-asym", "2bit-tensor", "16bit", "4bit-g8-nf4"])
def test_pruned_model(format, tmp_path):
    model = tiny_model("llama")
    masks = prune_model(model, "wanda", "60%", batches(), progress=False).masks
    method = "rtn" if "nf4" in format else "gptq"
    report = quantize_model(
        model, dict.fromkeys(masks, format), method, batches(), masks=masks, progress=False
    )
    pack.save(model, None, tmp_path / "model", report.quantized, masks)
    loaded, _, found = pack.load(tmp_path / "model", "cpu")
    assert torch.equal(outputs(loaded), outputs(model))
    layers = json.loads((tmp_path / "model" / "bits.json").read_text())["layers"]
    assert {layer["layout"] for layer in layers.values()} == {
        "sparse"
    }  # even 1 + 0.4 * 2 bits are less than 2
    assert found.keys() == masks.keys()
    for name, kept in found.items():
        assert torch.equal(kept, masks[name])
    assert {name: layer["bytes"] for name, layer in layers.items()} == {
        name: layer.bytes for name, layer in report.layers.items()
    }


def test_zeros_that_save_nothing_are_stored_dense(tmp_path):
    model = tiny_model("llama")
    masks = prune_model(model, "wanda", "20%", batches(), progress=False).masks
    report = quantize_model(model, dict.fromkeys(masks, "2bit"), masks=masks)
    pack.save(model, None, tmp_path / "model", report.quantized, masks)
    loaded, _, found = pack.load(tmp_path / "model", "cpu")
    assert found == {}
    assert torch.equal(outputs(loaded), outputs(model))


def test_pruned_only(tmp_path):
    """Masks without formats: 16 bits, and the mask saves bytes."""
    model = tiny_model("opt")
    masks = prune_model(model, "magnitude", "50%").masks
    round_rest(model, ())
    sizes = pack.save(model, None, tmp_path / "model", {}, masks)
    loaded, _, found = pack.load(tmp_path / "model", "cpu")
    assert torch.equal(outputs(loaded), outputs(model))
    assert all(torch.equal(found[name], masks[name]) for name in masks)
    layers = sum(kept.numel() // 8 + 2 * int(kept.sum()) for kept in masks.values())
    others = pack.fp16_bytes(model) - 2 * sum(kept.numel() for kept in masks.values())
    assert sizes.bytes > layers + others  # and the rest is the header and the map
    about = json.loads((tmp_path / "model" / "bits.json").read_text())
    assert sum(layer["bytes"] for layer in about["layers"].values()) + about["rest_bytes"] == layers + others


def test_sizes_are_those_of_the_files(tmp_path):
    model = tiny_model("llama")
    allocation = {**dict.fromkeys(block_linears(model), "4bit-g8-asym"), "model.embed_tokens": "8bit"}
    report = quantize_model(model, allocation)
    folder = tmp_path / "model"
    sizes = pack.save(model, None, folder, report.quantized)
    tensors = load_file(folder / "weights.safetensors")
    assert "lm_head.weight" not in tensors
    about = json.loads((folder / "bits.json").read_text())
    payload = sum(layer["bytes"] for layer in about["layers"].values()) + about["rest_bytes"]
    assert payload == sum(tensor.nbytes for tensor in tensors.values())
    assert report.bytes == payload - about["rest_bytes"]
    files = [folder / "weights.safetensors", folder / "bits.json"]
    assert sizes.bytes == pack.size(folder) == sum(file.stat().st_size for file in files)
    assert sizes.fp16 == pack.fp16_bytes(model) == 2 * sum(p.numel() for p in model.parameters())
    assert sizes.over_fp32 == 2 * sizes.over_fp16
    for name in block_linears(model):
        assert about["layers"][name]["format"] == "4bit-g8-asym"
        assert tensors[f"{name}.codes"].dtype == torch.uint8
    loaded, _, _ = pack.load(folder, "cpu")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(outputs(loaded), outputs(model))


def test_untied_head_and_tokenizer(tmp_path):
    model = tiny_model("llama")
    untie_head(model)
    report = quantize_model(model, {"lm_head": "4bit", "model.embed_tokens": "8bit"})
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    pack.save(model, tokenizer, tmp_path / "model", report.quantized)
    loaded, found, _ = pack.load(tmp_path / "model", "cpu")
    assert loaded.lm_head.weight is not loaded.model.embed_tokens.weight
    assert torch.equal(outputs(loaded), outputs(model))
    assert found.get_vocab() == tokenizer.get_vocab()


def test_refuses_to_store_what_was_not_evaluated(tmp_path):
    model = tiny_model("llama")
    report = quantize_model(model, mixed(model))
    name, folder = next(iter(report.quantized)), tmp_path / "model"
    changed = copy.deepcopy(model)
    with torch.no_grad():
        changed.get_submodule(name).weight.mul_(2)
    with pytest.raises(ParameterError, match=name):
        pack.save(changed, None, folder, report.quantized)
    with torch.no_grad():
        model.get_parameter("model.norm.weight").add_(1e-5)
    with pytest.raises(ParameterError, match="round_rest"):
        pack.save(model, None, folder, report.quantized)
    round_rest(model, report.quantized)
    model.model.norm.bfloat16()
    with pytest.raises(ParameterError, match="one dtype"):
        pack.save(model, None, folder, report.quantized)
    model.model.norm.float()
    nothing = {name: torch.zeros(report.quantized[name].shape, dtype=torch.bool)}
    with pytest.raises(NumericError, match=name):
        pack.save(model, None, folder, report.quantized, nothing)
    assert not folder.exists()
    for function in (pack.load, pack.size, pack.compression):
        with pytest.raises(ParameterError, match="folder"):
            function(folder)


def test_a_packed_model_that_lacks_a_tensor_is_refused_by_name(tmp_path):
    model = tiny_model("llama")
    report = quantize_model(model, dict.fromkeys(block_linears(model), "4bit-asym"))
    round_rest(model, report.quantized)
    pack.save(model, None, tmp_path / "m", report.quantized)
    file = tmp_path / "m" / pack.WEIGHTS
    whole = load_file(file)
    name = next(iter(report.quantized))
    for owner, part in (("model.norm", "weight"), (name, "codes"), (name, "scales"), (name, "zeros")):
        save_file({key: value for key, value in whole.items() if key != f"{owner}.{part}"}, file)
        with pytest.raises(AssetError, match=owner):
            pack.load(tmp_path / "m")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(AssetError, match=r"weights\.safetensors: not safetensors, or cut short"):
        pack.load(tmp_path / "m")
    (tmp_path / "m" / pack.MAP).write_text("{")
    with pytest.raises(AssetError, match=r"bits\.json: not JSON"):
        pack.load(tmp_path / "m")
