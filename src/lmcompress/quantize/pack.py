"""A quantized model on disk: packed tensors in safetensors and a readable map of what each layer is stored
as.

``weights.safetensors`` For a quantized module: ``NAME.codes`` (uint8, packed without gaps, row by row,
highest bit first; at 16 bits the half-precision values themselves), ``NAME.scales`` (fp16), ``NAME.zeros``
(packed like codes, affine only) and, in the sparse layout, ``NAME.mask`` (one bit a weight; codes are then
those of the kept weights only). Everything else under its own name in half precision. A tied head is stored
once, as the embedding. ``bits.json`` Format, shape, layout and bytes of every quantized module, bytes of the
rest, class and dtype of the model.

``config.json`` and the tokenizer's files lie beside them and are not counted in any size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lmcompress.errors import AssetError, ParameterError
from lmcompress.files import atomic_path, write_json
from lmcompress.loading import header, naming, open_tokenizer, read_config, read_json, some
from lmcompress.models import default_device
from lmcompress.prune import mask
from lmcompress.prune.mask import Masks
from lmcompress.quantize import rtn
from lmcompress.quantize.formats import Bits, layout, packed_bytes, parse, stored_bytes
from lmcompress.quantize.model import rest
from lmcompress.quantize.rtn import Quantized, dequantize, to_half

__all__ = ["compression", "fp16_bytes", "load", "pack", "save", "size", "stored_bytes", "unpack"]

WEIGHTS, MAP = "weights.safetensors", "bits.json"
CHUNK = 2**20  # codes that are spread into single bits at a time; a multiple of 8


@dataclass(frozen=True)
class Compression:
    """Bytes on disk (weights and map), and those of the same numbers in 2 and in 4 bytes each."""

    bytes: int
    fp16: int
    fp32: int

    @property
    def over_fp16(self) -> float:
        """How many times smaller than FP16. The paper counts from FP32, which doubles the figure."""
        return self.fp16 / self.bytes

    @property
    def over_fp32(self) -> float:
        return self.fp32 / self.bytes


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (uint8, any shape, below 2^bits) as uint8 [ceil(count * bits / 8)], highest bit first."""
    codes, room = codes.reshape(-1), np.empty(packed_bytes(codes.size, bits), dtype=np.uint8)
    for start in range(0, codes.size, CHUNK):
        part = np.packbits(np.unpackbits(codes[start : start + CHUNK, None], axis=1)[:, 8 - bits :])
        room[start * bits // 8 :][: part.size] = part
    return room


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """``count`` codes (uint8 [count]) as :func:`pack` packed them."""
    codes = np.zeros(count, dtype=np.uint8)
    for start in range(0, count, CHUNK):
        some = min(CHUNK, count - start)
        part = packed[start * bits // 8 :][: packed_bytes(some, bits)]
        single = np.zeros((some, 8), dtype=np.uint8)
        single[:, 8 - bits :] = np.unpackbits(part, count=some * bits).reshape(some, bits)
        codes[start : start + some] = np.packbits(single)
    return codes


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: str | Path,
    quantized: dict[str, Quantized],
    masks: Masks | None = None,
) -> Compression:
    """Write the quantized ``model`` to ``folder`` (replaced if it is there), atomically, and say its size.

    ``quantized``: as :func:`~lmcompress.quantize.model.quantize_model` reports it. A pruned layer is stored
    sparse where that is smaller, else dense and without its mask
    (:func:`~lmcompress.quantize.formats.layout`); one with a mask but without a format is stored in 16 bits.

    Raises :class:`ParameterError` before anything is written unless the model holds exactly what would be
    stored: the values of the codes, everything else in half precision
    (:func:`~lmcompress.quantize.model.round_rest` sees to it after a retraining), and one dtype throughout.
    :class:`~lmcompress.errors.NumericError` for masks that the weights break. Buffers that transformers
    computes from the config are not stored: ``model.to(torch.bfloat16)`` rounds a Llama's rotary frequencies,
    and the saved model would then differ; load a model in its dtype instead.
    """
    masks = masks or {}
    mask.check(model, masks)
    weights: dict[str, Any] = {name: model.get_submodule(name).weight for name in {**quantized, **masks}}
    added = {
        name: rtn.quantize(weights[name], Bits(16), layer=name) for name in masks if name not in quantized
    }
    quantized = {**quantized, **added}
    others = rest(model, quantized)
    _require_exact(model, quantized, others)

    tensors: dict[str, Tensor] = {}
    layers: dict[str, Any] = {}
    for name, value in quantized.items():
        parts, layers[name] = _pack_layer(value, masks.get(name))
        tensors |= {f"{name}.{part}": tensor for part, tensor in parts.items()}
    for name, other in others.items():
        stored = to_half(other, name) if other.is_floating_point() else other.detach()
        tensors[name] = stored.cpu().contiguous()
    about = {
        "class": type(model).__name__,
        "dtype": str(model.dtype).removeprefix("torch."),
        "layers": layers,
        "numbers": sum(value.codes.numel() for value in quantized.values())
        + sum(v.numel() for v in others.values()),
        "rest_bytes": sum(tensors[name].nbytes for name in others),
    }
    with atomic_path(folder, replace=True) as temporary:
        model.config.save_pretrained(temporary)
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        save_file(tensors, temporary / WEIGHTS)
        write_json(temporary / MAP, about)
    return compression(folder)


@torch.no_grad()
def load(
    folder: str | Path, device: str | torch.device | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None, Masks]:
    """``(model, tokenizer, masks)`` that :func:`save` wrote, the model bit for bit the one that was saved.

    The weights are read back into the dtype that the model had: this is storage, not a kernel. ``tokenizer``
    is None where none was saved; ``masks`` are those of the layers in sparse layout. Raises
    :class:`ParameterError` for any other folder, :class:`~lmcompress.errors.AssetError` for one that lacks tensors.
    """
    folder = Path(folder)
    about, file = _map(folder), folder / WEIGHTS
    header(file)  # names a file that is not whole
    with naming(folder / MAP):
        model, masks = _filled(folder, about, load_file(file))
    if (folder / "generation_config.json").is_file():
        with naming(folder / "generation_config.json"):
            model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    tokenizer = open_tokenizer(folder) if has_tokenizer else None
    return model.to(device or default_device()).eval(), tokenizer, masks


def _filled(folder: Path, about: dict[str, Any], tensors: dict[str, Tensor]) -> tuple[Any, Masks]:
    """The model that the map ``about`` and the ``tensors`` of a folder are of, and its masks."""
    kind, file = getattr(transformers, about["class"]), folder / WEIGHTS
    if not (isinstance(kind, type) and issubclass(kind, PreTrainedModel)):
        raise AssetError(f"{folder / MAP}: {about['class']} is no model of transformers")
    config = read_config(folder, kind, {})
    dtype = getattr(torch, about["dtype"])
    with torch.random.fork_rng(
        devices=[]
    ):  # a new model draws random weights: leave the caller's generator alone
        model = kind._from_config(config, dtype=dtype)
    masks: dict[str, Tensor] = {}
    for name, layer in about["layers"].items():
        parts = {part: tensors.pop(f"{name}.{part}", None) for part in ("codes", "scales", "zeros", "mask")}
        if sum(part.nbytes for part in parts.values() if part is not None) != layer["bytes"]:
            raise AssetError(f"{file}: the tensors of {name} are not the {layer['bytes']} bytes of {MAP}")
        value, kept = _unpack_layer(parts, layer, dtype)
        model.get_submodule(name).weight.copy_(dequantize(value))
        if kept is not None:
            masks[name] = kept
    known = rest(model, about["layers"])
    if missing := known.keys() - tensors.keys():
        raise AssetError(f"{file}: missing tensors: {some(missing)}")
    for name, tensor in tensors.items():
        if name not in known:  # a bias that quantization or retraining gave to a Linear that had none
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, nn.Parameter(tensor.to(dtype)))
        elif known[name].shape == tensor.shape:
            known[name].copy_(tensor)
        else:
            raise AssetError(f"{file}: {name} is {list(tensor.shape)}, not {list(known[name].shape)}")
    return model, masks


def size(folder: str | Path) -> int:
    """Bytes on disk of the weights with their header and of the map; without config and tokenizer."""
    _map(Path(folder))
    return sum((Path(folder) / name).stat().st_size for name in (WEIGHTS, MAP))


def fp16_bytes(model: nn.Module) -> int:
    """Two bytes for every number that the model stores, a tied matrix counted once."""
    return 2 * sum(value.numel() for value in rest(model, ()).values())


def compression(folder: str | Path) -> Compression:
    """Measured size of a saved model beside FP16 and FP32 (biases that were added are counted there too)."""
    with naming(Path(folder) / MAP):
        numbers = int(_map(Path(folder))["numbers"])
    return Compression(size(folder), 2 * numbers, 4 * numbers)


def _map(folder: Path) -> dict[str, Any]:
    if not (folder / MAP).is_file():
        raise ParameterError("folder", str(folder), "a folder written by lmcompress.quantize.pack.save")
    return read_json(folder / MAP)


def _require_exact(
    model: PreTrainedModel, quantized: dict[str, Quantized], others: dict[str, Tensor]
) -> None:
    dtypes = {str(value.dtype) for value in model.parameters()}
    if len(dtypes) > 1:
        raise ParameterError("model", sorted(dtypes), "parameters of one dtype")
    for name, value in quantized.items():
        weight: Any = model.get_submodule(name).weight
        if not torch.equal(weight, dequantize(value).to(weight.device)):
            raise ParameterError("quantized", name, "codes that read as the weight that the model now has")
    for name, other in others.items():
        if other.is_floating_point() and not torch.equal(to_half(other, name).to(other.dtype), other):
            raise ParameterError("model", name, "values of half precision: call round_rest(model, quantized)")


def _pack_layer(value: Quantized, kept: Tensor | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of one layer by part, and its entry in the map."""
    format, codes = value.format, value.codes.cpu()
    how, expected = layout(value.shape, format, None if kept is None else int(kept.sum()))
    parts = {}
    if kept is not None and how == "sparse":
        parts["mask"] = torch.from_numpy(np.packbits(kept.cpu().numpy()))
        codes = codes[kept.cpu()]
    parts["codes"] = (
        codes.contiguous() if format.bits == 16 else torch.from_numpy(pack(codes.numpy(), format.bits))
    )
    if value.scales is not None:
        parts["scales"] = value.scales.cpu().contiguous()
    if value.zeros is not None:
        parts["zeros"] = torch.from_numpy(pack(value.zeros.cpu().numpy(), format.bits))
    found = sum(part.nbytes for part in parts.values())
    assert found == expected, "formats.layout counts other bytes than are written"
    return parts, {"format": str(format), "shape": list(value.shape), "layout": how, "bytes": found}


def _unpack_layer(
    parts: dict[str, Any], layer: dict[str, Any], dtype: torch.dtype
) -> tuple[Quantized, Tensor | None]:
    """The inverse: codes of one layer and, in the sparse layout, its mask."""
    format, shape = parse(layer["format"]), tuple(layer["shape"])
    kept, zeros, count = None, None, shape[0] * shape[1]
    if parts["mask"] is not None:
        bits = np.unpackbits(parts["mask"].numpy(), count=count)
        kept = torch.from_numpy(bits.astype(bool)).reshape(shape)
        count = int(kept.sum())
    codes = parts["codes"]
    if format.bits < 16:
        codes = torch.from_numpy(unpack(codes.numpy(), format.bits, count))
    if parts["zeros"] is not None:
        found = unpack(parts["zeros"].numpy(), format.bits, parts["scales"].numel())
        zeros = torch.from_numpy(found).reshape(parts["scales"].shape)
    if kept is not None:
        codes = _fill(codes, kept, format, zeros)
    return Quantized(codes.reshape(shape), parts["scales"], zeros, format, dtype), kept


def _fill(codes: Tensor, kept: Tensor, format: Bits, zeros: Tensor | None) -> Tensor:
    """Codes [out, in] from those of the kept weights; a dropped weight gets the code that reads zero."""
    if format.bits == 16:
        whole = torch.zeros(kept.shape, dtype=codes.dtype)
    elif zeros is None:
        whole = torch.full(kept.shape, format.zero, dtype=torch.uint8)
    else:
        whole = rtn.spread(zeros, format, kept.shape).expand(kept.shape).clone()
    whole[kept] = codes
    return whole
