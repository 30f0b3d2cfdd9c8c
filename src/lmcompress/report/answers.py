"""The answers of the front page: a sentence each, with 95 % intervals, made of published records.

A question whose records are missing raises ``LookupError``, which fails the build of the book: no sentence stands
without its records.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmcompress.records import Record, published
from lmcompress.report import figures, frontier
from lmcompress.report.agreement import agreement
from lmcompress.report.figures import Figure
from lmcompress.report.html import FAILS, HOLDS, NOT_RUN, OPEN, PART
from lmcompress.report.perp_tables import exp, interval
from lmcompress.report.rate_tables import _losses, best
from lmcompress.report.verdicts import Judged
from lmcompress.report.words import estimate

RATES, SCORES, BITS = "24_learning_rates", "33_sensitivity_shootout", "34_bit_allocation"
CORPUS = "wikipedia-vital"  # the language runs are retrained and tested on different parts of it
WORDS = {"norms": "the norms", "full": "all weights", "masklora": "MaskLoRA", "nothing": "nothing"}
RANKED = "language modelling"


@dataclass(frozen=True)
class Answer:
    """A question, the sentence that answers it, and the notebook whose records it was made of."""

    question: str
    sentence: str
    page: str


def level(records: Sequence[Record], criterion: str, subset: str, pattern: str = "50%") -> tuple[float, ...]:
    """Perplexity and its 95 % interval on :data:`CORPUS` after pruning and retraining ``subset`` at its best rate.

    Raises ``LookupError`` if there is no such run.
    """
    return interval(_runs(records, criterion, subset, pattern), exp)


def _runs(records: Sequence[Record], criterion: str, subset: str, pattern: str) -> np.ndarray:
    """Losses [seeds, windows] of these runs."""
    rate = None
    if subset != "nothing":
        frame = best(records, CORPUS)
        at = frame.query("criterion == @criterion and pattern == @pattern and subset == @subset")
        if at.empty:
            raise LookupError(f"no run of {subset} after {criterion} at {pattern}")
        rate = at["learning rate"].iloc[0]
    found = _losses(records, CORPUS).get((criterion, pattern, subset, rate))
    if not found:
        raise LookupError(f"no run of {subset} after {criterion} at {pattern}")
    return np.stack([found[seed] for seed in sorted(found)])


def ratio(
    records: Sequence[Record], one: tuple[str, str], other: tuple[str, str], pattern: str = "50%"
) -> str:
    """Perplexity of ``one`` (criterion, subset) over that of the ``other``, window by window, with its interval."""
    first, second = (_runs(records, *which, pattern) for which in (one, other))
    seeds = min(len(first), len(second))
    return estimate(*interval(first[:seeds] - second[:seeds], exp))


def shown(found: tuple[float, ...]) -> str:
    """A perplexity with its interval."""
    return "{:,.1f} ({:,.1f} to {:,.1f})".format(*found)


def survives(records: Sequence[Record]) -> Answer:
    """What pruning half of the weights costs and what the norms bring back."""
    pruned, norms, full = (
        shown(level(records, "magnitude", subset)) for subset in ("nothing", "norms", "full")
    )
    sentence = (
        f"Without half of its weights, removed by magnitude, the model's perplexity rises from "
        f"{_dense(records):.1f} to {pruned}; retraining only the norms, "
        f"{_share(records):.3f} % of the parameters, brings it to {norms}, and retraining all weights to {full}."
    )
    return Answer("What survives of PERP at 50 % sparsity?", sentence, RATES)


def _dense(records: Sequence[Record]) -> float:
    return records[0].result["tests"][CORPUS]["dense"]


def _share(records: Sequence[Record]) -> float:
    """Percent of the parameters that are norms, as the runs counted them."""
    return next(one.result["percent"] for one in records if one.parameters["subset"] == "norms")


def which_subset(records: Sequence[Record]) -> Answer:
    """The part that is best after 50 %, and how far the others are."""
    frame = best(records, CORPUS).query("criterion == 'magnitude' and pattern == '50%'")
    if len(frame) < 2:
        raise LookupError("several subsets after magnitude at 50%")
    order = frame.sort_values("perplexity")
    winner, *others = order["subset"].astype(str)
    behind = [f"{WORDS.get(s, s)} {ratio(records, ('magnitude', s), ('magnitude', winner))}" for s in others]
    sentence = (
        "Each at its best learning rate (picked on the same texts), "
        f"retraining {WORDS.get(winner, winner)} is best; in times its perplexity, the "
        f"others reach: {'; '.join(behind)}."
    )
    return Answer("Which part should be retrained?", sentence, RATES)


def contender(records: Sequence[Record]) -> Answer:
    """Magnitude with norms retrained against better criteria that are not retrained."""
    there = {record.parameters["criterion"] for record in records} - {"magnitude"}
    parts = [
        f"{ratio(records, ('magnitude', 'norms'), (name, 'nothing'))} against {name}"
        for name in sorted(there)
    ]
    if not parts:
        raise LookupError("a criterion beside magnitude")
    sentence = (
        "At 50 %, magnitude pruning with its norms retrained reaches, in times the perplexity of the other criterion "
        f"without retraining: {'; '.join(parts)}. Below 1 it is better."
    )
    return Answer("Can magnitude with PERP replace a better pruning criterion?", sentence, RATES)


def score_table(records: Sequence[Record]) -> pd.DataFrame:
    """Of the language model's layers at the narrowest width: score, Spearman with its interval, seconds; best first."""
    rows = agreement(records)
    rows = rows[(rows["task"] == RANKED) & rows["layers"].str.endswith("Linears")]
    rows = rows[rows["bits"] == rows["bits"].min()].dropna(subset=["Spearman"])
    if rows.empty:
        raise LookupError("scores and the measured truth of the Linears")
    return rows.sort_values("Spearman", ascending=False)


def which_score(table: pd.DataFrame) -> Answer:
    """The best score, what it takes, and the cheapest that is as good within its interval."""
    top = table.iloc[0]
    near = table[table["Spearman"] >= top["low"]].sort_values("seconds").iloc[0]
    sentence = (
        f"{top['score']} ranks the layers best: rank correlation with the measured cost at {top['bits']} bits "
        f"{estimate(top['Spearman'], top['low'], top['high'])}, in {top['seconds']:,.1f} seconds"
    )
    if near["score"] != top["score"]:
        sentence += (
            f"; {near['score']} comes within that interval, "
            f"{estimate(near['Spearman'], near['low'], near['high'])}, in {near['seconds']:,.1f} seconds"
        )
    return Answer("Which bit score is worth its seconds?", f"{sentence}.", SCORES)


def three_bits(records: Sequence[Record]) -> Answer:
    """What 3 bits cost with equal widths, and with the best score at the same bytes."""
    points = frontier.points_table(records)
    at = points[(points["task"] == RANKED) & (points["budget"] == "uniform 3 bits")].set_index("how")
    scored = at.index[at["kind"] == "frontier"]
    scores = [n for n in scored if not n.startswith(frontier.MEASURED) and not n.endswith(", GPTQ")]
    if frontier.UNIFORM not in at.index or not scores:
        raise LookupError("uniform 3 bits and a score at its bytes")
    names = [frontier.UNIFORM, at.loc[scores, "loss increase (nats)"].idxmin()]
    plain, chosen = (
        estimate(*(exp(at.loc[name, column]) for column in ("loss increase (nats)", "low", "high")))
        for name in names
    )
    sentence = (
        f"At {at.loc[frontier.UNIFORM, 'bits']:.2f} bits a weight with scales, equal widths multiply the perplexity by "
        f"{plain}; the best allocation by a score ({names[1]}) at the same bytes by {chosen}."
    )
    return Answer("What do 3 bits cost?", sentence, BITS)


def cannot_be_judged(judged: Sequence[Judged]) -> Answer:
    """How many claims have no verdict, and on how large a model the others rest."""
    counts = {
        word: sum(one.verdict == word for one in judged) for word in (HOLDS, PART, FAILS, OPEN, NOT_RUN)
    }
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    sentence = (
        f"Of {len(judged)} claims and questions on PERP, by published runs: {', '.join(parts)}. The models "
        "are far smaller than the papers', and what holds at one size need not hold at the other."
    )
    return Answer("What cannot be judged at this size?", sentence, "29_perp_claims")


def answers() -> list[Answer]:
    """The six answers of the front page. Raises ``LookupError`` where records are missing."""
    from lmcompress.pages.perp_claims import judged

    rates = _of(RATES)
    makers: tuple[Callable[[], Answer], ...] = (
        lambda: survives(rates),
        lambda: which_subset(rates),
        lambda: contender(rates),
        lambda: which_score(score_table(_of(SCORES))),
        lambda: three_bits(_of(BITS)),
        lambda: cannot_be_judged(judged(published("29_perp_claims"))),
    )
    return [make() for make in makers]


def _of(page: str) -> list[Record]:
    records = published(page)
    if not records:
        raise LookupError(f"published records of {page}")
    return records


def retrained_figure(records: Sequence[Record]) -> Figure:
    """Perplexity after pruning half by magnitude, by what was retrained."""
    subsets = ["nothing", *best(records, CORPUS).query("pattern == '50%'")["subset"].astype(str).unique()]
    rows = []
    for subset in subsets:
        value, low, high = level(records, "magnitude", subset)
        rows.append({"retrained": subset, "perplexity": value, "low": low, "high": high})
    frame = pd.DataFrame([*rows, {"retrained": "not pruned", "perplexity": _dense(records)}])
    values = frame.set_index("retrained")["perplexity"]
    return figures.bars(
        frame,
        "retrained",
        "perplexity",
        low="low",
        high="high",
        log=True,
        title="Half of the weights removed by magnitude, then a part retrained",
        caption=f"smollm2-135m on {CORPUS}, each part at its best learning rate, picked on the same texts; "
        "bars are 95 % intervals over windows "
        "and seeds. Smaller is better.",
        alt=f"Perplexity: retraining nothing {values['nothing']:,.0f}, the norms {values['norms']:,.1f}, all weights "
        f"{values['full']:,.1f}; the model that is not pruned {values['not pruned']:.1f}.",
    )


def scores_figure(table: pd.DataFrame) -> Figure:
    """How well each score ranks the layers, best first."""
    top, last = table.iloc[0], table.iloc[-1]
    return figures.bars(
        table,
        "score",
        "Spearman",
        low="low",
        high="high",
        title="How well a score foresees which layers suffer",
        caption=f"smollm2-135m, {top['layers']}: rank correlation with the measured cost of quantizing one layer to "
        f"{top['bits']} bits; 95 % intervals over layers and windows. 1 is perfect, 0 is chance.",
        alt=f"{top['score']} is best with {top['Spearman']:.2f}, {last['score']} last with {last['Spearman']:.2f}.",
    )


def pictures() -> list[tuple[Figure, str]]:
    """The two figures of the front page, each with the notebook that it belongs to."""
    return [(retrained_figure(_of(RATES)), RATES), (scores_figure(score_table(_of(SCORES))), SCORES)]
