"""TDMPQ: an expansion of the loss as a score, order by order, and the noise that the released code measures
instead.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import pandas as pd

from lmcompress.experiments.released import ReleasedDraws
from lmcompress.experiments.score_study import ScoreStudy
from lmcompress.experiments.scored import ScoreName, as_scores
from lmcompress.lazily import lazy
from lmcompress.numbers import mean
from lmcompress.parameters import Count, Flag, Many
from lmcompress.records import Experiment, Record
from lmcompress.report import figures
from lmcompress.report.agreement import agreement, agreement_tables, standing
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer, claimed
from lmcompress.report.words import main_task, of_kind, on_task, readable, says

stats = lazy("scipy.stats")

ORDERS = ("TDMPQ", "TDMPQ, Fisher", "TDMPQ, Gauss-Newton", "TDMPQ, second order")
# Fisher's lacks a factor: see the page's limits
IN_NATS = tuple(name for name in ORDERS if name != "TDMPQ, Fisher")
RATIO = "median of predicted over measured"


class Study(ScoreStudy):
    """Expansions of first and second order, the truth, and draws of the released score."""

    language_scores: Many[ScoreName] = ("TDMPQ", "TDMPQ, Fisher")
    classifier_scores: Many[ScoreName] = (*ORDERS, "TDMPQ, input perturbation", "TDMPQ as released")
    draws: Count = 4
    draws_language: Flag = False

    def experiments(self) -> list[Experiment]:
        found: list[Experiment] = [*self.truths(), *self.scores(self.language_scores, self.classifier_scores)]
        for on, count in self.subjects():
            if on["task"] == "classification" or self.draws_language:
                found.append(ReleasedDraws(**on, windows=count, draws=self.draws, seed=0))
        return found


def predicted_table(records: Sequence[Record]) -> pd.DataFrame:
    """Predicted and measured loss increase of every layer and width, for scores in nats; first seeds."""
    truths = {record.parameters["task"]: as_scores(record) for record in of_kind(records, "truth")}
    rows, seen = [], set()
    for record in of_kind(records, "score"):
        about = record.parameters
        key = (about["task"], about["score"])
        if about["score"] not in IN_NATS or about["task"] not in truths or key in seen:
            continue
        seen.add(key)
        scores = as_scores(record)
        for bits in about["widths"]:
            measured = truths[about["task"]].at(bits)
            rows += [
                (readable(about["task"]), about["score"], bits, value, measured[layer])
                for layer, value in scores.at(bits).items()
            ]
    return pd.DataFrame(rows, columns=["task", "score", "bits", "predicted (nats)", "measured (nats)"])


def size_table(records: Sequence[Record]) -> pd.DataFrame:
    """Median of predicted over measured increase: 1 where the expansion is right about sizes, not only about
    order.
    """
    rows = predicted_table(records)
    rows = rows[rows["measured (nats)"] > 0]
    rows = rows.assign(ratio=rows["predicted (nats)"] / rows["measured (nats)"])
    found = rows.groupby(["task", "score", "bits"], as_index=False, sort=False)["ratio"].median()
    return found.rename(columns={"ratio": RATIO})


def draws_table(records: Sequence[Record]) -> pd.DataFrame:
    """The released score between draws of its noise: rank agreement, and its spread over layers against its
    size.
    """
    rows = []
    for record in of_kind(records, "released_draws"):
        scores = record.result["scores"]
        pairs = [(a, b) for index, a in enumerate(scores) for b in scores[index + 1 :]]
        level = mean([mean(one) for one in scores])
        spread = mean([max(one) - min(one) for one in scores])
        agreement = mean([float(stats.spearmanr(a, b).statistic) for a, b in pairs])
        rows.append((readable(record.parameters["task"]), len(scores), level, spread, agreement))
    names = ["task", "draws", "mean score", "spread over the blocks", "Spearman between draws"]
    return pd.DataFrame(rows, columns=names)


def verdict(records: Sequence[Record], ranks: pd.DataFrame) -> list[str]:
    """For each task: how the expansions rank (``ranks``: of :func:`agreement`) and size the measured increase;
    whether the released score repeats itself.
    """
    sizes, sentences = size_table(records), []
    for task in ranks["task"].unique():
        sentences.append(standing(ranks, task, ORDERS))
        parts = []
        for score, mine in sizes[sizes["task"] == task].groupby("score", sort=False):
            ends = [f"{row[RATIO]:.2g} at {row['bits']} bits" for _, row in mine.iloc[[0, -1]].iterrows()]
            parts.append(f"{score} {' and '.join(dict.fromkeys(ends))}")
        if parts:
            sentences.append(f"Predicted over measured increase, median over the layers: {'; '.join(parts)}.")
    for _, row in draws_table(records).iterrows():
        sentences.append(
            f"{row['task'].capitalize()}: two draws of the released score's noise agree with a Spearman of "
            f"{row['Spearman between draws']:.2f}."
        )
    return sentences


def still_to_gain(retrained: Sequence[Record]) -> list[str]:
    """How far the language model is from a minimum for its texts: what training the unpruned model lowers the loss by.

    retrained: records of kind ``retrain``; of these, what was trained in full with nothing pruned. Empty without any.
    """
    found: dict[tuple[Any, ...], list[float]] = {}
    for record in of_kind(retrained, "retrain"):
        about, tests = record.parameters, record.result["tests"]
        whole = about["pattern"] == "0%" and about["subset"] == "full"
        if whole and tests.get(about["data"], {}).get("perplexity"):
            here = tests[about["data"]]
            key = (about["model"], about["data"], about["steps"], record.result["lr"])
            found.setdefault(key, []).append(math.log(here["dense"] / here["perplexity"]))
    if not found:
        return []
    (model, corpus, steps, _), gains = max(found.items(), key=lambda item: mean(item[1]))
    return [
        f"{model} is at no minimum for the texts of {corpus}, so its gradient is not 0 there: {steps} steps of "
        f"training all of it, with nothing pruned, lower its loss by {mean(gains):.2f} nats at the best rate."
    ]


def answer(records: Sequence[Record]) -> Answer:
    """How the orders of the expansion rank the layers, and the verdict on the paper's claim. Raises ``LookupError``
    where the runs are missing.
    """
    if not of_kind(records, "truth") or not of_kind(records, "score"):
        raise LookupError("TDMPQ and the measured truth")
    rows = agreement(records)
    said = standing(rows, main_task(rows["task"]), [name for name in ORDERS if name != "TDMPQ, Fisher"])
    return claimed(said, "cptquant", "ranks-tdmpq-taylor", records)


def sentences(records: Sequence[Record], retrained: Sequence[Record] = ()) -> Html:
    """What the runs say on each task, and how far ``retrained`` (of page 24) says that the model is from a minimum."""
    return says([*verdict(records, agreement(records)), *still_to_gain(retrained)])


def rank_tables(records: Sequence[Record]) -> list[Any]:
    """The agreement of each score with the truth, a table a task."""
    return agreement_tables(records, agreement(records))


def expansion(records: Sequence[Record], task: str = "language modelling") -> figures.Figure:
    """Predicted against measured, a panel an order. Raises ``LookupError`` where that task was not run."""
    predicted = predicted_table(records)
    predicted["width"] = pd.Categorical(
        [f"{bits} bits" for bits in predicted["bits"]],
        [f"{bits} bits" for bits in sorted(set(predicted["bits"]))],
    )
    predicted = on_task(predicted, task)
    shown = predicted[(predicted["predicted (nats)"] > 0) & (predicted["measured (nats)"] > 0)]
    if shown.empty:
        raise LookupError(task)
    lost = int((predicted["measured (nats)"] <= 0).sum())
    return figures.scatter(
        shown,
        "predicted (nats)",
        "measured (nats)",
        "width",
        panels="score",
        log="xy",
        diagonal="predicted = measured",
        title=f"Predicted and measured cost of quantizing one layer, {task}",
        caption=f"Each point is a layer at one width. {lost} of the {len(predicted)} "
        "points are left out here and in the table's medians: their measured increase is not above 0.",
        alt=f"Points on logarithmic axes, {task}: predicted against measured loss increase, one panel an order "
        "of the expansion and one colour a width, with the line where both are equal.",
    )


def sizes(records: Sequence[Record]) -> Html:
    """:func:`size_table` for readers, a column a width."""
    wide = size_table(records).pivot(index=["task", "score"], columns="bits", values=RATIO).reset_index()
    wide = wide.rename(columns={bits: f"{bits} bits" for bits in wide.columns if isinstance(bits, int)})
    return figures.table(
        wide, "Are the sizes right? Predicted over measured increase, median over the layers"
    )


draws = figures.tabled(
    draws_table,
    "The released score: what another draw of its noise leaves of it",
    "draws of the released score",
)


def pieces(records: Sequence[Record]) -> list[Any]:
    """Sentences, figures and tables of a few runs: for what one machine computed."""
    found: list[Any] = [sentences(records), *rank_tables(records)]
    makers: list[Any] = [partial(expansion, task=task) for task in predicted_table(records)["task"].unique()]
    for make in (*makers, sizes, draws):
        with suppress(LookupError):
            found.append(make(records))
    return found
