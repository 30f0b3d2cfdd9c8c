"""Finished blocks on disk, so that a walk over a model can be stopped at any time and goes on where it was."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lmcompress.files import atomic_path, write_json
from lmcompress.loading import AGAIN, claim, naming, read_json
from lmcompress.models import blocks
from lmcompress.shards import is_streamed
from lmcompress.unbundle import joined, origins, split


class BlockFiles:
    """``NNN.safetensors`` (tensors of the block by full name) and ``NNN.json`` (what its visit returned).

    Parameters
    ----------
    folder: where the files are; made when the first is written.
    encode: ``encode(name, block) -> tensors by full name``; default: the block's state.
    decode: ``decode(name, block, tensors)``, the inverse, in place.
    """

    def __init__(
        self,
        folder: str | Path,
        encode: Callable[[str, nn.Module], dict[str, Tensor]] | None = None,
        decode: Callable[[str, nn.Module, dict[str, Tensor]], None] | None = None,
    ):
        self.folder, self._encode, self._decode = Path(folder), encode or state_of, decode or load_state

    def claim(self, model: nn.Module, hidden: list[Tensor], settings: object = None) -> None:
        """Note what the files belong to: the weights before any change, the inputs of the first block, the settings.

        Raises :class:`ParameterError` where there are files of something else. Blocks that are on disk are not read
        for this: whoever opened them names their content.
        """
        digest = hashlib.sha256(json.dumps(settings).encode())
        for name, block in blocks(model).items():
            for key, weight in {} if is_streamed(model) else block.state_dict(prefix=f"{name}.").items():
                sample = weight.flatten()[
                    :: max(weight.numel() // 64, 1)
                ]  # any pruning or training shows in it
                digest.update(key.encode() + sample.double().cpu().numpy().tobytes())
        for x in hidden:
            digest.update(x.float().cpu().numpy().tobytes())
        valid = "a new folder: this one belongs to another model, other inputs or other settings"
        claim(self.folder / "stream.json", {"inputs": digest.hexdigest()}, "checkpoint", valid)

    def restore(self, index: int, name: str, block: nn.Module) -> dict[str, Any] | None:
        """What the visit of a finished block returned, its weights in place again; None for any other block."""
        path = self.folder / f"{index:03d}.json"
        if not path.is_file():  # written last, so its presence means that the block is whole
            return None
        tensors = path.with_suffix(".safetensors")
        with naming(tensors, AGAIN):
            self._decode(name, block, load_file(tensors))
        return read_json(path)

    def keep(self, index: int, name: str, block: nn.Module, result: dict[str, Any]) -> None:
        """Write a finished block."""
        tensors = {key: value.detach().cpu().contiguous() for key, value in self._encode(name, block).items()}
        with atomic_path(self.folder / f"{index:03d}.safetensors") as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        write_json(self.folder / f"{index:03d}.json", result)


def keep_all(model: nn.Module, folder: str | Path) -> None:
    """Write all blocks of a model that is in memory, as they are."""
    files = BlockFiles(folder)
    for index, (name, block) in enumerate(blocks(model).items()):
        files.keep(index, name, block, {})


def state_of(name: str, block: nn.Module) -> dict[str, Tensor]:
    """The state of a block by full name, as the model itself keeps it (bundled experts, Conv1D)."""
    return joined(block.state_dict(prefix=f"{name}."), origins(block, f"{name}."))


def load_state(name: str, block: nn.Module, tensors: dict[str, Tensor]) -> None:
    """The inverse of :func:`state_of`."""
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items()}
    block.load_state_dict(split(own, origins(block)))
