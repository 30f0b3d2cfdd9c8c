"""What every learning rate gains on the corpus that is retrained on, and what it costs on other texts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from pydantic import Field

from lmcompress import figures
from lmcompress.figures import Figure
from lmcompress.parameters import PatternText
from lmcompress.prune.pattern import parse
from lmcompress.records import Experiment, Record
from lmcompress.studies.cptquant import estimate
from lmcompress.studies.perp import Criterion, SubsetText
from lmcompress.studies.perp_figures import NAMES, PATTERN, coloured, convention, drawn
from lmcompress.studies.perp_study import PerpStudy
from lmcompress.studies.perp_tables import (
    against_full,
    corpora,
    exp,
    interval,
    of_task,
    ordered,
    without_pruning,
)

RATE = "learning rate"
SETTING = ["criterion", "pattern", "subset"]


class Study(PerpStudy):
    """Every subset of ``trials`` retrained at each of its learning rates, beside the pruned model, after each of
    ``criteria`` and ``patterns``. A pattern that prunes nothing is the same after all: the first has it.
    """

    criteria: tuple[Criterion, ...] = ("magnitude",)
    patterns: tuple[PatternText, ...] = ("50%",)
    trials: dict[SubsetText, tuple[float, ...]] = Field(
        default_factory=lambda: {"norms": (0.01,), "full": (0.0001, 0.001)}
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


Setting = tuple[str, str, str, float | None]  # criterion, pattern, subset, learning rate


def _losses(records: Sequence[Record], corpus: str) -> dict[Setting, dict[int, np.ndarray]]:
    """Setting -> seed -> loss of every test window; runs that ended in no finite loss are left out."""
    found: dict[Setting, dict[int, np.ndarray]] = {}
    for record in records:
        about, losses = record.parameters, record.result["tests"][corpus]["nll"]
        if losses is not None:
            found.setdefault(tuple(about[name] for name in (*SETTING, "lr")), {})[about["seed"]] = np.array(
                losses
            )
    return found


def _tried(records: Sequence[Record]) -> dict[tuple[str, str, str], set[float]]:
    """Criterion, pattern and subset -> the learning rates that were run."""
    found: dict[tuple[str, str, str], set[float]] = {}
    for about in (record.parameters for record in records):
        if about["lr"] is not None:
            found.setdefault(tuple(about[name] for name in SETTING), set()).add(about["lr"])
    return found


def by_rate(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """One row a criterion, pattern, subset and learning rate: perplexity with its 95 % interval over windows and
    seeds.
    """
    rows = [
        dict(zip((*SETTING, RATE), (*setting, rate), strict=True))
        | dict(zip(("perplexity", "low", "high"), interval(np.stack(list(runs.values())), exp), strict=True))
        for (*setting, rate), runs in _losses(records, corpus).items()
        if rate is not None
    ]
    return ordered(pd.DataFrame(rows)) if rows else pd.DataFrame()


def best(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """One row a criterion, pattern and subset: the learning rate of least test loss on ``corpus``, the perplexity
    there, and ``times full``: over that of full retraining at the rate which is best for it, with its 95 % interval.

    The rates are picked on the very texts that are reported, for all subsets alike. A rate at which a run ended in no
    finite loss is no candidate, nor is one with fewer seeds than others of its setting; a subset that was tried at
    fewer rates than elsewhere is left out, since its best may be among the others.
    """
    losses, tried, chosen = _losses(records, corpus), _tried(records), {}
    most: dict[str, int] = {}
    for (*_, subset), rates in tried.items():
        most[subset] = max(most.get(subset, 0), len(rates))
    seeds: dict[tuple, int] = {}
    for (*setting, _), runs in losses.items():
        seeds[tuple(setting)] = max(seeds.get(tuple(setting), 0), len(runs))
    for (*setting, rate), runs in losses.items():
        at = tuple(setting)
        if rate is None or len(tried[at]) < most[at[-1]] or len(runs) < seeds[at]:
            continue
        mean = np.mean([values.mean() for values in runs.values()])
        if at not in chosen or mean < chosen[at][0]:
            chosen[at] = mean, rate
    rows = []
    for at, (mean, rate) in chosen.items():
        row = dict(zip(SETTING, at, strict=True)) | {RATE: rate, "perplexity": exp(mean)}
        row |= dict.fromkeys(("times full", "low", "high"), np.nan)
        beside = (*at[:-1], "full")
        if at != beside and beside in chosen:
            own, full = losses[*at, rate], losses[*beside, chosen[beside][1]]
            difference = np.stack([own[seed] - full[seed] for seed in sorted(own.keys() & full.keys())])
            row |= dict(zip(("times full", "low", "high"), interval(difference, exp), strict=True))
        rows.append(row)
    return ordered(pd.DataFrame(rows)) if rows else pd.DataFrame()


def best_rates(records: Sequence[Record]) -> pd.DataFrame:
    """:func:`best` of every corpus in one table for readers, beside the model that was pruned and not retrained."""
    columns = {}
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


def at_best_rates(records: Sequence[Record], corpus: str) -> Figure:
    """Perplexity of each subset over that of full retraining, both at their best rates, by what was pruned."""
    return drawn(
        _beside_full(best(records, corpus)),
        "times full",
        {
            "title": f"Over full retraining, all at their best rates, {corpus}",
            "caption": "Perplexity divided by that of retraining all weights from the same pruned model, each at the "
            f"rate that is best for it here: 1 is as good, below 1 better. {convention(records, corpus)}",
            "alt": "Ratio of the perplexity of each retrained subset to that of full retraining, both at their best "
            "learning rates, against the sparsity, with a line at one where both are equally good.",
        },
        True,
        {"full retraining": 1.0},
    )


def curves(records: Sequence[Record], corpus: str) -> Figure:
    """Perplexity against the learning rate after the first criterion, a panel for each pattern."""
    criterion = records[0].parameters["criterion"]
    records = [record for record in records if record.parameters["criterion"] == criterion]
    frame = coloured(by_rate(records, corpus).rename(columns=NAMES))
    dense = records[0].result["tests"][corpus]["dense"]
    return figures.lines(
        frame,
        RATE,
        "perplexity",
        "retrained",
        low="low",
        high="high",
        panels=PATTERN if frame[PATTERN].nunique() > 1 else None,
        own_axes=True,
        reference={"dense": dense},
        log_x=True,
        log_y=True,
        title=f"Perplexity by learning rate, {corpus}",
        caption=f"Pruned by {criterion}; at 0 % nothing is pruned. {convention(records, corpus)}",
        alt="Test perplexity against the learning rate, one line for each retrained subset, with the dense model as a "
        "dashed line: the lowest point of a line is the best rate of that subset on this corpus.",
    )
