"""What is written in the compressed-tensors format is what its own package and transformers read."""

import pytest
import torch
import transformers
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from tiny import CAUSAL, tiny_model, tiny_tokens
from tiny_assets import tiny_tokenizer

from lmcompress import model_folder
from lmcompress.errors import ParameterError
from lmcompress.models import block_linears
from lmcompress.prune import mask
from lmcompress.prune.model import prune_model
from lmcompress.quantize import compressed_tensors
from lmcompress.quantize.formats import Bits
from lmcompress.quantize.model import quantize_model

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("columns", [1, 7, 16, 33])
def test_packing_is_that_of_the_package(bits, columns):
    codes = torch.randint(0, 2**bits, (3, columns), dtype=torch.uint8)
    signed = (codes.int() - 2 ** (bits - 1)).to(torch.int8)
    ours = compressed_tensors.pack(codes, bits)
    assert torch.equal(ours, pack_to_int32(signed, bits))
    assert torch.equal(unpack_from_int32(ours, bits, (3, columns)), signed)
    assert torch.equal(compressed_tensors.unpack(ours, bits, columns), codes)


def test_four_bits_by_hand():
    packed = compressed_tensors.pack(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 15]], dtype=torch.uint8), 4)
    assert packed.tolist() == [[0xF7654321 - 2**32]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", CAUSAL)
def test_transformers_reads_the_model_that_we_evaluate(family, dtype, tmp_path):
    tiny_model(family).save_pretrained(tmp_path / "dense")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=DTYPES[dtype])
    masks = prune_model(model, "magnitude", "2:4", progress=False).masks
    cycle = ("4bit-g16", "8bit", "16bit", "4bit", "2bit-g16", "8bit-g8", "4bit-g16-asym", "8bit-asym")
    formats = {name: cycle[index % 8] for index, name in enumerate(block_linears(model))}
    scales = torch.bfloat16 if dtype == "bf16" else torch.float16
    report = quantize_model(model, formats, masks=masks, scale_dtype=scales, progress=False)
    model_folder.save(model, tiny_tokenizer(), tmp_path / "out", masks=masks, quantized=report.quantized)

    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert found.dtype == DTYPES[dtype]
    ids = tiny_tokens()
    with torch.no_grad():
        assert torch.equal(found(ids).logits, model(ids).logits)  # which decompresses its weights
    for name in formats:
        assert torch.equal(found.get_submodule(name).weight, model.get_submodule(name).weight)
    kept = mask.load(tmp_path / "out" / model_folder.MASKS)
    assert all(torch.equal(kept[name], masks[name]) for name in masks)


@pytest.mark.parametrize(
    ("format", "field"),
    [
        (Bits(3), "bits"),
        (Bits(4, "tensor"), "group"),
        (Bits(4, 24), "group"),
    ],
)
def test_what_this_storage_cannot_hold_is_refused_before_any_work(format, field, tmp_path):
    model = tiny_model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    formats = dict.fromkeys(block_linears(model), format)
    with pytest.raises(ParameterError, match=field):
        quantize_model(model, formats, checkpoint=tmp_path / "work", progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    quantized = quantize_model(model, formats, progress=False).quantized
    with pytest.raises(ParameterError, match=field):
        model_folder.save(model, None, tmp_path / "out", quantized=quantized)
    assert not any(tmp_path.iterdir())
