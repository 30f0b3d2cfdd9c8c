"""pages.pruning_sweep"""

from typing import Literal

from lmcompress.errors import ParameterError
from lmcompress.experiments.one_shot import Criterion, FewColumns, InputNorms, PrunedModel
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
from lmcompress.prune.pattern import NofM, parse
from lmcompress.records import Experiment
from lmcompress.records import Study as BaseStudy


class Study(BaseStudy):
    """Parameters of ``10_pruning_sweep``.

    ``test``: windows, or None for the whole split. ``seeds`` draw calibration windows and random masks; criteria that
    need neither run once. ``errors_at``: patterns at which layer errors are measured. ``share``: of the input features,
    taken as the largest; magnitude pruning to ``spared_at`` spares them.
    """

    model: ModelName = "smollm2-135m"
    data: CorpusName = "wikipedia-vital"
    dtype: Literal["fp32", "bf16"] = "bf16"
    length: Length = 512
    test: Sample | None = 8
    calibration: Count = 8
    criteria: Some[Criterion] = ("random", "magnitude", "magnitude-row", "wanda", "sparsegpt")
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
            seeds = self.seeds if criterion in ("random", "wanda", "sparsegpt") else self.seeds[:1]
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

    def _pruned(self, on: dict, criterion: Criterion, pattern: str) -> PrunedModel:
        errors = pattern in self.errors_at
        return PrunedModel(**on, criterion=criterion, pattern=pattern, layer_errors=errors)
