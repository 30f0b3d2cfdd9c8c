"""How well the scores of one page rank the layers of each model, at every width that was measured."""

from collections.abc import Sequence

import pandas as pd

from lmcompress.errors import ParameterError
from lmcompress.experiments.scored import as_scores
from lmcompress.records import Record
from lmcompress.report.html import Html, table
from lmcompress.report.words import by_depth, estimate, of_kind, readable, remembered
from lmcompress.sensitivity.agreement import ceiling, rank_agreement

HALVES, MOST = "truth, half against half", "a perfect score"


def truths(records: Sequence[Record]) -> list[Record]:
    """The measured costs of each model, data and granularity: from the most windows, where there are several."""
    found = {}
    for record in sorted(of_kind(records, "truth"), key=lambda one: one.parameters.get("windows", 0)):
        found[tuple(record.parameters.get(name) for name in ("model", "data", "task", "per"))] = record
    return list(found.values())


def agreement(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each task, width and score: Spearman with its interval, ``truth's own`` (how far one half of
    the windows foresees the other), seconds, and ``layers``, what was ranked ("30 blocks").

    Every score is held against the truth of the same layers, blocks or Linears.
    """
    found = []
    for truth in truths(records):
        task, per = truth.parameters["task"], truth.parameters["per"]
        scores = [
            r for r in of_kind(records, "score") if (r.parameters["task"], r.parameters["per"]) == (task, per)
        ]
        layers = f"{len(truth.result['losses'])} {'blocks' if per == 'block' else 'Linears'}"
        for bits in truth.parameters["widths"]:
            rows = agreement_table([truth, *scores], bits)
            found.append(rows.assign(bits=bits, layers=layers))
    return pd.concat(found, ignore_index=True)


def agreement_tables(records: Sequence[Record], rows: pd.DataFrame) -> list[Html]:
    """A table for each task of :func:`agreement`: scores by widths, best at the narrowest width first."""
    found = []
    for task, part in rows.groupby("task", sort=False):
        order = part[part["bits"] == part["bits"].min()].sort_values("Spearman", ascending=False)["score"]
        shown, space = [], "\u00a0" if part["bits"].nunique() < 5 else " "  # more columns have less room
        for score in order:
            mine = part[part["score"] == score]
            cells = {f"{row['bits']} bits": written(row, space) for _, row in mine.iterrows()}
            shown.append({"score": score, **cells, "seconds": mine["seconds"].iloc[0]})
        own = part.groupby("bits")["truth's own"].max()
        seconds = [r.result["seconds"] for r in truths(records) if readable(r.parameters["task"]) == task]
        halves = {f"{bits} bits": "–" if pd.isna(value) else f"{value:.2f}" for bits, value in own.items()}
        shown.append({"score": HALVES, **halves, "seconds": seconds[0]})
        most = {f"{bits} bits": f"{ceiling(value):.2f}" if value > 0 else "–" for bits, value in own.items()}
        shown.append({"score": MOST, **most})
        caption = (
            f"{task.capitalize()}: Spearman's rho of each score with the measured cost of quantizing one of the "
            f"{part['layers'].iloc[0]}, 95 % intervals over layers and windows. The last rows: the agreement r of "
            "one half of the windows with the other, and what a perfect score would then reach, the root of "
            "2r / (1 + r). A dash: the score is the same for all."
        )
        found.append(table(pd.DataFrame(shown), caption))
    return found


def written(row: pd.Series, space: str = " ") -> str:
    """Spearman and its interval; with a hard ``space`` the interval stays in one line."""
    return estimate(row["Spearman"], row["low"], row["high"], f"{space}to\u00a0")


def ranked(rows: pd.DataFrame, task: str, names: Sequence[str]) -> str:
    """For a sentence: how well these scores of ``task`` rank, at the narrowest width."""
    part = rows[rows["task"] == task]
    part = part[part["bits"] == part["bits"].min()].set_index("score")
    return ", ".join(f"{name} {written(part.loc[name])}" for name in names if name in part.index)


def standing(rows: pd.DataFrame, task: str, names: Sequence[str]) -> str:
    """A sentence: how well these scores of ``task`` rank at the narrowest width, and how well any could."""
    part = rows[rows["task"] == task]
    narrowest = part[part["bits"] == part["bits"].min()]
    own = narrowest["truth's own"].max()
    return (
        f"{task.capitalize()}, {narrowest['layers'].iloc[0]}: Spearman with the truth at "
        f"{narrowest['bits'].iloc[0]} bits is {ranked(rows, task, names)}; {HALVES}: "
        f"{own:.2f}"
        + (f", so that a perfect score would reach about {ceiling(own):.2f}." if own > 0 else ".")
    )


def truth_table(records: Sequence[Record]) -> pd.DataFrame:
    """The measured increase of every layer: columns task, layer (number), width, increase, name."""
    rows = []
    for record in truths(records):
        found = as_scores(record)
        for bits, increases in found.detail["per_width"].items():
            rows += [
                (readable(record.parameters["task"]), index, f"{bits} bits", increase, name)
                for index, (name, increase) in enumerate(by_depth(increases).items())
            ]
    return pd.DataFrame(rows, columns=["task", "layer", "width", "loss increase (nats)", "name"])


@remembered
def agreement_table(
    records: Sequence[Record], bits: int, draws: int = 300, kendall: bool = False
) -> pd.DataFrame:
    """How well every score ranks the layers: Spearman and, with ``kendall``, Kendall with 95 % intervals, and seconds,
    best first.

    Several seeds: mean of values, ends of intervals and seconds. ``truth's own``: rank correlation of the
    truth on one half of the windows with the other half (see :func:`~lmcompress.sensitivity.agreement.ceiling`).
    """
    measured = {record.parameters["task"]: as_scores(record) for record in truths(records)}
    names = ["Spearman", "low", "high", *(["Kendall", "Kendall low", "Kendall high"] if kendall else [])]
    rows = []
    for record in of_kind(records, "score"):
        task = record.parameters["task"]
        if task not in measured:
            continue
        about = readable(task), record.parameters["score"]
        try:
            found = rank_agreement(as_scores(record), measured[task], bits, draws=draws, with_kendall=kendall)
        except ParameterError:  # a constant score ranks nothing
            rows.append((*about, *[None] * len(names), None, record.result["seconds"]))
            continue
        pairs = [pair for pair in (found.spearman, found.kendall) if pair is not None]
        values = [value for pair in pairs for value in (pair.value, pair.low, pair.high)]
        rows.append((*about, *values, found.reliability, record.result["seconds"]))
    names += ["truth's own", "seconds"]
    frame = pd.DataFrame(rows, columns=["task", "score", *names]).astype(dict.fromkeys(names, float))
    frame = frame.groupby(["task", "score"], sort=False, as_index=False).mean()
    return frame.sort_values(["task", "Spearman"], ascending=[True, False], ignore_index=True)
