"""CMPQ: correlation between layers as a score. What depth alone makes of it, and what the released code
makes of it.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmcompress.experiments.released import CmpqChecks, CmpqFlaws
from lmcompress.experiments.score_study import ScoreStudy
from lmcompress.experiments.scored import Per, ScoreName
from lmcompress.parameters import Count, Many, Some
from lmcompress.records import Experiment, Record
from lmcompress.report import figures
from lmcompress.report.agreement import agreement, agreement_tables, ranked, truth_table
from lmcompress.report.depth import (
    CONTRAST,
    DISTANCE,
    MEASURES,
    NO_DIFFERENCE,
    contrasts,
    depth_nulls,
    distance_alone,
    null_table,
)
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer, claimed
from lmcompress.report.words import main_task, of_kind, says, started


class Study(ScoreStudy):
    """CMPQ by four measures and as released, its nulls, and the truth, block by block."""

    classifier_per: Per = "block"
    measures: Many[ScoreName] = MEASURES
    language_measures: Many[ScoreName] = ("CMPQ",)
    counts: Some[Count] = (64, 800)
    padding: Count = 32
    held_out: Count = 8
    null_draws: Count = 3

    def experiments(self) -> list[Experiment]:
        released = ("CMPQ as released",)
        found: list[Experiment] = [*self.truths()]
        found += self.scores(self.language_measures + released, self.measures + released)
        for on, count in self.subjects():
            if on["task"] == "classification":
                found.append(CmpqFlaws(**on, counts=self.counts, padding=self.padding, seed=0))
                checks: dict[str, Any] = {"held_out": self.held_out, "null_draws": self.null_draws, "seed": 0}
                found.append(CmpqChecks(**on, windows=count, **checks))
        return found


def verdict(records: Sequence[Record], rows: pd.DataFrame) -> list[str]:
    """For each task: what distance alone explains of CMPQ, how both rank the blocks (``rows``: of
    :func:`agreement`), and whether the ends are really the sensitive ones.
    """
    measured, sentences = contrasts(records).set_index("task"), []
    for task, score, null in depth_nulls(records):
        if score != "CMPQ":
            continue
        sentence = (
            f"{task.capitalize()}: a similarity that depends on distance alone explains {null.explained:.0%} of the "
            f"variance of CMPQ over the blocks. Spearman with the truth at {rows['bits'].min()} bits: "
            f"{ranked(rows, task, ('CMPQ', DISTANCE))}."
        )
        if task in measured.index:
            row = measured.loc[task]
            word = (
                "cost more than" if row["low"] > 0 else "cost less than" if row["high"] < 0 else NO_DIFFERENCE
            )
            sentence += (
                f" Measured at {row['bits']:g} bits, the first and last 30 % {word} the middle: {row[CONTRAST]:+.4f} "
                f"nats a block ({row['low']:+.4f} to {row['high']:+.4f}, p = {row['p']:.2g} by permutation of the "
                f"blocks; all blocks on average {row['mean of all layers']:.4f})."
            )
        sentences.append(sentence)
    return sentences


def flaw_table(records: Sequence[Record]) -> pd.DataFrame:
    """What the released code's choices do to its own scores."""
    rows = []
    for record in of_kind(records, "cmpq_flaws"):
        about, result = record.parameters, record.result
        for count in about["counts"]:
            scores = result["by_count"][str(count)]
            rows.append((f"{count} texts for {result['features']} features", min(scores), max(scores)))
        padded = f"{about['counts'][-1]} texts, {about['padding']} masked tokens added to each"
        rows.append((padded, min(result["padded"]), max(result["padded"])))
    return pd.DataFrame(rows, columns=["released CMPQ with", "least of the blocks", "most of the blocks"])


def check_table(records: Sequence[Record]) -> pd.DataFrame:
    """Correlations of the two sides of each block: in sample, of shuffled tokens, and held out."""
    rows = []
    for record in of_kind(records, "cmpq_checks"):
        result = record.result
        values = zip(result["in_sample"], result["null"], result["held_out"], strict=True)
        rows += [(block, *three) for block, three in enumerate(values)]
    names = ["block", "mean CCA", "mean CCA of shuffled tokens", "first correlations, held out"]
    return pd.DataFrame(rows, columns=names)


def ranks(records: Sequence[Record]) -> pd.DataFrame:
    """:func:`agreement` of the scores and of what distance alone makes of CMPQ."""
    return agreement([*records, *distance_alone(records)])


def answer(records: Sequence[Record]) -> Answer:
    """What distance alone makes of CMPQ, and the verdict on the paper's claim. Raises ``LookupError`` where runs are
    missing.
    """
    found = {task: null for task, score, null in depth_nulls(records) if score == "CMPQ"}
    rows = ranks(records) if of_kind(records, "truth") else pd.DataFrame()
    if not found or rows.empty:
        raise LookupError("CMPQ with its similarities, and the measured truth")
    task = main_task(list(found))
    null = found[task]
    said = (
        f"{started(task)}: a similarity that knows only how far apart two blocks are explains {null.explained:.0%} of "
        f"CMPQ. Rank correlation with the measured cost at {rows['bits'].min()} bits: "
        f"{ranked(rows, task, ('CMPQ', DISTANCE))}."
    )
    return claimed(said, "cptquant", "ranks-cmpq", records)


def depth_figure(records: Sequence[Record]) -> figures.Figure:
    """CMPQ over depth beside its null. Raises ``LookupError`` where no record holds its similarities."""
    rows = [
        (task, depth, series, value)
        for task, score, null in depth_nulls(records)
        if score == "CMPQ"
        for series, values in (("CMPQ", null.scores), ("distance alone", null.expected))
        for depth, value in enumerate(values)
    ]
    if not rows:
        raise LookupError("CMPQ with its similarities")
    return figures.lines(
        pd.DataFrame(rows, columns=["task", "block", "what", "1 - mean correlation"]),
        "block",
        "1 - mean correlation",
        "what",
        panels="task",
        own_axes=True,
        title="CMPQ over depth, and what distance alone makes of it",
        caption="Each block's score beside that of a matrix in which every similarity is replaced by the "
        "mean over all pairs as far apart. Where the two agree, the layers themselves contribute nothing.",
        alt="Lines over the blocks, one panel a task: CMPQ and its depth-only null.",
    )


nulls = figures.tabled(
    null_table,
    "What distance alone explains, by measure: share of the variance over the blocks (below 0: it foresees less than "
    "the mean would), and the score of the first and last 30 % of the blocks minus the middle's",
)


def sentences(records: Sequence[Record]) -> Html:
    """What the runs say on each task."""
    return says(verdict(records, ranks(records)))


def rank_tables(records: Sequence[Record]) -> list[Any]:
    """The agreement of each score with the truth, a table a task."""
    return agreement_tables(records, ranks(records))


def flaws(records: Sequence[Record]) -> list[Any]:
    """What the released code's choices do, as tables."""
    checks = "Is there anything in these correlations? Input and output of each block of the classifier"
    released = "The released code on the classifier: one vector a text"
    return figures.tables({released: flaw_table(records), checks: check_table(records)})


def pieces(records: Sequence[Record]) -> list[Any]:
    """Sentences, figures and tables of a few runs: for what one machine computed."""
    depth = [depth_figure(records), nulls(records)] if depth_nulls(records) else []
    return [
        sentences(records),
        *depth[:1],
        truth_figure(records),
        *rank_tables(records),
        *depth[1:],
        *flaws(records),
    ]


def truth_figure(records: Sequence[Record]) -> figures.Figure:
    """The measured cost over depth, at the two narrowest widths, which stand out from the noise."""
    truth = truth_table(records)
    bits = truth["width"].str.removesuffix(" bits").astype(int)
    shown = truth[bits.isin(sorted(bits.unique())[:2])]
    return figures.lines(
        shown.rename(columns={"layer": "block"}),
        "block",
        "loss increase (nats)",
        "width",
        panels="task",
        own_axes=True,
        title="The truth over depth: what quantizing one block alone costs",
        caption="Mean over the windows or texts of the validation split.",
        alt="Lines over the blocks, one a width and panel a task: the measured increase of the loss.",
    )
