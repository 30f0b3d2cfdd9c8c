"""Masks as bits: eight weights a byte, in memory as on disk. Masks of OPT-30B take 3.5 GiB instead of 28."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pack(mask: Tensor) -> Tensor:
    """A bool mask [out, in] as bits: uint8 [out, ceil(in / 8)], the first input in the lowest bit."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.numpy(), axis=1, bitorder="little"))
    padded = torch.nn.functional.pad(mask, (0, -mask.shape[1] % 8)).reshape(len(mask), -1, 8)
    packed = torch.zeros(padded.shape[:2], dtype=torch.uint8, device=mask.device)
    for place in range(8):
        packed |= padded[..., place].to(torch.uint8) << place
    return packed


def unpacked(mask: Tensor | None, columns: int) -> Any:
    """The bool mask [out, columns] that :func:`pack` was given; a bool mask or None as it is."""
    if mask is None or mask.dtype == torch.bool:
        return mask
    if mask.device.type == "cpu":
        whole = np.unpackbits(mask.numpy(), axis=1, count=columns, bitorder="little")
        return torch.from_numpy(whole.view(bool))
    places = torch.arange(8, dtype=torch.uint8, device=mask.device)
    bits = (mask.unsqueeze(-1) >> places) & 1
    return bits.reshape(len(mask), -1)[:, :columns].bool()


class Packed(MutableMapping[str, Tensor]):
    """Masks by name (bool [out, in], True = kept), held as bits where they were put; each access makes a new one."""

    def __init__(self, masks: Mapping[str, Tensor] | None = None):
        self._held: dict[str, tuple[Tensor, int]] = {}
        self.update(masks or {})

    def __getitem__(self, name: str) -> Tensor:
        return unpacked(*self._held[name])

    def __setitem__(self, name: str, mask: Tensor) -> None:
        self._held[name] = pack(mask), mask.shape[1]

    def __delitem__(self, name: str) -> None:
        del self._held[name]

    def __contains__(self, name: object) -> bool:
        return name in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def bits(self, name: str) -> Tensor:
        """The mask as :func:`pack` gives it: uint8 [out, ceil(in / 8)], not a copy."""
        return self._held[name][0]

    def in_order(self, names: Iterable[str]) -> "Packed":
        """The same masks, those of ``names`` in their order."""
        found = Packed()
        found._held = {name: self._held[name] for name in names}
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._held)})"
