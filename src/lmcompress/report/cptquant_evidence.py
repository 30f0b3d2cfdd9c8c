"""What every claim of CPTQuant (arXiv 2412.03599) is judged by: the measures that ``claims/cptquant.yaml`` names.

Records keep 95 % intervals over windows or texts; at another level their ends move as a normal distribution's would.
Where a score was drawn from three samples of calibration windows, Student's t over these counts where it is wider.
"""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from lmcompress.lazily import lazy
from lmcompress.records import Record
from lmcompress.report import depth, frontier, size_tables, speed_tables
from lmcompress.report.agreement import agreement_table, truths
from lmcompress.report.frontier import INCREASE
from lmcompress.report.verdicts import Case, over_seeds, widened
from lmcompress.report.words import of_kind, readable

stats = lazy("scipy.stats")

# A block's Linears in the order of the model, in which records list chosen widths; names in records are sorted.
ORDER = [
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
    *(f"attention.self.{name}" for name in ("query", "key", "value")),
    *("attention.output.dense", "intermediate.dense", "output.dense"),
]
KINDS = ("frontier", *frontier.UNIFORMS, "permuted_band", "evolutionary")
SUMS = (
    "TDMPQ, Fisher",
    "TDMPQ, Gauss-Newton",
)  # squares: a block's score is the sum over its Linears, cross terms aside


class Evidence:
    """The records behind the verdicts, by the data that they are on, and one measure a method:
    ``(level, **options) -> cases``.
    """

    def __init__(self, records: Sequence[Record]):
        self.records = list(records)
        self._ranked: dict[tuple[str, str, str], pd.DataFrame] = {}
        self.by_data: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if "data" in record.parameters:
                self.by_data[record.parameters["data"]].append(record)

    def measures(self) -> dict[str, Callable[..., list[Case]]]:
        """Name -> measure."""
        names = "compression efficiency equal_loss equal_bytes ends ranks permuted"
        return {name: getattr(self, name) for name in names.split()}

    def points(self, task: str = "") -> dict[str, pd.DataFrame]:
        """Data -> points of its frontier, a row a seed; of one task, or of all."""
        found = {}
        for data, records in self.by_data.items():
            frame = frontier.seed_points([one for one in records if one.kind in KINDS])
            if len(frame) and (not task or (frame["task"] == readable(task)).all()):
                found[data] = frame
        return found

    def compression(self, level: float, against: str, most: float) -> list[Case]:
        """How many times smaller the smallest file is whose loss grows by at most ``most`` nats; one case a task.

        The ends: the smallest file of which this is sure, and the smallest of which it cannot be excluded.
        """
        column = {"fp16": "times smaller than FP16", "fp32": "than FP32"}[against]
        cases = []
        sizes = size_tables.size_table(self.records)
        for task, rows in sizes.groupby("task", sort=False) if len(sizes) else ():
            low, high = widened(rows[INCREASE], rows["low"], rows["high"], level)
            ratios = [rows.loc[loss <= most, column].max() for loss in (rows[INCREASE], high, low)]
            if not any(map(math.isnan, ratios)):
                best = rows.loc[rows[column] == ratios[0]].iloc[0]
                cases.append(Case(f"{task}: {best['blocks']}, embeddings {best['embeddings']}", *ratios))
        return cases

    def efficiency(self, _level: float) -> list[Case]:
        """Decoding speed of every timed kernel over that of bf16 on the same device, model and batch."""
        speeds = speed_tables.speed_table(self.records)
        if not len(speeds):
            return []
        return [
            Case(
                f"{row['kernel']}, {row['model']}, batch {row['batch']}, {row['device']}",
                *(row["over bf16"], row["least"], row["most"]),
                None,
            )
            for _, row in speed_tables.over_bf16(speeds).iterrows()
        ]

    def equal_loss(self, level: float, score: str, task: str, others: str, at: float) -> list[Case]:
        """Bits of each of ``others`` (between semicolons) at ``at`` nats over those of ``score``, on all data of a
        task. Both crossings may lie anywhere in their intervals, so that the ratio's is wide.
        """
        cases = []
        for data, points in self.points(task).items():
            rows = frontier.equal_loss(points, at, level).set_index("how")
            for other in others.split("; "):
                if score in rows.index and other in rows.index:
                    one, two = rows.loc[score], rows.loc[other]
                    low, high = two["low"] / one["high"], two["high"] / max(one["low"], 1e-9)
                    name = f"against {other}, {data}"
                    cases.append(
                        Case(name, two["bits"] / one["bits"], low, high, min(one["seeds"], two["seeds"]))
                    )
        return cases

    def equal_bytes(self, level: float, score: str, other: str) -> list[Case]:
        """Loss of ``score`` (or of each of those between semicolons) minus that of ``other`` at the bytes of each
        uniform width, on all data.
        """
        cases, names = [], score.split("; ")
        for data, points in self.points().items():
            for budget in sorted({name for name in points["budget"] if name.startswith("uniform")}):
                here = points[points["budget"] == budget]
                two = here[here["how"] == other]
                for name in names if len(two) else ():
                    one = here[here["how"] == name]
                    if len(one):
                        setting = f"{data}, {budget}" + (f", {name}" if len(names) > 1 else "")
                        cases.append(Case(setting, *self._apart(one, two, level), len(one)))
        return cases

    @staticmethod
    def _apart(one: pd.DataFrame, two: pd.DataFrame, level: float) -> tuple[float, float, float]:
        """Difference in loss and its interval. The two were measured on the same windows, whose differences the
        records do not keep: taking them as independent makes the interval wider than it is.
        """
        (a, a_low, a_high), (b, b_low, b_high) = (
            (mean[INCREASE], *widened(mean[INCREASE], mean["low"], mean["high"], level))
            for mean in (rows[[INCREASE, "low", "high"]].mean() for rows in (one, two))
        )
        value = a - b
        low, high = value - math.hypot(a - a_low, b_high - b), value + math.hypot(a_high - a, b - b_low)
        ends = over_seeds(one[INCREASE] - b, level)
        return value, min(low, ends[0]), max(high, ends[1])

    def ends(self, level: float, share: float, least: float, most: float) -> list[Case]:
        """Measured cost of the first and last ``share`` of the blocks (at least one each) minus that of the others."""
        cases = []
        for name, truth in depth.block_truths(self.records):
            for bits in truth.parameters["widths"]:
                if least <= bits <= most:
                    increase = depth.increases(truth, bits)
                    found = depth.placed(increase, max(1, round(share * len(increase))), level)
                    setting = f"{name}, {bits} bits, p = {found.p:.2g}"
                    cases.append(Case(setting, found.value, found.low, found.high, None))
        return cases

    def ranks(self, level: float, score: str, bits: float) -> list[Case]:
        """Spearman's rho with the truth for every model, data and granularity."""
        cases = []
        for data, records in self.by_data.items():
            here = [one for one in records if bits in one.parameters.get("widths", ())]
            scored = [one for one in of_kind(here, "score") if one.parameters["score"] == score]
            for truth in truths(here):
                per = truth.parameters["per"]
                scores = [one for one in scored if one.parameters["per"] == per]
                how = "blocks" if per == "block" else "Linears"
                if per == "block" and not scores and score in SUMS:
                    scores, how = [of_blocks(one, truth) for one in scored], "blocks, sums of their Linears"
                if not scores:
                    continue
                key = data, per, score
                if key not in self._ranked:  # a measure is asked twice, and bootstraps take seconds
                    self._ranked[key] = agreement_table([truth, *scores], int(bits))
                layers = f"{len(truth.result['losses'])} {how}"
                for _, row in self._ranked[key].dropna(subset=["Spearman"]).iterrows():
                    ends = widened(row["Spearman"], row["low"], row["high"], level)
                    low, high = np.clip(ends, -1, 1)
                    cases.append(Case(f"{data}, {layers}", row["Spearman"], low, high, len(scores)))
        return cases

    def permuted(self, level: float, score: str) -> list[Case]:
        """Loss of the widths that ``score`` chose minus that of the same widths in random order among layers of equal
        size. The interval: where another order would fall (Student's t for one more draw).
        """
        cases = []
        for data, points in self.points().items():
            drawn = points[points["how"] == f"{score}, permuted"]
            own = points[(points["how"] == score) & points["seed"].isin(drawn["seed"])].set_index("budget")
            for budget, orders in drawn.groupby("budget")[INCREASE]:
                if budget in own.index and orders.std() > 1e-9:  # else all widths are the same
                    value = own.loc[budget, INCREASE] - orders.mean()
                    reach = (
                        stats.t.ppf((1 + level) / 2, len(orders) - 1)
                        * orders.std()
                        * (1 + 1 / len(orders)) ** 0.5
                    )
                    cases.append(Case(f"{data}, {budget}", value, value - reach, value + reach, 1))
        return cases


def kind_of(name: str) -> str:
    """What a Linear is in its block: its name behind the block's number ("" for a block)."""
    return re.split(r"\.\d+\.?", name, maxsplit=1)[1]


def in_order(names: Sequence[str]) -> list[str]:
    """Names of blocks, or of their Linears, in the order of the model. Raises ``ValueError`` for an unknown Linear."""
    return sorted(
        names, key=lambda name: (block_of(name), ORDER.index(kind) if (kind := kind_of(name)) else 0)
    )


def block_of(name: str) -> int:
    """Number of the block that a layer is, or is in."""
    return int(re.findall(r"\.(\d+)\b", name)[0])


def of_blocks(score: Record, truth: Record) -> Record:
    """A score of Linears at every width, added up over the blocks that ``truth`` is of."""
    tables = {
        bits: {
            block: sum(value for name, value in table.items() if name.startswith(f"{block}."))
            for block in truth.result["losses"]
        }
        for bits, table in score.result["per_width"].items()
    }
    result = {**score.result, "per_width": tables, "per_layer": next(iter(tables.values()))}
    return replace(score, parameters={**score.parameters, "per": "block"}, result=result)


def costs(truth: Record) -> dict[int, np.ndarray]:
    """Width -> measured loss increase of every layer (nats), in the order of the model."""
    base, losses = np.mean(truth.result["base"]), truth.result["losses"]
    return {
        bits: np.array([np.mean(losses[name][str(bits)]) - base for name in in_order(list(losses))])
        for bits in truth.parameters["widths"]
    }


def added(table: dict[int, np.ndarray], choice: Sequence[int]) -> float:
    """Sum of the measured costs of single layers (:func:`costs`) at the widths of ``choice`` (nats)."""
    return float(sum(table[bits][layer] for layer, bits in enumerate(choice)))
