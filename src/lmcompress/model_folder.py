"""Write a compressed model as a folder that transformers loads: shards, index, config, tokenizer, masks and a card.

There is one shard a block, and one for all else, so that blocks can be written as soon as they are finished.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter

from lmcompress.blockfiles import BlockFiles, keep_all
from lmcompress.errors import ParameterError
from lmcompress.files import atomic_path, cache_folder, once, write_json
from lmcompress.loading import INDEX, open_model, open_tokenizer, places, read_config, read_json
from lmcompress.models import blocks, default_device, linears
from lmcompress.prune import mask
from lmcompress.prune.mask import Masks
from lmcompress.quantize import compressed_tensors
from lmcompress.quantize.formats import Bits
from lmcompress.quantize.model import rest
from lmcompress.quantize.rtn import Quantized, half
from lmcompress.unbundle import as_linears, bundled

BESIDE = (  # what a model folder holds besides its weights and its config
    "tokenizer*", "*.model", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json",
    "chat_template*", "generation_config.json", "LICENSE*", "NOTICE*",
)  # fmt: skip
MASKS = "masks.safetensors"


def plain(folder: Path, sha256: str) -> Path:
    """``folder``, or where its family stores tensors of the model in parts (experts, say), a copy without parts.

    The copy is made once, in the cache, for which the model is loaded whole. ``sha256``: of what the folder holds.
    Raises :class:`~lmcompress.errors.AssetError` as :func:`~lmcompress.loading.open_model` does.
    """
    loader = transformers.AutoModelForCausalLM
    with init_empty_weights():
        shell = loader.from_config(read_config(folder, loader, {}))
    parts = [one for one in get_model_conversion_mapping(shell) if isinstance(one, WeightConverter)]
    if not any(part.rename_source_key(stored)[1] for part in parts for stored in places(folder)):
        return folder

    def make(temporary: Path) -> None:
        model, room = open_model(folder, loader), temporary.with_name("blocks")
        keep_all(model, room)
        write(temporary, model, room, beside=folder)

    return once(cache_folder() / "converted" / f"{folder.name}-{sha256[:16]}-plain", make)


def outside(model: nn.Module) -> dict[str, Tensor]:
    """What a model stores besides its blocks, a tied matrix once."""
    inside = tuple(f"{name}." for name in blocks(model))
    return {name: value for name, value in rest(model, ()).items() if not name.startswith(inside)}


def write(
    folder: Path,
    model: PreTrainedModel,
    block_folder: Path,
    *,
    beside: Path | None = None,
    masks: Masks | None = None,
    formats: Mapping[str, Bits] | None = None,
    about: Mapping[str, object] | None = None,
) -> None:
    """Write the model folder; the finished blocks in ``block_folder`` are linked or copied.

    Parameters
    ----------
    folder: made here; must not exist.
    model: for its class and config, and what it has outside its blocks (in 16 bits beside quantized blocks).
    block_folder: one ``NNN.safetensors`` a block, as :class:`~lmcompress.blockfiles.BlockFiles` leaves them.
    beside: a model folder whose tokenizer and licence files are copied.
    masks: full Linear name -> bool [out, in], True = kept; written as bits.
    formats: of the quantized Linears, whose blocks are in the compressed-tensors format.
    about: what ``lmcompress.json`` says besides the class and the number of masks.
    """
    folder.mkdir(parents=True)
    others = {name: value.detach().cpu().contiguous() for name, value in outside(model).items()}
    if formats:
        others = {
            name: value.to(half(value.dtype)) if value.is_floating_point() else value
            for name, value in others.items()
        }
    files = sorted(block_folder.glob("[0-9][0-9][0-9].safetensors"))
    names = [f"model-{index + 1:05d}-of-{len(files) + 1:05d}.safetensors" for index in range(len(files) + 1)]
    save_file(others, folder / names[0], metadata={"format": "pt"})
    for source, name in zip(files, names[1:], strict=True):
        _link(source, folder / name)
    where: dict[str, str] = {}
    size = 0
    for name in names:
        size += (folder / name).stat().st_size
        with safe_open(folder / name, framework="pt") as file:
            where |= dict.fromkeys(file.keys(), name)
    write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": where})
    config = model.config.to_diff_dict() | {"model_type": model.config.model_type}
    config |= {"architectures": [type(model).__name__], "dtype": str(model.dtype).removeprefix("torch.")}
    if formats:
        config["quantization_config"] = compressed_tensors.config(formats, linears(model))
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n", encoding="utf-8")
    for path in (path for pattern in BESIDE for path in beside.glob(pattern)) if beside else ():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    if masks:
        mask.save(masks, folder / MASKS)
    mode = 0o666 & ~_umask()
    for path in folder.glob("*.safetensors"):  # the library makes them readable by their owner alone
        path.chmod(mode)
    kind = {} if formats else {"class": type(model).__name__}  # what load reads back
    write_json(folder / "lmcompress.json", {**kind, "masks": len(masks or {}), **(about or {})})


@torch.no_grad()
def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | Path,
    *,
    masks: Masks | None = None,
    quantized: dict[str, Quantized] | None = None,
    card: str | None = None,
    about: Mapping[str, object] | None = None,
) -> None:
    """Write a model in memory as such a folder, atomically; a folder that is there is refused.

    Parameters
    ----------
    model: as it is to be loaded; of the layers in ``quantized`` the codes are stored instead.
    tokenizer: saved beside it, or None.
    folder: must not exist.
    masks, about: see :func:`write`.
    quantized: Linears of the blocks, as :func:`~lmcompress.quantize.model.quantize_model` reports them.
    card: text of README.md.

    Raises :class:`~lmcompress.errors.ParameterError` for a folder that is there, a format that compressed-tensors
    cannot hold, and parameters that no config describes (a bias that was added), and
    :class:`~lmcompress.errors.NumericError` for masks that the weights break.
    """
    if Path(folder).exists():
        raise ParameterError("OUT", str(folder), "a folder that does not exist yet")
    mask.check(model, masks or {})
    with bundled(model):
        _save(model, tokenizer, folder, masks, quantized, card, about)


def _save(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Any,
    masks: Any,
    quantized: Any,
    card: Any,
    about: Any,
) -> None:
    with init_empty_weights():
        described = type(model)(model.config).state_dict().keys()
    if added := sorted(model.state_dict().keys() - described):
        raise ParameterError(
            "model", added[0], "parameters that the model's config describes: this one would be lost"
        )
    formats = {name: value.format for name, value in (quantized or {}).items()}
    for name, value in (quantized or {}).items():
        compressed_tensors.check(value.format, value.shape, name)
    with atomic_path(folder) as temporary:
        room = temporary.with_name("blocks")
        files = BlockFiles(room)
        if formats:
            files = compressed_tensors.block_files(room, formats, dict(quantized), forget=True)
        for index, (name, block) in enumerate(blocks(model).items()):
            files.keep(index, name, block, {})
        write(temporary, model, room, masks=masks, formats=formats, about=about)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        if card:
            (temporary / "README.md").write_text(card, encoding="utf-8")


def load(folder: str | Path, device: str | torch.device | None = None) -> Any:
    """``(model, tokenizer, masks)`` of a folder whose weights are not packed, the masks checked against the weights.

    folder: as :func:`write` or :func:`save` made it. (Packed ones are for transformers to load.)
    device: where the model goes; default: the first GPU, else the CPU.

    ``tokenizer`` is None where none was saved. Raises :class:`ParameterError` for any other folder, and
    :class:`~lmcompress.errors.AssetError` for one that is damaged.
    """
    folder = Path(folder)
    kind = read_json(folder / "lmcompress.json").get("class")
    loader = getattr(transformers, kind, None) if isinstance(kind, str) else None
    if not (isinstance(loader, type) and issubclass(loader, PreTrainedModel)):
        raise ParameterError("folder", str(folder), "a folder of unpacked weights that lmcompress wrote")
    model = as_linears(open_model(folder, loader))
    tokenizer = open_tokenizer(folder) if (folder / "tokenizer_config.json").is_file() else None
    masks = mask.load(folder / MASKS) if (folder / MASKS).is_file() else {}
    mask.check(model, masks)
    return model.to(device or default_device()), tokenizer, masks


def _umask() -> int:
    """The permissions that this process takes from new files."""
    found = os.umask(0)
    os.umask(found)
    return found


def _link(source: Path, target: Path) -> None:
    """A second name of the file where the disk knows such, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
