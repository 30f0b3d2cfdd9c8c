import pytest
import torch
from tiny import CAUSAL, FAMILIES, HIDDEN, tiny_model, tiny_tokens
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import PreTrainedTokenizerFast

from lmcompress import model_folder, models
from lmcompress.errors import AssetError, NumericError, ParameterError
from lmcompress.prune import mask
from lmcompress.prune.magnitude import per_matrix
from lmcompress.prune.pattern import Unstructured

BLOCKS = {
    "opt": "model.decoder.layers",
    "opt-350m-layout": "model.decoder.layers",
    "llama": "model.layers",
    "mistral": "model.layers",
    "qwen2": "model.layers",
    "gpt_neox": "gpt_neox.layers",
    "bert": "encoder.layer",
}
LINEARS = {
    "opt": {"self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"},
    "llama": {f"self_attn.{x}_proj" for x in "qkvo"} | {f"mlp.{x}_proj" for x in ("gate", "up", "down")},
    "gpt_neox": {"attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"},
    "bert": {f"attention.self.{x}" for x in ("query", "key", "value")}
    | {"attention.output.dense", "intermediate.dense", "output.dense"},
}
LINEARS |= {"opt-350m-layout": LINEARS["opt"], "mistral": LINEARS["llama"], "qwen2": LINEARS["llama"]}


def tiny_tokenizer():
    words = {"[PAD]": 0, "[BOS]": 1, "[EOS]": 2, "one": 3, "two": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def pruned(model, sparsity=0.5):
    weights = {name: linear.weight for name, linear in models.block_linears(model).items()}
    masks = per_matrix(weights, Unstructured(sparsity))
    mask.apply(model, masks)
    return masks


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_and_linears_are_found_by_structure(family):
    model = tiny_model(family)
    found = models.blocks(model)
    assert list(found) == [f"{BLOCKS[family]}.{index}" for index in range(3)]
    assert all(model.get_submodule(name) is block for name, block in found.items())
    expected = {f"{name}.{linear}" for name in found for linear in LINEARS[family]}
    linears = models.block_linears(model)
    assert set(linears) == expected
    assert all(model.get_submodule(name) is linear for name, linear in linears.items())


def test_projections_around_the_blocks_are_not_among_them():
    model = tiny_model("opt-350m-layout")
    assert {"project_in", "project_out"} <= {name for name, _ in model.model.decoder.named_children()}
    assert not any("project" in name for name in models.block_linears(model))


def test_the_longest_list_is_not_taken_for_the_largest_stack():
    model = nn.Module()
    model.adapters = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    model.stack = nn.ModuleList(nn.Sequential(nn.Linear(16, 16)) for _ in range(2))
    model.mixed = nn.ModuleList([nn.Linear(99, 99), nn.Identity()])
    assert list(models.blocks(model)) == ["stack.0", "stack.1"]
    with pytest.raises(ParameterError, match="equal blocks that hold Linear layers"):
        models.blocks(nn.Sequential(nn.Linear(2, 2)))


def test_layers_are_chosen_by_a_pattern():
    model = tiny_model("llama")
    assert len(models.block_linears(model, r"\.0\.")) == 7
    assert list(models.block_linears(model, "layers.2.mlp.down")) == ["model.layers.2.mlp.down_proj"]
    with pytest.raises(ParameterError, match=r"expected .*mlp\.down_proj.*self_attn\.q_proj"):
        models.block_linears(model, "fc1")
    with pytest.raises(ParameterError, match="a regular expression"):
        models.block_linears(model, "(")


@pytest.mark.parametrize("family", CAUSAL)
def test_untying_gives_the_head_its_own_weights_and_changes_no_logit(family):
    model = tiny_model(family)
    size, before = model.num_parameters(), model(tiny_tokens()).logits
    tied = models.head(model).weight is model.get_input_embeddings().weight
    assert models.untie_head(model) is tied
    assert models.untie_head(model) is False
    assert models.head(model).weight is not model.get_input_embeddings().weight
    assert model.num_parameters() == size + tied * models.head(model).weight.numel()
    assert torch.equal(model(tiny_tokens()).logits, before)


def test_an_encoder_has_no_head():
    assert models.head(tiny_model("bert")) is None
    assert models.untie_head(tiny_model("bert")) is False


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_comes_back_as_it_was_saved(family, tmp_path):
    model = tiny_model(family)
    models.untie_head(model)
    if models.head(model) is not None:
        models.head(model).weight.data.mul_(2)  # were it tied again on loading, this would be lost
    masks = pruned(model)
    model_folder.save(model, None, tmp_path / "new", masks=masks)
    loaded, tokenizer, loaded_masks = model_folder.load(tmp_path / "new", device="cpu")
    assert not loaded.training
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert loaded_masks.keys() == masks.keys()
    assert all(torch.equal(loaded_masks[name], masks[name]) for name in masks)
    assert tokenizer is None
    assert torch.equal(loaded(tiny_tokens())[0], model(tiny_tokens())[0])


def test_bf16_with_a_tokenizer_and_not_over_an_older_folder(tmp_path):
    model = tiny_model("llama").bfloat16()
    masks = pruned(model, 0.75)
    model_folder.save(model, tiny_tokenizer(), tmp_path / "m", masks=masks)
    with pytest.raises(ParameterError, match="does not exist yet"):
        model_folder.save(model, None, tmp_path / "m")
    loaded, tokenizer, loaded_masks = model_folder.load(tmp_path / "m", device="cpu")
    assert loaded.dtype == torch.bfloat16
    assert tokenizer("one two")["input_ids"] == [3, 4]
    assert mask.sparsity(loaded_masks) == mask.sparsity(masks)


def test_a_mask_that_the_weights_violate_is_not_saved(tmp_path):
    model = tiny_model("opt")
    masks = pruned(model)
    name = next(iter(masks))
    model.get_submodule(name).weight.data.fill_(1)
    with pytest.raises(NumericError, match=name):
        model_folder.save(model, None, tmp_path / "m", masks=masks)
    assert not (tmp_path / "m").exists()
    with pytest.raises(ParameterError, match="that lmcompress wrote"):
        model_folder.load(tmp_path)
    (tmp_path / "lmcompress.json").write_text('{"class": "NoSuchModel"}')
    with pytest.raises(ParameterError, match="that lmcompress wrote"):
        model_folder.load(tmp_path)


def test_a_local_folder_is_loaded_for_each_task(tmp_path):
    model = tiny_model("opt")
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded, tokenizer = models.load(str(tmp_path), device="cpu")
    assert not loaded.training
    assert torch.equal(loaded(tiny_tokens()).logits, model(tiny_tokens()).logits)
    assert tokenizer("two")["input_ids"] == [4]
    half, _ = models.load(str(tmp_path), dtype="bf16", device="cpu")
    assert half.dtype == torch.bfloat16
    encoder, _ = models.load(str(tmp_path), task="encoder", device="cpu")
    assert encoder(tiny_tokens()).last_hidden_state.shape == (4, 16, HIDDEN)
    classifier, _ = models.load(str(tmp_path), task="classification", num_labels=5, device="cpu")
    assert classifier(tiny_tokens()).logits.shape == (4, 5)


def test_what_cannot_be_loaded_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="fp32, bf16"):
        models.load("smollm2-135m", dtype="fp16")
    with pytest.raises(ParameterError, match="causal, encoder, classification"):
        models.load("smollm2-135m", task="translation")
    with pytest.raises(ParameterError, match=r"smollm2-135m.*a local folder"):
        models.load("no such model")
    (tmp_path / "one.gguf").touch()
    (tmp_path / "two.gguf").touch()
    with pytest.raises(AssetError, match="one GGUF file is needed"):
        models.load(str(tmp_path))


def test_an_attention_that_sees_later_tokens_is_replaced():
    model = tiny_model("llama").eval()
    assert models.causal(model).config._attn_implementation == "sdpa"
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False
    ids = tiny_tokens(1, 8)
    other = ids.clone()
    other[0, -1] = (ids[0, -1] + 1) % model.config.vocab_size
    with torch.no_grad():
        leaking = model(ids).logits[0, :-1] - model(other).logits[0, :-1]
        models.causal(model)
        assert leaking.abs().max() > 0.01
        assert torch.equal(model(ids).logits[0, :-1], model(other).logits[0, :-1])


def test_a_model_that_is_not_causal_at_all_is_refused():
    model = tiny_model("llama").eval()
    model.model.norm.register_forward_hook(lambda _module, _args, states: states + states[:, -1:])
    with pytest.raises(NumericError, match="not a causal model"):
        models.causal(model)
