"""Which score foresees what quantizing a layer costs? Every score against the measured truth."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmcompress.experiments.score_study import ScoreStudy
from lmcompress.experiments.scored import SCORES, ScoreName
from lmcompress.parameters import Many
from lmcompress.records import Experiment, Record
from lmcompress.report import figures
from lmcompress.report.agreement import agreement_table, truth_table
from lmcompress.report.words import estimate, of_kind, says


class Study(ScoreStudy):
    """Scores and the truth on both models."""

    language_scores: Many[ScoreName] = ("CMPQ", "PMPQ", "TDMPQ, Fisher", "ends high", "random")
    classifier_scores: Many[ScoreName] = tuple(name for name in SCORES if name != "TDMPQ, second order")

    def experiments(self) -> list[Experiment]:
        return [
            *self.fine_tuned(),
            *self.truths(),
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


def pieces(records: Sequence[Record], bits: int = 3) -> list[Any]:
    """Sentence, figures and table of the page: what the truth looks like, and how well each score ranks
    it.
    """
    agreement = agreement_table(records, bits)
    truth = truth_table(records)
    order = list(dict.fromkeys(agreement["score"]))
    shown = agreement.assign(score=agreement["score"].astype("category").cat.set_categories(order))
    return [
        says(verdict(agreement)),
        figures.bars(
            shown,
            "score",
            "Spearman",
            low="low",
            high="high",
            panels="task",
            title=f"Rank agreement of every score with the measured loss increase at {bits} bits",
            caption="Spearman's rho over the layers; bars are 95 % bootstrap intervals over layers and windows. 1: the "
            "score orders the layers as the truth does; 0: as well as chance.",
            alt="Horizontal bars, one a score and panel a task: Spearman correlation with the truth, best on top.",
        ),
        figures.table(
            _written(agreement),
            f"Rank agreement with the truth at {bits} bits with 95 % intervals, and what each score cost in seconds",
        ),
        *_narrowest(records, bits),
        figures.lines(
            truth,
            "layer",
            "loss increase (nats)",
            "width",
            panels="task",
            own_axes=True,
            title="The truth: what quantizing one layer alone costs",
            caption="Mean loss increase over the windows or texts of the validation split. Layers in order of depth: "
            "blocks, or single Linears block by block, by name within a block.",
            alt="Lines over the layers in order of depth, one for each bit-width, one panel a task.",
        ),
    ]


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


def _narrowest(records: Sequence[Record], bits: int) -> list[Any]:
    """The table at the narrowest width, where the truth stands out from its noise; nothing if that is
    ``bits``.
    """
    width = min(width for record in of_kind(records, "truth") for width in record.parameters["widths"])
    if width == bits:
        return []
    chosen = [record for record in records if width in record.parameters.get("widths", ())]
    return [
        figures.table(
            _written(agreement_table(chosen, width)),
            f"The same at {width} bits, for what was measured there",
        )
    ]
