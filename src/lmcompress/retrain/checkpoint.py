"""A training on disk: parameters, optimizer, random state and report, so that a killed run continues
identically.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lmcompress.errors import ParameterError
from lmcompress.files import atomic_path
from lmcompress.loading import AGAIN, naming
from lmcompress.retrain.optimizer import MaskedAdamW

if TYPE_CHECKING:
    from lmcompress.retrain.train import TrainReport

SAMPLE = 64  # leading values of a parameter that stand for it in the fingerprint


def fingerprint(
    model: nn.Module, trained: dict[str, nn.Parameter], data: Tensor | list[Any], settings: list[Any]
) -> str:
    """Hash of settings, data, names of what is trained and the start of every parameter of the model."""
    digest = hashlib.sha256(repr((settings, list(trained))).encode())
    for batch in [data] if isinstance(data, Tensor) else [value for item in data for value in item.values()]:
        digest.update(batch.cpu().contiguous().numpy().tobytes())
    for name, value in model.named_parameters():
        digest.update(name.encode())
        digest.update(value.detach().flatten()[:SAMPLE].double().cpu().numpy().tobytes())
    return digest.hexdigest()


class Checkpoint:
    """The file ``train.pt`` in a folder that belongs to one run; replaced atomically at every save."""

    def __init__(self, folder: str | Path, run: str):
        self.path, self.run = Path(folder) / "train.pt", run

    def save(self, optimizer: MaskedAdamW, report: "TrainReport") -> None:
        """Write the state after the last finished step."""
        device = next(iter(optimizer.parameters.values())).device
        content = {
            "run": self.run,
            "report": asdict(report),
            "optimizer": optimizer.state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        }
        with atomic_path(self.path) as temporary:
            torch.save(content, temporary)

    def load(self, optimizer: MaskedAdamW, report: "TrainReport") -> None:
        """Put a saved state back, if there is one. Raises :class:`ParameterError` for a file of another run, and
        :class:`~lmcompress.errors.AssetError` for a damaged one.
        """
        if not self.path.is_file():
            return
        device = next(iter(optimizer.parameters.values())).device
        with naming(self.path, AGAIN):
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            if content["run"] != self.run:
                valid = (
                    "a new folder: this one holds a training of another model, other data or other settings"
                )
                raise ParameterError("folder", str(self.path.parent), valid)
            earlier = type(report)(**content["report"])
            optimizer.restore(content["optimizer"])
            torch.set_rng_state(content["random"])
            if content["random_cuda"] is not None:
                torch.cuda.set_rng_state(content["random_cuda"], device)
        vars(report).update(vars(earlier))
