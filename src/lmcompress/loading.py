"""Open a model folder so that every weight of the model comes from its files, or say which does not.

transformers fills what a file lacks with random numbers and drops what it has no place for, with a warning at most.
Here each of these is an error that names the file and the tensor. Nothing in a folder is run: no pickles, no code.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lmcompress.errors import AssetError, LmcompressError, ParameterError
from lmcompress.files import write_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "*.bpe.model")
_BOTH_WAYS = modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES  # types that predict words inside a text
_CLASSIFIER = "ForSequenceClassification"


def open_model(
    folder: Path, loader: Any, dtype: torch.dtype | str = "auto", **options: object
) -> transformers.PreTrainedModel:
    """The model of a folder with ``config.json`` and safetensors, on the CPU, in eval mode.

    ``loader``: one of transformers' Auto classes, or the class of the model. ``options`` go into the config. Only a
    new head of a classifier may lack weights (drawn from torch's global generator); heads of other tasks may be left.
    Raises :class:`AssetError` for anything else that is missing, left over, of another shape, damaged or not finite.
    """
    config = read_config(folder, loader, options)
    there = places(folder)
    if (getattr(config, "num_hidden_layers", None) or 0) > len(there):
        raise AssetError(
            f"{folder / CONFIG}: {config.num_hidden_layers} layers, but the files hold {len(there)} tensors"
        )
    with naming(folder / CONFIG), torch.device("meta"), torch.random.fork_rng(devices=[]):
        shell = loader.from_config(config) if hasattr(loader, "from_config") else loader(config)
    shapes = {name: tuple(value.shape) for name, value in shell.state_dict().items()}
    told = [
        f"{name} is {list(shape)} in {file.name}, but {list(shapes[name])} by config.json"
        for name, (file, shape) in there.items()
        if shapes.get(name, shape) != shape
    ]
    if told:
        raise AssetError(f"{folder}: {some(told)}")
    with naming(folder / _first(folder)):
        model, found = loader.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    check_keys(model, found, folder / _first(folder))
    check_finite(model.named_parameters(), folder / _first(folder))
    return model.eval()


def open_tokenizer(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of a folder; :class:`AssetError` where there is none that works."""
    if not any(any(folder.glob(name)) for name in _TOKENIZERS):
        raise AssetError(f"{folder}: no tokenizer; one of {', '.join(_TOKENIZERS)} is needed")
    about = {name: read_json(folder / name) for name in ("tokenizer.json", "tokenizer_config.json")}
    own_code = "auto_map" in about["tokenizer_config.json"]
    file = folder / ("tokenizer_config.json" if own_code or not about["tokenizer.json"] else "tokenizer.json")
    with naming(file):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        empty = tokenizer.vocab_size == 0 or not tokenizer("a word", add_special_tokens=False)["input_ids"]
    if empty:
        raise AssetError(f"{file}: the tokenizer has no vocabulary")
    return tokenizer


def check_keys(model: Any, found: dict[str, Any], file: Path) -> None:
    """Refuse (:class:`AssetError`) what transformers' ``output_loading_info`` says is missing, left over or of
    another shape, but for new heads, heads of other tasks, and buffers that models make themselves.
    """
    causal = model.can_generate()
    saved = [name for name in model.config.architectures or () if name.endswith(_CLASSIFIER)]
    new = [] if causal else [_is_pooler]
    if type(model).__name__.endswith(_CLASSIFIER) and not saved:
        new.append(lambda name: not name.startswith(f"{model.base_model_prefix}."))
    missing = [name for name in found["missing_keys"] if not any(allowed(name) for allowed in new)]
    base = getattr(model, model.base_model_prefix, model)
    buffers = {name for name, _ in model.named_buffers()} | {name for name, _ in base.named_buffers()}
    parts = {name for name, _ in base.named_children()}
    left = [
        name
        for name in found["unexpected_keys"]
        if name not in buffers
        and (causal or name.removeprefix(f"{model.base_model_prefix}.").split(".")[0] in parts)
    ]
    other = [f"{name} ({list(there)}, not {list(here)})" for name, there, here in found["mismatched_keys"]]
    told = [
        f"{what}: {some(names)}"
        for names, what in (
            (missing, "missing tensors"),
            (left, "tensors that the model has no place for"),
            (other, "tensors of another shape"),
        )
        if names
    ]
    if told:
        raise AssetError(f"{file}: {'; '.join(told)} (a {type(model).__name__} by config.json)")


def check_finite(weights: Iterable[tuple[str, Tensor]], file: Path) -> None:
    """Refuse (:class:`AssetError`) weights that are NaN or infinite, by name."""
    floats = (
        (name, value.detach()) for name, value in weights if value.is_floating_point() and value.numel()
    )
    bad = [name for name, value in floats if not torch.isfinite(torch.stack(value.aminmax())).all()]
    if bad:
        raise AssetError(f"{file}: weights that are not finite: {some(bad)}")


def _is_pooler(name: str) -> bool:
    return "pooler." in name


def some(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")


def read_config(folder: Path, loader: type, options: dict[str, Any]) -> transformers.PretrainedConfig:
    """The config of a folder; :class:`AssetError` for one that is damaged or of a model that ``loader`` has not."""
    file = folder / CONFIG
    if not folder.is_dir():
        raise AssetError(f"{folder}: a model is a folder with {CONFIG} and safetensors, or a GGUF file")
    if not file.is_file():
        raise AssetError(f"{file}: no such file")
    kind = (about := read_json(file)).get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        own = "; it needs code of its own (auto_map), which is not run" if "auto_map" in about else ""
        raise AssetError(f"{file}: model_type {kind!r} is not known to transformers{own}")
    with naming(file):
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True, **options
        )
    if loader is transformers.AutoModelForCausalLM and (
        getattr(config, "is_encoder_decoder", False)
        or (kind in _BOTH_WAYS and not getattr(config, "is_decoder", False))
    ):
        raise AssetError(f"{file}: a {kind} is no causal language model: its words see those that follow")
    if hasattr(loader, "_model_mapping") and type(config) not in loader._model_mapping:
        raise AssetError(f"{file}: there is no {loader.__name__} of the type {kind}")
    return config


def _first(folder: Path) -> str:
    return WEIGHTS if (folder / WEIGHTS).exists() else INDEX


def places(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Name of every tensor in the folder's safetensors -> its file and shape, from their headers."""
    if (folder / WEIGHTS).is_file():
        return header(folder / WEIGHTS)
    index = folder / INDEX
    if not index.is_file():
        others = sorted(file.name for file in folder.iterdir() if file.suffix in (*_PICKLES, ".safetensors"))
        there = f"; {', '.join(others)} is not read (pickles never are)" if others else ""
        raise AssetError(f"{folder}: neither {WEIGHTS} nor {INDEX}{there}")
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise AssetError(f"{index}: no weight_map")
    found: dict[str, Any] = {}
    for shard in dict.fromkeys(listed.values()):
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise AssetError(f"{index}: {shard!r} is no name of a file beside it")
        if not (folder / shard).is_file():
            raise AssetError(f"{folder / shard}: no such file, but {INDEX} names it")
        found |= header(folder / shard)
    wrong = [name for name, shard in listed.items() if name not in found or found[name][0].name != shard]
    if wrong:
        raise AssetError(f"{index}: tensors that are not in the shard it names: {some(wrong)}")
    if unlisted := found.keys() - listed.keys():
        raise AssetError(f"{index}: tensors of the shards that it does not list: {some(unlisted)}")
    return found


def header(file: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Name of every tensor in a safetensors file -> the file and its shape; :class:`AssetError` for any other."""
    try:
        with safe_open(file, framework="pt") as tensors:
            found = {name: (file, tuple(tensors.get_slice(name).get_shape())) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise AssetError(f"{file}: not safetensors, or cut short: {error}") from error
    if not found:
        raise AssetError(f"{file}: no tensors")
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; of none, an empty one."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AssetError(f"{file}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise AssetError(f"{file}: a JSON object is needed, not a {type(found).__name__}")
    return found


AGAIN = "; delete its folder to begin anew"  # said of files that only spare work


@contextmanager
def naming(file: Path, hint: str = "") -> Iterator[None]:
    """Whatever a library raises for a damaged ``file`` as one :class:`AssetError` that names it."""
    try:
        yield
    except BaseException as error:  # a panic of tokenizers is no Exception
        if isinstance(error, LmcompressError) and str(file.parent) in str(error):
            raise
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise AssetError(f"{file}: {type(error).__name__}: {reason}{hint}") from error


def claim(path: Path, about: object, field: str, valid: str) -> None:
    """Note in ``path`` what the work in its folder is; :class:`ParameterError` where it is that of something else."""
    if path.is_file() and read_json(path) != about:
        raise ParameterError(field, str(path.parent), valid)
    write_json(path, about)
