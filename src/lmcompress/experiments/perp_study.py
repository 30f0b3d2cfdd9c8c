"""Parameters that the PERP notebooks share, and how they become runs."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import Field

from lmcompress.experiments.pruned import SubsetText
from lmcompress.experiments.reconstructed import Reconstruct
from lmcompress.experiments.retrained import Retrain
from lmcompress.parameters import (
    CorpusName,
    Count,
    Length,
    ModelName,
    Parameters,
    PatternText,
    Rate,
    Sample,
    Seed,
    Some,
    Whole,
)
from lmcompress.prune.criteria import CriterionName
from lmcompress.prune.pattern import parse
from lmcompress.records import Experiment, Study


class Grid(Parameters):
    """All combinations of its values; what is not given is taken from the notebook's own parameters."""

    criteria: Some[CriterionName] | None = None
    patterns: Some[PatternText] | None = None
    subsets: Some[SubsetText] | None = None
    seeds: Some[Seed] | None = None


class PerpStudy(Study):
    """What every PERP notebook takes.

    ``tests``: corpora whose test splits are evaluated. ``calibration``, ``retraining``, ``validation``,
    ``test``: windows of ``length`` tokens, of which ``batch`` make a step. The learning rate of a subset is
    that in ``rates``; else the one chosen on the validation split with ``rate_steps`` steps after magnitude
    pruning to the first of ``rate_patterns`` that is as sparse as the run (else the last); without
    ``rate_steps`` it is the middle of the subset's grid.
    """

    model: ModelName = "smollm2-135m"
    corpus: CorpusName = "wikipedia-vital"
    tests: Some[CorpusName] = ("wikipedia-vital",)
    dtype: Literal["fp32", "bf16"] = "bf16"
    length: Length = 128
    batch: Count = 4
    steps: Count = 8
    calibration: Count = 8
    retraining: Count = 64
    validation: Count = 8
    test: Sample = 12
    rates: dict[SubsetText, Rate] = Field(default_factory=dict)
    rate_patterns: Some[PatternText] = ("50%", "70%")
    rate_steps: Whole = 0
    seeds: Some[Seed] = (0,)

    def on(self) -> dict[str, Any]:
        """The fields of ``OnPruned`` that do not depend on the run."""
        names = {"model", "dtype", "length", "batch", "calibration", "retraining", "validation"}
        return self.model_dump(include=names) | {"data": self.corpus}

    def evaluated(self) -> dict[str, Any]:
        """The fields of ``Evaluated`` that do not depend on the run."""
        return self.on() | {"tests": self.tests, "test": self.test}

    def rate_pattern(self, pattern: str) -> str:
        """The pattern after which the rate of a run is chosen."""
        ladder = sorted(self.rate_patterns, key=lambda text: parse(text).sparsity)
        return next((rung for rung in ladder if parse(rung).sparsity >= parse(pattern).sparsity), ladder[-1])

    def retrain(self, criterion: str, pattern: str, subset: str, seed: int, **changes: Any) -> Retrain:
        """One run; ``changes``: other fields of :class:`Retrain`."""
        about = {"criterion": criterion, "pattern": pattern, "subset": subset, "seed": seed}
        chosen = {
            "steps": self.steps,
            "lr": self.rates.get(subset),
            "rate_pattern": self.rate_pattern(pattern),
        }
        if chosen["lr"] is None and subset != "nothing":
            chosen["rate_steps"] = self.rate_steps
        else:
            chosen["rate_pattern"] = "50%"  # not used; one value, so that the run has one key
        if subset == "nothing":
            changes.pop("steps", None)
        return Retrain(**self.evaluated() | about | chosen | changes)

    def grid(
        self, grid: Grid, criteria: Sequence[str], patterns: Sequence[str], subsets: Sequence[str]
    ) -> list[Retrain]:
        """The runs of a grid, those that share a pruned model one after the other."""
        return [
            self.retrain(criterion, pattern, subset, seed)
            for criterion in grid.criteria or criteria
            for pattern in grid.patterns or patterns
            for seed in grid.seeds or self.seeds
            for subset in grid.subsets or subsets
        ]


def on_texts(study: Any) -> dict[str, Any]:
    """The fields of ``Evaluated`` for the ``classifier`` of a study that has one, which do not depend on the run."""
    return {
        "model": study.classifier,
        "data": study.texts,
        "task": "classification",
        "dtype": "fp32",
        "length": study.text_length,
        "batch": study.text_batch,
        "fine_tune_steps": study.fine_tune_steps,
        "calibration": 32,
        "retraining": study.text_retraining,
        "validation": study.text_validation,
        "tests": (study.texts,),
        "test": study.text_test,
    }


def with_rates(runs: Iterable[Retrain | Reconstruct]) -> list[Experiment]:
    """The choices of learning rates that the runs need, then the runs, each once."""
    runs = list(dict.fromkeys(runs))
    return [*dict.fromkeys(wanted for run in runs if (wanted := run.rate_run()) is not None), *runs]
