"""CMPQ and the truth over depth: what distance alone explains, and whether the ends are costlier."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from lmcompress.errors import ParameterError
from lmcompress.records import Record
from lmcompress.report.words import by_depth, of_kind, readable
from lmcompress.sensitivity.depth import DepthNull, depth_null

DISTANCE = "distance alone"
NO_DIFFERENCE = "are not told apart from"
CONTRAST = "ends minus middle (nats)"
MEASURES = ("CMPQ", "CMPQ, SVCCA", "CMPQ, PWCCA", "CMPQ, CKA")


def depth_nulls(records: Sequence[Record]) -> list[tuple[str, str, DepthNull]]:
    """(task, score, its depth-only null) of every CMPQ record that holds its similarities; first seeds."""
    found: dict[Any, tuple[str, str, DepthNull]] = {}
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


def increases(truth: Record, bits: int) -> np.ndarray:
    """Measured loss increase [layers in order of depth, windows] (nats) of a record of kind ``truth``."""
    losses = np.array([tried[str(bits)] for tried in by_depth(truth.result["losses"]).values()], np.float32)
    return losses.astype(float) - np.float32(truth.result["base"]).astype(float)


def block_truths(records: Sequence[Record]) -> list[tuple[str, Record]]:
    """``(name, truth)`` of every model and data whose blocks were quantized one at a time."""
    return [
        (f"{one.parameters['model']} on {one.parameters['data']}", one)
        for one in of_kind(records, "truth")
        if one.parameters["per"] == "block"
    ]


@dataclass(frozen=True)
class Placed:
    """Mean cost of the first and last ``count`` layers minus that of the others, in nats.

    ``low``, ``high``: where the permutations put it (see :func:`placed`). ``p``: share of the permutations of the
    layers whose contrast is at least as far from 0.
    """

    value: float
    low: float
    high: float
    p: float


def placed(increase: np.ndarray, count: int, level: float = 0.95, draws: int = 10_000) -> Placed:
    """Are the first and last ``count`` layers costlier than the others? By permutation of the layers.

    increase: [layers, windows] nats. Were depth without meaning, every order of the layers would be as likely: the
    contrasts of ``draws`` random orders, moved to the measured one, give the interval, or that over windows (bootstrap)
    where it is wider. Raises :class:`ParameterError` where no layer is left in the middle.
    """
    cost = increase.mean(1)
    if not 0 < 2 * count < len(cost):
        raise ParameterError("count", count, f"at least 1, and fewer than half of {len(cost)} layers")
    ends = np.r_[:count, len(cost) - count : len(cost)]

    def contrast(values: np.ndarray) -> np.ndarray:
        return values[..., ends].mean(-1) - np.delete(values, ends, -1).mean(-1)

    source, value = np.random.default_rng(0), float(contrast(cost))
    orders = contrast(source.permuted(np.tile(cost, (draws, 1)), axis=1))
    tails = [(1 + level) / 2, (1 - level) / 2]
    windows = source.integers(increase.shape[1], size=(1000, increase.shape[1]))
    drawn = contrast(increase[:, windows].mean(-1).T)
    low, high = value - np.quantile(orders, tails)
    least, most = np.quantile(drawn, tails[::-1])
    p = float((np.abs(orders) >= abs(value) - 1e-12).mean())
    return Placed(value, float(min(low, least)), float(max(high, most)), p)


def ends_table(records: Sequence[Record]) -> pd.DataFrame:
    """The first and last 30 % of the blocks against the middle, with and without the outermost two, and these two
    against all others: contrasts in nats with the p-values of permutations.
    """
    rows = []
    for name, truth in block_truths(records):
        for bits in truth.parameters["widths"]:
            increase = increases(truth, bits)
            third = max(1, round(0.3 * len(increase)))
            whole, outer = placed(increase, third), placed(increase, 1)
            inner = placed(increase[1:-1], third - 1) if third > 1 else None
            rows.append(
                {
                    "model": name,
                    "blocks": len(increase),
                    "bits": bits,
                    CONTRAST: whole.value,
                    "p": whole.p,
                    "without the outermost two": inner.value if inner else None,
                    "p of that": inner.p if inner else None,
                    "the outermost two minus all others": outer.value,
                    "p of these": outer.p,
                }
            )
    return pd.DataFrame(rows)


def contrasts(records: Sequence[Record], bits: int = 3) -> pd.DataFrame:
    """Are the ends really costlier? One row a task: the measured cost of quantizing one of the first and last
    30 % of the layers over that of one in the middle, with the 95 % interval and p of :func:`placed`, and the mean of
    all.

    The width is ``bits`` where it was measured, else the narrowest; the truth of blocks goes before that of
    Linears.
    """
    found = {}
    for record in sorted(of_kind(records, "truth"), key=lambda one: one.parameters["per"] == "block"):
        widths, task = record.parameters["widths"], readable(record.parameters["task"])
        width = bits if bits in widths else min(widths)
        increase = increases(record, width)
        ends = placed(increase, max(1, round(0.3 * len(increase))))
        found[task] = (task, width, ends.value, ends.low, ends.high, ends.p, float(increase.mean()))
    return pd.DataFrame(
        list(found.values()), columns=["task", "bits", CONTRAST, "low", "high", "p", "mean of all layers"]
    )
