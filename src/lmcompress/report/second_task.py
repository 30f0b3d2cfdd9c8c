"""A second classification task beside the first: what the profile ``sst2`` adds to the pages 33 and 34.

Both pages compare the published records of two profiles: the classifier of ``full`` and that of ``sst2``. Tasks are
called by their texts.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from lmcompress.records import Record
from lmcompress.report import figures, frontier
from lmcompress.report.agreement import agreement_table, truth_table
from lmcompress.report.words import estimate, of_kind, says

PROFILE = "sst2"


def needs(notebook: str) -> str:
    """What it takes to compute the profile."""
    return f"a GPU, the sentences (hub, or `data/local/sst2`), and `lmcompress compute {notebook} --profile {PROFILE}`"


def _texts(found: Sequence[Record]) -> str:
    return found[0].parameters["data"]


def _classified(found: Sequence[Record]) -> list[Record]:
    return [record for record in found if record.parameters["task"] == "classification"]


def _joined(
    make: Callable[[Sequence[Record]], pd.DataFrame], first: Sequence[Record], second: Sequence[Record]
) -> pd.DataFrame:
    """``make(records)`` of each task that has records, below each other, with a column ``texts`` in front."""
    tables = {_texts(found): make(found) for found in map(_classified, (first, second)) if found}
    return pd.concat(tables, names=["texts"]).reset_index("texts").reset_index(drop=True)


def truths_own(found: Sequence[Record], bits: int) -> float:
    """Rank correlation of the truth on one half of the texts with the truth on the other half; NaN without a score."""
    for score in of_kind(found, "score"):
        table = agreement_table([*of_kind(found, "truth"), score], bits)
        for value in table["truth's own"].dropna():
            return value
    return math.nan


def truth_by_width(found: Sequence[Record]) -> pd.DataFrame:
    """What quantizing one layer costs at each width, over all layers (thousandths of a nat), and how well one knows."""
    increases = truth_table(found)
    rows = []
    for width, layers in increases.groupby("width", sort=False):
        cost = 1000 * layers["loss increase (nats)"]
        own = truths_own(found, int(width.split()[0]))
        rows.append((width, cost.mean(), cost.min(), cost.max(), own))
    heads = ["width", "mean", "smallest", "largest", "truth's own"]
    return pd.DataFrame(rows, columns=heads)


def _accuracy(record: Record) -> str:
    about, result = record.parameters, record.result
    return (
        f"{result['right']:.1%} on {about['data']} ({result['classes']} classes, {result['texts']} test texts, 95 % "
        f"interval {result['right_low']:.1%} to {result['right_high']:.1%})"
    )


def _rho(row: pd.Series) -> str:
    return estimate(row["Spearman"], row["low"], row["high"])


def scores_verdict(
    agreement: pd.DataFrame, tuned: Sequence[Record], bits: int, score: str = "PMPQ"
) -> list[str]:
    """Sentences on both tasks: the classifiers, how well the truth is known, one score's correlation, and the best.

    ``agreement``: the table of ``agreement_table`` with a column ``texts``.
    """
    sentences = []
    if tuned:
        sentences.append(f"The fine-tuned classifier is right in {' and '.join(map(_accuracy, tuned))}.")
    ranked = agreement.dropna(subset=["Spearman"])
    tasks = {name: rows.set_index("score") for name, rows in ranked.groupby("texts", sort=False)}
    if len(tasks) == 2:
        (one, before), (other, now) = tasks.items()
        was, known = before["truth's own"].iloc[0], now["truth's own"].iloc[0]
        verb = "rises" if known > was else "does not rise"
        sentences.append(
            f"At {bits} bits the truth's own rank correlation {verb}: {was:.2f} on {one}, {known:.2f} on {other}."
        )
        if score in before.index and score in now.index:
            a, b = before.loc[score], now.loc[score]
            apart = max(a["low"], b["low"]) > min(a["high"], b["high"])
            change = "changes beyond its interval" if apart else "does not change beyond its interval"
            sentences.append(
                f"{score}'s Spearman correlation with the truth {change}: {_rho(a)} on {one}, "
                f"{_rho(b)} on {other}."
            )
    for name, rows in tasks.items():
        sure = ", ".join(rows.index[rows["low"] > 0]) or "none"
        sentences.append(
            f"On {name} the best of {len(rows)} scores is {rows.index[0]}, {_rho(rows.iloc[0])}; "
            f"scores whose interval lies above 0: {sure}."
        )
    return sentences


def size_of_the_truth(costs: pd.DataFrame, bits: int) -> str:
    """A sentence on how much there is to foresee. ``costs``: :func:`truth_by_width` of each task."""
    here = costs[costs["width"] == f"{bits} bits"]
    parts = [
        f"by {row['smallest']:.1f} to {row['largest']:.1f} on {row['texts']}" for _, row in here.iterrows()
    ]
    return f"One Linear at {bits} bits changes the loss {', '.join(parts)} (thousandths of a nat)."


def scores(first: Sequence[Record], second: Sequence[Record], bits: int = 3) -> list[Any]:
    """Sentences, a figure and a table for the page on scores."""
    agreement = _joined(lambda found: agreement_table(found, bits), first, second)
    costs = _joined(truth_by_width, first, second)
    tuned = of_kind([*first, *second], "fine_tuned")
    shown = agreement[["texts", "score", "Spearman", "low", "high", "seconds"]]
    return [
        says([*scores_verdict(agreement, tuned, bits), size_of_the_truth(costs, bits)]),
        figures.bars(
            shown,
            "score",
            "Spearman",
            panels="texts",
            title=f"Rank agreement of every score with the measured loss increase at {bits} bits, two tasks",
            caption="As above: Spearman's rho over the classifier's Linears, with 95 % bootstrap intervals over layers "
            "and texts. A score without a bar is not published, or the same for all layers.",
            alt="Horizontal bars, one a score and panel a classification task: Spearman correlation with the truth.",
        ),
        figures.table(
            costs,
            "Loss increase (thousandths of a nat) when one of the classifier's Linears is quantized, and how well one "
            "knows",
        ),
    ]


def beside(points: pd.DataFrame) -> pd.DataFrame:
    """The loss increase with its interval, best on average first: a row for each way to choose widths that was tried on
    every task, a column for each task at the bytes of a uniform width. Empty where nothing was tried on every task.
    """
    budgets = {
        name for name in points.loc[points["kind"] == "frontier", "budget"] if name.startswith("uniform")
    }
    others = points["how"] != "uniform, rows"  # these take other bytes
    here = points[points["budget"].isin(budgets) & others]
    here = here[here.groupby(["how", "budget"])["texts"].transform("nunique") == points["texts"].nunique()]
    if not len(here):
        return here
    cells = {
        (row["how"], f"{row['budget'].removeprefix('uniform ')}, {row['texts']}"): (
            f"{row['loss increase (nats)']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        )
        for _, row in here.iterrows()
    }
    order = here.groupby("how")["loss increase (nats)"].mean().sort_values().index
    return pd.Series(cells, dtype=object).unstack().reindex(order).rename_axis("how").reset_index()


def allocation_verdict(points: pd.DataFrame) -> list[str]:
    """A sentence for each uniform width whose bytes are a budget: each task's best score, and the scores whose whole
    interval is below what uniform widths cost.
    """
    scored = points[(points["kind"] == "frontier") & points["budget"].str.startswith("uniform")]
    scored = scored[~scored["how"].str.endswith(", GPTQ") & ~scored["how"].map(frontier.is_truth)]
    same = ["budget", "texts"]
    uniform = points.loc[points["how"] == frontier.UNIFORM, [*same, "loss increase (nats)"]]
    sentences = []
    for budget, rows in scored.merge(uniform, on=same, suffixes=("", ", uniform")).groupby("budget"):
        best, below = [], []
        for name, here in rows.groupby("texts", sort=False):
            bar = here["loss increase (nats), uniform"].iloc[0]
            row = here.loc[here["loss increase (nats)"].idxmin()]
            best.append(f"{row['how']} on {name} ({_nats(row)}, uniform {bar:+.3f})")
            below.append(f"{', '.join(here['how'][here['high'] < bar]) or 'none'} on {name}")
        sentences.append(
            f"At the bytes of {budget} the best score is {', '.join(best)}. Scores whose interval lies below uniform "
            f"widths: {', '.join(below)}."
        )
    return sentences


def _nats(row: pd.Series) -> str:
    return f"{row['loss increase (nats)']:+.3f} nats, {row['low']:+.3f} to {row['high']:+.3f}"


def allocation(first: Sequence[Record], second: Sequence[Record]) -> list[Any]:
    """Sentences, a frontier and tables for the page on bits per layer; what no run is there for is left out."""
    points = _joined(frontier.points_table, first, second)
    mine, texts = points[points["texts"] == _texts(second)], _texts(second)
    shown = mine[mine["how"].isin(frontier.PAPERS) & (mine["kind"] != "clustered")]
    columns = ["how", "bits", "MB", "loss increase (nats)", "low", "high"]
    tables = {
        "Loss increase (nats) at the bytes of uniform widths, both tasks": beside(points),
        f"The paper's clusters on {texts}": mine.loc[mine["kind"] == "clustered", columns],
    }
    dense = _joined(frontier.dense_table, first, second).drop(columns="task")
    return [
        says([*frontier.verdict(second), *allocation_verdict(points)]),
        figures.table(dense, "The classifiers in FP16"),
        *([frontier.frontier_figure(shown, texts, "the paper's scores")] if len(shown) else []),
        *figures.tables(tables),
    ]
