"""What every learning rate gains on the corpus that is retrained on, and what it costs on other texts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from lmcompress.experiments.perp_study import PerpStudy
from lmcompress.experiments.pruned import SubsetText
from lmcompress.numbers import exp
from lmcompress.parameters import PatternText, Rate, Some
from lmcompress.plans import published
from lmcompress.prune.criteria import CriterionName
from lmcompress.prune.pattern import parse
from lmcompress.records import Experiment, Record
from lmcompress.report import figures, perp_figures
from lmcompress.report.figures import Figure
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer
from lmcompress.report.perp_figures import NAMES, PATTERN, convention, drawn
from lmcompress.report.perp_tables import (
    against_full,
    corpora,
    corpus_of,
    of_task,
    ordered,
    without_pruning,
)
from lmcompress.report.rate_tables import RATE, SETTING, _losses, best, by_rate
from lmcompress.report.verdicts import Case, Rule
from lmcompress.report.words import estimate, says


class Study(PerpStudy):
    """Every subset of ``trials`` retrained at each of its learning rates, beside the pruned model, after each of
    ``criteria`` and ``patterns``. A pattern that prunes nothing is the same after all: the first has it.
    """

    criteria: Some[CriterionName] = ("magnitude",)
    patterns: Some[PatternText] = ("50%",)
    trials: dict[SubsetText, Some[Rate]] = Field(
        min_length=1, default_factory=lambda: {"norms": (0.01,), "full": (0.0001, 0.001)}
    )

    def experiments(self) -> list[Experiment]:
        return [
            run
            for seed in self.seeds
            for criterion in self.criteria
            for pattern in self.patterns
            if parse(pattern).sparsity > 0 or criterion == self.criteria[0]
            for run in self._runs(criterion, pattern, seed)
        ]

    def _runs(self, criterion: str, pattern: str, seed: int) -> list[Experiment]:
        fixed = {"rate_steps": 0, "rate_pattern": "50%"}  # not used where the rate is given
        return [
            self.retrain(criterion, pattern, "nothing", seed),
            *(
                self.retrain(criterion, pattern, subset, seed, lr=rate, **fixed)
                for subset, rates in self.trials.items()
                for rate in rates
            ),
        ]


def answer(records: Sequence[Record]) -> Answer:
    """Whether the norms are ahead of full retraining anywhere once both have their best rate. Raises ``LookupError``
    where the runs are missing.
    """
    rows = []
    for corpus in corpora(records):
        frame = best(records, corpus)
        frame = _beside_full(frame) if len(frame) else frame
        rows += [row | {"corpus": corpus} for row in frame.to_dict("records") if row["subset"] == "norms"]
    if not rows:
        raise LookupError("norms and full retraining, each at several rates")
    rows.sort(key=lambda row: row["times full"])
    cases = [
        Case(f"{row['corpus']}, {row['pattern']}", row["times full"], row["low"], row["high"]) for row in rows
    ]
    ends = " to ".join(
        dict.fromkeys(estimate(row["times full"], row["low"], row["high"]) for row in (rows[0], rows[-1]))
    )
    ahead = sum(row["high"] < 1 for row in rows)
    tested = len({row["corpus"] for row in rows})
    return Answer(
        f"Each at its best learning rate, the norms reach {ends} times the perplexity of full retraining; they are "
        f"ahead in {ahead} of {len(rows)} cases (prunings at which all rates were run, {tested} corpora).",
        "At its best rate full retraining is at least as good as the norms on every corpus.",
        Rule(at_least=1.0).verdict(cases),
    )


def sentences(records: Sequence[Record]) -> Html:
    """:func:`answers` as paragraphs."""
    return says(answers(records))


def chosen_table(records: Sequence[Record], corpus: str = "wikitext-2-raw") -> Html:
    """:func:`beside_chosen` of the published runs of page 20 and these. Raises ``LookupError`` without the former."""
    chosen = published("20_retrain_subsets")
    if not chosen or corpus not in corpora(records):
        raise LookupError(f"published runs of page 20 and of this page on {corpus}")
    caption = f"What the rate alone does: perplexity over full retraining's, {corpus}"
    return perp_figures.table(beside_chosen(records, chosen, corpus), caption)


def small(records: Sequence[Record]) -> list[Any]:
    """Sentences and table of a few runs: for what one machine computed."""
    return [sentences(records), rates_table(records)]


def best_rates(records: Sequence[Record]) -> pd.DataFrame:
    """:func:`best` of every corpus in one table for readers, beside the model that was pruned and not retrained."""
    columns: dict[Any, dict[str, str]] = {}
    for corpus in corpora(records):
        for _, row in best(records, corpus).iterrows():
            text = f"{row['perplexity']:,.1f} at {row[RATE]:g}"
            if not np.isnan(row["times full"]):
                text += f"; {estimate(row['times full'], row['low'], row['high'])} times full"
            columns.setdefault(tuple(row[SETTING]), {})[corpus] = text
        for (*setting, rate), runs in _losses(records, corpus).items():
            if rate is None:
                level = exp(np.mean([values.mean() for values in runs.values()]))
                columns.setdefault(tuple(setting), {})[corpus] = f"{level:,.1f}"
    rows = [dict(zip(SETTING, setting, strict=True)) | texts for setting, texts in columns.items()]
    return ordered(pd.DataFrame(rows)).fillna("")


rates_table = figures.tabled(
    best_rates, "Perplexity at the best learning rate on each corpus", show=perp_figures.table
)


def beside_chosen(records: Sequence[Record], chosen: Sequence[Record], corpus: str) -> pd.DataFrame:
    """Perplexity over full retraining's after the same prunings: at the rates that a short trial chose for both
    (``chosen``: runs of the main comparison) and at the best of all (``records``), for readers.
    """
    chosen = [*of_task(chosen, "language"), *without_pruning(chosen)]
    columns = {"at chosen rates": against_full(chosen, corpus), "at best rates": best(records, corpus)}
    texts = []
    for name, frame in columns.items():
        frame = frame[(frame["subset"] != "nothing") & frame["times full"].notna()].astype(
            dict.fromkeys(SETTING, str)
        )
        said = [estimate(row["times full"], row["low"], row["high"]) for _, row in frame.iterrows()]
        texts.append(frame[SETTING].assign(**{name: said}))
    return ordered(texts[0].merge(texts[1], on=SETTING))


def answers(records: Sequence[Record]) -> list[str]:
    """What holds at the best rates on each corpus; what it costs on the others to choose the rate on the first, which
    is retrained on; and whether retraining a model that was not pruned makes it forget them.
    """
    first, *others = corpora(records)
    found = {corpus: best(records, corpus) for corpus in (first, *others)}
    sentences = [_at_best(frame, corpus) for corpus, frame in found.items()]
    for corpus in others:
        level = by_rate(records, corpus).set_index([*SETTING, RATE])["perplexity"]
        price = _price(found[first], found[corpus], level)
        parts = [f"{subset} up to {worst:.2f}" for subset, worst in price.items()]
        sentences.append(
            f"The rate that is best on {first} costs on {corpus}, in times the perplexity at the best rate there: "
            f"{', '.join(parts)}."
        )
        sentences += _forgotten(found[first], level, corpus, records[0].result["tests"][corpus]["dense"])
    return [sentence for sentence in sentences if sentence]


def _beside_full(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`best` after a pruning that have full retraining to stand beside."""
    pruned = [parse(pattern).sparsity > 0 for pattern in frame["pattern"]]
    return frame[pruned].dropna(subset=["times full"])


def _at_best(frame: pd.DataFrame, corpus: str) -> str:
    """After how many prunings each subset is as good as full retraining, all at their best rates."""
    parts = []
    for subset, rows in _beside_full(frame).groupby("subset", observed=True):
        ends = {f"{value:.2f}": None for value in (rows["times full"].min(), rows["times full"].max())}
        good = int((rows["low"] <= 1).sum())
        parts.append(f"{subset} {' to '.join(ends)} times, as good after {good} of {len(rows)} prunings")
    words = f"{corpus}, perplexity over full retraining's, all at their best rates"
    return f"{words}: {'; '.join(parts)}." if parts else ""


def _forgotten(rates: pd.DataFrame, level: pd.Series, corpus: str, dense: float) -> list[str]:
    """Perplexity on ``corpus`` (``level``, by setting and rate) of the unpruned model after retraining at ``rates``."""
    rates = rates[[parse(pattern).sparsity == 0 for pattern in rates["pattern"]]]
    if rates.empty:
        return []
    parts = [f"{row['subset']} {level[*row[SETTING], row[RATE]]:.1f}" for _, row in rates.iterrows()]
    return [
        f"Nothing pruned, retrained at that rate, {corpus} reads: {', '.join(parts)}; before: {dense:.1f}."
    ]


def _price(rates: pd.DataFrame, least: pd.DataFrame, level: pd.Series) -> dict[str, float]:
    """Subset -> the largest ratio over all prunings of the perplexity (``level``, by setting and rate) at ``rates`` to
    the ``least`` on that corpus.
    """
    rates, least = rates.set_index(SETTING)[RATE], least.set_index(SETTING)["perplexity"]
    found: dict[str, float] = {}
    for (*pruned, subset), rate in rates.items():
        ratio = level[*pruned, subset, rate] / least[*pruned, subset]
        found[subset] = max(found.get(subset, 1.0), ratio)
    return found


def at_best_rates(records: Sequence[Record], corpus: str | int = 0) -> Figure:
    """Perplexity of each subset over that of full retraining, both at their best rates, by what was pruned."""
    corpus = corpus_of(records, corpus)
    return drawn(
        _beside_full(best(records, corpus)),
        "times full",
        {"full retraining": 1.0},
        log=True,
        title=f"Over full retraining, all at their best rates, {corpus}",
        caption="Perplexity divided by that of retraining all weights from the same pruned model, each at the "
        f"rate that is best for it here: 1 is as good, below 1 better. {convention(records, corpus)}",
        alt="Ratio of the perplexity of each retrained subset to that of full retraining, both at their best "
        "learning rates, against the sparsity, with a line at one where both are equally good.",
    )


def curves(records: Sequence[Record], corpus: str | int = 0) -> Figure:
    """Perplexity against the learning rate after the first criterion, a panel for each pattern."""
    corpus = corpus_of(records, corpus)
    criterion = records[0].parameters["criterion"]
    records = [record for record in records if record.parameters["criterion"] == criterion]
    frame = by_rate(records, corpus).rename(columns=NAMES)
    dense = records[0].result["tests"][corpus]["dense"]
    return figures.lines(
        frame,
        RATE,
        "perplexity",
        "retrained",
        panels=PATTERN if frame[PATTERN].nunique() > 1 else None,
        own_axes=True,
        reference={"dense": dense},
        log="xy",
        title=f"Perplexity by learning rate, {corpus}",
        caption=f"Pruned by {criterion}; at 0 % nothing is pruned. {convention(records, corpus)}",
        alt="Test perplexity against the learning rate, one line for each retrained subset, with the dense model as a "
        "dashed line: the lowest point of a line is the best rate of that subset on this corpus.",
    )
