"""Models whose blocks stay on disk give the very bits that models in memory give."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CAUSAL, tiny_model, tiny_tokens

from lmcompress.errors import AssetError, ParameterError
from lmcompress.evaluate import perplexity
from lmcompress.models import block_linears, blocks
from lmcompress.prune.model import prune_model
from lmcompress.quantize import compressed_tensors
from lmcompress.quantize.formats import Bits
from lmcompress.quantize.model import quantize_model
from lmcompress.retrain.reconstruct import reconstruct
from lmcompress.shards import LayerWeights, Shards, bring_whole, open_streamed
from lmcompress.stream import answered, stream

THREE = ("llama", "opt", "gpt_neox")


def batches():
    return [{"input_ids": part} for part in tiny_tokens(4, 16).split(2)]


@pytest.fixture
def saved(tmp_path, request):
    """A tiny model and the folder that it was saved to, in many small shards."""
    model = tiny_model(request.param)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    return model, tmp_path / "model"


def written(folder):
    return Shards(sorted(folder.glob("[0-9][0-9][0-9].safetensors")))


def same_blocks(model, folder):
    """Whether the block files in ``folder`` hold the blocks of ``model`` bit for bit, nothing missing."""
    expected = {
        key: value
        for name, block in blocks(model).items()
        for key, value in block.state_dict(prefix=f"{name}.").items()
    }
    found = dict(written(folder))
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("saved", CAUSAL, indirect=True)
def test_blocks_come_for_their_turn_and_leave_no_weight_behind(saved, tmp_path):
    model, folder = saved
    on_disk, ours, theirs = open_streamed(folder, device="cpu"), [], []

    def seen(found):
        def visit(block):
            held = [name for name, module in blocks(on_disk).items() if not next(module.parameters()).is_meta]
            assert held == ([block.name] if found is ours else [])  # one block in memory, and no other
            found.extend(output.clone() for output in block.run())
            return {}

        return visit

    stream(model, batches(), seen(theirs), progress=False)
    stream(on_disk, batches(), seen(ours), progress=False, checkpoint=tmp_path / "work")
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert all(value.is_meta for block in blocks(on_disk).values() for value in block.parameters())


@pytest.mark.parametrize("criterion", ["magnitude", "random", "wanda", "sparsegpt"])
@pytest.mark.parametrize("saved", THREE, indirect=True)
def test_pruning_on_disk_equals_pruning_in_memory_bit_for_bit(saved, criterion, tmp_path):
    model, folder = saved
    data = batches() if criterion in ("wanda", "sparsegpt") else None
    expected = prune_model(model, criterion, "2:4", data, progress=False)
    on_disk = open_streamed(folder, device="cpu")
    found = prune_model(on_disk, criterion, "2:4", data, progress=False, checkpoint=tmp_path / "work")
    assert same_blocks(model, tmp_path / "work")
    assert found.masks.keys() == expected.masks.keys()
    assert all(torch.equal(found.masks[name], expected.masks[name]) for name in expected.masks)
    assert found.sparsity == expected.sparsity == 0.5
    assert [layer.relative_error for layer in found.layers.values()] == [
        layer.relative_error for layer in expected.layers.values()
    ]


@pytest.mark.parametrize("saved", THREE, indirect=True)
def test_reconstruction_on_disk_equals_that_in_memory_bit_for_bit(saved, tmp_path):
    model, folder = saved
    pruned = tiny_model({"gpt_neox": "gpt_neox", "llama": "llama", "opt": "opt"}[model.config.model_type])
    report = prune_model(pruned, "sparsegpt", "50%", batches(), progress=False)
    weights = {name: layer.weight.detach() for name, layer in block_linears(pruned).items()}
    settings = {"lr": 1e-2, "steps": 4, "progress": False}
    expected = reconstruct(model, report.masks, batches(), "masklora", weights=weights, **settings)

    first = open_streamed(folder, device="cpu")
    found = prune_model(first, "sparsegpt", "50%", batches(), progress=False, checkpoint=tmp_path / "one")
    second = open_streamed(folder, device="cpu")
    on_disk = LayerWeights(written(tmp_path / "one"), second)
    ours = reconstruct(
        second, found.masks, batches(), "masklora", weights=on_disk, checkpoint=tmp_path / "two", **settings
    )
    assert same_blocks(model, tmp_path / "two")
    assert [block.after for block in ours] == [block.after for block in expected]
    assert any(block.improved for block in ours)


@pytest.mark.parametrize("method", ["rtn", "gptq"])
@pytest.mark.parametrize("saved", THREE, indirect=True)
def test_quantization_on_disk_equals_that_in_memory_bit_for_bit(saved, method, tmp_path):
    model, folder = saved
    formats = {
        name: ("4bit-g16", "8bit", "16bit")[index % 3] for index, name in enumerate(block_linears(model))
    }
    data = batches() if method == "gptq" else None
    expected = quantize_model(model, formats, method, data, progress=False)
    on_disk = open_streamed(folder, device="cpu")
    found = quantize_model(on_disk, formats, method, data, progress=False, checkpoint=tmp_path / "work")
    stored = written(tmp_path / "work")
    for name, value in expected.quantized.items():
        again = compressed_tensors.read(name, stored, value.format, torch.float32)
        assert torch.equal(again.codes, value.codes)
        assert value.scales is None or torch.equal(again.scales, value.scales)
    assert found.bytes == expected.bytes
    assert found.average_bits == expected.average_bits
    assert not found.quantized


@pytest.mark.parametrize("saved", ["llama"], indirect=True)
def test_a_killed_walk_goes_on_at_the_block_where_it_was(saved, tmp_path):
    model, folder = saved
    prune_model(model, "wanda", "50%", batches(), progress=False)
    visited = []

    def run(stop):
        on_disk = open_streamed(folder, device="cpu")
        original = on_disk.block_weights._read

        def read(index, pin):
            visited.append(index)
            if index == stop:
                raise KeyboardInterrupt
            return original(index, pin)

        on_disk.block_weights._read = read
        return prune_model(on_disk, "wanda", "50%", batches(), progress=False, checkpoint=tmp_path / "work")

    with pytest.raises(KeyboardInterrupt):
        run(2)
    whole = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("00*.safetensors")}
    assert "001.safetensors" in whole
    assert "002.safetensors" not in whole
    run(None)
    assert same_blocks(model, tmp_path / "work")
    again = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("00*.safetensors")}
    assert all(again[name] == time for name, time in whole.items())  # finished blocks are not made anew


@pytest.mark.parametrize("saved", ["opt"], indirect=True)
def test_what_cannot_be_streamed_is_refused(saved, tmp_path):
    _, folder = saved
    on_disk = open_streamed(folder, device="cpu")
    with pytest.raises(ParameterError, match="checkpoint"):
        prune_model(on_disk, "magnitude", "50%")
    with pytest.raises(ParameterError, match="magnitude-global"):
        prune_model(on_disk, "magnitude-global", "50%", checkpoint=tmp_path / "work")
    with pytest.raises(ParameterError, match="Linears in the blocks"):
        quantize_model(on_disk, {"model.decoder.embed_tokens": "8bit"}, checkpoint=tmp_path / "work")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name = next(name for name in index if name.endswith("0.fc1.weight"))
    tensors = load_file(folder / index[name])
    lost = tensors.pop(name)
    save_file(tensors, folder / index[name])
    with pytest.raises(AssetError, match=name):
        open_streamed(folder, device="cpu")
    lost[0, 0] = float("nan")
    save_file({**tensors, name: lost}, folder / index[name])
    with pytest.raises(AssetError, match=rf"not finite: {name}"):
        prune_model(open_streamed(folder, device="cpu"), "magnitude", "50%", checkpoint=tmp_path / "work")


@pytest.mark.parametrize("saved", CAUSAL, indirect=True)
def test_the_perplexity_of_a_model_on_disk_is_that_of_the_model_in_memory(saved, tmp_path):
    model, folder = saved
    on_disk, windows = open_streamed(folder, device="cpu"), tiny_tokens(6, 16)
    parts = [{"input_ids": part} for part in windows.split(4)]
    with answered(on_disk, parts, progress=False):
        assert (
            perplexity(on_disk, windows, batch_size=4).value == perplexity(model, windows, batch_size=4).value
        )
    quantize_model(model, dict.fromkeys(block_linears(model), "4bit-g16"), "gptq", batches(), progress=False)
    formats = dict.fromkeys(block_linears(on_disk), "4bit-g16")
    work = tmp_path / "work"
    quantize_model(on_disk, formats, "gptq", batches(), progress=False, checkpoint=work)
    files = compressed_tensors.block_files(work, {name: Bits(4, 16) for name in formats}, {}, forget=True)
    with answered(on_disk, parts, files, progress=False):
        assert (
            perplexity(on_disk, windows, batch_size=4).value == perplexity(model, windows, batch_size=4).value
        )


@pytest.mark.parametrize("saved", ["llama", "gpt_neox"], indirect=True)
def test_a_streamed_model_can_be_read_whole(saved):
    model, folder = saved
    on_disk = open_streamed(folder, device="cpu")
    bring_whole(on_disk)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), on_disk.parameters(), strict=True))
    ids = tiny_tokens()
    assert torch.equal(model(ids).logits, on_disk(ids).logits)


def test_weights_on_disk_that_are_not_finite_are_refused_by_name_in_their_turn(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    found[name][3, 2] = float("inf")
    save_file(found, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssetError, match=rf"model\.safetensors: weights that are not finite: {name}"):
        bring_whole(open_streamed(tmp_path, device="cpu"))
