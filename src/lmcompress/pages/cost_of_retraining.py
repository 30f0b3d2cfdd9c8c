"""What retraining costs: parameters, memory, tokens per second; and what a larger budget buys."""

from collections.abc import Sequence
from typing import Any

from lmcompress.experiments.costs import ARCHITECTURES, COUNTED, Architecture, ShareTrained, StepCost
from lmcompress.experiments.perp_study import PerpStudy, with_rates
from lmcompress.experiments.pruned import SubsetText
from lmcompress.parameters import Count, Many, PatternText, Some
from lmcompress.records import Experiment, Record
from lmcompress.report import cost_tables, figures, perp_figures
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer
from lmcompress.report.perp_tables import language
from lmcompress.report.verdicts import Case, Rule
from lmcompress.report.words import of_kind


class Study(PerpStudy):
    """Steps of every subset timed (``timed_steps`` each), the parameters of the paper's models counted, and
    retraining repeated with every number of steps in ``budgets``.
    """

    pattern: PatternText = "50%"
    subsets: Some[SubsetText] = ("norms", "new-biases", "masklora", "full")
    timed_steps: Count = 3
    architectures: Many[Architecture] = tuple(ARCHITECTURES)
    counted: Some[SubsetText] = COUNTED
    budgets: Many[Count] = ()
    budget_subsets: Some[SubsetText] = ("norms", "full")

    def experiments(self) -> list[Experiment]:
        same = self.model_dump(include={"model", "dtype", "length", "batch"})
        found: list[Any] = [
            ShareTrained(architecture=name, subsets=self.counted) for name in self.architectures
        ]
        found += [StepCost(**same, subset=subset, steps=self.timed_steps) for subset in self.subsets]
        runs = [
            self.retrain("magnitude", self.pattern, subset, seed, steps=steps)
            for seed in self.seeds
            for steps in self.budgets
            for subset in self.budget_subsets
        ]
        pruned = [self.retrain("magnitude", self.pattern, "nothing", seed) for seed in self.seeds]
        return [*found, *with_rates([*(pruned if runs else ()), *runs])]


def counted(records: Sequence[Record]) -> list[Record]:
    """Counts of parameters."""
    return of_kind(records, "share_trained")


def timed(records: Sequence[Record]) -> list[Record]:
    """Timed steps."""
    return of_kind(records, "step_cost")


def usual(records: Sequence[Record]) -> list[Record]:
    """Timed steps of the subsets that all pages compare."""
    return [
        run
        for run in timed(records)
        if run.parameters["subset"] in ("norms", "new-biases", "masklora", "full")
    ]


def answer(records: Sequence[Record]) -> Answer:
    """What a step with the norms and with masked adapters takes beside one of full retraining. Raises ``LookupError``
    where the runs are missing.
    """
    costs: Any = (
        cost_tables.costs(timed(records)).drop_duplicates("subset").set_index("subset")
        if timed(records)
        else {}
    )
    if not {"norms", "full"} <= set(getattr(costs, "index", ())):
        raise LookupError("timed steps of `norms` and `full`")
    full, parts, cases = costs.loc["full"], [], []
    for subset, name in (("norms", "the norms"), ("masklora", "masked adapters")):
        if subset in costs.index:
            memory = costs.loc[subset, "peak memory (GiB)"] / full["peak memory (GiB)"]
            seconds = costs.loc[subset, "seconds a step"] / full["seconds a step"]
            parts.append(f"with {name} {memory:.2f} times the memory and {seconds:.2f} times the time")
            cases += [Case(subset, memory, memory, memory)] if subset == "norms" else []
    about = timed(records)[0]
    return Answer(
        f"A retraining step takes, {' and '.join(parts)} of a step with all weights "
        f"({about.parameters['model']}, {about.provenance['device']}; timed once, no interval).",
        "PERP: a tiny subset takes a fraction of the memory (at most 0.5 times; at this size activations rule it).",
        Rule(at_most=0.5).verdict(cases),
    )


def shares_table(records: Sequence[Record]) -> Html:
    """Percent of the parameters that each subset trains, a row a model."""
    shares = cost_tables.trained_shares(records)
    wide = shares.pivot(index="model", columns="subset", values="percent")
    wide = wide.loc[shares["model"].unique(), list(dict.fromkeys(shares["subset"]))]
    return figures.table(wide.reset_index(), "Percent of the parameters that each subset trains")


costs_table = figures.tabled(cost_tables.costs, "A step of retraining")


def small(records: Sequence[Record]) -> list[Any]:
    """Figures and tables of a few runs: for what one machine computed."""
    runs = language(records)
    found: list[Any] = [perp_figures.speed(timed(records)), costs_table(timed(records))]
    return found + ([perp_figures.budgets(runs)] if runs else [])
