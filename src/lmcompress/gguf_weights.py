"""A model that comes as a GGUF file, written once as a plain folder of safetensors: it loads ten times faster then.

What was quantized in the file is dequantized to fp32, without loss.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import gguf
import torch
import transformers

from lmcompress.assets import Asset
from lmcompress.contents import damage, forget
from lmcompress.errors import AssetError
from lmcompress.files import cache_folder, once
from lmcompress.loading import check_keys, naming


def safetensors_folder(asset: Asset) -> Path:
    """The asset's own folder, or for a GGUF file the folder in the cache that it was converted to (again, where files
    of it are missing or changed).

    Raises :class:`AssetError` for a folder with more than one GGUF file, for one that lacks tensors of its model, and
    for a tokenizer without the BOS that the file sets.
    """
    path = asset.path
    found = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf")) if path.is_dir() else []
    if not found or (path.is_dir() and any(path.glob("*.safetensors*"))):
        return path
    if len(found) > 1:
        raise AssetError(f"{asset.name}: one GGUF file is needed, there are {[file.name for file in found]}")
    folder = cache_folder() / "converted" / f"{asset.name.replace('/', '--')}-{asset.sha256[:16]}"

    def convert(temporary: Path) -> None:
        _convert(found[0], temporary)
        forget(folder)

    once(folder, convert, lambda there: there.is_dir() and not damage(there, "model", None))
    damage(folder, "model", None)  # the first look, for which the next ones look
    return folder


def _convert(file: Path, folder: Path) -> None:
    source: dict[str, Any] = {
        "pretrained_model_name_or_path": file.parent,
        "gguf_file": file.name,
        "local_files_only": True,
    }
    with naming(file), _read_once():
        loader: Any = transformers.AutoModelForCausalLM  # whose type knows no output_loading_info
        model, found = loader.from_pretrained(
            **source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
        begins = gguf.GGUFReader(file).fields.get("tokenizer.ggml.add_bos_token")
    check_keys(model, found, file)
    if begins and begins.contents() and tokenizer("")["input_ids"][:1] != [tokenizer.bos_token_id]:
        # transformers 5.17 reads Gemma 3's so, and splits its words otherwise: perplexity 40,000 instead of 15.
        raise AssetError(
            f"{file}: its texts begin with a BOS, but the tokenizer that transformers {transformers.__version__} makes "
            "of it gives them none; a newer transformers reads it right"
        )
    _without_origin(model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _read_once() -> Iterator[None]:
    """transformers parses the file for config, weights and tokenizer anew, each time some seconds: once is enough."""
    library: Any = gguf
    reader = library.GGUFReader
    library.GGUFReader = lru_cache(maxsize=1)(reader)
    try:
        yield
    finally:
        library.GGUFReader = reader


def _without_origin(model: transformers.PreTrainedModel) -> transformers.PreTrainedModel:
    """The same weights in a model whose config does not claim to be quantized (that config refuses to be saved)."""
    values = model.config.to_dict()
    values.pop("quantization_config", None)
    with torch.device("meta"):
        plain = type(model)(type(model.config).from_dict(values))
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain
