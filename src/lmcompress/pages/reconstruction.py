"""pages.reconstruction"""

from typing import Literal

from pydantic import Field

from lmcompress.experiments.perp_study import PerpStudy, with_rates
from lmcompress.experiments.pruned import Criterion, SubsetText
from lmcompress.experiments.reconstructed import Reconstruct
from lmcompress.parameters import Parameters, PatternText
from lmcompress.records import Experiment
from lmcompress.retrain.names import parse

Granularity = Literal["block", "attention-and-mlp", "linear"]


class ReconstructionGrid(Parameters):
    """All combinations of its values; what is not given is taken from the notebook's own parameters."""

    criteria: tuple[Criterion, ...] | None = None
    patterns: tuple[PatternText, ...] | None = None
    subsets: tuple[SubsetText, ...] | None = None
    granularities: tuple[Granularity, ...] | None = None
    targets: tuple[Literal["sparse", "dense"], ...] | None = None
    seeds: tuple[int, ...] | None = None


class Study(PerpStudy):
    """Reconstructions (``block_steps`` steps for each block, on the ``calibration`` windows) beside the
    pruned model and the retrainings of ``retrained``. Learning rates: ``block_rates`` by subset; else chosen
    after magnitude pruning to ``block_rate_pattern``, or, with an empty one, the middle of the grid.
    """

    criteria: tuple[Criterion, ...] = ("magnitude",)
    patterns: tuple[PatternText, ...] = ("50%",)
    block_subsets: tuple[SubsetText, ...] = ("masklora",)
    granularities: tuple[Granularity, ...] = ("block", "attention-and-mlp", "linear")
    targets: tuple[Literal["sparse", "dense"], ...] = ("sparse",)
    block_steps: int = 8
    block_rates: dict[SubsetText, float] = Field(default_factory=dict)
    block_rate_pattern: PatternText | Literal[""] = ""
    retrained: tuple[SubsetText, ...] = ("nothing", "norms")
    more: tuple[ReconstructionGrid, ...] = ()

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
