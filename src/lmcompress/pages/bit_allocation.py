"""Bits per layer under a budget: the frontier of every score by one solver, beside what any score must
beat.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from lmcompress.allocate.clusters import METHODS
from lmcompress.experiments.allocated import (
    Clustered,
    Evolutionary,
    Frontier,
    PermutedBand,
    RandomBand,
)
from lmcompress.experiments.score_study import SubjectStudy, seeds_of
from lmcompress.experiments.scored import MEASURED, TRUTHS, Per, ScoreOrTruth
from lmcompress.experiments.uniform import CalibratedGptq, OriginGrid, UniformFormat
from lmcompress.parameters import (
    Average,
    Count,
    Flag,
    Group,
    Length,
    Many,
    ModelOrNone,
    Sample,
    Seed,
    Some,
    Whole,
    Width,
)
from lmcompress.records import Record
from lmcompress.report import answers, figures
from lmcompress.report.frontier import PAPERS, UNIFORM, dense_table, frontier_figure, points_table, verdict
from lmcompress.report.html import Html
from lmcompress.report.opening import Answer, claimed
from lmcompress.report.words import of_kind, says


class Study(SubjectStudy):
    """Frontiers of scores, random bands, clusters and uniform formats; by default of the classifier alone, since the
    language model takes minutes more. ``permuted``: scores whose own widths are permuted ``draws`` times;
    ``generations``: of an evolutionary search at ``searched`` bits a weight and the bytes of ``as_uniform`` (0 leaves
    it out). ``truth_windows``, ``truth_texts``: numbers of windows (of texts) from which the truths are taken besides.
    ``gptq_windows``: numbers of windows of ``gptq_window`` tokens for uniform widths of the language model by GPTQ,
    with and without the order of activations.
    """

    language: ModelOrNone = ""
    language_per: Per = "block"
    language_scores: Some[ScoreOrTruth] = (MEASURED, "CMPQ", "PMPQ", "TDMPQ", "TDMPQ, Fisher", "ends high")
    classifier_per: Per = "linear"
    classifier_scores: Some[ScoreOrTruth] = (MEASURED, "CMPQ", "PMPQ", "TDMPQ", "TDMPQ, Fisher", "ends high")
    widths: Some[Width] = (2, 3, 4)
    language_widths: Some[Width] = (2, 3, 4)
    group: Group = 128
    symmetric: Flag = False
    averages: Many[Average] = (2.5, 3.5)
    as_uniform: Many[Width] = (3,)
    random_averages: Many[Average] = ()
    draws: Count = 10
    permuted: Many[ScoreOrTruth] = ()
    generations: Whole = 0
    searched: Many[Average] = ()
    clustered: Many[ScoreOrTruth] = ("CMPQ", "PMPQ", "TDMPQ")
    cluster_widths: Some[Some[Width]] = ((16, 8, 4),)
    gptq_widths: Many[Width] = (3,)
    gptq_language: Flag = False
    gptq_windows: Many[Count] = ()
    gptq_window: Length = 2048
    truth_windows: Many[Count] = ()
    truth_texts: Many[Count] = ()
    seeds: Some[Seed] = (0,)
    test: Sample = 96
    test_windows: Sample = 8

    def experiments(self) -> list[Any]:
        found: list[Any] = []
        for on, count in self.subjects():
            found += self._of_one(on, count)
        return found

    def _of_one(self, on: dict[str, Any], count: int) -> list[Any]:
        language = on["task"] == "language"
        per = self.language_per if language else self.classifier_per
        names = self.language_scores if language else self.classifier_scores
        formats = {"group": self.group, "symmetric": self.symmetric}
        common: dict[str, Any] = {
            **on,
            "per": per,
            "test": self.test_windows if language else self.test,
            **formats,
        }
        windows: dict[str, Any] = {"windows": count}
        widths = self.language_widths if language else self.widths
        budgets: dict[str, Any] = {"averages": self.averages, "as_uniform": self.as_uniform}
        found: list[Any] = [
            UniformFormat(**common | {"group": "row"}, **windows, method="rtn", widths=widths, seed=0)
        ]
        found.append(UniformFormat(**common, **windows, method="rtn", widths=widths, seed=0))
        for seed in self.seeds:
            scored: dict[str, Any] = {**common, **windows, "widths": widths, "seed": seed}
            for name in names:
                if seed not in seeds_of(name, self.seeds):
                    continue
                found.append(Frontier(**scored, score=name, **budgets))
            if seed == self.seeds[0]:
                found += [
                    Frontier(**scored | {"windows": more}, score=name, **budgets)
                    for more in (self.truth_windows if language else self.truth_texts)
                    for name in TRUTHS
                ]
            if self.generations:
                found.append(
                    Evolutionary(
                        **scored,
                        averages=self.searched,
                        as_uniform=self.as_uniform,
                        generations=self.generations,
                    )
                )
        if self.gptq_widths and (self.gptq_language or not language):
            seed = self.seeds[0]
            found.append(
                UniformFormat(**common, **windows, method="gptq", widths=self.gptq_widths, seed=seed)
            )
            scored = {**common, **windows, "widths": widths, "seed": seed, "score": names[0]}
            found.append(Frontier(**scored, averages=(), as_uniform=self.gptq_widths, method="gptq"))
            found += [
                CalibratedGptq(
                    **common,
                    windows=more,
                    window=self.gptq_window,
                    method="gptq",
                    widths=self.gptq_widths,
                    act_order=order,
                    seed=seed,
                )
                for more in (self.gptq_windows if language else ())
                for order in (False, True)
            ]
        scored = {**common, **windows, "widths": widths, "seed": self.seeds[0]}
        found += [
            PermutedBand(**scored, score=name, as_uniform=self.as_uniform, draws=self.draws)
            for name in self.permuted
            if self.as_uniform
        ]
        if self.random_averages or self.as_uniform:
            found.append(
                RandomBand(
                    **common,
                    widths=widths,
                    averages=self.random_averages,
                    as_uniform=self.as_uniform,
                    draws=self.draws,
                    seed=0,
                )
            )
        if not language:
            found += self._clusters(scored)
        elif on["model"] == "smollm2-135m":
            found.append(OriginGrid(**on, test=2))
        return found

    def _clusters(self, scored: dict[str, Any]) -> list[Clustered]:
        found = []
        for name in self.clustered:
            for widths in self.cluster_widths:
                scored_so = {**scored, "score": name, "cluster_widths": widths}
                found += [Clustered(**scored_so | {"clusters": method}) for method in METHODS]
            scored_so = {**scored, "score": name, "cluster_widths": self.cluster_widths[0]}
            found.append(Clustered(**scored_so, clusters="as_released", cluster_seeds=(0, 1, 2, 3)))
        return found


def answer(records: Sequence[Record]) -> Answer:
    """What three bits cost with equal widths and by the best score, and the verdict on PMPQ. Raises ``LookupError``
    where the runs are missing.
    """
    if not of_kind(records, "frontier"):
        raise LookupError("frontiers of scores")
    try:
        said = answers.three_bits(records).sentence
    except LookupError:  # of the classifier alone
        said = (verdict(records) or ["These budgets have no uniform width beside them."])[0]
    return claimed(said, "cptquant", "pmpq-uniform", records)


def frontier_of(records: Sequence[Record], task: str = "language modelling") -> figures.Figure:
    """The paper's scores on one task. Raises ``LookupError`` where it was not run."""
    points = points_table(records)
    rows = points[(points["task"] == task) & points["how"].isin(PAPERS) & (points["kind"] != "clustered")]
    if rows.empty:
        raise LookupError(task)
    return frontier_figure(rows, task, "the paper's scores")


def other_frontiers(records: Sequence[Record]) -> list[Any]:
    """Figures of the other scores, six at a time beside the measured optimum and uniform widths."""
    points = points_table(records)
    found = []
    for task, rows in points[points["kind"] != "clustered"].groupby("task", sort=False):
        others = [name for name in dict.fromkeys(rows["how"]) if name not in PAPERS]
        for start in range(0, len(others), 6):
            names = [MEASURED, UNIFORM, *others[start : start + 6]]
            part = f"other scores, {start // 6 + 1}" if len(others) > 6 else "other scores"
            found.append(frontier_figure(rows[rows["how"].isin(names)], task, part))
    return found


dense = figures.tabled(dense_table, "The models in FP16")


def clusters_figure(records: Sequence[Record]) -> figures.Figure:
    """Where the paper's clusters land. Raises ``LookupError`` where none were run."""
    points = points_table(records)
    clusters = points[points["kind"] == "clustered"]
    if clusters.empty:
        raise LookupError("clusters")
    names = {"clustered": "clusters", "frontier": "optimum on the truth", "uniform_format": "uniform"}
    rows = pd.concat([clusters, points[points["how"].isin([UNIFORM, MEASURED])]])
    return figures.scatter(
        rows.assign(widths=rows["kind"].map(names)),
        "bits",
        "loss increase (nats)",
        "widths",
        ends=(),
        panels="task",
        title="The paper's clusters, where they happen to land",
        caption="No budget enters: the bits are what the clusters' sizes make them. Each point is one score "
        "and way to cluster, beside uniform widths and the optimum on the measured truth.",
        alt="Points: bits a weight against loss increase, for clusters, uniform widths and the optimum.",
    )


def clusters_table(records: Sequence[Record]) -> Html:
    """The same in numbers."""
    points = points_table(records)
    columns = ["task", "how", "bits", "MB", "loss increase (nats)", "low", "high"]
    caption = "Clusters instead of a budget (sorted, and as released)"
    return figures.table(points.loc[points["kind"] == "clustered", columns], caption)


def sentences(records: Sequence[Record]) -> Html:
    """What came of each budget."""
    return says(verdict(records))


def pieces(records: Sequence[Record]) -> list[Any]:
    """Sentences, frontier figures and tables of a few runs: for what one machine computed."""
    tasks = points_table(records)["task"].unique()
    found = [sentences(records), dense(records), *(frontier_of(records, task) for task in tasks)]
    found += other_frontiers(records)
    for make in (clusters_figure, clusters_table, grid_table):
        with suppress(LookupError):
            found.append(make(records))
    return found


def origin_table(records: Sequence[Record]) -> pd.DataFrame:
    """Relative error of rounding to the grid that the weights came from, beside one they did not come
    from.
    """
    rows = [
        (record.parameters["model"], format, error)
        for record in of_kind(records, "origin_grid")
        for format, error in record.result["relative_error"].items()
    ]
    return pd.DataFrame(rows, columns=["model", "format", "squared error / squared weight"])


grid_table = figures.tabled(
    origin_table,
    "Why these weights are never quantized in groups of 32 here",
    "the grid of the weights' origin",
)
