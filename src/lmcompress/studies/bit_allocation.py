"""Bits per layer under a budget: the frontier of every score by one solver, beside what any score must
beat.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmcompress import figures
from lmcompress.allocate.clusters import METHODS
from lmcompress.records import Record
from lmcompress.studies.allocating import (
    MEASURED,
    Clustered,
    Frontier,
    Group,
    OriginGrid,
    RandomBand,
    UniformFormat,
)
from lmcompress.studies.cptquant import SubjectStudy, of_kind, perplexity, readable, says, seeds_of
from lmcompress.studies.scoring import Per, check_score


class Study(SubjectStudy):
    """Frontiers of scores, random bands, clusters and uniform formats for both models."""

    language_per: Per = "block"
    language_scores: tuple[str, ...] = (MEASURED, "CMPQ", "PMPQ", "TDMPQ", "TDMPQ, Fisher", "ends high")
    classifier_per: Per = "linear"
    classifier_scores: tuple[str, ...] = (MEASURED, "CMPQ", "PMPQ", "TDMPQ", "TDMPQ, Fisher", "ends high")
    widths: tuple[int, ...] = (2, 3, 4)
    language_widths: tuple[int, ...] = (2, 3, 4)
    group: Group = 128
    symmetric: bool = False
    averages: tuple[float, ...] = (2.5, 3.5)
    as_uniform: tuple[int, ...] = (3,)
    random_averages: tuple[float, ...] = ()
    draws: int = 20
    clustered: tuple[str, ...] = ("CMPQ", "PMPQ", "TDMPQ")
    cluster_widths: tuple[tuple[int, ...], ...] = ((16, 8, 4), (8, 4, 2))
    gptq_widths: tuple[int, ...] = (3,)
    gptq_language: bool = False
    seeds: tuple[int, ...] = (0,)
    test: int = 128
    test_windows: int = 8

    def experiments(self) -> list:
        found: list = []
        for on, count in self.subjects():
            found += self._of_one(on, count)
        return found

    def _of_one(self, on: dict, count: int) -> list:
        language = on["task"] == "language"
        per = self.language_per if language else self.classifier_per
        names = self.language_scores if language else self.classifier_scores
        for name in names:
            if name != MEASURED:
                check_score(name)
        formats = {"group": self.group, "symmetric": self.symmetric}
        common = {**on, "per": per, "test": self.test_windows if language else self.test, **formats}
        windows, widths = {"windows": count}, self.language_widths if language else self.widths
        budgets = {"averages": self.averages, "as_uniform": self.as_uniform}
        found: list = [
            UniformFormat(**common | {"group": "row"}, **windows, method="rtn", widths=widths, seed=0)
        ]
        found.append(UniformFormat(**common, **windows, method="rtn", widths=widths, seed=0))
        for seed in self.seeds:
            scored = {**common, **windows, "widths": widths, "seed": seed}
            for name in names:
                if seed not in seeds_of(name, self.seeds):
                    continue
                found.append(Frontier(**scored, score=name, **budgets))
        if self.gptq_widths and (self.gptq_language or not language):
            seed = self.seeds[0]
            found.append(
                UniformFormat(**common, **windows, method="gptq", widths=self.gptq_widths, seed=seed)
            )
            scored = {**common, **windows, "widths": widths, "seed": seed, "score": names[0]}
            found.append(Frontier(**scored, averages=(), as_uniform=self.gptq_widths, method="gptq"))
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
            found += self._clusters({**common, **windows, "widths": widths, "seed": self.seeds[0]})
        elif on["model"] == "smollm2-135m":
            found.append(OriginGrid(**on, test=2))
        return found

    def _clusters(self, scored: dict) -> list[Clustered]:
        found = []
        for name in self.clustered:
            for widths in self.cluster_widths:
                scored_so = {**scored, "score": name, "cluster_widths": widths}
                found += [Clustered(**scored_so, clusters=method) for method in METHODS]
            scored_so = {**scored, "score": name, "cluster_widths": self.cluster_widths[0]}
            found.append(Clustered(**scored_so, clusters="as_released", cluster_seeds=(0, 1, 2, 3)))
        return found


RANDOM = "random allocations"
UNIFORM = "uniform, groups"
PAPERS = (MEASURED, "CMPQ", "PMPQ", "TDMPQ", UNIFORM, "uniform, rows", "uniform, GPTQ", RANDOM)


def _name(record: Record) -> str:
    """What a figure calls the record's way to choose widths."""
    about = record.parameters
    if record.kind == "random_band":
        return RANDOM
    if record.kind == "uniform_format":
        if about["method"] == "gptq":
            return "uniform, GPTQ"
        return UNIFORM if isinstance(about["group"], int) else f"uniform, {about['group']}s"
    if record.kind == "clustered":
        method = about["clusters"].replace("_", " ")
        return f"{about['score']}, {method} {'/'.join(map(str, about['cluster_widths']))}"
    return about["score"] + (", GPTQ" if about["method"] == "gptq" else "")


def points_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each way to choose widths and budget: real bytes and what they cost in loss on the test
    split.

    Several seeds are averaged. For random allocations ``loss increase`` is the mean over the draws and
    ``low`` and ``high`` hold nine tenths of them; elsewhere they are the 95 % interval over test windows.
    """
    rows = []
    for record in records:
        if "points" not in record.result:
            continue
        about = record.parameters
        for index, point in enumerate(record.result["points"]):
            if point["increase"] is None:
                continue
            width = about["widths"][index] if record.kind == "uniform_format" else None
            rows.append(
                {
                    "task": readable(about["task"]),
                    "kind": record.kind,
                    "how": _name(record),
                    "budget": f"uniform {width} bits" if width else point.get("budget", f"clusters {index}"),
                    "bits": point["bits"],
                    "MB": point["bytes"] / 1e6,
                    "model MB": point["model_bytes"] / 1e6,
                    "loss": point["loss"],
                    "loss increase (nats)": point["increase"],
                    "low": point["low"],
                    "high": point["high"],
                    "right": point["right"],
                }
            )
    frame = pd.DataFrame(rows)
    keys = ["task", "kind", "how", "budget"]
    mean = frame.groupby(keys, sort=False, as_index=False).mean()
    for (task, budget), drawn in frame[frame["how"] == RANDOM].groupby(["task", "budget"]):
        low, high = np.quantile(drawn["loss increase (nats)"], [0.05, 0.95])
        here = (mean["task"] == task) & (mean["budget"] == budget) & (mean["how"] == RANDOM)
        mean.loc[here, ["low", "high"]] = [low, high]
    return mean.sort_values(["task", "how", "bits"], ignore_index=True)


def verdict(records: Sequence[Record]) -> list[str]:
    """For each task at the bytes of each uniform width: the best score, which scores beat uniform, which
    beat chance.
    """
    sentences = []
    points = points_table(records)
    scored = points[(points["kind"] == "frontier") & ~points["how"].str.endswith(", GPTQ")]
    for (task, budget), rows in scored[scored["budget"].str.startswith("uniform")].groupby(
        ["task", "budget"]
    ):
        here = points[(points["task"] == task) & (points["budget"] == budget)].set_index("how")
        increase = here["loss increase (nats)"]
        scores = increase[rows["how"]].drop(MEASURED, errors="ignore").sort_values()
        if not len(scores) or UNIFORM not in increase:
            continue
        best, better = scores.index[0], scores.index[scores < increase[UNIFORM]]
        named = [MEASURED, UNIFORM, "uniform, GPTQ"]
        beside = [f"{name} {increase[name]:.3f}" for name in named if name in increase]
        parts = [f"{', '.join(better) or 'none'} below uniform"]
        if RANDOM in here.index:
            band = here.loc[RANDOM]
            ends = f"nine tenths between {band['low']:.3f} and {band['high']:.3f}"
            beside.append(f"random allocations {increase[RANDOM]:.3f} ({ends})")
            above_chance = scores.index[scores < band["low"]]
            parts.append(f"{', '.join(above_chance) or 'none'} below 95 % of the random draws")
        sentences.append(
            f"{task.capitalize()}, {here.loc[best, 'bits']:.2f} bits a weight with scales ({budget}): the best score "
            f"is {best}, which adds {scores.iloc[0]:.3f} nats ({here.loc[best, 'low']:.3f} to "
            f"{here.loc[best, 'high']:.3f}); beside it {', '.join(beside)}. Of the scores, {'; '.join(parts)}."
        )
    return sentences


def dense_table(records: Sequence[Record]) -> pd.DataFrame:
    """The FP16 models that all points start from."""
    rows = {}
    for record in records:
        if "dense" in record.result:
            dense, task = record.result["dense"], record.parameters["task"]
            kind = "perplexity" if task == "language" else "accuracy"
            value = perplexity(dense["loss"]) if task == "language" else dense["right"]
            rows[task] = (readable(task), record.parameters["model"], dense["loss"], kind, value)
    return pd.DataFrame(rows.values(), columns=["task", "model", "loss (nats)", "measure", "value"])


def pieces(records: Sequence[Record]) -> list:
    """Sentences, frontier figures and tables of the page."""
    points = points_table(records)
    shown = points[points["kind"].isin(["frontier", "uniform_format", "random_band"])]
    found: list = [says(verdict(records)), figures.table(dense_table(records), "The models in FP16")]
    for task, rows in shown.groupby("task", sort=False):
        others = [name for name in dict.fromkeys(rows["how"]) if name not in PAPERS]
        found.append(frontier_figure(rows[rows["how"].isin(PAPERS)], task, "the paper's scores"))
        for start in range(0, len(others), 6):
            names = [MEASURED, UNIFORM, *others[start : start + 6]]
            found.append(frontier_figure(rows[rows["how"].isin(names)], task, "other scores"))
    clusters = points[points["kind"] == "clustered"]
    if len(clusters):
        found.append(
            figures.scatter(
                pd.concat([clusters, shown[shown["how"].isin([UNIFORM, MEASURED])]]).assign(
                    widths=lambda rows: rows["kind"].map(
                        {
                            "clustered": "clusters",
                            "frontier": "optimum on the truth",
                            "uniform_format": "uniform",
                        }
                    )
                ),
                "bits",
                "loss increase (nats)",
                "widths",
                panels="task",
                title="The paper's clusters, where they happen to land",
                caption="No budget enters: the bits are what the clusters' sizes make them. Each point is one score "
                "and way to cluster, beside uniform widths and the optimum on the measured truth.",
                alt="Points: bits a weight against loss increase, for clusters, uniform widths and the optimum.",
            )
        )
        columns = ["task", "how", "bits", "MB", "loss increase (nats)", "low", "high"]
        found.append(
            figures.table(clusters[columns], "Clusters instead of a budget (sorted, and as released)")
        )
    grid = origin_table(records)
    if len(grid):
        found.append(figures.table(grid, "Why these weights are never quantized in groups of 32 here"))
    return found


def frontier_figure(rows: pd.DataFrame, task: str, what: str) -> figures.Figure:
    return figures.lines(
        rows.rename(columns={"MB": "MB of the blocks' Linears on disk"}),
        "MB of the blocks' Linears on disk",
        "loss increase (nats)",
        "how",
        low="low",
        high="high",
        log_y=bool((rows["loss increase (nats)"] > 0).all()),
        title=f"Loss against real bytes, {task} ({what})",
        caption="Codes, scales and zero points counted; the same solver for every score. Test split; bars are 95 % "
        "intervals over windows paired with the FP16 model, for random allocations nine tenths of the draws.",
        alt=f"Lines, one a way to choose widths, {task}: megabytes against loss increase; lower left is better.",
    )


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
