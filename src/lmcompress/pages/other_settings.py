"""PERP's claims, one setting at a time: another model, another text to retrain on, longer windows; and by steps."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmcompress.experiments.biased import BiasesMatter
from lmcompress.experiments.perp_study import PerpStudy
from lmcompress.experiments.tuned import Compared, Tuned, tuned
from lmcompress.numbers import exp
from lmcompress.parameters import (
    CorpusName,
    Count,
    Length,
    Many,
    ModelName,
    Parameters,
    PatternText,
    Sample,
    Some,
    Whole,
)
from lmcompress.records import Experiment, Record
from lmcompress.report import figures
from lmcompress.report.budget_tables import biased, biases_table, language, where
from lmcompress.report.figures import Figure
from lmcompress.report.html import FAILS, HOLDS, PART, Html
from lmcompress.report.opening import Answer
from lmcompress.report.perp_evidence import Evidence, difference, state
from lmcompress.report.verdicts import Judged, interval, judge_all
from lmcompress.report.words import estimate

BUDGET_SUBSETS = ("norms", "masklora", "full")
WORDS = {"norms": "the norms", "masklora": "MaskLoRA", "biases": "the biases"}
COMPARING = ("contender", "recovered", "near_full", "lower")  # measures that runs of one setting can decide


class Setting(Parameters):
    """Where the claims are judged.

    biases: steps in which biases are added and trained; 0: the model as it comes.

    What is not given is the notebook's own.
    """

    model: ModelName | None = None
    corpus: CorpusName | None = None
    length: Length | None = None
    batch: Count | None = None
    retraining: Count | None = None
    validation: Count | None = None
    calibration: Count | None = None
    test: Sample | None = None
    biases: Whole = 0
    compared: Some[Compared] = (Compared(), Compared(criteria=("wanda",), subsets=("nothing",)))


class Study(PerpStudy):
    """The claims of PERP in every one of ``settings``; and, in the notebook's own, retraining with ``budgets`` of steps
    after magnitude pruning to ``budget_pattern``.
    """

    settings: Some[Setting] = (
        Setting(),
        Setting(biases=4, compared=(Compared(subsets=("nothing", "norms", "full")),)),
    )
    length: Length = 64
    batch: Count = 2
    steps: Count = 4
    calibration: Count = 8
    retraining: Count = 16
    validation: Count = 4
    test: Sample = 8
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
        on |= {"fine_tune_steps": setting.biases}
        return matter + [run for grid in setting.compared for run in grid.runs(on, self.steps, self.seeds)]

    def by_steps(self) -> list[Tuned]:
        """Retraining with other numbers of steps."""
        return [
            tuned(self.evaluated(), subset, steps, criterion="magnitude", pattern=self.budget_pattern, seed=0)
            for steps in self.budgets
            for subset in BUDGET_SUBSETS
        ]


def by_setting(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Setting -> its runs; those with another number of steps than most are left out."""
    found: dict[str, list[Record]] = {}
    runs = language(records)
    steps = Counter(record.parameters["steps"] for record in runs if record.parameters["steps"]).most_common(
        1
    )
    for record in runs:
        if record.parameters["steps"] in (0, *(number for number, _ in steps)):
            found.setdefault(where(record), []).append(record)
    return found


def judged(records: Sequence[Record]) -> dict[str, list[Judged]]:
    """Setting -> the verdict on every claim that its runs can decide."""
    return {
        name: [
            one
            for one in judge_all("perp", Evidence(runs).measures())
            if one.claim.measure in COMPARING and one.cases
        ]
        for name, runs in by_setting(records).items()
    }


def answer(records: Sequence[Record]) -> Answer:
    """How near the norms and MaskLoRA come to full retraining in the settings, and whether the verdicts are the same in
    all. Raises ``LookupError`` with fewer than two settings.
    """
    frame, found = ratios(records), judged(records)
    if frame["setting"].nunique() < 2:
        raise LookupError("two settings or more, each with full retraining")
    parts = []
    for subset, rows in frame.sort_values("times full").groupby("retrained", sort=False):
        ends = [estimate(*rows.iloc[at][["times full", "low", "high"]]) for at in (0, -1)]
        parts.append(f"{WORDS[subset]} {' to '.join(ends) if len(rows) > 1 else ends[0]}")
    sentence = (
        f"In {frame['setting'].nunique()} settings, after magnitude pruning and on the text that was retrained on, "
        f"in times the perplexity of full retraining: {'; '.join(parts)}."
    )
    verdicts: dict[str, set[str]] = {}
    for one in (one for claims in found.values() for one in claims):
        verdicts.setdefault(one.claim.id, set()).add(one.verdict)
    same = sum(len(words) == 1 for words in verdicts.values())
    word = HOLDS if same == len(verdicts) else PART if same else FAILS
    return Answer(
        sentence, "The verdicts are the same in every setting.", word, f" ({same} of {len(verdicts)} claims)"
    )


def ratios(records: Sequence[Record]) -> pd.DataFrame:
    """Perplexity over that of full retraining after magnitude pruning, on the text that was retrained on."""
    rows = []
    for name, runs in by_setting(records).items():
        evidence, corpus = Evidence(runs), runs[0].parameters["data"]
        full = evidence.losses("full", corpus)
        for subset in WORDS:
            for pruning, losses in evidence.losses(subset, corpus).items():
                for case in difference("", losses, full.get(pruning, {}), 0.95, exp):
                    row: dict[str, Any] = {"setting": name, "retrained": subset, "pattern": pruning[1]}
                    row |= {"times full": case.value, "low": case.low, "high": case.high}
                    rows += [row] if pruning[0] == "magnitude" else []
    return pd.DataFrame(rows, columns=["setting", "retrained", "pattern", "times full", "low", "high"])


def ratio_figure(records: Sequence[Record]) -> Figure:
    """:func:`ratios`, a group of bars a setting. Raises ``LookupError`` without any."""
    frame = ratios(records)
    if frame.empty:
        raise LookupError("a setting with full retraining")
    worst, best = (frame.loc[frame["times full"].agg(which)] for which in ("idxmax", "idxmin"))
    return figures.bars(
        frame,
        "setting",
        "times full",
        "retrained",
        title="Perplexity in times that of full retraining",
        caption="After magnitude pruning, each subset at its own learning rate, on the text that was retrained on; "
        "1 is full retraining, below 1 is better. Bars are 95 % intervals over windows and seeds.",
        alt=f"From {best['times full']:.2f} ({best['retrained']}, {best['setting']}) to {worst['times full']:.2f} "
        f"({worst['retrained']}, {worst['setting']}).",
    )


def verdict_table(records: Sequence[Record]) -> Html:
    """A row a claim, a column a setting: the verdict, and how many cases are as claimed, against and open."""
    columns = {
        name: {one.claim.claim: _said(one) for one in found} for name, found in judged(records).items()
    }
    frame = pd.DataFrame(columns).fillna("no run").rename_axis("claim").reset_index()
    return figures.table(frame, "The verdict on each claim, setting by setting")


def _said(one: Judged) -> str:
    words = [one.claim.rule.says(case) for case in one.cases]
    return f"{one.verdict} ({words.count('as claimed')} of {len(words)} as claimed, {words.count('against')} against)"


def levels(records: Sequence[Record]) -> pd.DataFrame:
    """Perplexity with its interval of every state of every setting, on the corpus that was retrained on and others."""
    rows = []
    for name, runs in by_setting(records).items():
        by_state: dict[tuple[Any, ...], list[Record]] = {}
        for record in runs:
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
                        "setting": name,
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


levels_table = figures.tabled(levels, "Perplexity of every state, with 95 % intervals over windows and seeds")


def small(records: Sequence[Record]) -> list[Any]:
    """The tables of a few runs: for what one machine computed."""
    return [
        verdict_table(records),
        levels_table(records),
        *([biases_table(records)] if biased(records) else []),
    ]
