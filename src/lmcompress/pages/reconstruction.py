"""Reconstruction block by block: how far it comes, at which granularity, beside retraining."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from lmcompress.experiments.perp_study import PerpStudy, with_rates
from lmcompress.experiments.pruned import SubsetText
from lmcompress.experiments.reconstructed import Reconstruct
from lmcompress.parameters import Count, Many, Parameters, PatternOrNone, PatternText, Rate, Seed, Some
from lmcompress.prune.criteria import CriterionName
from lmcompress.records import Experiment, Record
from lmcompress.report import figures, perp_figures, reconstruction_tables
from lmcompress.report.opening import Answer, claimed
from lmcompress.report.perp_tables import corpora, of_task
from lmcompress.report.words import estimate
from lmcompress.retrain.names import parse

Granularity = Literal["block", "attention-and-mlp", "linear"]


class ReconstructionGrid(Parameters):
    """All combinations of its values; what is not given is taken from the notebook's own parameters."""

    criteria: Some[CriterionName] | None = None
    patterns: Some[PatternText] | None = None
    subsets: Some[SubsetText] | None = None
    granularities: Some[Granularity] | None = None
    targets: Some[Literal["sparse", "dense"]] | None = None
    seeds: Some[Seed] | None = None


class Study(PerpStudy):
    """Reconstructions (``block_steps`` steps for each block, on the ``calibration`` windows) beside the
    pruned model and the retrainings of ``retrained``. Learning rates: ``block_rates`` by subset; else chosen
    after magnitude pruning to ``block_rate_pattern``, or, with an empty one, the middle of the grid.
    """

    criteria: Some[CriterionName] = ("magnitude",)
    patterns: Some[PatternText] = ("50%",)
    block_subsets: Some[SubsetText] = ("masklora",)
    granularities: Some[Granularity] = ("block", "attention-and-mlp", "linear")
    targets: Some[Literal["sparse", "dense"]] = ("sparse",)
    block_steps: Count = 8
    block_rates: dict[SubsetText, Rate] = Field(default_factory=dict)
    block_rate_pattern: PatternOrNone = ""
    retrained: Many[SubsetText] = ("nothing", "norms")
    more: Many[ReconstructionGrid] = ()

    def experiments(self) -> list[Experiment]:
        runs: list[Any] = []
        for grid in (ReconstructionGrid(), *self.more):
            for criterion in grid.criteria or self.criteria:
                for pattern in grid.patterns or self.patterns:
                    for seed in grid.seeds or self.seeds:
                        runs += [self.retrain(criterion, pattern, subset, seed) for subset in self.retrained]
                        runs += self._reconstructions(grid, criterion, pattern, seed)
        return with_rates(runs)

    def _reconstructions(
        self, grid: ReconstructionGrid, criterion: str, pattern: str, seed: int
    ) -> list[Reconstruct]:
        about = {"criterion": criterion, "pattern": pattern, "seed": seed, "steps": self.block_steps}
        return [
            Reconstruct(
                **self.evaluated() | about,
                subset=subset,
                granularity=granularity,
                targets=target,
                lr=self.block_rates.get(subset),
                rate_pattern="" if subset in self.block_rates else self.block_rate_pattern,
            )
            for subset in grid.subsets or self.block_subsets
            for granularity in grid.granularities or self.granularities
            for target in grid.targets or self.targets
            if granularity != "linear" or (target == "sparse" and "norms" not in parse(subset).names)
        ]


def evaluated(records: Sequence[Record]) -> list[Record]:
    """The runs that ended in a tested language model."""
    return [record for record in records if "tests" in record.result]


def answer(records: Sequence[Record]) -> Answer:
    """What reconstruction with masked adapters repairs, beside retraining the norms, and the verdict on PERP's claim.
    Raises ``LookupError`` where the runs are missing.
    """
    corpus = next(iter(corpora(of_task(records, "language", "reconstruct"))), None)
    if corpus is None:
        raise LookupError("reconstructions")
    frame = reconstruction_tables.methods(records, corpus)
    wanted = {
        "pruned": "the pruned model",
        "masklora by block": "block by block with masked adapters",
        "norms retrained": "retraining the norms of the whole model",
    }
    settings = [rows for _, rows in frame.groupby(["criterion", "pattern"], sort=False)]
    whole = [rows for rows in settings if set(wanted) <= set(rows["method"])]
    if not whole:
        raise LookupError(", ".join(wanted))
    criterion, pattern = whole[0][["criterion", "pattern"]].iloc[0]
    at = whole[0].set_index("method")
    level = {name: estimate(*at.loc[name, ["perplexity", "low", "high"]]) for name in wanted}
    sentence = (
        f"After {pattern} by {criterion} the perplexity on {corpus} is {level['pruned']}; block by block with masked "
        f"adapters brings it to {level['masklora by block']}, retraining the norms of the whole model to "
        f"{level['norms retrained']}; dense {at['dense'].iloc[0]:.1f}."
    )
    return claimed(sentence, "perp", "reconstruction", records)


def small(records: Sequence[Record]) -> list[Any]:
    """Figures and tables of a few runs: for what one machine computed."""
    runs = evaluated(records)
    return [perp_figures.methods(runs), levels_table(runs), perp_figures.block_errors(records)]


levels_table = perp_figures.tabled(reconstruction_tables.levels, "Perplexity of {}", show=figures.table)


few_table = perp_figures.tabled(
    reconstruction_tables.few,
    "Perplexity of {} where other subsets and targets were tried, too",
    "other subsets and targets",
    figures.table,
)


settings_table = perp_figures.tabled(reconstruction_tables.methods, "Every setting, {}")
