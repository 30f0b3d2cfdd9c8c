"""What retraining costs: parameters, memory, tokens per second; and what a larger budget buys."""

from lmcompress.experiments.costs import ARCHITECTURES, Architecture, ShareTrained, StepCost
from lmcompress.experiments.perp_study import PerpStudy, with_rates
from lmcompress.experiments.pruned import SubsetText
from lmcompress.parameters import Count, Many, PatternText, Some
from lmcompress.records import Experiment


class Study(PerpStudy):
    """Steps of every subset timed (``timed_steps`` each), the parameters of the paper's models counted, and
    retraining repeated with every number of steps in ``budgets``.
    """

    pattern: PatternText = "50%"
    subsets: Some[SubsetText] = ("norms", "new-biases", "masklora", "full")
    timed_steps: Count = 3
    architectures: Many[Architecture] = tuple(ARCHITECTURES)
    counted: Some[SubsetText] = (
        "biases",
        "norms",
        "biases+norms",
        "masklora",
        "biases+norms+head-lora+masklora",
    )
    budgets: Many[Count] = ()
    budget_subsets: Some[SubsetText] = ("norms", "full")

    def experiments(self) -> list[Experiment]:
        same = self.model_dump(include={"model", "dtype", "length", "batch"})
        found: list = [ShareTrained(architecture=name, subsets=self.counted) for name in self.architectures]
        found += [StepCost(**same, subset=subset, steps=self.timed_steps) for subset in self.subsets]
        runs = [
            self.retrain("magnitude", self.pattern, subset, seed, steps=steps)
            for seed in self.seeds
            for steps in self.budgets
            for subset in self.budget_subsets
        ]
        pruned = [self.retrain("magnitude", self.pattern, "nothing", seed) for seed in self.seeds]
        return [*found, *with_rates([*(pruned if runs else ()), *runs])]
