"""What every learning rate gains on the corpus that is retrained on, and what it costs on other texts."""

from lmcompress.parameters import PatternText
from lmcompress.records import Experiment
from lmcompress.studies.perp import Criterion, SubsetText
from lmcompress.studies.perp_study import PerpStudy


class Study(PerpStudy):
    """Every subset of ``trials`` retrained at each of its learning rates, beside the pruned model."""

    criterion: Criterion = "magnitude"
    patterns: tuple[PatternText, ...] = ("50%",)
    trials: dict[SubsetText, tuple[float, ...]]

    def experiments(self) -> list[Experiment]:
        return [run for seed in self.seeds for pattern in self.patterns for run in self._runs(pattern, seed)]

    def _runs(self, pattern: str, seed: int) -> list[Experiment]:
        fixed = {"rate_steps": 0, "rate_pattern": "50%"}  # not used where the rate is given
        return [
            self.retrain(self.criterion, pattern, "nothing", seed),
            *(
                self.retrain(self.criterion, pattern, subset, seed, lr=rate, **fixed)
                for subset, rates in self.trials.items()
                for rate in rates
            ),
        ]
