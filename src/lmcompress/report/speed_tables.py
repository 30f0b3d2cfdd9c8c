"""Tables and sentences of timed kernels."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmcompress.experiments.speeds import ONE, ShapeSpeed, Speed
from lmcompress.records import Record
from lmcompress.report import figures
from lmcompress.report.figures import Figure
from lmcompress.report.html import number
from lmcompress.report.words import estimate, of_kind, perplexity


def speed_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a kernel, model and batch: tokens per second with the slowest and fastest decoding over all
    compilations, share of the measured bandwidth, loss of that very model.

    What was compiled once has its range widened by the largest factor between two compilations of one kernel, model and
    batch on that device.
    """
    rows = [
        {
            "model": record.parameters.get("model") or record.parameters["shape"],
            "kernel": record.parameters["kernel"],
            "batch": record.parameters["batch"],
            "device": record.provenance["device"],
            "decode tokens/s": record.result.get("decode"),
            "slowest": record.result.get("decode_low"),
            "fastest": record.result.get("decode_high"),
            "prefill tokens/s": record.result.get("prefill"),
            "share of bandwidth": record.result.get("bandwidth_share"),
            "weights read (MB)": record.result["weight_bytes"] / 1e6
            if "weight_bytes" in record.result
            else None,
            "million parameters": record.result["parameters"] / 1e6
            if "parameters" in record.result
            else None,
            "perplexity": perplexity(record.result.get("loss")),
            "why not": record.result["refused"] or "",
        }
        for record in [*of_kind(records, Speed.kind), *of_kind(records, ShapeSpeed.kind)]
    ]
    if not rows:
        return pd.DataFrame()
    each = pd.DataFrame(rows)
    numbers = [name for name in each if name not in (*ONE, "why not")]
    each[numbers] = each[numbers].astype(float)  # None, where a kernel was refused, as well
    how = dict.fromkeys(numbers, "median") | {"slowest": "min", "fastest": "max", "why not": "first"}
    grouped = each.groupby(ONE, sort=False)
    frame = grouped.agg(how).assign(compilations=grouped.size()).reset_index()
    frame["tuning"] = frame["device"].map(tuning(frame))
    once = frame["compilations"] == 1
    frame.loc[once, "slowest"] /= frame["tuning"]
    frame.loc[once, "fastest"] *= frame["tuning"]
    return frame


def tuning(speeds: pd.DataFrame) -> pd.Series:
    """Device -> the largest factor between two compilations of one kernel, model and batch; 1 without any."""
    several = speeds["compilations"] > 1
    factors = (speeds["fastest"] / speeds["slowest"]).where(several, 1.0)
    return factors.groupby(speeds["device"]).max().fillna(1.0)


def over_bf16(speeds: pd.DataFrame) -> pd.DataFrame:
    """The kernels of :func:`speed_table` that were timed beside bf16 on the same device, model and batch, with
    ``over bf16``, their decoding speed over its, and ``least`` and ``most``: their slowest over the fastest of bf16,
    and the other way round.
    """
    same, speed = ["device", "model", "batch"], "decode tokens/s"
    timed = speeds.dropna(subset=[speed])
    base = timed.loc[timed["kernel"] == "bf16", [*same, speed, "slowest", "fastest"]]
    found = timed[timed["kernel"] != "bf16"].merge(base, on=same, suffixes=("", " of bf16"))
    return found.assign(
        **{
            "over bf16": found[speed] / found[f"{speed} of bf16"],
            "least": found["slowest"] / found["fastest of bf16"],
            "most": found["fastest"] / found["slowest of bf16"],
        }
    )


def verdict(speeds: pd.DataFrame) -> list[str]:
    """A sentence for each model and kernel that was timed beside bf16 at the same batch."""
    if not len(speeds) or not (speeds["kernel"] == "bf16").any():
        return []
    sentences = []
    for (model, kernel), rows in over_bf16(speeds).groupby(["model", "kernel"], sort=False):
        parts = [
            f"{estimate(row['over bf16'], row['least'], row['most'])} at batch {row['batch']}"
            for _, row in rows.iterrows()
        ]
        sentences.append(
            f"{model}, {kernel} decodes {_faster(rows)}: {', '.join(parts)} times the speed of bf16."
        )
    if not sentences:
        return [
            "Of the kernels only bf16, the model as it is, was timed: whether fewer bits are faster is open."
        ]
    for device, rows in speeds.groupby("device", sort=False):
        several = int((rows["compilations"] > 1).sum())
        sentences.append(
            f"Compiled and timed again, a kernel differs by up to {rows['tuning'].max() - 1:.0%} on {device} "
            f"({several} of {len(rows)} were); ranges cover that."
            if several
            else f"Every kernel was compiled once on {device}: how far two compilations differ was not seen."
        )
    return sentences


def _faster(rows: pd.DataFrame) -> str:
    """Faster or slower where the ranges of the two do not meet."""
    faster, slower = rows["least"] > 1, rows["most"] < 1
    if faster.all():
        return "faster"
    if slower.all():
        return "slower"
    if faster.any():
        return "faster at some batches only"
    return "no faster, at some batches slower" if slower.any() else "no faster"


NARROW = {  # columns of the table for readers; a name may break at \u00ad
    "decode tokens/s": "decode",
    "prefill tokens/s": "prefill",
    "share of bandwidth": "of band\u00adwidth",
    "weights read (MB)": "MB",
    "perplexity": "per\u00adplex\u00adity",
    "compilations": "runs",
    "kernel": "ker\u00adnel",
}


def pieces(speeds: pd.DataFrame) -> list[Any]:
    """A table of :func:`speed_table`, and where several sizes of models were timed a figure of what size does."""
    devices = ", ".join(dict.fromkeys(speeds["device"]))
    decode = [
        f"{number(row['decode tokens/s'])} ({number(row['slowest'])}\u00a0to\u00a0{number(row['fastest'])})"
        if row["why not"] == ""
        else ""
        for _, row in speeds.iterrows()
    ]
    hidden = ["device", "slowest", "fastest", "million parameters", "tuning"]
    shown = speeds.assign(**{"decode tokens/s": decode}).drop(
        columns=hidden if (speeds["why not"] != "").any() else [*hidden, "why not"]
    )
    shown = shown.rename(columns=NARROW).round({"of band\u00adwidth": 3})
    found: list[Any] = [
        figures.table(
            shown,
            f"Real kernels on {devices}: tokens per second, decoding with its range; MB of weights read",
        )
    ]
    ratios = over_bf16(speeds)
    if ratios["million parameters"].nunique() > 1:
        found.append(by_size(ratios))
    return found


def by_size(ratios: pd.DataFrame) -> Figure:
    """Decoding speed over bf16 (of :func:`over_bf16`) against the size of the model, a panel for each batch."""
    frame = ratios.sort_values(["million parameters", "batch"])
    billions = [f"{size / 1000:.2g}" for size in frame["million parameters"]]
    sequences = [f"batch {batch}" for batch in frame["batch"]]
    return figures.lines(
        frame.assign(**{"billion parameters": billions, "sequences": sequences}),
        "billion parameters",
        "over bf16",
        "kernel",
        ends=("least", "most"),
        panels="sequences" if frame["batch"].nunique() > 1 else None,
        reference={"bf16": 1.0},
        log="y",
        title="Decoding speed over bf16, by the size of the model",
        caption="A step that only reads weights would gain what the weights lose in bytes. The smallest model has its "
        "own weights, the others random ones. Bars: slowest over the fastest of bf16, and the other way round.",
        alt="Decoding speed over that of bf16 against billions of parameters, one line a kernel, with bf16 as a dashed "
        "line at one: above it fewer bits are faster.",
    )
