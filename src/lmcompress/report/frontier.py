"""The frontier of loss over bytes: one row for each way to choose widths."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmcompress.experiments.scored import MEASURED, TRUTHS
from lmcompress.records import Record
from lmcompress.report import figures
from lmcompress.report.verdicts import over_seeds, widened
from lmcompress.report.words import readable, says
from lmcompress.tasks import TASKS

RANDOM = "random allocations"
UNIFORM = "uniform, groups"
EVOLVED = "evolutionary search"
UNIFORMS = ("uniform_format", "calibrated_gptq")  # kinds with a point for each width
INCREASE = "loss increase (nats)"
TRIES = {"HIGGS": 2, "PMPQ": 3}  # changes of each layer that the score tries
ALLOCATORS = (*TRUTHS, "HIGGS", EVOLVED, "PMPQ", "CMPQ", "TDMPQ, Fisher", UNIFORM, RANDOM)
PAPERS = (*TRUTHS, "CMPQ", "PMPQ", "TDMPQ", UNIFORM, "uniform, rows", "uniform, GPTQ", RANDOM)


def _name(record: Record) -> str:
    """What a figure calls the record's way to choose widths."""
    about = record.parameters
    if record.kind == "random_band":
        return RANDOM
    if record.kind == "permuted_band":
        return f"{about['score']}, permuted"
    if record.kind == "evolutionary":
        return EVOLVED
    if record.kind == "calibrated_gptq":
        order = ", largest inputs first" if about["act_order"] else ""
        return f"uniform, GPTQ, {about['windows']} windows of {about['window']:,}{order}"
    if record.kind == "uniform_format":
        if about["method"] == "gptq":
            return "uniform, GPTQ"
        return UNIFORM if isinstance(about["group"], int) else f"uniform, {about['group']}s"
    if record.kind == "clustered":
        method = about["clusters"].replace("_", " ")
        return f"{about['score']}, {method} {'/'.join(map(str, about['cluster_widths']))}"
    return about["score"] + (", GPTQ" if about["method"] == "gptq" else "")


def seed_points(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each way to choose widths, budget and seed: real bytes and what they cost in loss on the test split,
    with the 95 % interval over test windows. Measured costs from more windows than the others' have their number in the
    name.
    """
    rows = []
    fewest = _fewest_windows(records)
    for record in records:
        if "points" not in record.result:
            continue
        about = record.parameters
        for index, point in enumerate(record.result["points"]):
            if point["increase"] is None:
                continue
            width = about["widths"][index] if record.kind in UNIFORMS else None
            rows.append(
                {
                    "task": readable(about["task"]),
                    "kind": record.kind,
                    "how": _name(record) + more_windows(record, fewest),
                    "budget": f"uniform {width} bits" if width else point.get("budget", f"clusters {index}"),
                    "seed": about.get("seed", 0),
                    "predicted": point.get("predicted", math.nan),
                    "bits": point["bits"],
                    "MB": point["bytes"] / 1e6,
                    "model MB": point["model_bytes"] / 1e6,
                    "loss": point["loss"],
                    INCREASE: point["increase"],
                    "low": point["low"],
                    "high": point["high"],
                    "right": point["right"],
                }
            )
    return pd.DataFrame(rows)


def is_truth(how: str) -> bool:
    """Whether these widths are chosen by measured costs of the layers, and by no score."""
    return how.startswith(TRUTHS)


def _fewest_windows(records: Sequence[Record]) -> dict[str, int]:
    """Task -> the fewest windows or texts that measured costs are from."""
    found: dict[str, int] = {}
    for record in records:
        about = record.parameters
        if about.get("score") in TRUTHS and "windows" in about:
            found[about["task"]] = min(about["windows"], found.get(about["task"], about["windows"]))
    return found


def more_windows(record: Record, fewest: dict[str, int]) -> str:
    """What a name of measured costs says of their windows or texts: nothing where they are the fewest of the task."""
    about = record.parameters
    if about.get("score") not in TRUTHS or about.get("windows", 0) <= fewest.get(about["task"], 0):
        return ""
    return f", {about['windows']} {'windows' if about['task'] == 'language' else 'texts'}"


def points_table(records: Sequence[Record]) -> pd.DataFrame:
    """:func:`seed_points`, averaged over the seeds of the calibration windows.

    ``low`` and ``high`` are the wider of the 95 % interval over test windows and, with three seeds, Student's t over
    the seeds. For random and permuted allocations they hold nine tenths of the draws, and ``loss increase`` is the
    mean of all.
    """
    frame = seed_points(records)
    rows = []
    for names, group in frame.groupby(["task", "kind", "how", "budget"], sort=False):
        drawn = group[INCREASE]
        row = dict(zip(["task", "kind", "how", "budget"], names, strict=True))
        row |= group[["bits", "MB", "model MB", "loss", INCREASE, "low", "high", "right"]].mean()
        if row["kind"] in ("random_band", "permuted_band"):
            row["low"], row["high"] = np.quantile(drawn, [0.05, 0.95])
        else:
            low, high = over_seeds(drawn)
            row["low"], row["high"] = min(row["low"], low), max(row["high"], high)
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["task", "how", "bits"], ignore_index=True)


def bits_at(bits: Sequence[float], losses: Sequence[float], at: float) -> float:
    """Fewest bits from which on the loss stays at ``at`` or below, between points by the logarithm of the loss (in a
    straight line where that has none). 0 when it is below everywhere, infinite when the last point is above.
    """
    order = np.argsort(bits, kind="stable")
    x, y = np.asarray(bits, dtype=float)[order], np.asarray(losses, dtype=float)[order]
    above = np.flatnonzero(y > at)
    if not len(above):
        return 0.0
    last = above[-1]
    if last == len(y) - 1:
        return math.inf
    first, second = y[last], y[last + 1]
    share = math.log(first / at) / math.log(first / second) if second > 0 else (first - at) / (first - second)
    return float(x[last] + (x[last + 1] - x[last]) * share)


def equal_loss(points: pd.DataFrame, at: float, level: float = 0.95) -> pd.DataFrame:
    """Bits a weight, scales counted, at which each way to choose widths costs ``at`` nats on one task.

    points: of :func:`seed_points`. One row a way: how, bits, low, high, seeds, and ``each``, the bits of every seed.
    The interval is the wider of where the ends of the intervals over windows cross, and Student's t over the seeds.
    Ways that cross nowhere between their points are left out.
    """
    budgets = points[points["kind"].isin(["frontier", "uniform_format"])]
    rows = []
    for how, group in budgets.groupby("how", sort=False):
        mean = group.groupby("budget")[["bits", INCREASE, "low", "high"]].mean()
        middle: Any = mean[INCREASE]
        ends: Any = widened(middle, mean["low"], mean["high"], level)
        value, low, high = (bits_at(mean["bits"], losses, at) for losses in (middle, *ends))
        if not 0 < value < math.inf:
            continue
        each = {seed: bits_at(own["bits"], own[INCREASE], at) for seed, own in group.groupby("seed")}
        drawn = min(each.values()), max(each.values())  # a seed that crosses nowhere leaves that end open
        if drawn[0] > 0 and drawn[1] < math.inf:
            drawn = over_seeds(list(each.values()), level)
        least, most = min(low, drawn[0]), max(high, drawn[1])
        rows.append({"how": how, "bits": value, "low": least, "high": most, "seeds": len(each), "each": each})
    frame = pd.DataFrame(rows, columns=["how", "bits", "low", "high", "seeds", "each"])
    return frame.sort_values("bits", ignore_index=True)


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
        increase = here[INCREASE]
        scores = increase[[name for name in rows["how"] if not is_truth(name)]].sort_values()
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


def truths_table(records: Sequence[Record]) -> pd.DataFrame:
    """What measured costs promise for the widths that are chosen by them, and what these cost on the test split, beside
    uniform widths of the same bytes, for tasks with several ways to measure. Raises ``LookupError`` for no such task.
    """
    points = seed_points(records)
    chosen = points["how"].map(is_truth) & ~points["how"].str.endswith(", GPTQ")
    chosen &= points["budget"].str.startswith("uniform")
    chosen &= points["how"].where(chosen).groupby(points["task"]).transform("nunique") > 1
    if not chosen.any():
        raise LookupError("costs that are measured in several ways")
    budgets = points.loc[chosen, ["task", "budget"]].drop_duplicates()
    rows = points[chosen | (points["how"] == UNIFORM)].merge(budgets, on=["task", "budget"])
    rows = rows.sort_values(["task", "budget", INCREASE], ignore_index=True)
    return rows[["task", "budget", "how", "predicted", INCREASE, "low", "high"]]


def gptq_table(records: Sequence[Record]) -> pd.DataFrame:
    """Uniform widths by GPTQ, by how it was calibrated, beside rounding to nearest. Raises ``LookupError`` where it was
    calibrated in one way only.
    """
    points = seed_points([one for one in records if one.kind in UNIFORMS])
    by_gptq = points["how"].str.startswith("uniform, GPTQ")
    tasks = points.loc[points["kind"] == "calibrated_gptq", "task"].unique()
    if not len(tasks):
        raise LookupError("GPTQ with several calibrations")
    budgets = points.loc[by_gptq, "budget"].unique()
    shown = (
        (by_gptq | (points["how"] == UNIFORM)) & points["task"].isin(tasks) & points["budget"].isin(budgets)
    )
    rows = points[shown].sort_values(["task", "budget", INCREASE], ignore_index=True)
    return rows[["task", "budget", "how", "bits", INCREASE, "low", "high"]]


def truths(records: Sequence[Record]) -> list[Any]:
    """:func:`truths_table` for readers."""
    caption = (
        "What measured costs promise (nats; a divergence promises a divergence) and what their widths cost at the "
        "bytes of uniform ones"
    )
    rows = truths_table(records)
    return [says(truths_verdict(rows)), figures.table(rows, caption)]


def truths_verdict(rows: pd.DataFrame) -> list[str]:
    """A sentence for each budget of :func:`truths_table`: the best way to measure, what it promised, and uniform
    widths.
    """
    sentences = []
    for (task, budget), here in rows.groupby(["task", "budget"], sort=False):
        best, uniform = here[here["how"] != UNIFORM].iloc[0], here[here["how"] == UNIFORM].iloc[0]
        sentences.append(
            f"{task.capitalize()}, at the bytes of {budget}: of the costs, {best['how']} chooses best, "
            f"{best[INCREASE]:+.3f} nats ({best['low']:+.3f} to {best['high']:+.3f}; promised "
            f"{best['predicted']:+.3f}), beside {uniform[INCREASE]:+.3f} ({uniform['low']:+.3f} to "
            f"{uniform['high']:+.3f}) by uniform widths."
        )
    return sentences


def calibrations(records: Sequence[Record]) -> list[Any]:
    """:func:`gptq_table` for readers."""
    return [
        figures.table(gptq_table(records), "Uniform widths: GPTQ by its calibration, and rounding to nearest")
    ]


def allocators_table(records: Sequence[Record]) -> pd.DataFrame:
    """Ways to choose widths at the bytes of evolutionary searches, best first; ``read``: texts or windows that were
    run through the model before one allocation was known (of scores by gradients each also backwards).
    """
    read = {}
    fewest = _fewest_windows(records)
    for record in records:
        if record.kind in ("frontier", "evolutionary"):
            about, point = record.parameters, record.result["points"][0]
            score, layers = about.get("score"), len(point["choice"])
            tries = len(about["widths"]) if score in TRUTHS else TRIES.get(str(score), 0)
            name = _name(record) + more_windows(record, fewest)
            read[name] = point.get("forwards") or about["windows"] * (1 + layers * tries)
    points = points_table(records)
    at = points["budget"].isin(points.loc[points["how"] == EVOLVED, "budget"])
    at &= ~points["how"].str.endswith(", GPTQ")  # another way to round, and not to choose widths
    rows = points[at & (points["how"].isin(ALLOCATORS) | points["how"].map(is_truth))]
    rows = rows.assign(read=rows["how"].map(read)).sort_values(
        ["task", "budget", INCREASE], ignore_index=True
    )
    return rows[["task", "budget", "how", "bits", INCREASE, "low", "high", "read"]]


def allocators_verdict(rows: pd.DataFrame) -> list[str]:
    """A sentence for each budget of :func:`allocators_table`: the best, and what is told apart from it."""
    sentences = []
    for (task, budget), here in rows.groupby(["task", "budget"], sort=False):
        best, *others = here.to_dict("records")
        apart = ", ".join(one["how"] for one in others if one["low"] > best["high"]) or "none"
        sentences.append(
            f"{task.capitalize()}, {budget} a weight: {best['how']} adds the least, {best[INCREASE]:+.3f} nats "
            f"({best['low']:+.3f} to {best['high']:+.3f}). Of the others told apart from it, interval against "
            f"interval: {apart}."
        )
    return sentences


def allocators(records: Sequence[Record]) -> list[Any]:
    """Sentence and table of :func:`allocators_table`."""
    rows = allocators_table(records)
    caption = "Ways to choose widths at equal bytes, and how many texts each had to read"
    return [says(allocators_verdict(rows)), figures.table(rows, caption)]


def dense_table(records: Sequence[Record]) -> pd.DataFrame:
    """The FP16 models that all points start from."""
    rows = {}
    for record in records:
        if "dense" in record.result:
            dense, task = record.result["dense"], record.parameters["task"]
            value = TASKS[task].level(dense)
            rows[task] = (
                readable(task),
                record.parameters["model"],
                dense["loss"],
                TASKS[task].measure,
                value,
            )
    return pd.DataFrame(rows.values(), columns=["task", "model", "loss (nats)", "measure", "value"])


def frontier_figure(rows: pd.DataFrame, task: str, what: str) -> figures.Figure:
    return figures.lines(
        rows.rename(columns={"MB": "MB of the blocks' Linears on disk"}),
        "MB of the blocks' Linears on disk",
        INCREASE,
        "how",
        log="y" if (rows[INCREASE] > 0).all() else "",
        title=f"Loss against real bytes, {task} ({what})",
        caption="Codes, scales and zero points counted; the same solver for every score. Test split; bars are 95 % "
        "intervals over windows paired with the FP16 model or, where wider, over draws of the calibration windows; "
        "for random and permuted allocations nine tenths of the draws.",
        alt=f"Lines, one a way to choose widths, {task}: megabytes against loss increase; lower left is better.",
    )
