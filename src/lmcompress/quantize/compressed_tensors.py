"""The compressed-tensors format: what transformers and vLLM load a quantized model from.

A symmetric Linear ``NAME`` is ``pack-quantized``: ``NAME.weight_packed`` (int32 [out, ceil(in * bits / 32)], element i
of a row from bit ``i * bits`` on, lowest first), ``NAME.weight_scale`` [out, groups] and ``NAME.weight_shape`` (int64
[2]). An affine one is ``int-quantized``, a byte for each code: ``NAME.weight`` (int8 [out, in], the middle code is 0),
``NAME.weight_scale`` and ``NAME.weight_zero_point`` (int8 [out, groups]); transformers 5.24 with compressed-tensors
0.20 cannot load packed zero points. ``quantization_config`` in ``config.json`` names the Linears of each format; those
that it does not name are in 16 bits.

Source: the package compressed-tensors (Apache-2.0), ``compressors/pack_quantized`` and ``naive_quantized``. Checked
against it in the tests.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmcompress.blockfiles import BlockFiles, load_state, state_of
from lmcompress.errors import ParameterError
from lmcompress.quantize.formats import Bits
from lmcompress.quantize.rtn import Quantized, dequantize, half

WIDTHS = (2, 4, 8, 16)
PACKED, BYTES, MIXED = "pack-quantized", "int-quantized", "mixed-precision"  # as the package names them
_PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")


def check(format: Bits, shape: Sequence[int], layer: str) -> None:
    """Raise :class:`ParameterError` for a format of a weight [out, in] that compressed-tensors cannot hold."""
    if format.bits not in WIDTHS:
        raise ParameterError("bits", f"{format} for {layer}", f"a width among {WIDTHS} in this storage")
    if format.values:
        raise ParameterError("codebook", f"{format} for {layer}", "evenly spaced values in this storage")
    if format.group == "tensor":
        raise ParameterError("group", f"{format} for {layer}", "a scale a row or a group in this storage")
    if isinstance(format.group, int) and shape[1] % format.group:
        raise ParameterError(
            "group", f"{format} for {layer}", f"a group that divides its {shape[1]} inputs in this storage"
        )


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 [rows, columns] below 2^bits as int32 [rows, ceil(columns * bits / 32)]; ``bits`` 2, 4 or 8."""
    each = 8 // bits
    codes = functional.pad(codes, (0, -codes.shape[1] % (4 * each))).reshape(len(codes), -1, each)
    found = codes[..., 0].clone()
    for place in range(1, each):
        found |= codes[..., place] << (place * bits)
    return found.view(torch.int32)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """Codes uint8 [rows, columns], the inverse of :func:`pack`."""
    found = packed.contiguous().view(torch.uint8)
    parts = [(found >> (place * bits)) & (2**bits - 1) for place in range(8 // bits)]
    return torch.stack(parts, dim=-1).reshape(len(packed), -1)[:, :columns].contiguous()


def stored_bytes(format: Bits, shape: Sequence[int]) -> int:
    """Bytes of a weight [out, in] in this storage, where the codes of an affine format take a byte each."""
    return (format if format.symmetric else format.at(8)).bytes_for(shape)


def tensors(name: str, value: Quantized) -> dict[str, Tensor]:
    """What is stored of the quantized weight of the Linear ``name``, by name.

    The scales are in the half precision that the model's dtype has, so that one rounded to bf16 stays what it is.
    """
    if value.format.bits == 16:
        return {f"{name}.weight": value.codes}
    if value.zeros is not None:
        found = {
            "weight": _signed(value.codes, value.format),
            "weight_zero_point": _signed(value.zeros, value.format),
        }
    else:
        found = {
            "weight_packed": pack(value.codes, value.format.bits),
            "weight_shape": torch.tensor(value.shape),
        }
    assert value.scales is not None, "16 bits have no scales and are not packed"
    found["weight_scale"] = value.scales.to(half(value.dtype))
    return {f"{name}.{part}": tensor for part, tensor in found.items()}


def read(name: str, stored: Mapping[str, Tensor], format: Bits, dtype: torch.dtype) -> Quantized:
    """The inverse of :func:`tensors`; ``dtype`` is that of the weight."""
    if format.bits == 16:
        return Quantized(stored[f"{name}.weight"], None, None, format, dtype)
    zeros = None
    if format.symmetric:
        _, columns = stored[f"{name}.weight_shape"].tolist()
        codes = unpack(stored[f"{name}.weight_packed"], format.bits, columns)
    else:
        codes, zeros = (
            (stored[f"{name}.{part}"].short() + format.zero).to(torch.uint8)
            for part in ("weight", "weight_zero_point")
        )
    return Quantized(codes, stored[f"{name}.weight_scale"].to(torch.float16), zeros, format, dtype)


def _signed(codes: Tensor, format: Bits) -> Tensor:
    """Codes uint8 as int8, the middle one as 0."""
    return (codes.short() - format.zero).to(torch.int8)


def config(formats: Mapping[str, Bits], linears: Mapping[str, nn.Linear]) -> dict[str, Any]:
    """``quantization_config`` of a model with these ``linears`` (all of it, by full name) in these ``formats``."""
    groups: dict[Bits, list[str]] = {}
    for name, format in formats.items():
        if format.bits < 16:
            groups.setdefault(format, []).append(name)
    packed = {name for names in groups.values() for name in names}
    described = {
        f"group_{index}": {"targets": names, "weights": _arguments(format), "format": _kind(format)}
        for index, (format, names) in enumerate(groups.items())
    }
    kinds = {_kind(format) for format in groups}
    return {
        "quant_method": "compressed-tensors",
        "format": MIXED if len(kinds) > 1 else next(iter(kinds), PACKED),
        "quantization_status": "compressed",
        "config_groups": described,
        "ignore": [name for name in linears if name not in packed],
    }


def _kind(format: Bits) -> str:
    return PACKED if format.symmetric else BYTES


def _arguments(format: Bits) -> dict[str, Any]:
    by_group = isinstance(format.group, int)
    found = {
        "num_bits": format.bits,
        "type": "int",
        "symmetric": format.symmetric,
        "strategy": "group" if by_group else "channel",
        "dynamic": False,
    }
    return found | ({"group_size": format.group} if by_group else {})


def block_files(
    folder: str | Path, formats: Mapping[str, Bits], quantized: dict[str, Quantized], forget: bool
) -> BlockFiles:
    """Finished blocks in this format.

    Parameters
    ----------
    folder: where they are kept.
    formats: of all quantized layers by full name.
    quantized: the codes of the layers; those of a block must be there when it is kept, and are put there when it is
        read back.
    forget: drop the codes of a block that is in its file.
    """

    def inside(name: str) -> list[str]:
        return [layer for layer in formats if layer.startswith(f"{name}.")]

    def encode(name: str, block: nn.Module) -> dict[str, Tensor]:
        found = {
            key: value.to(half(value.dtype)) if value.is_floating_point() else value
            for key, value in state_of(name, block).items()
        }
        for layer in inside(name):
            del found[f"{layer}.weight"]
            found |= tensors(layer, quantized.pop(layer) if forget else quantized[layer])
        return found

    def decode(name: str, block: nn.Module, stored: dict[str, Tensor]) -> None:
        for layer in inside(name):
            weight: Any = block.get_submodule(layer.removeprefix(f"{name}.")).weight
            value = read(layer, stored, formats[layer], weight.dtype)
            stored[f"{layer}.weight"] = dequantize(value)
            for part in _PARTS:
                stored.pop(f"{layer}.{part}", None)
            if not forget:
                quantized[layer] = value
        load_state(name, block, stored)

    return BlockFiles(folder, encode, decode)
