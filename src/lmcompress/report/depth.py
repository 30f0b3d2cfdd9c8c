"""CMPQ and the truth over depth: what distance alone explains, and whether the ends are costlier."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lmcompress.intervals import bootstrap
from lmcompress.records import Record
from lmcompress.report.words import by_depth, of_kind, readable
from lmcompress.sensitivity.depth import DepthNull, depth_null, ends_contrast

DISTANCE = "distance alone"


NO_DIFFERENCE = "are not told apart from"


CONTRAST = "ends minus middle (nats)"


MEASURES = ("CMPQ", "CMPQ, SVCCA", "CMPQ, PWCCA", "CMPQ, CKA")


def depth_nulls(records: Sequence[Record]) -> list[tuple[str, str, DepthNull]]:
    """(task, score, its depth-only null) of every CMPQ record that holds its similarities; first seeds."""
    found = {}
    for record in of_kind(records, "score"):
        about = record.parameters
        if about["score"] in MEASURES and "similarity" in record.result:
            null = depth_null(record.result["similarity"])
            found.setdefault((about["task"], about["score"]), (readable(about["task"]), about["score"], null))
    return list(found.values())


def distance_alone(records: Sequence[Record]) -> list[Record]:
    """A score for each CMPQ record: what its depth-only null gives every block."""
    found = []
    for record in of_kind(records, "score"):
        if record.parameters["score"] == "CMPQ" and record.parameters["per"] == "block":
            names = by_depth(record.result["per_layer"])
            expected = depth_null(record.result["similarity"]).expected
            result = {
                "per_layer": dict(zip(names, expected, strict=True)),
                "seconds": record.result["seconds"],
            }
            found.append(replace(record, parameters={**record.parameters, "score": DISTANCE}, result=result))
    return found


def null_table(records: Sequence[Record]) -> pd.DataFrame:
    """How much of every measure's pattern over depth a similarity that knows only distance reproduces."""
    rows = [
        (task, score, null.explained, null.contrast, null.expected_contrast)
        for task, score, null in depth_nulls(records)
    ]
    names = ["task", "score", "explained by distance", "ends minus middle", "the same by distance alone"]
    return pd.DataFrame(rows, columns=names)


def contrasts(records: Sequence[Record], bits: int = 3) -> pd.DataFrame:
    """Are the ends really costlier? One row a task: the measured cost of quantizing one of the first and last
    30 % of the layers over that of one in the middle, with its 95 % interval over windows, and the mean of all.

    The width is ``bits`` where it was measured, else the narrowest; the truth of blocks goes before that of
    Linears.
    """
    found = {}
    for record in sorted(of_kind(records, "truth"), key=lambda one: one.parameters["per"] == "block"):
        widths, task = record.parameters["widths"], readable(record.parameters["task"])
        width = bits if bits in widths else min(widths)
        losses = np.float32([tried[str(width)] for tried in by_depth(record.result["losses"]).values()])
        increase = losses.astype(float) - np.float32(record.result["base"]).astype(float)  # [layers, windows]
        each = np.float32([ends_contrast(column) for column in increase.T.tolist()]).astype(float)
        ends = bootstrap(each)
        found[task] = (task, width, float(each.mean()), *ends, float(increase.mean()))
    return pd.DataFrame(
        list(found.values()), columns=["task", "bits", CONTRAST, "low", "high", "mean of all layers"]
    )
