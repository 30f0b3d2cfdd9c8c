"""A model whose blocks stay on disk: read from safetensors shards one block at a time, as the stream asks for them.

Embeddings, head and final norm are in memory; the blocks are on the meta device between their turns. While one block
is worked on, a thread reads the next. So a model of any size needs the memory of two of its blocks.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel

from lmcompress.errors import AssetError
from lmcompress.loading import check_finite, header, places, read_config, some
from lmcompress.models import TASKS, blocks, default_device, linears
from lmcompress.unbundle import as_linears, origins, split


class Shards(Mapping[str, Tensor]):
    """Tensors by name in safetensors files, each read anew when it is asked for.

    Parameters
    ----------
    files: the safetensors files; of a name that is in several, the last counts.

    Raises :class:`AssetError` for a file that is not whole, and on reading for weights that are not finite.
    """

    def __init__(self, files: Iterable[Path]):
        self._places = {name: place for path in files for name, place in header(path).items()}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._places[name][1]

    def __getitem__(self, name: str) -> Tensor:
        return self.read([name])[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def at(self, name: str, place: int) -> Tensor:
        """One row of a tensor, such as one expert of a bundle; the others are not read."""
        path = self._places[name][0]
        with safe_open(path, framework="pt") as file:
            value = file.get_slice(name)[place]
        check_finite([(name, value)], path)
        return value.clone()

    def read(self, names: Iterable[str], pin: bool = False) -> dict[str, Tensor]:
        """Copies of several tensors (views would keep their whole files mapped), in pinned memory if asked."""
        found: dict[str, Tensor] = {}
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self._places[name][0], []).append(name)
        for path, wanted in by_file.items():
            with safe_open(path, framework="pt") as file:
                for name in wanted:
                    value = file.get_tensor(name)
                    check_finite([(name, value)], path)
                    found[name] = value.pin_memory() if pin else value.clone()
        return found


class LayerWeights(Mapping[str, Tensor]):
    """The weights [out, in] in ``shards`` by the full name of their layer in ``model``, read when asked for."""

    def __init__(self, shards: Shards, model: nn.Module):
        made, inside = origins(model), linears(model)
        self._shards = shards
        names = {name: made.get(f"{name}.weight") for name in inside}
        self._places = {
            name: one for name, one in names.items() if (one.name if one else f"{name}.weight") in shards
        }

    def __getitem__(self, name: str) -> Tensor:
        if (one := self._places[name]) is None:
            return self._shards[f"{name}.weight"]
        value = self._shards[one.name] if one.place is None else self._shards.at(one.name, one.place)
        return value.T.contiguous() if one.transposed else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class BlockWeights:
    """Brings the blocks of one model from their shards and sends them back to the meta device."""

    def __init__(self, model: nn.Module, shards: Shards, names: dict[str, str], dtype: torch.dtype):
        self._blocks = list(blocks(model).items())
        self._shards, self._names, self._dtype = shards, names, dtype
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="blocks")
        self._ahead: tuple[int, Future[Any]] | None = None

    @contextmanager
    def placed(self, index: int, device: torch.device) -> Iterator[None]:
        """Block ``index`` on ``device`` inside, with its weights; on the meta device after."""
        module = self._blocks[index][1]
        self.bring(index, device)
        try:
            yield
        finally:
            empty = {key: value.detach().to("meta") for key, value in module.named_parameters()}
            module.load_state_dict(empty, strict=False, assign=True)

    def bring(self, index: int, device: torch.device) -> None:
        """Block ``index`` to ``device``, with its weights; a thread begins to read the next one."""
        module = self._blocks[index][1]
        tensors = self._take(index, device)
        if index + 1 < len(self._blocks):
            self._ahead = (index + 1, self._thread.submit(self._read, index + 1, device.type == "cuda"))
        for key, value in module.named_parameters():
            if key not in tensors:  # added since the model was opened, such as a bias
                tensors[key] = torch.zeros(value.shape, dtype=value.dtype)
        placed = {key: self._to(value, device) for key, value in tensors.items()}
        module.load_state_dict(placed, strict=False, assign=True)
        module.to(device)  # buffers, which are not in the files

    def _take(self, index: int, device: torch.device) -> dict[str, Tensor]:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == index:
            return ahead[1].result()
        return self._read(index, device.type == "cuda")

    def _read(self, index: int, pin: bool) -> dict[str, Tensor]:
        """Tensors of a block by their names within it."""
        start = f"{self._blocks[index][0]}."
        wanted = {self._names[name]: name for name in self._names if name.startswith(start)}
        found = self._shards.read(wanted, pin)
        own = {name.removeprefix(start): found[stored] for stored, name in wanted.items()}
        return split(own, origins(self._blocks[index][1]))

    def _to(self, value: Tensor, device: torch.device) -> Tensor:
        dtype = self._dtype if value.is_floating_point() else value.dtype
        return value.to(device, non_blocking=True).to(dtype)


def open_streamed(
    folder: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    task: str = "causal",
    files: Iterable[Path] = (),
    **options: object,
) -> transformers.PreTrainedModel:
    """The model of a folder with its blocks left on disk, for :func:`~lmcompress.stream.stream`.

    Bundled experts and Conv1D are Linears in it (:mod:`lmcompress.unbundle`); on disk they stay what they are.

    Parameters
    ----------
    folder: config.json and the weights as safetensors.
    dtype: of the weights in memory; default: that of the config.
    device: of what stays in memory; default: the first GPU, else the CPU.
    task: a name in :data:`lmcompress.models.TASKS`.
    files: more safetensors files; what they hold takes the place of what the folder's own hold.
    options: values of the config that take the place of its own.

    Raises :class:`AssetError` for a folder that is damaged, lacks a tensor of the model or has one too many, or stores
    several of the model's tensors as one or in parts, as some families do: those have to be loaded whole.
    """
    from accelerate import init_empty_weights

    folder = Path(folder)
    config: Any = read_config(folder, TASKS[task], options)
    dtype = dtype or config.dtype or torch.float32
    own = dict.fromkeys(place[0] for place in places(folder).values())
    shards = Shards([*own, *files])
    with init_empty_weights(include_buffers=False):  # buffers that a model computes itself are in no file
        model = TASKS[task].from_config(config, dtype=dtype).eval()
    model.tie_weights()
    inside = tuple(f"{name}." for name in blocks(model))
    names = _stored_names(model, shards, folder)
    resident = {stored: name for name, stored in names.items() if not name.startswith(inside)}
    values = {
        resident[stored]: value.to(dtype) if value.is_floating_point() else value
        for stored, value in shards.read(resident).items()
    }
    model.load_state_dict(values, strict=False, assign=True)
    model.tie_weights()
    place = torch.device(device or default_device())
    for name, module in model.named_modules():
        if not f"{name}.".startswith(inside):
            for key, value in module.named_parameters(recurse=False):
                module._parameters[key].data = value.data.to(place)
            for key, value in module.named_buffers(recurse=False):
                module._buffers[key] = value.to(place)
    as_linears(model)
    model.block_weights = BlockWeights(model, shards, names, dtype)
    return model


def bring_whole(model: Any) -> None:
    """Read all blocks of a streamed model into memory: from now on it is a model as any other."""
    device = next(value.device for value in model.parameters() if not value.is_meta)
    for index in range(len(blocks(model))):
        model.block_weights.bring(index, device)
    del model.block_weights


def _stored_names(model: PreTrainedModel, shards: Shards, folder: Path) -> dict[str, str]:
    """Name in the model -> name in the files: other by transformers' own renamings or the base model's prefix."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    renamings = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]
    there = {}
    for stored in shards:
        name = stored
        for renaming in renamings:
            name = renaming.rename_source_key(name)[0]
        there[name] = stored
    state = model.state_dict()
    there |= {stored: stored for stored in shards if stored in state}  # the model's own names come first
    prefix = f"{getattr(model, 'base_model_prefix', '')}."

    def variants(name: str) -> tuple[str, ...]:
        return name, name.removeprefix(prefix), prefix + name

    found, wrong = {}, []
    for name, value in model.state_dict().items():
        for stored in [there[one] for one in variants(name) if one in there][:1]:
            found[name] = stored
            if shards.shape(stored) != tuple(value.shape):
                wrong.append(
                    f"{stored} is {list(shards.shape(stored))}, not {list(value.shape)} as by config.json"
                )
    wrong += [
        f"no tensor {name}"
        for name, _ in model.named_parameters()  # of a tied matrix the first name alone
        if name not in found
    ]
    places_for = {
        one for name in (*model.state_dict(), *dict(model.named_buffers())) for one in variants(name)
    }
    wrong += [
        f"no place in the model for {stored}" for name, stored in there.items() if name not in places_for
    ]
    if wrong:
        raise AssetError(f"{folder}: {some(wrong)}")
    return found


def is_streamed(model: nn.Module) -> bool:
    """Whether the blocks of ``model`` are on disk (:func:`open_streamed`)."""
    return hasattr(model, "block_weights")
