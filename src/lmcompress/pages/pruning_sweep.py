"""Pruning without retraining: which criterion keeps the model alive, and why."""

from collections.abc import Sequence
from typing import Any, Literal

from lmcompress.errors import ParameterError
from lmcompress.experiments.one_shot import FewColumns, InputNorms, PrunedModel
from lmcompress.parameters import (
    CorpusName,
    Count,
    Length,
    Many,
    ModelName,
    PatternText,
    Sample,
    Seed,
    Share,
    Some,
)
from lmcompress.prune.criteria import CRITERIA, CriterionName
from lmcompress.prune.pattern import NofM, parse
from lmcompress.records import Experiment, Record
from lmcompress.records import Study as BaseStudy
from lmcompress.report import figures, pruning_figures, pruning_tables
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer
from lmcompress.report.words import estimate


def answer(records: Sequence[Record]) -> Answer:
    """What half of the weights cost by each criterion, and whether the inputs are what makes the difference. Raises
    ``LookupError`` where the runs are missing.
    """
    runs = pruning_tables.complete(records)
    if not runs:
        raise LookupError("pruned models, norms of inputs, and spared features")
    claim, verdict, _ = next(one for one in pruning_tables.claims(runs) if "Wanda" in one[0])
    table = pruning_tables.sweep(runs).dropna(subset="perplexity")
    at = table[table["pattern"] == claim.split()[1].rstrip(",")].set_index("criterion")
    said = [
        f"{name} {estimate(at.loc[name, 'perplexity'], at.loc[name, 'low'], at.loc[name, 'high'])}"
        for name in ("magnitude", "wanda", "sparsegpt")
        if name in at.index
    ]
    return Answer(
        f"With {at['pattern'].iloc[0]} of the weights removed and nothing retrained, the perplexity of "
        f"{pruning_tables.dense(runs):.1f} becomes {', '.join(said)}.",
        f"{claim}.",
        verdict,
    )


def small(records: Sequence[Record]) -> list[Any]:
    """Figures and tables of a few runs: for what one machine computed."""
    runs = pruning_tables.complete(records)
    if not runs:
        return []
    return [
        figures.verdicts(pruning_tables.claims(runs)),
        sweep_table(runs),
        pruning_figures.perplexity(runs),
    ]


def sweep_table(records: Sequence[Record]) -> Html:
    """Every criterion and pattern."""
    table = pruning_tables.sweep(records).drop(columns=["kind", "sparsity (%)"])
    return figures.varied(table, pruning_tables.about(records))


outlier_table = figures.tabled(
    pruning_tables.outlier_summary, "The largest input features of each kind of Linear, over all blocks"
)


def claims_table(records: Sequence[Record]) -> Html:
    """Verdicts on criteria and outlier features."""
    return figures.verdicts(pruning_tables.claims(records))


class Study(BaseStudy):
    """Parameters of ``10_pruning_sweep``.

    ``test``: windows, or None for the whole split. ``seeds`` draw calibration windows and random masks; criteria that
    need neither run once. ``errors_at``: patterns at which layer errors are measured. ``share``: of the input features,
    taken as the largest; magnitude pruning to ``spared_at`` spares them.
    """

    model: ModelName = "smollm2-135m"
    data: CorpusName = "wikipedia-vital"
    dtype: Literal["fp32", "bf16"] = "bf16"
    length: Length = 128
    test: Sample | None = 8
    calibration: Count = 8
    criteria: Some[CriterionName] = ("random", "magnitude", "magnitude-row", "wanda", "sparsegpt")
    sparsities: Many[PatternText] = ("50%", "70%")
    patterns: Many[PatternText] = ("2:4",)
    errors_at: Some[PatternText] = ("50%",)
    seeds: Some[Seed] = (0,)
    share: Share = 0.01
    spared_at: PatternText = "50%"

    def experiments(self) -> list[Experiment]:
        there = tuple(dict.fromkeys((*self.sparsities, *self.patterns, self.spared_at)))
        if not set(self.errors_at) <= set(there):
            raise ParameterError("errors_at", self.errors_at, f"at least one of {', '.join(there)}")
        on = {
            name: getattr(self, name) for name in ("model", "data", "dtype", "length", "test", "calibration")
        }
        first = {**on, "seed": self.seeds[0]}
        found: list[Experiment] = []
        for criterion in self.criteria:
            seeds = self.seeds if CRITERIA[criterion].varies else self.seeds[:1]
            for pattern in (*self.sparsities, *self.patterns):
                if criterion in ("magnitude-global", "magnitude-row") and isinstance(parse(pattern), NofM):
                    continue  # N:M compares within groups of m: no scope to choose, all would be "magnitude"
                found += [self._pruned({**on, "seed": seed}, criterion, pattern) for seed in seeds]
        found.append(self._pruned(first, "magnitude", self.spared_at))
        found.append(InputNorms(**first, share=self.share))
        for columns in ("largest", "random"):
            some = {**first, "columns": columns, "share": self.share}
            found.append(FewColumns(**some, action="spare", pattern=self.spared_at))
            found.append(FewColumns(**some, action="drop", pattern=None))
        return list(dict.fromkeys(found))

    def _pruned(self, on: dict[str, Any], criterion: str, pattern: str) -> PrunedModel:
        errors = pattern in self.errors_at
        return PrunedModel(**on, criterion=criterion, pattern=pattern, layer_errors=errors)
