"""The frontier of loss over bytes: one row for each way to choose widths."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lmcompress.experiments.allocated import MEASURED
from lmcompress.records import Record
from lmcompress.report import figures
from lmcompress.report.words import perplexity, readable

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
