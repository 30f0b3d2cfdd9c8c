"""What to retrain after pruning: every subset against full retraining, at every pattern and after every
criterion.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from numpy import log
from pydantic import Field

from lmcompress.experiments.perp_study import Grid, PerpStudy, on_texts, with_rates
from lmcompress.experiments.pruned import SubsetText
from lmcompress.experiments.retrained import Retrain
from lmcompress.parameters import (
    CorpusName,
    Count,
    Length,
    Many,
    ModelOrNone,
    PatternText,
    Rate,
    Sample,
    Some,
)
from lmcompress.prune.criteria import CriterionName
from lmcompress.records import Experiment, Record
from lmcompress.report import figures, perp_figures
from lmcompress.report.opening import Answer
from lmcompress.report.perp_tables import against_full, corpora, of_task, perplexities
from lmcompress.report.verdicts import Case, Rule
from lmcompress.report.words import estimate


class Study(PerpStudy):
    """The product of ``criteria``, ``patterns``, ``subsets`` and ``seeds``, ``more`` such grids, and the same
    question for a ``classifier`` that has biases (an empty name leaves it out).
    """

    criteria: Some[CriterionName] = ("magnitude",)
    patterns: Some[PatternText] = ("50%",)
    subsets: Some[SubsetText] = ("nothing", "norms", "masklora", "full")
    more: Many[Grid] = ()
    classifier: ModelOrNone = "minilm-l6"
    texts: CorpusName = "bbc-news"
    text_length: Length = 32
    text_batch: Count = 16
    fine_tune_steps: Count = 60
    text_retraining: Count = 240
    text_test: Sample = 200
    text_validation: Count = 100
    classifier_steps: Count = 15
    classifier_patterns: Some[PatternText] = ("70%",)
    classifier_subsets: Some[SubsetText] = ("nothing", "biases", "norms", "full")
    classifier_rates: dict[SubsetText, Rate] = Field(default_factory=dict)

    def experiments(self) -> list[Experiment]:
        runs = self.grid(Grid(), self.criteria, self.patterns, self.subsets)
        for grid in self.more:
            runs += self.grid(grid, self.criteria, self.patterns, self.subsets)
        return with_rates([*runs, *(self._classifier_runs() if self.classifier else ())])

    def _classifier_runs(self) -> list[Retrain]:
        """The classifier's runs: what a language study with other rates would make on its texts."""
        of_texts = self.model_copy(update={"rates": self.classifier_rates, "steps": self.classifier_steps})
        return [
            of_texts.retrain("magnitude", pattern, subset, seed, **on_texts(self))
            for pattern in self.classifier_patterns
            for seed in self.seeds
            for subset in self.classifier_subsets
        ]


def answer(records: Sequence[Record]) -> Answer:
    """How close norms and masked adapters come to full retraining on the corpus that is retrained on, and the verdict
    on PERP's claim that so few parameters match it. Raises ``LookupError`` where the runs are missing.
    """
    runs = of_task(records, "language")
    corpus = next(iter(corpora(runs)), "")
    close = against_full(runs, corpus) if corpus else pd.DataFrame()
    there = set(close["subset"]) if len(close) else set()
    if not {"norms", "masklora"} <= there:
        raise LookupError("`norms` and `masklora` beside `full`")
    trained = {run.parameters["subset"]: run.result["percent"] for run in runs}
    said, counts, cases = [], [], []
    for subset, name in (("masklora", "masked adapters"), ("norms", "the norms")):
        rows = close[close["subset"] == subset]
        usual = rows[(rows["criterion"] == "magnitude") & (rows["pattern"] == "50%")]
        row = (usual if len(usual) else rows).iloc[0]
        value = estimate(row["times full"], row["low"], row["high"])
        said.append((name, f"{trained[subset]:.2g} %", value))
        counts.append(int((rows["low"] <= 1).sum()))
        cases += [
            Case(one["pattern"], one["times full"], one["low"], one["high"]) for _, one in rows.iterrows()
        ]
    (one, share, value), (other, less, behind) = said
    return Answer(
        f"After {row['pattern']} by {row['criterion']}, {one} ({share} of the parameters) reach {value} times the "
        f"perplexity of full retraining, {other} ({less}) {behind}; as good in {counts[0]} and {counts[1]} of "
        f"{len(rows)} settings ({corpus}).",
        "PERP: a small part matches full retraining (at most 1.05 times).",
        Rule(at_most=1.05).verdict(cases),
    )


def small(records: Sequence[Record]) -> list[Any]:
    """The figures of a few runs: for what one machine computed."""
    runs = of_task(records, "language")
    labelled = of_task(records, "classification")
    found: list[Any] = [figures.table(closeness(runs), "How close each subset comes to full retraining")]
    found += [perp_figures.perplexity(runs, corpus) for corpus in corpora(runs)]
    return found + ([perp_figures.accuracy(labelled, corpora(labelled)[0])] if labelled else [])


def closeness(records: Sequence[Record]) -> pd.DataFrame:
    """One row a subset, closest first: on each corpus its perplexity over that of full retraining, least to largest
    of all settings, and in how many settings it is as good (the 95 % interval reaches 1 or lies below).
    """
    columns: dict[str, dict[str, str]] = {}
    distance: dict[str, float] = {}
    for corpus in corpora(records):
        close = against_full(records, corpus)
        close = close[close["subset"] != "nothing"] if len(close) else close
        for subset, rows in close.groupby("subset", observed=True) if len(close) else ():
            ends = {f"{value:.2f}": None for value in (rows["times full"].min(), rows["times full"].max())}
            row = columns.setdefault(subset, {})
            row[f"times full, {corpus}"] = " to ".join(ends)
            row[f"as good, {corpus}"] = f"{(rows['low'] <= 1).sum()} of {len(rows)}"
            distance.setdefault(subset, float(log(rows["times full"]).mean()))
    trained = {record.parameters["subset"]: record.result["percent"] for record in records}
    closest_first = sorted(distance, key=distance.__getitem__)
    return pd.DataFrame(
        [{"retrained": subset, "trained %": trained[subset]} | columns[subset] for subset in closest_first]
    )


closeness_table = figures.tabled(
    closeness,
    "How close each subset comes to full retraining: least to largest over criteria and sparsities; as good: the "
    "interval reaches 1 or lies below",
)


settings_table = perp_figures.tabled(perplexities, "Every setting of the published run, {}")


def levels(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """Perplexity with its interval: a row for each criterion and pattern, a column for each subset that most rows
    have, and the best of all where full retraining is among them.
    """
    frame = perplexities(records, corpus).dropna(subset=["perplexity"])
    texts = [
        f"{row['perplexity']:,.1f} ({row['low']:,.1f} to {row['high']:,.1f})" for _, row in frame.iterrows()
    ]
    rows = ["criterion", "pattern", "dense"]
    wide = frame.assign(level=texts).pivot(index=rows, columns="subset", values="level")
    common = [subset for subset in wide if 2 * wide[subset].count() > len(wide)]
    best = (
        frame.loc[frame.groupby(rows, observed=True)["perplexity"].idxmin()]
        .set_index(rows)["subset"]
        .astype(str)
    )
    if "full" in wide:
        best = best.where(wide["full"].notna())
    shown = wide[common].rename(columns={"nothing": "pruned"})
    shown.columns = list(shown.columns)
    return shown.assign(best=best).reset_index().fillna("")


levels_table = perp_figures.tabled(levels, "Perplexity of {}, and the best")
