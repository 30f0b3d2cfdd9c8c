"""From a model folder to a model folder: the command, its recipe, what it refuses and what it leaves behind."""

import copy
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
import transformers
import yaml
from tiny import tiny_model
from tiny_assets import tiny_corpus, tiny_model_folder, tiny_tokenizer

from lmcompress import data
from lmcompress.blockfiles import BlockFiles
from lmcompress.cli import main
from lmcompress.compress import check, compress
from lmcompress.errors import AssetError, ParameterError
from lmcompress.evaluate import perplexity
from lmcompress.model_folder import load
from lmcompress.models import block_linears
from lmcompress.prune import mask
from lmcompress.prune.model import prune_model
from lmcompress.quantize.model import quantize_model
from lmcompress.recipe import Recipe, short
from lmcompress.retrain import adapters
from lmcompress.retrain.reconstruct import reconstruct
from lmcompress.retrain.train import train
from lmcompress.unbundle import as_linears

SIZES = {"length": 16, "calibration": 4, "evaluation": 4, "batch": 2}
TEXTS = {"llama": "masklora", "opt": "biases", "gpt_neox": "biases+norms"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus"))


def recipe_of(corpus, **steps):
    return Recipe(data=corpus, **{**SIZES, **steps})


def windows(corpus, split, number):
    return data.windows(corpus, tiny_tokenizer(), split, 16, number, 0)


def loaded(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


@pytest.mark.parametrize("family", TEXTS)
def test_all_steps_give_what_the_functions_in_memory_give(family, corpus, tmp_path):
    source = tiny_model_folder(tmp_path / "model", family)
    given = {
        "prune": {"criterion": "wanda", "pattern": "50%"},
        "reconstruct": {"subset": TEXTS[family], "steps": 3, "lr": 1e-2},
        "retrain": {"subset": "norms", "steps": 3, "lr": 1e-2, "batch": 2},
        "quantize": {
            "format": "4bit-g16",
            "layers": {r"\.0\.": "4bit-asym", r"\.1\.": "16bit"},
            "method": "gptq",
        },
    }
    done = compress(source, tmp_path / "out", recipe_of(corpus, **given), device="cpu", progress=False)

    model, batches = tiny_model(family), data.batches(windows(corpus, "calibration", 4), 2)
    dense = {split: perplexity(model, windows(corpus, split, 4), 2).value for split in ("validation", "test")}
    pruned = tiny_model(family)
    masks = prune_model(pruned, "wanda", "50%", batches, progress=False).masks
    weights = {name: layer.weight.detach() for name, layer in block_linears(pruned).items()}
    reconstruct(model, masks, batches, TEXTS[family], lr=1e-2, steps=3, weights=weights, progress=False)
    train(
        model,
        windows(corpus, "retraining", None),
        "norms",
        masks,
        lr=1e-2,
        steps=3,
        batch_size=2,
        progress=False,
    )
    adapters.merge(model)
    formats = {
        name: "4bit-asym" if ".0." in name else "16bit" if ".1." in name else "4bit-g16"
        for name in block_linears(model)
    }
    quantize_model(model, formats, "gptq", batches, masks=masks, progress=False)

    found = loaded(tmp_path / "out")
    for split in ("validation", "test"):
        value = perplexity(model, windows(corpus, split, 4), 2).value
        assert done.results["before"][split]["perplexity"] == dense[split]
        assert done.results["after"][split]["perplexity"] == value
        assert (
            perplexity(found, windows(corpus, split, 4), 2).value == value
        )  # transformers runs what we measured
    for name, layer in block_linears(model).items():
        assert torch.equal(found.get_submodule(name).weight, layer.weight)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}


@pytest.mark.parametrize("criterion", ["magnitude-global", "random", "sparsegpt"])
def test_a_pruned_folder_holds_model_masks_tokenizer_and_card(criterion, corpus, tmp_path):
    source = tiny_model_folder(tmp_path / "model")
    recipe = recipe_of(corpus, prune={"criterion": criterion, "pattern": "50%"})
    done = compress(source, tmp_path / "out", recipe, device="cpu", progress=False)
    expected = tiny_model("llama")
    batches = data.batches(windows(corpus, "calibration", 4), 2) if criterion == "sparsegpt" else None
    masks = prune_model(expected, criterion, "50%", batches, progress=False).masks
    model, tokenizer, kept = load(tmp_path / "out", device="cpu")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    assert all(torch.equal(kept[name], masks[name]) for name in masks)
    assert tokenizer("a tree")["input_ids"] == tiny_tokenizer()("a tree")["input_ids"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert card == done.card
    assert f"criterion: {criterion}" in card
    assert f"{100 * mask.sparsity(masks):.2f}% of the weights of 21 Linears are zero" in card
    assert f"{done.results['after']['test']['perplexity']:.3f}" in card
    assert str(tmp_path) not in card.replace(corpus, "")


def test_a_pruned_folder_can_be_retrained_and_keeps_its_zeros(corpus, tmp_path):
    source = tiny_model_folder(tmp_path / "model")
    compress(
        source, tmp_path / "pruned", recipe_of(corpus, prune={"pattern": "2:4"}), device="cpu", progress=False
    )
    recipe = recipe_of(corpus, retrain={"subset": "masklora+head", "steps": 2, "batch": 2})
    done = compress(str(tmp_path / "pruned"), tmp_path / "out", recipe, device="cpu", progress=False)
    model, _, masks = load(tmp_path / "out", device="cpu")  # which checks the masks
    assert mask.sparsity(masks) == 0.5
    assert (
        model.lm_head.weight is not model.model.embed_tokens.weight
    )  # the head was trained, so it is its own now
    value = perplexity(model, windows(corpus, "test", 4), 2).value
    assert value == done.results["after"]["test"]["perplexity"]


def test_a_killed_call_goes_on_a_block_at_a_time(corpus, tmp_path, monkeypatch):
    source = tiny_model_folder(tmp_path / "model")
    recipe = recipe_of(corpus, prune={"pattern": "2:4"}, quantize={"format": "4bit-g16", "method": "gptq"})
    whole = compress(source, tmp_path / "whole", recipe, device="cpu", progress=False)
    kept, original = [], BlockFiles.keep

    def keep(self, index, name, block, result):
        if len(kept) == 4:
            raise KeyboardInterrupt
        kept.append(name)
        original(self, index, name, block, result)

    monkeypatch.setattr(BlockFiles, "keep", keep)
    with pytest.raises(KeyboardInterrupt):
        compress(source, tmp_path / "out", recipe, device="cpu", progress=False)
    assert not (tmp_path / "out").exists()
    other = recipe_of(corpus, prune={"pattern": "50%"})
    with pytest.raises(ParameterError, match="unfinished work"):
        compress(source, tmp_path / "out", other, device="cpu", progress=False)
    monkeypatch.setattr(BlockFiles, "keep", lambda *given: (kept.append(given[2]), original(*given)))
    done = compress(source, tmp_path / "out", recipe, device="cpu", progress=False)
    assert len(kept) == 6  # three blocks for each of the two steps, none twice
    for split in ("validation", "test"):
        assert done.results["after"][split] == whole.results["after"][split]
    assert not (tmp_path / "out.work").exists()


def test_what_cannot_be_done_is_refused_and_leaves_nothing(corpus, tmp_path, monkeypatch):
    source = tiny_model_folder(tmp_path / "model")
    out = tmp_path / "out"

    def refused(match, error=ParameterError, model=source, **steps):
        with pytest.raises(error, match=match):
            compress(model, out, recipe_of(corpus, **steps), device="cpu", progress=False)
        assert not out.exists()
        assert not (tmp_path / "out.work").exists()

    refused("m that divides the 32 inputs", prune={"pattern": "1:5"})
    refused("group that divides its 32 inputs", quantize={"format": "4bit-g24"})
    refused("width among", quantize={"format": "3bit-g16-asym"})
    refused("regular expression", quantize={"layers": {"nothing-such": "8bit"}})
    refused("without adapters", retrain={"subset": "masklora"})
    refused("inside a block", prune={}, reconstruct={"subset": "head"})
    refused("at most the 64 tokens", prune={}, length=65)
    refused("calibration|count", prune={}, calibration=10**6)
    refused("model", model="no-such-model", prune={})
    (tmp_path / "empty").mkdir()
    refused("config.json", AssetError, model=str(tmp_path / "empty"), prune={})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    refused("MiB of room", prune={})
    monkeypatch.undo()
    assert check(source, out, recipe_of(corpus, prune={})) > 0
    out.mkdir()
    with pytest.raises(ParameterError, match="does not exist yet"):
        compress(source, out, recipe_of(corpus, prune={}), device="cpu", progress=False)


def test_recipes_are_checked_and_the_short_way_says_the_same():
    assert Recipe(prune=short("prune", "wanda:2:4")) == Recipe(prune={"criterion": "wanda", "pattern": "2:4"})
    assert Recipe(retrain=short("retrain", "norms:200")).retrain.steps == 200
    for text in ("4:128:gptq", "4bit-g128:gptq"):
        assert Recipe(quantize=short("quantize", text)).quantize.model_dump() == {
            "format": "4bit-g128", "layers": {}, "method": "gptq", "act_order": False,
        }  # fmt: skip
    assert Recipe(quantize=short("quantize", "8")).quantize.format == "8bit"
    for bad, match in (
        ({}, "at least one of"),
        ({"reconstruct": {}}, "a recipe that prunes"),
        ({"prune": {"criterion": "wandaa"}}, "wanda"),
        ({"prune": {"pattern": "4:2"}}, "sparsity"),
        ({"retrain": {"subset": "new-biases"}}, "config"),
        ({"retrain": {"steps": 0}}, "greater than or equal to 1"),
        ({"prune": {}, "evaluation": 1}, "at least 2"),
        ({"prun": {}}, "did you mean prune"),
    ):
        with pytest.raises(ParameterError, match=match):
            Recipe(**bad)
    with pytest.raises(ParameterError, match="bits:group:method"):
        short("quantize", "4:128:7:gptq")


def test_the_command(corpus, tmp_path, capsys):
    source = tiny_model_folder(tmp_path / "model")
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"prune:\n  criterion: magnitude\n  pattern: 2:4\ndata: {corpus}\nlength: 16\nevaluation: 2\n"
    )
    words = [
        "compress",
        source,
        str(tmp_path / "out"),
        "--recipe",
        str(file),
        "--quantize",
        "4:16",
        "--device",
        "cpu",
    ]
    assert main([*words, "--check"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("# needs up to")
    assert yaml.safe_load(printed)["prune"]["pattern"] == "2:4"  # not 124, which YAML 1.1 would read
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    assert "[1/4] before" in capsys.readouterr().out
    about = json.loads((tmp_path / "out" / "lmcompress.json").read_text())
    assert about["recipe"]["quantize"]["format"] == "4bit-g16"
    assert main(words) == 2
    assert "does not exist yet" in capsys.readouterr().err


_SIZES = {"vocab_size": 128, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
_SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 64}
_GPT = {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
OTHERS = {
    "Mixtral": lambda: transformers.MixtralConfig(**_SIZES, intermediate_size=64, num_local_experts=4),
    "Qwen3Moe": lambda: transformers.Qwen3MoeConfig(
        **_SIZES, intermediate_size=64, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "GPT2": lambda: transformers.GPT2Config(vocab_size=128, **_GPT),
}


def other_folder(folder, family):
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(OTHERS[family](), dtype=torch.float32).eval()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", OTHERS)
def test_experts_and_conv1d_are_linears_in_their_turn_and_written_as_the_family_has_them(
    family, corpus, tmp_path, monkeypatch
):
    monkeypatch.setenv("LMCOMPRESS_CACHE", str(tmp_path / "cache"))
    model = other_folder(tmp_path / "model", family)
    own = set(model.state_dict())
    subset = "masklora+biases" if family == "GPT2" else "masklora"
    recipe = recipe_of(
        corpus,
        prune={"criterion": "wanda", "pattern": "2:4"},
        reconstruct={"subset": subset, "steps": 3, "lr": 1e-2},
        retrain={"subset": "norms", "steps": 2, "lr": 1e-2, "batch": 2},
    )
    done = compress(str(tmp_path / "model"), tmp_path / "out", recipe, device="cpu", progress=False)
    batches = data.batches(windows(corpus, "calibration", 4), 2)
    pruned = copy.deepcopy(model)
    masks = prune_model(pruned, "wanda", "2:4", batches, progress=False).masks
    weights = {name: layer.weight.detach() for name, layer in block_linears(pruned).items()}
    as_linears(model)
    reconstruct(model, masks, batches, subset, lr=1e-2, steps=3, weights=weights, progress=False)
    options = {"lr": 1e-2, "steps": 2, "batch_size": 2, "progress": False}
    train(model, windows(corpus, "retraining", None), "norms", masks, **options)

    saved = mask.load(tmp_path / "out" / "masks.safetensors")
    assert saved.keys() == masks.keys()
    assert all(torch.equal(saved[name], masks[name]) for name in masks)
    assert (
        done.results["prune"]["share"] == 1 if family == "GPT2" else 0.97 < done.results["prune"]["share"] < 1
    )
    assert all(".gate" in name for name in done.results["prune"]["left"])
    found = loaded(tmp_path / "out")
    assert set(found.state_dict()) == own
    for split in ("validation", "test"):
        value = perplexity(found, windows(corpus, split, 4), 2).value
        assert value == pytest.approx(done.results["after"][split]["perplexity"], rel=1e-6)
    again = as_linears(found)
    for name, layer in block_linears(again).items():
        assert torch.equal(layer.weight, model.get_submodule(name).weight), name


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3Moe"])
def test_what_cannot_be_packed_stays_in_16_bits_and_is_counted(family, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("LMCOMPRESS_CACHE", str(tmp_path / "cache"))
    other_folder(tmp_path / "model", family)
    recipe = recipe_of(corpus, quantize={"format": "4bit-g16", "method": "gptq"})
    done = compress(str(tmp_path / "model"), tmp_path / "out", recipe, device="cpu", progress=False)
    found = done.results["quantize"]
    assert found["share"] < 0.5
    assert any("experts.0.up" in name for name in found["left"])
    assert found["bits"] > 8
    assert "in 16 bits" in done.card
    model = loaded(tmp_path / "out")
    value = perplexity(model, windows(corpus, "test", 4), 2).value
    assert value == pytest.approx(done.results["after"]["test"]["perplexity"], rel=1e-3)


def test_nothing_to_pack_is_refused(corpus, tmp_path):
    other_folder(tmp_path / "model", "GPT2")
    with pytest.raises(ParameterError, match="Linears of its own"):
        check(str(tmp_path / "model"), tmp_path / "out", recipe_of(corpus, quantize={}))
