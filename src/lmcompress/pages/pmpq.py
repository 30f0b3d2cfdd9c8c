"""PMPQ: prune one layer and look at the loss. At which sparsity, by which criterion, and what the released
code does.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmcompress.experiments.released import RandomHead
from lmcompress.experiments.score_study import ScoreStudy
from lmcompress.experiments.scored import Per, ScoreName
from lmcompress.lazily import lazy
from lmcompress.numbers import mean
from lmcompress.parameters import Many, Seed, Some
from lmcompress.records import Experiment, Record
from lmcompress.report import figures
from lmcompress.report.agreement import agreement, agreement_tables, standing
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer, claimed
from lmcompress.report.words import by_depth, main_task, of_kind, on_task, readable, says

stats = lazy("scipy.stats")


class Study(ScoreStudy):
    """PMPQ by magnitude, by Wanda and as released, the truth, and classifiers without a trained head."""

    classifier_per: Per = "block"
    language_scores: Many[ScoreName] = ("PMPQ",)
    classifier_scores: Many[ScoreName] = ("PMPQ", "PMPQ, Wanda", "PMPQ as released")
    head_seeds: Some[Seed] = (0, 1, 2)

    def experiments(self) -> list[Experiment]:
        found: list[Experiment] = [*self.truths(), *self.scores(self.language_scores, self.classifier_scores)]
        for on, count in self.subjects():
            if on["task"] == "classification":
                found.append(RandomHead(**on | {"steps": 0}, texts=count, seeds=self.head_seeds))
        return found


def sparsity_table(records: Sequence[Record]) -> pd.DataFrame:
    """Loss increase of every layer at every sparsity; the first seed of each score."""
    found: dict[tuple[str, str], Record] = {}
    for record in of_kind(records, "score"):
        about = record.parameters
        if "per_pattern" in record.result:
            found.setdefault((about["task"], about["score"]), record)
    rows = [
        (readable(task), score, f"{pattern} pruned", layer, increase)
        for (task, score), record in found.items()
        for pattern, table in record.result["per_pattern"].items()
        for layer, increase in enumerate(by_depth(table).values())
    ]
    return pd.DataFrame(rows, columns=["task", "score", "sparsity", "layer", "loss increase (nats)"])


def head_table(records: Sequence[Record]) -> pd.DataFrame:
    """Classifiers with an untrained head: accuracy, chance, how far scores reach, agreement of one seed's
    with another's.
    """
    rows = []
    for record in of_kind(records, "random_head"):
        scores, base = record.result["scores"], record.result["base"]
        pairs = [(a, b) for index, a in enumerate(scores) for b in scores[index + 1 :]]
        agreements = [
            float(stats.spearmanr(a, b).statistic) for a, b in pairs if len(set(a)) > 1 and len(set(b)) > 1
        ]
        rows.append(
            {
                "model": record.parameters["model"],
                "heads": len(base),
                "accuracy before pruning": mean(base),
                "chance": 1 / record.result["classes"],
                "least score": min(map(min, scores)),
                "greatest score": max(map(max, scores)),
                "Spearman between heads": mean(agreements) if agreements else None,
            }
        )
    return pd.DataFrame(rows)


def sign_table(records: Sequence[Record]) -> pd.DataFrame:
    """Rank correlation of the released score with ours, and whether that can be told from 0 (p < 0.05)."""
    rows = []
    for task in ("language", "classification"):
        first = {
            record.parameters["score"]: record.result["per_layer"]
            for record in reversed(of_kind(records, "score"))
            if record.parameters["task"] == task
        }
        if {"PMPQ", "PMPQ as released"} <= first.keys():
            ours, theirs = first["PMPQ"], first["PMPQ as released"]
            found = stats.spearmanr([ours[name] for name in ours], [theirs[name] for name in ours])
            rows.append((readable(task), len(ours), float(found.statistic), bool(found.pvalue < 0.05)))
    return pd.DataFrame(rows, columns=["task", "layers", "Spearman of released with ours", "told from 0"])


def verdict(records: Sequence[Record], rows: pd.DataFrame) -> list[str]:
    """How well PMPQ ranks the layers (``rows``: of :func:`agreement`), and what the signs and the untrained heads
    show.
    """
    sentences = [standing(rows, task, SHOWN) for task in rows["task"].unique()]
    for _, row in sign_table(records).dropna().iterrows():
        value = row["Spearman of released with ours"]
        if row["told from 0"]:
            word = "the wrong way round" if value < 0 else "the same way round as ours"
        else:
            word = f"in no relation to ours that {row['layers']} layers could show"
        sentences.append(
            f"{row['task'].capitalize()}: the released score ranks the layers {word} (Spearman with ours {value:.2f})."
        )
    for _, row in head_table(records).iterrows():
        agreement = row["Spearman between heads"]
        sentences.append(
            f"With an untrained head the accuracy is {row['accuracy before pruning']:.2f} (chance "
            f"{row['chance']:.2f}), and the scores of two such heads agree with a Spearman of "
            + ("unknown size." if pd.isna(agreement) else f"{agreement:.2f}")
            + (": what is ranked is chance." if agreement < 0.5 else ".")
        )
    return sentences


def answer(records: Sequence[Record]) -> Answer:
    """How PMPQ ranks the layers, how well the truth foresees itself, and the verdict on the paper's claim. Raises
    ``LookupError`` where the runs are missing.
    """
    if not of_kind(records, "truth") or not of_kind(records, "score"):
        raise LookupError("PMPQ and the measured truth")
    rows = agreement(records)
    return claimed(standing(rows, main_task(rows["task"]), SHOWN), "cptquant", "ranks-pmpq", records)


SHOWN = ("PMPQ", "PMPQ, Wanda", "PMPQ as released")


def sentences(records: Sequence[Record]) -> Html:
    """What the runs say on each task."""
    return says(verdict(records, agreement(records)))


def rank_tables(records: Sequence[Record]) -> list[Any]:
    """The agreement of each score with the truth, a table a task."""
    return agreement_tables(records, agreement(records))


def increases(records: Sequence[Record], task: str = "language modelling") -> figures.Figure:
    """What pruning each layer costs, a panel a sparsity. Raises ``LookupError`` where that task was not run."""
    return figures.lines(
        on_task(sparsity_table(records), task),
        "layer",
        "loss increase (nats)",
        "score",
        panels="sparsity",
        own_axes=True,
        title=f"What pruning one layer costs, {task}",
        caption="Calibration split; layers in order of depth. The numbers of each panel are its own. The "
        "released code knows one sparsity, 30 %.",
        alt=f"Lines over the layers for {task}, one a criterion and panel a sparsity: loss increase.",
    )


def flaws(records: Sequence[Record]) -> list[Any]:
    """The released score's sign and heads, as tables."""
    sign = "The released score beside ours (told from 0: p below 0.05)"
    heads = "The released score of classifiers without a trained head"
    return figures.tables({sign: sign_table(records), heads: head_table(records)})


def pieces(records: Sequence[Record]) -> list[Any]:
    """Sentences, figures and tables of a few runs: for what one machine computed."""
    tasks = sparsity_table(records)["task"].unique()
    drawn = [increases(records, task) for task in tasks]
    return [sentences(records), *rank_tables(records), *drawn, *flaws(records)]
