"""The learning rate is chosen on the validation windows from a small stated grid, one per subset."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lmcompress.errors import ParameterError
from lmcompress.retrain import adapters
from lmcompress.retrain.batches import Batch
from lmcompress.retrain.names import Subset, parse
from lmcompress.retrain.train import mean_loss, train

_SMALL = (3e-4, 1e-3, 3e-3)
_LARGE = (3e-5, 1e-4, 3e-4)
GRIDS: dict[str, tuple[float, ...]] = {
    "nothing": (1e-4,),
    "full": (1e-5, 3e-5, 1e-4, 3e-4),
    "biases": _SMALL,
    "norms": _SMALL,
    "new-biases": _SMALL,
    "head": _LARGE,
    "embeddings": _LARGE,
    "head-lora": (1e-4, 3e-4, 1e-3),
} | dict.fromkeys(adapters.KINDS, (0.0001, 0.0003, 0.001))
"""Learning rates tried for each subset: few numbers bear large steps, whole matrices do not."""


@dataclass(frozen=True)
class LearningRate:
    """The rate of least validation loss (None when all diverged), every trial, and whether the best is at an
    edge.
    """

    lr: float | None
    trials: tuple[dict[str, Any], ...]
    at_edge: bool


def grid(spec: str | Subset) -> tuple[float, ...]:
    """The grid of a subset; of a combination, that of the member with the smallest largest rate."""
    return min((GRIDS[name] for name in parse(spec).names), key=lambda rates: (rates[-1], rates[0]))


def middle(spec: str | Subset) -> float:
    """The middle of the grid of a subset: its rate where none is chosen."""
    rates = grid(spec)
    return rates[len(rates) // 2]


def choose_lr(
    make_model: Callable[[], tuple[nn.Module, dict[str, Tensor]]],
    spec: str | Subset,
    windows: Tensor | list[Batch],
    validation: Tensor | list[Batch],
    *,
    steps: int,
    rates: Sequence[float] | None = None,
    batch_size: int = 8,
    **options: Any,
) -> LearningRate:
    """Train a fresh model for ``steps`` at every rate and compare the mean loss on ``validation`` after
    merging.

    ``make_model()`` returns a pruned model and its masks, the same at every call; ``rates`` default to
    :func:`grid`; ``options`` go to :func:`~lmcompress.retrain.train.train`. The validation windows must be
    disjoint from the windows trained on and from those of the final test. Raises :class:`ParameterError` for
    an empty grid.
    """
    rates = tuple(sorted(grid(spec) if rates is None else rates))
    if not rates:
        raise ParameterError("rates", rates, "at least one learning rate")
    trials: list[dict[str, Any]] = []
    for lr in rates:
        model, masks = make_model()
        report = train(model, windows, spec, masks, lr=lr, steps=steps, batch_size=batch_size, **options)
        adapters.merge(model)
        loss = None if report.diverged else mean_loss(model, validation, batch_size)
        trials.append({"lr": lr, "loss": loss, "diverged": report.diverged})
    finished = [trial for trial in trials if not trial["diverged"]]
    best = min(finished, key=lambda trial: trial["loss"])["lr"] if finished else None
    return LearningRate(best, tuple(trials), len(rates) > 1 and best in (rates[0], rates[-1]))
