"""Which score foresees what quantizing a layer costs? Every score against the measured truth."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmcompress.experiments.score_study import ScoreStudy
from lmcompress.experiments.scored import SCORES, ScoreName
from lmcompress.parameters import Count, Many
from lmcompress.records import Experiment, Record
from lmcompress.report import answers, figures
from lmcompress.report.agreement import agreement_table, truth_table
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer, claimed
from lmcompress.report.words import estimate, of_kind, says


class Study(ScoreStudy):
    """Scores and the truth on both models. ``truth_windows``, ``truth_texts``: numbers of windows of the language model
    and of texts from which the truth is taken once more; scores are held against the one from the most.
    """

    truth_windows: Many[Count] = ()
    truth_texts: Many[Count] = ()
    language_scores: Many[ScoreName] = ("TDMPQ, Fisher", "ends high", "random")
    classifier_scores: Many[ScoreName] = tuple(name for name in SCORES if name != "TDMPQ, second order")

    def experiments(self) -> list[Experiment]:
        more = [
            one.model_copy(update={"windows": count})
            for one in self.truths()
            for count in (self.truth_windows if one.task == "language" else self.truth_texts)
        ]
        return [
            *self.fine_tuned(),
            *self.truths(),
            *more,
            *self.scores(self.language_scores, self.classifier_scores),
        ]


def verdict(agreement: pd.DataFrame) -> list[str]:
    """One sentence for each task, made of the table: the best score, and where the paper's three stand."""
    sentences = []
    for task, rows in agreement.dropna(subset=["Spearman"]).groupby("task", sort=False):
        best = rows.iloc[0]
        ours = [
            f"{name} {estimate(row['Spearman'], row['low'], row['high'])}"
            for name in ("CMPQ", "PMPQ", "TDMPQ")
            for _, row in rows[rows["score"] == name].iterrows()
        ]
        sentences.append(
            f"{task.capitalize()}: {best['score']} ranks the layers best (Spearman {best['Spearman']:.2f}, "
            f"95 % interval {best['low']:.2f} to {best['high']:.2f}); the paper's scores reach {', '.join(ours)}."
        )
    return sentences


PAPERS = ("ranks-cmpq", "ranks-pmpq", "ranks-tdmpq-taylor")


def answer(records: Sequence[Record]) -> Answer:
    """The best score and the cheapest that is as good, and the verdict on the paper's three. Raises ``LookupError``
    where the runs are missing.
    """
    try:
        said = answers.which_score(answers.score_table(records)).sentence
    except (LookupError, ValueError):  # of another model or granularity
        table = agreement_table(records, 3)
        if table["Spearman"].isna().all():
            raise LookupError("scores and the measured truth") from None
        said = verdict(table)[0]
    claim = "CPTQuant: its scores (CMPQ, PMPQ, first-order TDMPQ) tell which layers are sensitive."
    return claimed(said, "cptquant", PAPERS, records, claim)


def best_scores(records: Sequence[Record]) -> figures.Figure:
    """The language model's scores, best first."""
    return answers.scores_figure(answers.score_table(records))


def both_tasks(records: Sequence[Record], bits: int = 3) -> figures.Figure:
    """Rank agreement of every score, a panel a task."""
    agreement = agreement_table(records, bits)
    order = list(dict.fromkeys(agreement["score"]))
    return figures.bars(
        agreement.assign(score=agreement["score"].astype("category").cat.set_categories(order)),
        "score",
        "Spearman",
        panels="task",
        title=f"Rank agreement of every score with the measured loss increase at {bits} bits",
        caption="Spearman's rho over the layers; bars are 95 % bootstrap intervals over layers and windows. 1: the "
        "score orders the layers as the truth does; 0: as well as chance.",
        alt="Horizontal bars, one a score and panel a task: Spearman correlation with the truth, best on top.",
    )


def agreement_of(records: Sequence[Record], bits: int = 3) -> Html:
    """The correlations with intervals, and seconds."""
    caption = f"Rank agreement with the truth at {bits} bits with 95 % intervals, and what each score cost in seconds"
    return figures.table(_written(agreement_table(records, bits, kendall=True)), caption)


def truth_figure(records: Sequence[Record]) -> figures.Figure:
    """The measured cost of every layer."""
    return figures.lines(
        truth_table(records),
        "layer",
        "loss increase (nats)",
        "width",
        panels="task",
        own_axes=True,
        title="The truth: what quantizing one layer alone costs",
        caption="Mean loss increase over the windows or texts of the validation split. Layers in order of depth: "
        "blocks, or single Linears block by block, by name within a block.",
        alt="Lines over the layers in order of depth, one for each bit-width, one panel a task.",
    )


def narrowest(records: Sequence[Record]) -> Html:
    """The table at the narrowest width, where the truth stands out from its noise."""
    widths = {width for record in of_kind(records, "truth") for width in record.parameters["widths"]}
    if min(widths, default=3) == 3:
        raise LookupError("a truth at other widths")
    chosen = [record for record in records if min(widths) in record.parameters.get("widths", ())]
    return agreement_of(chosen, min(widths))


def pieces(records: Sequence[Record], bits: int = 3) -> list[Any]:
    """Sentence, figures and table of a few runs: for what one machine computed."""
    made = [both_tasks(records, bits), agreement_of(records, bits), truth_figure(records)]
    return [says(verdict(agreement_table(records, bits))), *made]


def _written(agreement: pd.DataFrame) -> pd.DataFrame:
    """The table as it is shown: each correlation in one cell with its interval."""
    return pd.DataFrame(
        {
            "task": agreement["task"],
            "score": agreement["score"],
            "Spearman": _cells(agreement, "Spearman", ""),
            "Kendall": _cells(agreement, "Kendall", "Kendall "),
            "truth's own": agreement["truth's own"].round(2),
            "seconds": agreement["seconds"],
        }
    )


def _cells(agreement: pd.DataFrame, name: str, ends: str) -> list[str]:
    rows = agreement[[name, f"{ends}low", f"{ends}high"]].itertuples(index=False)
    return [estimate(*row) for row in rows]
