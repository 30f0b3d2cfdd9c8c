"""Runs that retrain each subset at its own learning rate: the one rule by which subsets are compared in verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from lmcompress import covered
from lmcompress.assets import resolve
from lmcompress.errors import ParameterError
from lmcompress.experiments.pruned import Evaluated, SubsetText
from lmcompress.experiments.retrained import chosen
from lmcompress.lazily import lazy
from lmcompress.parameters import (
    Count,
    Many,
    Parameters,
    PatternText,
    QuestionsName,
    Rank,
    Rate,
    Seed,
    Some,
    TaskName,
    Whole,
)
from lmcompress.prune.criteria import CriterionName

if TYPE_CHECKING:
    from torch import nn

    from lmcompress.prune import mask

adapters = lazy("lmcompress.retrain.adapters")
mask = lazy("lmcompress.prune.mask")
nn = lazy("torch.nn")
subsets = lazy("lmcompress.retrain.subsets")
train = lazy("lmcompress.retrain.train")
zeroshot = lazy("lmcompress.zeroshot")

RATES: dict[str, tuple[float, ...]] = {
    "norms": (0.003, 0.009, 0.027),
    "new-biases": (0.003, 0.009, 0.027),
    "masklora": (0.001, 0.003, 0.009),
    "lora-prune": (0.0003, 0.001, 0.003),
    "biases": (0.001, 0.003, 0.009),
    "full": (0.0001, 0.0003, 0.0009),
}
"""Rates that are tried first; the search goes on by factors of three as long as the best lies at an end."""


def schedule(subset: str, steps: int) -> dict[str, Any]:
    """``steps`` and first ``rates`` of a :class:`Tuned` run. Raises :class:`ParameterError` for a subset without
    :data:`RATES`.
    """
    if subset == "nothing":
        return {"steps": 0, "rates": ()}
    if subset not in RATES:
        raise ParameterError("subsets", subset, ("nothing", *RATES))
    return {"steps": steps, "rates": RATES[subset]}


QUESTIONS = 64  # a batch of zero-shot choices


class Tuned(Evaluated):
    """Prune, retrain ``subset`` for ``steps`` steps at every one of ``rates``, and evaluate the model whose loss on the
    validation split of the corpus that it was retrained on is least.

    The rates are extended by factors of three as long as the best lies at an end (seven at most). No test text has a
    say in the choice. ``rank``: of adapters, with alpha twice as large. ``subset`` nothing: the pruned model.
    ``tasks``: lm-eval's name of a zero-shot task -> an asset with its local files, or "" for the hub; ``questions``:
    only the first so many of each, None for all.
    """

    subset: SubsetText
    rank: Rank = 16
    steps: Whole
    rates: Many[Rate]
    tasks: dict[TaskName, QuestionsName] = Field(default_factory=dict)
    questions: Count | None = None

    @model_validator(mode="after")
    def _trains_unless_nothing(self) -> Self:
        for name in ("steps", "rates"):
            value = getattr(self, name)
            if (self.subset == "nothing") == bool(value):
                raise ParameterError(name, value, "at least one, and none for the subset 'nothing'")
        return self

    def assets(self) -> list[tuple[str, str]]:
        return [*super().assets(), *((name, "data") for name in self.tasks.values() if name)]

    def run(self) -> dict[str, Any]:
        counted = subsets.count(self.dense()[0], self.subset, self.rank)
        if self.subset == "nothing":
            model, masks = self.pruned()
            found: dict[str, Any] = {"lr": None, "trials": [], "at_edge": False}
        else:
            model, masks, found = self._best()
        mask.check(model, masks)
        tests = self.evaluate(model)
        return {
            **found,
            "trainable": counted.trainable,
            "percent": counted.percent,
            "sparsity": mask.sparsity(masks),
            "merged": not adapters.adapted_layers(model),
            "tests": tests,
            "tasks": self._asked(model) if self.tasks else {},
            **covered.field(model, masks),
        }

    def _best(self) -> tuple[nn.Module, mask.Masks, dict[str, Any]]:
        """The model of least validation loss, its masks, and what was tried."""
        windows = self.texts("retraining", self.retraining)
        validation = self.texts("validation", self.validation)
        kept: list[Any] = [None, None, None]  # least loss so far, and the model and masks that have it

        def tried(rates: Sequence[float]) -> list[dict[str, Any]]:
            trials = []
            for lr in rates:
                model, masks = self.pruned()
                options = {"lr": lr, "steps": self.steps, "batch_size": self.batch, "seed": self.seed}
                parameters = subsets.select(
                    model, self.subset, masks=masks, rank=self.rank, alpha=2.0 * self.rank, seed=self.seed
                )
                report = train.train(model, windows, parameters, masks, progress=False, **options)
                adapters.merge(model)
                loss = None if report.diverged else train.mean_loss(model, validation, self.batch)
                trials.append({"lr": lr, "loss": loss, "diverged": report.diverged})
                if kept[1] is None or (loss is not None and (kept[0] is None or loss < kept[0])):
                    kept[:] = loss, model, masks
            return trials

        found = chosen(tried, self.rates)
        return kept[1], kept[2], found

    def _asked(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        folders = {task: resolve(name, "data").path if name else None for task, name in self.tasks.items()}
        found = zeroshot.evaluate(model, self.dense()[1], folders, limit=self.questions, batch_size=QUESTIONS)
        return {task: asdict(one) for task, one in found.items()}


class Compared(Parameters):
    """Runs that are compared, each at its own rate: all combinations. ``ranks``: of the masked adapters."""

    criteria: Some[CriterionName] = ("magnitude",)
    patterns: Some[PatternText] = ("50%",)
    subsets: Some[SubsetText] = ("nothing", "norms", "full")
    ranks: Some[Rank] = (16,)
    seeds: Some[Seed] | None = None

    def runs(self, on: dict[str, Any], steps: int, seeds: Sequence[int]) -> list[Tuned]:
        """The runs, of ``seeds`` where it names none; ``on``: their other fields."""
        return [
            tuned(on, subset, steps, criterion=criterion, pattern=pattern, seed=seed, rank=rank)
            for criterion in self.criteria
            for pattern in self.patterns
            for seed in self.seeds or seeds
            for subset in self.subsets
            for rank in (self.ranks if subset == "masklora" else (16,))
        ]


def tuned(on: dict[str, Any], subset: str, steps: int, **about: object) -> Tuned:
    """The run that retrains ``subset`` for ``steps`` steps, its rates by :func:`schedule`; ``on`` and ``about``: the
    other fields. Raises :class:`ParameterError` as that does.
    """
    return Tuned(**on | about | schedule(subset, steps), subset=subset)
