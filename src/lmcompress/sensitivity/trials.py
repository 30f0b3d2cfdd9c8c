"""Change one layer at a time, measure the loss of every window, put the layer back bit for bit."""

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lmcompress.errors import ParameterError
from lmcompress.loading import naming
from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.losses import Loss, Replay, block_of, window_losses
from lmcompress.sensitivity.scores import changed, layer_groups

Change = Callable[[str, Tensor], Tensor]
"""``change(full Linear name, weight [out, in]) -> [out, in]``: the weight to try instead."""


@dataclass(frozen=True)
class Trials:
    """Window losses: ``base`` [N] of the untouched model, ``losses[layer][variant]`` [N] with one changed.

    ``seconds``: wall time of all trials, whichever session ran them, and of the unchanged model.
    """

    base: list[float]
    losses: dict[str, dict[str, list[float]]]
    seconds: float

    def increase(self, variant: str) -> dict[str, float]:
        """Layer -> mean loss increase; it can be negative, by chance or because a change helps."""
        base = sum(self.base)
        return {layer: (sum(tried[variant]) - base) / len(self.base) for layer, tried in self.losses.items()}

    def scores(self, per_layer: dict[str, float], tables: dict[str, dict[str, float]], key: str) -> Scores:
        """Scores that keep the window losses, and the increases of each variant under ``detail[key]``."""
        return Scores(per_layer, self.seconds, {key: tables, "base": self.base, "losses": self.losses})


def try_each(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    variants: dict[str, Change],
    *,
    per: str = "linear",
    loss: Loss = window_losses,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Trials:
    """Try every variant on every layer, all others untouched.

    ``checkpoint``: a JSON-lines file to which every finished trial is added; a later call with the same
    model, windows and variants goes on from there (a last line cut short by a kill is dropped), any other is
    refused with :class:`ParameterError`. A non-finite loss raises ``NumericError`` with the layer's name.
    """
    if not variants:
        raise ParameterError("variants", variants, "at least one change to try")
    groups, where = layer_groups(model, per), block_of(model)
    started = time.perf_counter()
    replay = Replay(model, batches, loss)
    seconds = time.perf_counter() - started
    log = None if checkpoint is None else _Log(Path(checkpoint), _about(groups, variants, replay.base))
    losses: dict[str, dict[str, list[float]]] = {}
    for layer, inside in tqdm(groups.items(), desc="layers", disable=not progress, leave=False):
        for variant, change in variants.items():
            line = None if log is None else log.done.get((layer, variant))
            if line is None:
                started = time.perf_counter()
                replay.move_to(where[layer])
                weights = {
                    linear.weight: change(name, linear.weight.detach()) for name, linear in inside.items()
                }
                with changed(weights):
                    measured = replay.losses(where[layer], f"{layer} ({variant})").tolist()
                line = {"layer": layer, "variant": variant, "losses": measured}
                line["seconds"] = time.perf_counter() - started
                if log is not None:
                    log.add(line)
            losses.setdefault(layer, {})[variant] = line["losses"]
            seconds += line["seconds"]
    return Trials(replay.base.tolist(), losses, seconds)


def _about(
    groups: dict[str, dict[str, nn.Linear]], variants: dict[str, Change], base: Tensor
) -> dict[str, Any]:
    """What a log must agree on: layers, the unchanged losses, and what the variants make of one weight."""
    name, linear = next(iter(next(iter(groups.values())).items()))
    probe = {
        key: float(change(name, linear.weight.detach()).double().abs().sum())
        for key, change in variants.items()
    }
    return {"layers": list(groups), "variants": probe, "base": base.tolist()}


class _Log:
    """Finished trials, one JSON line each after a first line that says what they belong to."""

    def __init__(self, path: Path, about: dict[str, Any]):
        self.path, self.done = path, {}
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
        if lines:
            with naming(path, "; delete it to begin anew"):
                if not _agree(json.loads(lines[0]), about):
                    raise ParameterError(
                        "checkpoint",
                        str(path),
                        "a new file: this one is of other weights, windows or variants",
                    )
                self.done = {(line["layer"], line["variant"]): line for line in map(json.loads, lines[1:])}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = sum(len(line.encode()) + 1 for line in lines)
        with path.open("ab") as file:
            file.truncate(whole)
        if not lines:
            self.add(about)

    def add(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _agree(old: Any, new: Any) -> bool:
    """Equal, with numbers allowed the rounding of another run."""
    if isinstance(old, dict) and isinstance(new, dict):
        return list(old) == list(new) and all(_agree(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_agree, old, new))
    if isinstance(old, float) and isinstance(new, float):
        return math.isclose(old, new, rel_tol=1e-5)
    return old == new


def paired_interval(
    base: Sequence[float], tried: Sequence[float], draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the mean increase over windows; pairs of one window stay together."""
    difference = torch.tensor(tried, dtype=torch.float64) - torch.tensor(base, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, len(difference), (draws, len(difference)), generator=generator)
    low, high = difference[rows].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
