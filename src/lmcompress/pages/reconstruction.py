"""pages.reconstruction"""

from typing import Literal

from pydantic import Field

from lmcompress.experiments.perp_study import PerpStudy, with_rates
from lmcompress.experiments.pruned import Criterion, SubsetText
from lmcompress.experiments.reconstructed import Reconstruct
from lmcompress.parameters import Count, Many, Parameters, PatternOrNone, PatternText, Rate, Seed, Some
from lmcompress.records import Experiment
from lmcompress.retrain.names import parse

Granularity = Literal["block", "attention-and-mlp", "linear"]


class ReconstructionGrid(Parameters):
    """All combinations of its values; what is not given is taken from the notebook's own parameters."""

    criteria: Some[Criterion] | None = None
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

    criteria: Some[Criterion] = ("magnitude",)
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
        runs: list = []
        for grid in (ReconstructionGrid(), *self.more):
            for criterion in grid.criteria or self.criteria:
                for pattern in grid.patterns or self.patterns:
                    for seed in grid.seeds or self.seeds:
                        runs += [self.retrain(criterion, pattern, subset, seed) for subset in self.retrained]
                        runs += self._reconstructions(grid, criterion, pattern, seed)
        return with_rates(runs)

    def _reconstructions(self, grid: ReconstructionGrid, criterion, pattern, seed) -> list[Reconstruct]:
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
