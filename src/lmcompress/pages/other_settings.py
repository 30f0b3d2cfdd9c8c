"""PERP's claims, one setting at a time: another model, another text to retrain on, longer windows; and by steps."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmcompress.experiments.biased import BiasesMatter
from lmcompress.experiments.perp_study import PerpStudy
from lmcompress.experiments.pruned import SubsetText
from lmcompress.experiments.tuned import RATES, Tuned
from lmcompress.parameters import (
    CorpusName,
    Count,
    Length,
    Many,
    ModelName,
    Parameters,
    PatternText,
    Sample,
    Seed,
    Some,
    Title,
    Whole,
)
from lmcompress.prune.criteria import CriterionName
from lmcompress.records import Experiment, Record
from lmcompress.report import figures
from lmcompress.report.figures import Figure
from lmcompress.report.html import NOT_RUN
from lmcompress.report.perp_evidence import Evidence, state
from lmcompress.report.perp_tables import exp
from lmcompress.report.verdicts import Judged, interval, judge_all

BUDGET_SUBSETS = ("norms", "masklora", "full")
COMPARING = ("contender", "recovered", "near_full", "lower")  # measures that runs of one setting can decide


class Compared(Parameters):
    """Runs that are compared, each at its own rate: all combinations."""

    criteria: Some[CriterionName] = ("magnitude",)
    patterns: Some[PatternText] = ("50%",)
    subsets: Some[SubsetText] = ("nothing", "norms", "full")
    seeds: Some[Seed] | None = None


class Setting(Parameters):
    """Where the claims are judged. ``biases``: steps in which biases are added and trained (0: the model as it comes);
    what is not given is the notebook's own.
    """

    name: Title
    model: ModelName | None = None
    corpus: CorpusName | None = None
    length: Length | None = None
    batch: Count | None = None
    retraining: Count | None = None
    validation: Count | None = None
    calibration: Count | None = None
    test: Sample | None = None
    biases: Whole = 0
    compared: Some[Compared] = (
        Compared(),
        Compared(criteria=("wanda",), subsets=("nothing",)),
    )


class Study(PerpStudy):
    """The claims of PERP in every one of ``settings``; and, in the notebook's own, retraining with ``budgets`` of steps
    after magnitude pruning to ``budget_pattern``.
    """

    settings: Some[Setting] = (
        Setting(name="as it comes"),
        Setting(
            name="with biases",
            biases=10,
            compared=(Compared(subsets=("nothing", "biases", "full")),),
        ),
    )
    steps: Count = 6
    budgets: Many[Count] = ()
    budget_pattern: PatternText = "50%"

    def experiments(self) -> list[Experiment]:
        found = [run for setting in self.settings for run in self.runs(setting)]
        found += self.by_steps()
        return list({(one.kind, one.model_dump_json()): one for one in found}.values())

    def runs(self, setting: Setting) -> list[Experiment]:
        """The runs of one setting."""
        on = self.evaluated() | {
            theirs: value
            for theirs, ours in {"model": "model", "data": "corpus"}.items()
            if (value := getattr(setting, ours)) is not None
        }
        names = ("length", "batch", "retraining", "validation", "calibration", "test")
        on |= {name: value for name in names if (value := getattr(setting, name)) is not None}
        matter = []
        if setting.biases:
            names = ("model", "data", "dtype", "length", "batch", "test")
            matter = [BiasesMatter(**{name: on[name] for name in names}, steps=setting.biases)]
        return matter + [
            _tuned(on | {"fine_tune_steps": setting.biases}, subset, criterion, pattern, seed, self.steps)
            for grid in setting.compared
            for criterion in grid.criteria
            for pattern in grid.patterns
            for seed in grid.seeds or self.seeds
            for subset in grid.subsets
        ]

    def by_steps(self) -> list[Tuned]:
        """Retraining with other numbers of steps."""
        return [
            _tuned(self.evaluated(), subset, "magnitude", self.budget_pattern, 0, steps)
            for steps in self.budgets
            for subset in BUDGET_SUBSETS
        ]


def _tuned(on: dict, subset: str, criterion: str, pattern: str, seed: int, steps: int) -> Tuned:
    nothing = subset == "nothing"
    about = {"criterion": criterion, "pattern": pattern, "subset": subset, "seed": seed}
    return Tuned(**on | about, steps=0 if nothing else steps, rates=() if nothing else RATES[subset])


def of(records: Sequence[Record], experiments: Sequence[Experiment]) -> list[Record]:
    """Those of ``records`` that are of one of ``experiments``."""
    wanted = [(one.kind, one.model_dump(mode="json")) for one in experiments]
    return [record for record in records if (record.kind, record.parameters) in wanted]


def judged(study: Study, records: Sequence[Record]) -> dict[str, list[Judged]]:
    """Setting -> the verdict on every claim that its runs can decide."""
    return {
        setting.name: [
            one
            for one in judge_all("perp", Evidence(of(records, study.runs(setting))).measures())
            if one.claim.measure in COMPARING
        ]
        for setting in study.settings
    }


def verdict_table(study: Study, records: Sequence[Record]) -> pd.DataFrame:
    """A row a claim, a column a setting: the verdict, and how many cases are as claimed, against and open."""
    columns = {}
    for name, found in judged(study, records).items():
        columns[name] = {one.claim.claim: _said(one) for one in found}
    frame = pd.DataFrame(columns)
    return frame[(frame != NOT_RUN).any(axis=1)].rename_axis("claim").reset_index()


def _said(one: Judged) -> str:
    if not one.cases:
        return NOT_RUN
    words = [one.claim.rule.says(case) for case in one.cases]
    return f"{one.verdict} ({words.count('as claimed')} of {len(words)} as claimed, {words.count('against')} against)"


def levels(study: Study, records: Sequence[Record]) -> pd.DataFrame:
    """Perplexity with its interval of every state of every setting, on the corpus that was retrained on and others."""
    rows = []
    for setting in study.settings:
        by_state: dict[tuple, list[Record]] = {}
        for record in of(records, study.runs(setting)):
            if record.kind == "tuned":
                about = record.parameters
                by_state.setdefault((about["criterion"], about["pattern"], state(about)), []).append(record)
        for (criterion, pattern, retrained), group in by_state.items():
            for corpus in group[0].result["tests"]:
                tests = [record.result["tests"][corpus] for record in group]
                if any(test["nll"] is None for test in tests):
                    continue
                value, low, high = interval(np.array([test["nll"] for test in tests]), transform=exp)
                rows.append(
                    {
                        "setting": setting.name,
                        "tested on": corpus,
                        "dense": tests[0]["dense"],
                        "pruned": f"{pattern} by {criterion}",
                        "retrained": "nothing" if retrained == "pruned" else retrained,
                        "perplexity": value,
                        "low": low,
                        "high": high,
                        "seeds": len(group),
                    }
                )
    return pd.DataFrame(rows)


def biases_table(records: Sequence[Record]) -> pd.DataFrame:
    """What the biases of each model with trained biases are worth: perplexity with them and without."""
    return pd.DataFrame(
        {
            "model": record.parameters["model"],
            "steps of training": record.parameters["steps"],
            "biases": record.result["biases"],
            "perplexity as it comes": record.result["without"],
            "with trained biases": record.result["with"],
            "these set to zero": record.result["ablated"],
        }
        for record in records
        if record.kind == "biases_matter"
    )


def budget_table(study: Study, records: Sequence[Record]) -> pd.DataFrame:
    """Perplexity by steps and subset, with passes over the retraining texts and the rate that was chosen."""
    rows = []
    for record in of(records, study.by_steps()):
        about = record.parameters
        for corpus, found in record.result["tests"].items():
            if found["nll"] is not None:
                rows.append(
                    {
                        "tested on": corpus,
                        "subset": about["subset"],
                        "steps": about["steps"],
                        "passes": about["steps"] * about["batch"] / about["retraining"],
                        "perplexity": found["perplexity"],
                        "low": found["low"],
                        "high": found["high"],
                        "rate": record.result["lr"],
                    }
                )
    return pd.DataFrame(rows)


def budget_figure(frame: pd.DataFrame, pattern: str) -> Figure:
    """Perplexity against steps, a line a subset, a panel a corpus."""
    ends = frame[frame["steps"] == frame["steps"].max()]
    best = ends.loc[ends.groupby("tested on")["perplexity"].idxmin()]
    alt = "; ".join(
        f"on {row['tested on']} {row['subset']} is lowest after {row['steps']} steps with {row['perplexity']:.1f}"
        for _, row in best.iterrows()
    )
    return figures.lines(
        frame,
        "steps",
        "perplexity",
        "subset",
        low="low",
        high="high",
        panels="tested on",
        own_axes=True,
        log_x=True,
        log_y=True,
        title="More steps of retraining",
        caption=f"After magnitude pruning to {pattern}, each subset at its own learning rate, one seed; bars are 95 % "
        "intervals over test windows.",
        alt=f"Perplexity by steps of retraining: {alt}.",
    )
