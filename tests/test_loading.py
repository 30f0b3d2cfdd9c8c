"""Model folders that are not whole: each ends in one AssetError that names file and cause, at once."""

import json
import os
import shutil
import time

import pytest
import torch
from damage import LAST, UP, config, cut, fill, folder_at, gone, link, pipe, rename, tensors, write
from safetensors.torch import load_file
from tiny import CAUSAL, FAMILIES, VOCABULARY, tiny_model, tiny_tokens
from tiny_assets import tiny_model_folder, tiny_tokenizer
from transformers import BertConfig, BertForMaskedLM, LlamaForCausalLM, LlamaForSequenceClassification

from lmcompress import model_folder, models
from lmcompress.errors import AssetError, LmcompressError

GARBAGE = bytes(range(256)) * 8


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Folders of a whole tiny model, in one file and in shards."""
    room = tmp_path_factory.mktemp("sound")
    tiny_model_folder(room / "one")
    tiny_model("llama").save_pretrained(room / "shards", max_shard_size="40KB")
    tiny_tokenizer().save_pretrained(room / "shards")
    assert len(list((room / "shards").glob("*.safetensors"))) > 2
    return room


def index(edit):
    def change(folder):
        file = folder / "model.safetensors.index.json"
        about = json.loads(file.read_text())
        edit(about)
        file.write_text(json.dumps(about))

    return change


def unlist(about, name=UP):
    del about["weight_map"][name]


def drop_from_shard(folder):
    """A tensor that the index names is in no shard."""
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][UP]
    tensors(lambda found: found.pop(UP), where)(folder)


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def bert(folder):
    tiny_model("bert").save_pretrained(folder)


def masked_bert(folder):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=VOCABULARY, **sizes)).save_pretrained(folder)


ONE = {
    # config.json
    "no config": (gone("config.json"), r"config\.json: no such file"),
    "empty config": (write("config.json", ""), r"config\.json: not JSON"),
    "blank config": (write("config.json", " \n"), r"config\.json: not JSON"),
    "cut config": (cut("config.json", 100), r"config\.json: not JSON"),
    "config of noise": (write("config.json", GARBAGE), r"config\.json: not JSON"),
    "config is a list": (write("config.json", "[1]"), r"config\.json: a JSON object is needed, not a list"),
    "config is a number": (write("config.json", "17"), r"config\.json: a JSON object"),
    "config too deep": (write("config.json", "[" * 100_000), r"config\.json: not JSON"),
    "config is a folder": (folder_at("config.json"), r"config\.json: no such file"),
    "config is a pipe": (pipe("config.json"), r"config\.json: neither a file nor a folder"),
    "config links to itself": (link("config.json", "config.json"), r"config\.json: .*leads nowhere"),
    "config links to nothing": (link("config.json", "../no"), r"config\.json: .*leads nowhere"),
    "no type": (config(model_type=None), r"config\.json: model_type None is not known"),
    "unknown type": (config(model_type="lama"), r"config\.json: model_type 'lama' is not known"),
    "type is a list": (config(model_type=["llama"]), r"config\.json: model_type \['llama'\] is not known"),
    "own code": (
        config(model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}),
        r"config\.json: model_type 'mine'.*code of its own \(auto_map\), which is not run",
    ),
    "a vision model": (config(model_type="vit"), r"config\.json: there is no AutoModelForCausalLM of the type vit"),
    "width in words": (config(hidden_size="wide"), r"config\.json: \w+"),
    "width zero": (config(hidden_size=0), r"config\.json"),
    "width negative": (config(hidden_size=-32), r"config\.json"),
    "width no multiple of the heads": (config(num_attention_heads=5, head_dim=None), "safetensors|config"),
    "no heads": (config(num_attention_heads=0), r"config\.json"),
    "unknown activation": (config(hidden_act="bump"), r"config\.json: KeyError: .*bump"),
    "one layer too many": (config(num_hidden_layers=4), r"model\.safetensors: missing tensors: model\.layers\.3\."),
    "one layer too few": (config(num_hidden_layers=2), r"no place for: model\.layers\.2\."),
    "no layers": (config(num_hidden_layers=0), r"no place for: model\.layers\.0\."),
    "a million layers": (config(num_hidden_layers=10**6), r"config\.json: 1000000 layers, but.* 29 tensors"),
    "another width": (config(hidden_size=64), r"in model\.safetensors, but .* by config\.json"),
    "another vocabulary": (config(vocab_size=10**11), r"embed_tokens\.weight is \[128, 32\] in model\.safetensors"),
    "another feed-forward": (config(intermediate_size=65), r"mlp\.down_proj\.weight is \[32, 64\] in model"),
    "biases that are not there": (config(attention_bias=True), "missing tensors: .*k_proj.bias"),
    "untied head that is not there": (config(tie_word_embeddings=False), "missing tensors: lm_head.weight"),
    # weights
    "no weights": (gone("model.safetensors"), r"neither model\.safetensors nor model\.safetensors\.index\.json"),
    "only a pickle": (pickled, r"pytorch_model\.bin is not read \(pickles never are\)"),
    "weights of another name": (
        lambda folder: (folder / "model.safetensors").rename(folder / "weights.safetensors"),
        r"weights\.safetensors is not read",
    ),
    "empty weights": (write("model.safetensors", ""), r"model\.safetensors: not safetensors, or cut short"),
    "weights of noise": (write("model.safetensors", GARBAGE), r"model\.safetensors: not safetensors"),
    "weights are text": (write("model.safetensors", "version https://git-lfs"), r"model\.safetensors: not safetensors"),
    "header cut": (cut("model.safetensors", 300), r"model\.safetensors: not safetensors, or cut short"),
    "data cut": (cut("model.safetensors", -1), r"model\.safetensors: not safetensors, or cut short"),
    "data too long": (
        lambda folder: (folder / "model.safetensors").open("ab").write(b"x"),
        r"model\.safetensors: not safetensors",
    ),
    "huge header": (write("model.safetensors", b"\xff" * 8 + b"{}"), r"model\.safetensors: not safetensors"),
    "no tensors": (tensors(dict.clear), r"model\.safetensors: no tensors"),
    "weights are a folder": (folder_at("model.safetensors"), r"neither model\.safetensors nor"),
    "weights are a pipe": (pipe("model.safetensors"), r"model\.safetensors: neither a file nor a folder"),
    "weights link to themselves": (link("model.safetensors", "model.safetensors"), r"model\.safetensors: .*nowhere"),
    "tensor deleted": (tensors(lambda found: found.pop(UP)), rf"model\.safetensors: missing tensors: {UP}"),
    "norm deleted": (tensors(lambda found: found.pop("model.norm.weight")), "missing tensors: model.norm.weight"),
    "embedding deleted": (
        tensors(lambda found: found.pop("model.embed_tokens.weight")),
        "missing tensors: .*model.embed_tokens.weight",
    ),
    "tensor renamed": (tensors(rename), rf"missing tensors: {UP}; .* no place for: model\.layers\.0\.mlp\.up\."),
    "a tensor more": (tensors(lambda found: found.update(extra=torch.ones(2))), "no place for: extra"),
    "another shape": (
        tensors(lambda found: found.update({UP: torch.ones(3, 3)})),
        rf"{UP} is \[3, 3\] in model\.safetensors, but \[64, 32\]",
    ),
    "a dimension more": (tensors(lambda found: found.update({UP: torch.ones(1, 64, 32)})), rf"{UP} is \[1, 64, 32\]"),
    "NaN": (fill(float("nan")), rf"model\.safetensors: weights that are not finite: {LAST}"),
    "infinity": (fill(float("-inf")), rf"weights that are not finite: {LAST}"),
    "weights of another family": (
        lambda folder: shutil.copy(tiny_model_folder(folder / "opt", "opt") + "/model.safetensors", folder),
        "missing tensors: .* no place for|is .* in model.safetensors",
    ),
    "an encoder": (bert, r"config\.json: a bert is no causal language model"),
    "an encoder with a head for words": (masked_bert, r"config\.json: a bert is no causal language model"),
    # tokenizer
    "no tokenizer": (gone("tokenizer.json", "tokenizer_config.json"), "no tokenizer; one of tokenizer.json"),
    "empty tokenizer": (write("tokenizer.json", ""), r"tokenizer\.json: not JSON"),
    "cut tokenizer": (cut("tokenizer.json", 500), r"tokenizer\.json: not JSON"),
    "tokenizer is a list": (write("tokenizer.json", "[]"), r"tokenizer\.json: a JSON object"),
    "tokenizer of no model": (config("tokenizer.json", model=None), r"tokenizer\.json: \w+"),
    "tokenizer of an unknown model": (config("tokenizer.json", model={"type": "Mine"}), r"tokenizer\.json: \w+"),
    "tokenizer of noise": (write("tokenizer.json", GARBAGE), r"tokenizer\.json: not JSON"),
    "cut tokenizer config": (cut("tokenizer_config.json", 20), r"tokenizer_config\.json: not JSON"),
    "tokenizer with own code": (
        config("tokenizer_config.json", tokenizer_class="Mine", auto_map={"AutoTokenizer": ["mine.Mine", None]}),
        r"tokenizer_config\.json: ",
    ),
    "tokenizer without words": (
        config("tokenizer.json", model={"type": "WordLevel", "vocab": {}, "unk_token": "?"}, added_tokens=[]),
        r"tokenizer\.json: ",
    ),
}  # fmt: skip

SHARDS = {
    "a shard missing": (lambda folder: min(folder.glob("*.safetensors")).unlink(), "00001-of.*no such file, but"),
    "a shard cut": (
        lambda folder: cut(min(folder.glob("*.safetensors")).name, -1)(folder),
        r"00001-of-.*: not safetensors, or cut short",
    ),
    "a shard empty": (lambda folder: min(folder.glob("*.safetensors")).write_bytes(b""), "00001-of.*cut short"),
    "no index": (gone("model.safetensors.index.json"), "neither model.safetensors nor .*is not read"),
    "index cut": (cut("model.safetensors.index.json", 99), r"index\.json: not JSON"),
    "index without a map": (index(lambda about: about.pop("weight_map")), r"index\.json: no weight_map"),
    "index with a list for a map": (index(lambda about: about.update(weight_map=[])), r"index\.json: no weight_map"),
    "index names an absent file": (
        index(lambda about: about["weight_map"].update({UP: "absent.safetensors"})),
        r"absent\.safetensors: no such file, but model\.safetensors\.index\.json names it",
    ),
    "index leads out of the folder": (
        index(lambda about: about["weight_map"].update({UP: "../one/model.safetensors"})),
        r"index\.json: '../one/model\.safetensors' is no name of a file beside it",
    ),
    "index names a number": (index(lambda about: about["weight_map"].update({UP: 1})), "1 is no name of a file"),
    "index lacks a tensor": (index(unlist), rf"index\.json: .*it does not list: {UP}"),
    "index has one more": (
        index(lambda about: about["weight_map"].update(extra=about["weight_map"][UP])),
        r"index\.json: tensors that are not in the shard it names: extra",
    ),
    "shard lacks a tensor": (drop_from_shard, rf"index\.json: tensors that are not in the shard it names: {UP}"),
}  # fmt: skip

KINDS = [*(("one", name) for name in ONE), *(("shards", name) for name in SHARDS)]


@pytest.mark.parametrize(("form", "kind"), KINDS, ids=[name for _, name in KINDS])
def test_a_malformed_folder_is_refused_by_file_and_cause(sound, tmp_path, form, kind):
    change, said = (ONE if form == "one" else SHARDS)[kind]
    folder = tmp_path / "m"
    shutil.copytree(sound / form, folder)
    change(folder)
    start = time.monotonic()
    with pytest.raises(AssetError, match=said) as caught:
        models.load(str(folder), device="cpu")
    assert str(folder) in str(caught.value)
    assert time.monotonic() - start < 5


def test_there_are_at_least_sixty_kinds():
    assert len(KINDS) >= 60


def test_what_is_no_folder_of_a_model_is_refused(sound, tmp_path, monkeypatch):
    monkeypatch.setenv("LMCOMPRESS_CACHE", str(tmp_path / "cache"))
    for path, said in (
        (sound / "one" / "model.safetensors", "a model is a folder with config.json"),
        (sound / "one" / "config.json", "a model is a folder with config.json"),
        (sound, r"config\.json: no such file"),
    ):
        with pytest.raises(AssetError, match=said):
            models.load(str(path), device="cpu")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(AssetError, match="loop: a link that leads nowhere"):
        models.load(str(tmp_path / "loop"), device="cpu")
    (tmp_path / "noise.gguf").write_bytes(GARBAGE)
    with pytest.raises(AssetError, match=r"noise\.gguf: "):
        models.load(str(tmp_path / "noise.gguf"), device="cpu")
    for name in ("", "a\0b", "x" * 5000):
        with pytest.raises(LmcompressError):
            models.load(name, device="cpu")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_cannot_be_read_is_named(sound, tmp_path, name):
    shutil.copytree(sound / "one", tmp_path / "m")
    (tmp_path / "m" / name).chmod(0)
    with pytest.raises(AssetError, match=rf"{name}: Permission denied"):
        models.load(str(tmp_path / "m"), device="cpu")


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_models_of_every_family_load_for_every_task(family, tmp_path):
    model = tiny_model(family)
    folder = tiny_model_folder(tmp_path / "m", family)
    if family in CAUSAL:
        loaded, _ = models.load(folder, device="cpu")
        assert torch.equal(loaded(tiny_tokens()).logits, model(tiny_tokens()).logits)
    models.load(folder, device="cpu", task="encoder")
    classifier, _ = models.load(folder, device="cpu", task="classification", num_labels=3)
    classifier.save_pretrained(folder)
    again, _ = models.load(folder, device="cpu", task="classification")
    kept = again.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in classifier.state_dict().items())


def test_shards_load_as_one_file_does(sound):
    whole, _ = models.load(str(sound / "one"), device="cpu")
    parts, _ = models.load(str(sound / "shards"), device="cpu")
    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_classifier_that_was_saved_must_have_its_head_and_its_layers(tmp_path):
    folder = tmp_path / "m"
    tiny_model_folder(folder)
    classifier, _ = models.load(str(folder), device="cpu", task="classification", num_labels=3)
    assert isinstance(classifier, LlamaForSequenceClassification)
    classifier.save_pretrained(folder)
    tensors(lambda found: found.pop("score.weight"))(folder)
    with pytest.raises(AssetError, match=r"missing tensors: score\.weight"):
        models.load(str(folder), device="cpu", task="classification")
    tiny_model_folder(folder)
    config(num_hidden_layers=2)(folder)
    for task in ("classification", "encoder"):
        with pytest.raises(AssetError, match=r"no place for: model\.layers\.2"):
            models.load(str(folder), device="cpu", task=task)
    tensors(lambda found: found.pop(UP))(folder)
    with pytest.raises(AssetError, match=rf"missing tensors: {UP}"):
        models.load(str(folder), device="cpu", task="classification")


def test_old_buffers_in_a_file_are_no_weights(sound, tmp_path):
    shutil.copytree(sound / "one", tmp_path / "m")
    tensors(lambda found: found.update({"model.rotary_emb.inv_freq": torch.ones(4)}))(tmp_path / "m")
    loaded, _ = models.load(str(tmp_path / "m"), device="cpu")
    assert isinstance(loaded, LlamaForCausalLM)


def test_a_compressed_folder_without_one_of_its_weights_is_refused(tmp_path):
    model = tiny_model("llama")
    model_folder.save(model, None, tmp_path / "m")
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())["weight_map"]
    tensors(lambda found: found.pop(UP), index[UP])(tmp_path / "m")
    with pytest.raises(AssetError, match=rf"not in the shard it names: {UP}"):
        model_folder.load(tmp_path / "m", device="cpu")
