"""Masks as explicit values: bool tensors of a weight's shape, True where the weight is kept.

A mask is never inferred from ``W == 0``: a dense weight may be zero, and a kept one may become zero.
A model's masks are a dict from the full name of a Linear to its mask.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lmcompress.errors import NumericError, ParameterError
from lmcompress.files import atomic_path
from lmcompress.prune import ranking, selection
from lmcompress.prune.pattern import NofM, Pattern

Masks = Mapping[str, Tensor]
SCOPES = ("tensor", "row")
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of a number


def mask(scores: Tensor, pattern: Pattern, per: str = "tensor") -> Tensor:
    """Bool mask that drops the weights of least score: [out, in] scores -> [out, in], True = kept.

    N:M drops exactly n of every m consecutive inputs of each row, and ``per`` does not matter. Unstructured
    with ``per="row"`` drops exactly ``int(in * sparsity)`` of each row (Wanda), with ``per="tensor"`` drops
    exactly ``int(numel * sparsity) + 1`` of the matrix, as the official magnitude and SparseGPT codes do by
    dropping everything up to *and with* the sorted score at that index (nothing at sparsity 0). Among equal
    scores the first in row-major order is dropped, so that a constant matrix keeps its share; the official
    threshold drops all of them.

    Raises :class:`ParameterError` when ``m`` does not divide the inputs or ``per`` is unknown.
    """
    if per not in SCOPES:
        raise ParameterError("per", per, SCOPES)
    scores = scores.detach()
    if isinstance(pattern, NofM):
        require_divisible(scores.shape[-1], pattern)
        if ranking.usable(scores, pattern.m):
            return ranking.keep(scores, pattern.n, pattern.m)
    if not isinstance(pattern, NofM) and per == "tensor" and _many(scores):
        return selection.keep(scores.contiguous(), threshold_count(scores.numel(), pattern))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if isinstance(pattern, NofM):
        groups = scores.reshape(-1, pattern.m)
        return _keep_of_few(groups, pattern.n).reshape(scores.shape)
    if per == "row":
        return _keep(scores, int(scores.shape[-1] * pattern.sparsity))
    return _keep(scores.reshape(1, -1), threshold_count(scores.numel(), pattern)).reshape(scores.shape)


def _many(scores: Tensor) -> bool:
    return scores.is_cuda and scores.numel() >= selection.LARGE and scores.dtype != torch.float64


def threshold_count(numel: int, pattern: Pattern) -> int:
    """How many of ``numel`` weights go up to and with the one at sorted index ``int(numel * sparsity)``."""
    return int(numel * pattern.sparsity) + 1 if pattern.sparsity else 0


def require_divisible(inputs: int, pattern: Pattern, layer: str = "weight") -> None:
    """Raise :class:`ParameterError` when an N:M pattern does not fit a layer of ``inputs`` inputs."""
    if isinstance(pattern, NofM) and inputs % pattern.m:
        raise ParameterError("pattern", str(pattern), f"an m that divides the {inputs} inputs of {layer}")


def _keep(scores: Tensor, count: int) -> Tensor:
    """Per row of ``scores``, True for all but the ``count`` least."""
    if not count:
        return torch.ones_like(scores, dtype=torch.bool)
    if scores.device.type == "cpu":  # a partition is several times as fast as torch's kthvalue there
        least = np.partition(scores.numpy(), count - 1, axis=-1)[..., count - 1 : count]
        threshold = torch.from_numpy(least.copy())
    else:
        threshold = scores.kthvalue(count, dim=-1, keepdim=True).values
    dropped = scores <= threshold
    if int(dropped.sum()) == count * len(scores):  # no ties
        return ~dropped
    below, ties = scores < threshold, scores == threshold
    first = ties.cumsum(-1, dtype=torch.int32) <= count - below.sum(-1, keepdim=True)
    return ~(below | ties & first)


def _keep_of_few(groups: Tensor, count: int) -> Tensor:
    """The same for very many short rows: a weight's rank is how many are dropped before it."""
    places = groups.T.contiguous()  # [m, groups]: comparisons run along memory, m - 1 of them in all
    rank = torch.zeros(places.shape, dtype=torch.int16, device=places.device)
    for place in range(len(places) - 1):
        later_is_less = places[place] > places[place + 1 :]
        rank[place] += later_is_less.sum(0, dtype=torch.int16)
        rank[place + 1 :] += ~later_is_less
    return (rank >= count).T.contiguous()


def apply(model: nn.Module, masks: Masks) -> None:
    """Zero the dropped weights in place. Raises :class:`ParameterError` for a mask that fits no layer."""
    with torch.no_grad():
        for name, kept in masks.items():
            weight = _weight(model, name, kept)
            drop(weight, kept.to(weight.device))


def drop(weight: Tensor, kept: Tensor) -> None:
    """Zero the weights that ``kept`` (bool, of the same shape) drops, in place.

    As a product of integers, where any number times 0 is the bits of 0: on a CPU ten times as fast as ``masked_fill_``.
    """
    weight.detach().view(INTEGERS[weight.element_size()]).mul_(kept)


def check(model: nn.Module, masks: Masks) -> None:
    """Raise :class:`NumericError` naming the first layer where a dropped weight is not zero (or is NaN).

    Raises :class:`ParameterError` for a mask that fits no layer.
    """
    for name, kept in masks.items():
        weight = _weight(model, name, kept).detach()
        alive = (weight != 0) & ~kept.to(weight.device)
        if alive.any():
            raise NumericError(name, f"{int(alive.sum())} weights that the mask drops are not zero")


def sparsity(masks: Masks) -> float:
    """Share of dropped weights among all weights that the masks cover; 0 without any."""
    total = sum(kept.numel() for kept in masks.values())
    return 1 - sum(int(kept.count_nonzero()) for kept in masks.values()) / total if total else 0.0


def digest(masks: Masks) -> str:
    """sha256 of masks in memory; those on disk are not read for it: whoever opened them names their content."""
    found = hashlib.sha256()
    for name, kept in {}.items() if isinstance(masks, Saved) else masks.items():
        found.update(name.encode() + kept.cpu().numpy().tobytes())
    return found.hexdigest()


def save(masks: Masks, path: str | Path) -> None:
    """Write the masks as one safetensors file, one bit a weight (row-major, highest bit first)."""
    packed = {name: torch.from_numpy(np.packbits(kept.cpu().numpy())) for name, kept in masks.items()}
    shapes = json.dumps({name: list(kept.shape) for name, kept in masks.items()})
    with atomic_path(path) as temporary:
        save_file(packed, temporary, metadata={"mask_shapes": shapes})


def load(path: str | Path) -> Masks:
    """Masks as :func:`save` wrote them. Raises :class:`ParameterError` for any other file."""
    return _read(path, _shapes(path))


def _shapes(path: str | Path) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="np") as file:
            shapes = json.loads((file.metadata() or {})["mask_shapes"])
            for name, shape in shapes.items():
                there = file.get_slice(name)
                if there.get_dtype() != "U8" or there.get_shape() != [-(-math.prod(shape) // 8)]:
                    raise ValueError(f"{name} is not the bits of a mask {shape}")
        return shapes
    except (
        OSError,
        SafetensorError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        valid = f"a whole file of masks written by save ({type(error).__name__}: {error})"
        raise ParameterError("path", str(path), valid) from error


def _read(path: str | Path, names: Iterable[str]) -> Masks:
    shapes, found = _shapes(path), {}
    with safe_open(path, framework="np") as file:
        for name in names:
            bits = np.unpackbits(file.get_tensor(name), count=int(np.prod(shapes[name])))
            found[name] = torch.from_numpy(bits.reshape(shapes[name]).view(bool))
    return found


class Saved(Mapping[str, Tensor]):
    """The masks in files that :func:`save` wrote, each read when it is asked for: bits on disk, not bytes in memory.

    Raises :class:`ParameterError` as :func:`load` does.
    """

    def __init__(self, files: Iterable[str | Path]):
        self._files = {name: path for path in files for name in _shapes(path)}

    def __getitem__(self, name: str) -> Tensor:
        return _read(self._files[name], [name])[name]

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def _weight(model: nn.Module, name: str, kept: Tensor) -> Tensor:
    try:
        weight: Any = model.get_submodule(name).weight
    except AttributeError as error:
        raise ParameterError("masks", name, "the full name of a Linear of the model") from error
    if kept.dtype != torch.bool or kept.shape != weight.shape:
        found = f"{name}: {kept.dtype} {tuple(kept.shape)}"
        raise ParameterError("masks", found, f"a bool mask of shape {tuple(weight.shape)}")
    return weight
