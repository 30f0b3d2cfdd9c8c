"""The answers of the front page: a sentence each, with 95 % intervals, made of published records.

A question whose records are missing raises ``LookupError``, which fails the build of the book: no sentence stands
without its records.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmcompress.numbers import exp
from lmcompress.plans import published
from lmcompress.records import Record
from lmcompress.report import figures, frontier
from lmcompress.report.agreement import agreement
from lmcompress.report.figures import Figure
from lmcompress.report.perp_evidence import Evidence, judged
from lmcompress.report.perp_tables import Losses
from lmcompress.report.verdicts import Judged, interval, tally
from lmcompress.report.words import estimate

CLAIMS, SCORES, BITS = "29_perp_claims", "33_sensitivity_shootout", "34_bit_allocation"
CORPUS = "wikipedia-vital"  # the language runs are retrained and tested on different parts of it
WORDS = {"norms": "the norms", "full": "all weights", "masklora": "MaskLoRA", "nothing": "nothing"}
NAMES = {"wanda": "Wanda", "sparsegpt": "SparseGPT"}
SUBSETS = ("norms", "masklora", "full")
RANKED = "language modelling"
HALF = "50%"


@dataclass(frozen=True)
class Answer:
    """A question, the sentence that answers it, and the notebook whose records it was made of."""

    question: str
    sentence: str
    page: str


def runs(records: Sequence[Record], criterion: str, subset: str) -> Losses:
    """Seed -> losses of the test windows of :data:`CORPUS`, of the runs that prune half by ``criterion`` and retrain
    ``subset`` at the rate that the validation split chose. Raises ``LookupError`` if there is none.
    """
    found = Evidence(records).losses(subset, CORPUS).get((criterion, HALF))
    if not found:
        raise LookupError(f"no run of {subset} after {criterion} at {HALF}")
    return found


def level(records: Sequence[Record], criterion: str, subset: str) -> tuple[float, float, float]:
    """Perplexity of these runs and its 95 % interval."""
    return interval(np.stack(list(runs(records, criterion, subset).values())), transform=exp)


def ratio(
    records: Sequence[Record], one: tuple[str, str], other: tuple[str, str]
) -> tuple[float, float, float]:
    """Perplexity of ``one`` (criterion, subset) over that of the ``other``, seed by seed and window by window, with
    its interval.
    """
    first, second = (runs(records, *which) for which in (one, other))
    seeds = sorted(first.keys() & second.keys())
    return interval(np.stack([first[seed] - second[seed] for seed in seeds]), transform=exp)


def shown(found: tuple[float, ...]) -> str:
    """A perplexity with its interval."""
    return "{:,.1f} ({:,.1f} to {:,.1f})".format(*found)


def survives(records: Sequence[Record]) -> Answer:
    """What pruning half of the weights costs and what the norms bring back."""
    pruned, norms, full = (
        shown(level(records, "magnitude", subset)) for subset in ("nothing", "norms", "full")
    )
    sentence = (
        f"Setting half of the weights to zero, the smallest first, raises the perplexity from {_dense(records):.1f} to "
        f"{pruned}. Retraining only the norms, {_share(records):.3f} % of the parameters, brings it down to {norms}; "
        f"retraining all weights to {full}."
    )
    return Answer("What survives of PERP at 50 % sparsity?", sentence, CLAIMS)


def _dense(records: Sequence[Record]) -> float:
    return _language(records, "norms").result["tests"][CORPUS]["dense"]


def _share(records: Sequence[Record]) -> float:
    """Percent of the parameters that are norms, as the runs counted them."""
    return _language(records, "norms").result["percent"]


def _language(records: Sequence[Record], subset: str) -> Record:
    for record in records:
        about = record.parameters
        if record.kind == "tuned" and (about["task"], about["subset"]) == ("language", subset):
            return record
    raise LookupError(f"no run of {subset}")


def which_subset(records: Sequence[Record]) -> Answer:
    """The part that is best after 50 %, and how far the others are."""
    levels = {subset: level(records, "magnitude", subset) for subset in SUBSETS}
    best, *others = sorted(SUBSETS, key=lambda subset: levels[subset][0])
    behind = " and ".join(
        f"{WORDS[name]} {estimate(*ratio(records, ('magnitude', name), ('magnitude', best)))} times that"
        for name in others
    )
    sentence = (
        f"After magnitude pruning to 50 %, each part at its own learning rate, retraining {WORDS[best]} leaves the "
        f"lowest perplexity, {shown(levels[best])}; retraining {behind}."
    )
    return Answer("Which part should be retrained?", sentence, CLAIMS)


def contender(records: Sequence[Record]) -> Answer:
    """Magnitude with a part retrained against better criteria that are not retrained."""
    parts = []
    for subset in ("norms", "masklora"):
        against = " and ".join(
            f"{estimate(*ratio(records, ('magnitude', subset), (name, 'nothing')))} times that of {shown_name}"
            for name, shown_name in NAMES.items()
        )
        parts.append(f"with {WORDS[subset]} retrained, magnitude pruning has a perplexity {against}")
    sentence = f"At 50 %, compared with better criteria that are not retrained: {'; '.join(parts)}."
    return Answer("Can retraining make up for a plain pruning criterion?", sentence, CLAIMS)


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
    scores = [n for n in scored if not frontier.is_truth(n) and not n.endswith(", GPTQ")]
    if frontier.UNIFORM not in at.index or not scores:
        raise LookupError("uniform 3 bits and a score at its bytes")
    names = [frontier.UNIFORM, at.loc[scores, frontier.INCREASE].idxmin()]
    plain, chosen = (
        estimate(exp(at.loc[name, frontier.INCREASE]), exp(at.loc[name, "low"]), exp(at.loc[name, "high"]))
        for name in names
    )
    sentence = (
        f"At {at.loc[frontier.UNIFORM, 'bits']:.2f} bits a weight with scales, equal widths multiply the perplexity by "
        f"{plain}; the best allocation by a score ({names[1]}) at the same bytes by {chosen}."
    )
    return Answer("What do 3 bits cost?", sentence, BITS)


def cannot_be_judged(claims: Sequence[Judged]) -> Answer:
    """How many claims have no verdict, and on how large a model the others rest."""
    sentence = (
        f"Of {len(claims)} claims and questions on PERP, by published runs: {tally(claims)}. The models "
        "are far smaller than the papers', and what holds at one size need not hold at the other."
    )
    return Answer("What cannot be judged at this size?", sentence, CLAIMS)


def answers() -> list[Answer]:
    """The six answers of the front page. Raises ``LookupError`` where records are missing."""
    claims = _of(CLAIMS)
    makers: tuple[Callable[[], Answer], ...] = (
        lambda: survives(claims),
        lambda: which_subset(claims),
        lambda: contender(claims),
        lambda: which_score(score_table(_of(SCORES))),
        lambda: three_bits(_of(BITS)),
        lambda: cannot_be_judged(judged(claims)),
    )
    return [make() for make in makers]


def _of(page: str) -> list[Record]:
    records = published(page)
    if not records:
        raise LookupError(f"published records of {page}")
    return records


def retrained_figure(records: Sequence[Record]) -> Figure:
    """Perplexity after pruning half by magnitude, by what was retrained."""
    rows = []
    for subset in ("nothing", *SUBSETS):
        value, low, high = level(records, "magnitude", subset)
        rows.append({"retrained": subset, "perplexity": value, "low": low, "high": high})
    frame = pd.DataFrame([*rows, {"retrained": "not pruned", "perplexity": _dense(records)}])
    values = frame.set_index("retrained")["perplexity"]
    said = ", ".join(f"{WORDS[subset]} {values[subset]:,.1f}" for subset in SUBSETS)
    return figures.bars(
        frame,
        "retrained",
        "perplexity",
        log=True,
        title="Half of the weights removed by magnitude, then a part retrained",
        caption=f"smollm2-135m on {CORPUS}, each part at its own learning rate, chosen on validation texts; "
        "bars are 95 % intervals over windows and seeds. Smaller is better.",
        alt=f"Perplexity: retraining nothing {values['nothing']:,.0f}, {said}; "
        f"the model that is not pruned {values['not pruned']:.1f}.",
    )


def scores_figure(table: pd.DataFrame) -> Figure:
    """How well each score ranks the layers, best first."""
    top, last = table.iloc[0], table.iloc[-1]
    return figures.bars(
        table,
        "score",
        "Spearman",
        title="How well a score foresees which layers suffer",
        caption=f"smollm2-135m, {top['layers']}: rank correlation with the measured cost of quantizing one layer to "
        f"{top['bits']} bits; 95 % intervals over layers and windows. 1 is perfect, 0 is chance.",
        alt=f"{top['score']} is best with {top['Spearman']:.2f}, {last['score']} last with {last['Spearman']:.2f}.",
    )


def pictures() -> list[tuple[Figure, str]]:
    """The two figures of the front page, each with the notebook that it belongs to."""
    return [(retrained_figure(_of(CLAIMS)), CLAIMS), (scores_figure(score_table(_of(SCORES))), SCORES)]
