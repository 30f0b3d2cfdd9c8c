"""Runs that retrain a subset of a pruned model, and the choice of its learning rate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from lmcompress import covered
from lmcompress.assets import resolve
from lmcompress.errors import LmcompressError, ParameterError
from lmcompress.experiments.pruned import Evaluated, OnPruned, SubsetText
from lmcompress.lazily import lazy
from lmcompress.parameters import Count, PatternText, QuestionsName, Rate, TaskName, Whole
from lmcompress.prune import pattern
from lmcompress.prune.criteria import CRITERIA
from lmcompress.prune.pattern import Pattern
from lmcompress.records import Experiment, obtain

if TYPE_CHECKING:
    from torch import nn

    from lmcompress.prune import mask
    from lmcompress.retrain import train

adapters = lazy("lmcompress.retrain.adapters")
iterative = lazy("lmcompress.retrain.iterative")
learning_rate = lazy("lmcompress.retrain.learning_rate")
mask = lazy("lmcompress.prune.mask")
nn = lazy("torch.nn")
prune_model = lazy("lmcompress.prune.model")
subsets = lazy("lmcompress.retrain.subsets")
train = lazy("lmcompress.retrain.train")
zeroshot = lazy("lmcompress.zeroshot")

MOST_RATES = 7  # a grid whose best rate lies at its edge is extended up to so many rates


POINTS = 50  # a record keeps at most so many points of a training curve


class ChooseRate(OnPruned):
    """The learning rate of a subset: the one of least validation loss after ``steps`` steps.

    Tried is the grid of :mod:`lmcompress.retrain.learning_rate`, extended by factors of three as long as the
    best rate lies at an end of it.
    """

    subset: SubsetText
    steps: Count

    def run(self) -> dict[str, Any]:
        windows, validation = (
            self.texts("retraining", self.retraining),
            self.texts("validation", self.validation),
        )
        options = {"steps": self.steps, "batch_size": self.batch, "seed": self.seed, "progress": False}

        def tried(rates: Sequence[float]) -> list[dict[str, Any]]:
            return list(
                learning_rate.choose_lr(
                    self.pruned, self.subset, windows, validation, rates=rates, **options
                ).trials
            )

        return chosen(tried, learning_rate.grid(self.subset))


def chosen(
    tried: Callable[[Sequence[float]], list[dict[str, Any]]], rates: tuple[float, ...]
) -> dict[str, Any]:
    """``lr`` of least loss among ``tried(rates)``, extended at the ends, and all ``trials`` by rate.

    ``tried``: rates -> list of ``{"lr", "loss", "diverged"}``.
    """
    trials = tried(rates)
    while True:
        order = sorted(trial["lr"] for trial in trials)
        finished = [trial for trial in trials if trial["loss"] is not None]
        best = min(finished, key=lambda trial: trial["loss"])["lr"] if finished else order[0]
        beyond = best * 3 if best == order[-1] and finished else best / 3 if best == order[0] else None
        if beyond is None or len(trials) >= MOST_RATES:
            trials = sorted(trials, key=lambda trial: trial["lr"])
            return {"lr": best if finished else None, "trials": trials, "at_edge": beyond is not None}
        trials += tried((beyond,))


class Retrain(Evaluated):
    """Prune, retrain ``subset`` for ``steps`` steps, merge, check the masks, evaluate.

    ``rounds`` above 1: prune a little, retrain, and so on, with ``steps`` in all. ``lr``: the learning rate;
    None: that of :class:`ChooseRate` after magnitude pruning to ``rate_pattern`` with ``rate_steps`` steps,
    or, without ``rate_steps``, the middle of the subset's grid.
    """

    subset: SubsetText
    steps: Count
    rounds: Count = 1
    lr: Rate | None = None
    rate_pattern: PatternText = "50%"
    rate_steps: Whole = 0

    @model_validator(mode="after")
    def _has_steps_for_its_rounds(self) -> Self:
        if self.rounds > self.steps:
            raise ParameterError("rounds", self.rounds, f"at most the {self.steps} steps")
        pattern.ladder(pattern.parse(self.pattern), self.rounds)
        return self

    def rate_run(self) -> ChooseRate | None:
        """The run that chooses the learning rate, or None where it is given."""
        if self.lr is not None or self.subset == "nothing" or not self.rate_steps:
            return None
        same = self.model_dump(include=set(OnPruned.model_fields))
        about = {"criterion": "magnitude", "pattern": self.rate_pattern, "seed": 0}
        return ChooseRate(**same | about, subset=self.subset, steps=self.rate_steps)

    def rate(self) -> float:
        """The learning rate; where it is to be chosen, that run is made first if it has not been."""
        return self.lr or _rate(self.subset, self.rate_run())

    def run(self) -> dict[str, Any]:
        lr, windows = self.rate(), self.texts("retraining", self.retraining)
        model, masks, reports = self.trained(lr, windows)
        mask.check(model, masks)
        about = subsets.count(self.dense()[0], self.subset)
        return {
            "lr": lr,
            "trainable": about.trainable,
            "percent": about.percent,
            "sparsity": mask.sparsity(masks),
            "merged": not adapters.adapted_layers(model),
            "diverged": any(report.diverged for report in reports),
            "losses": _thinned([loss for report in reports for loss in report.losses]),
            "train_seconds": sum(report.seconds for report in reports),
            "tokens": sum(report.tokens for report in reports),
            "tests": self.evaluate(model),
            **covered.field(model, masks),
        }

    def trained(self, lr: float, windows: Any) -> tuple[nn.Module, mask.Masks, list[train.TrainReport]]:
        """A fresh model, pruned, retrained on ``windows`` and merged; its masks; a report of each round."""
        options: dict[str, Any] = {
            "lr": lr,
            "steps": self.steps,
            "batch_size": self.batch,
            "seed": self.seed,
            "progress": False,
        }
        if self.rounds == 1:
            model, masks = self.pruned()
            reports = [train.train(model, windows, self.subset, masks, **options)]
            adapters.merge(model)
            return model, masks, reports
        model = copy.deepcopy(self.dense()[0])
        batches = self.calibration_batches() if CRITERIA[self.criterion].by_data else None

        def prune(current: nn.Module, pattern: Pattern) -> mask.Masks:
            return prune_model.prune_model(
                current,
                self.criterion,
                pattern,
                batches,
                seed=self.seed,
                output_errors=False,
                progress=False,
            ).masks

        targets = pattern.ladder(pattern.parse(self.pattern), self.rounds)
        masks, reports = iterative.prune_and_retrain(model, windows, self.subset, prune, targets, **options)
        return model, masks, reports


class ZeroShot(Retrain):
    """:class:`Retrain`, evaluated by zero-shot accuracy instead of test texts (``tests`` is empty).

    ``tasks``: lm-eval's name of a task -> an asset with its local files, or "" for the hub; ``questions``: only
    the first so many of each, None for all. Pruning to 0 % without retraining is the dense model.
    """

    tests: tuple[()] = ()
    test: Annotated[int, Field(strict=True, ge=0, le=0)] = 0
    tasks: Annotated[dict[TaskName, QuestionsName], Field(min_length=1)]
    questions: Count | None = None

    def assets(self) -> list[tuple[str, str]]:
        return [*super().assets(), *((name, "data") for name in self.tasks.values() if name)]

    def run(self) -> dict[str, Any]:
        lr, windows = self.rate(), self.texts("retraining", self.retraining)
        model, masks, _ = self.trained(lr, windows)
        folders = {task: resolve(name, "data").path if name else None for task, name in self.tasks.items()}
        found = zeroshot.evaluate(
            model, self.dense()[1], folders, limit=self.questions, batch_size=self.batch
        )
        sparsity = mask.sparsity(masks)
        judged = {task: asdict(one) for task, one in found.items()}
        return {"lr": lr, "sparsity": sparsity, "tasks": judged, **covered.field(model, masks)}


def _rate(subset: str, run: Experiment | None) -> float:
    """The rate that ``run`` chooses, or without one the middle of the subset's grid."""
    if run is None:
        return learning_rate.middle(subset)
    lr = obtain([run], progress=False)[0].result["lr"]
    if lr is None:
        raise LmcompressError(f"{subset}: every learning rate of its grid diverged")
    return lr


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _thinned(values: list[float]) -> list[float | None]:
    """At most :data:`POINTS` means of consecutive values, None for what is not finite."""
    size = -(-len(values) // POINTS) if values else 1
    means = [sum(values[at : at + size]) / len(values[at : at + size]) for at in range(0, len(values), size)]
    return [_finite(round(mean, 4)) for mean in means]
