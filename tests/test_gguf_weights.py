from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny import tiny_model
from tiny_assets import tiny_tokenizer
from transformers.utils.quantization_config import GgufConfig

from lmcompress import gguf_weights
from lmcompress.assets import Asset
from lmcompress.errors import AssetError


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """An asset of one GGUF file, and how often it was read: transformers' own reading of it is stood in for."""
    read = []

    def from_gguf(pretrained_model_name_or_path, gguf_file, **_options):
        read.append(gguf_file)
        model = tiny_model("llama")
        model.config.quantization_config = (
            GgufConfig()
        )  # as transformers leaves it; it refuses to be saved so
        found = dict.fromkeys(("missing_keys", "unexpected_keys", "mismatched_keys"), ())
        return model, found

    monkeypatch.setenv("LMCOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_gguf)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda **_options: tiny_tokenizer())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tiny.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(gguf_weights.gguf, "GGUFReader", lambda _file: SimpleNamespace(fields={}))
    return Asset("tiny", "model", folder, "0" * 64, "CC0", "local"), read


def test_a_gguf_file_is_converted_once_to_a_plain_folder_of_the_same_weights(gguf):
    asset, read = gguf
    folder = gguf_weights.safetensors_folder(asset)
    assert gguf_weights.safetensors_folder(asset) == folder
    assert read == ["tiny.gguf"]
    loaded = transformers.LlamaForCausalLM.from_pretrained(folder, use_safetensors=True)
    assert getattr(loaded.config, "quantization_config", None) is None
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    expected = tiny_model("llama").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    assert (folder / "tokenizer.json").is_file()
    for _ in range(2):
        (folder / "tokenizer.json").unlink()
        assert gguf_weights.safetensors_folder(asset) == folder
        assert (folder / "tokenizer.json").is_file()
    assert read == ["tiny.gguf"] * 3


def test_other_folders_are_taken_as_they_are_and_two_files_are_refused(gguf):
    asset, read = gguf
    (asset.path / "second.gguf").write_bytes(b"GGUF")
    with pytest.raises(AssetError, match=r"second\.gguf"):
        gguf_weights.safetensors_folder(asset)
    for file in asset.path.iterdir():
        file.unlink()
    assert gguf_weights.safetensors_folder(asset) == asset.path
    assert not read


@pytest.mark.parametrize("begins", [True, False])
def test_a_tokenizer_without_the_bos_that_the_file_sets_is_refused(gguf, monkeypatch, begins):
    asset, _ = gguf
    fields = {"tokenizer.ggml.add_bos_token": SimpleNamespace(contents=lambda: begins)}
    monkeypatch.setattr(gguf_weights.gguf, "GGUFReader", lambda _file: SimpleNamespace(fields=fields))
    if not begins:
        assert gguf_weights.safetensors_folder(asset).is_dir()
        return
    with pytest.raises(AssetError, match=r"tiny\.gguf: its texts begin with a BOS"):
        gguf_weights.safetensors_folder(asset)
    assert not list((asset.path.parent / "cache").glob("converted/*/*"))
