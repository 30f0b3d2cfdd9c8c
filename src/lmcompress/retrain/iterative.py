"""Prune a bit, retrain, repeat: against one-shot pruning with the same total number of steps."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from lmcompress.errors import ParameterError
from lmcompress.retrain import adapters
from lmcompress.retrain.batches import Batch
from lmcompress.retrain.names import Subset, parse
from lmcompress.retrain.train import TrainReport, train

Target = TypeVar("Target")


def split_steps(steps: int, rounds: int) -> list[int]:
    """``steps`` in ``rounds`` shares that differ by one at most; the later rounds, at higher sparsity, get
    more.
    """
    if steps < rounds:
        raise ParameterError("steps", steps, f"at least one step for each of the {rounds} rounds")
    return [steps * (k + 1) // rounds - steps * k // rounds for k in range(rounds)]


def prune_and_retrain(
    model: nn.Module,
    windows: Tensor | list[Batch],
    spec: str | Subset,
    prune: Callable[[nn.Module, Target], dict[str, Tensor]],
    targets: Sequence[Target],
    *,
    steps: int,
    seed: int = 0,
    folder: str | Path | None = None,
    **options: Any,
) -> tuple[dict[str, Tensor], list[TrainReport]]:
    """For each of ``targets`` prune the model in place, retrain ``spec`` and merge, with ``steps`` in total.

    ``prune(model, target)`` prunes in place and returns the masks; ``targets``: patterns, as
    :func:`lmcompress.prune.pattern.ladder` gives them. One target is one-shot pruning: the comparison is the same
    call with the ladder or with its last rung. Every round has its own warm-up, decay and seed; ``options`` go to
    :func:`~lmcompress.retrain.train.train`. Returns the last masks and a report per round. Plain ``lora`` is
    refused for several rounds: it cannot be merged.
    """
    if not targets:
        raise ParameterError("targets", targets, "at least one sparsity or pattern")
    if len(targets) > 1 and parse(spec).adapter == "lora":
        raise ParameterError(
            "subset", str(parse(spec)), "a subset that can be merged before the next round prunes"
        )
    masks: dict[str, Tensor] = {}
    reports = []
    for number, (target, share) in enumerate(zip(targets, split_steps(steps, len(targets)), strict=True)):
        masks = prune(model, target)
        place = None if folder is None else Path(folder) / f"round-{number}"
        reports.append(
            train(model, windows, spec, masks, steps=share, seed=seed + number, folder=place, **options)
        )
        adapters.merge(model)
        if reports[-1].diverged:
            break
    return masks, reports
