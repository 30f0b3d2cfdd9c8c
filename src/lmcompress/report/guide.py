"""The decision guide: for each way to make a model smaller its size, its loss with an interval, seconds and command.

Losses and seconds come from published records, sizes from the formats. What is missing raises ``LookupError``,
which fails the build of the book.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lmcompress.numbers import exp, mean
from lmcompress.plans import published
from lmcompress.quantize.formats import Bits, stored_bytes
from lmcompress.records import Record
from lmcompress.report import answers, frontier
from lmcompress.report.html import Html, table
from lmcompress.report.perp_tables import interval
from lmcompress.report.rate_tables import _losses, best
from lmcompress.report.speed_tables import speed_table, verdict
from lmcompress.report.words import estimate

RATES = "24_learning_rates"
GROUP = 128
FREE = 0.2  # of the memory of a GPU, left for activations and the cache of a conversation
KERNELS = {8: "int8", 4: "int4"}  # width -> what page 35 times; it times nothing for other widths
BUDGETS = (8, 16, 24, 48, 80)  # GB of common GPUs


@dataclass(frozen=True)
class Shape:
    """Of a model: blocks and the Linears of one, as [out, in]; numbers that stay in 16 bits."""

    blocks: int
    linears: tuple[tuple[int, int], ...]
    others: int

    def gigabytes(self, kept: float | None, bits: int) -> float:
        """Size with every Linear at ``bits`` and the share ``kept`` of its weights (None: not pruned)."""
        format = Bits(bits) if bits == 16 else Bits(bits, group=GROUP, symmetric=False)
        block = sum(
            stored_bytes(one, format, None if kept is None else int(kept * one[0] * one[1]))
            for one in self.linears
        )
        return (self.blocks * block + 2 * self.others) / 1e9


def llama(hidden: int, blocks: int, mlp: int, tokens: int, keys: int, tied: bool = False) -> Shape:
    """A Llama; ``keys``: outputs of its key and value projections."""
    attention = ((hidden, hidden), (keys, hidden), (keys, hidden), (hidden, hidden))
    return Shape(
        blocks,
        (*attention, (mlp, hidden), (mlp, hidden), (hidden, mlp)),
        (1 if tied else 2) * tokens * hidden,
    )


MODELS = {
    "Llama 3.2 1B": llama(2048, 16, 8192, 128256, 512, tied=True),
    "Llama 2 7B": llama(4096, 32, 11008, 32000, 4096),
    "Llama 2 13B": llama(5120, 40, 13824, 32000, 5120),
    "OPT 30B": Shape(48, ((7168, 7168),) * 4 + ((28672, 7168), (7168, 28672)), 50272 * 7168),
    "Llama 2 70B": llama(8192, 80, 28672, 32000, 1024),
}


@dataclass(frozen=True)
class Way:
    """One way to make a model smaller, and what it did to the book's language model."""

    name: str
    kept: float | None  # share of the weights that are not pruned; None: no mask
    bits: int
    times: tuple[float, float, float]  # perplexity over that of the dense model, with its 95 % interval
    seconds: float
    command: str
    page: str
    kernel: str = "none"  # what reads it from a GPU's memory without unpacking it first


def ways() -> list[Way]:
    """All ways, the gentlest first. Raises ``LookupError`` where records are missing."""
    bits, rates = answers._of(answers.BITS), answers._of(RATES)
    found = [
        Way(
            f"{width} bits, rounded" if method == "rtn" else f"{width} bits, GPTQ",
            None,
            width,
            _quantized(bits, method, width),
            _seconds(bits, kind="uniform_format", method=method),
            f"--quantize {width}:{GROUP}" + (":gptq" if method == "gptq" else ""),
            answers.BITS,
            KERNELS.get(width, "none"),
        )
        for method, width in (("rtn", 8), ("rtn", 4), ("gptq", 4), ("rtn", 3), ("gptq", 3))
    ]
    found += [
        Way(
            f"{criterion.capitalize()} {pattern}, {answers.WORDS[subset]} retrained",
            1 - int(pattern[:-1]) / 100,
            16,
            _retrained(rates, criterion, pattern, subset),
            _seconds(rates, criterion=criterion, pattern=pattern, subset=subset),
            f"--prune {criterion}:{pattern} --retrain {subset}:150",
            RATES,
        )
        for criterion, pattern, subset in (
            ("wanda", "50%", "masklora"),
            ("magnitude", "50%", "norms"),
            ("wanda", "70%", "masklora"),
        )
    ]
    return sorted(found, key=lambda way: way.times[0])


def _quantized(records: Sequence[Record], method: str, width: int) -> tuple[float, float, float]:
    name = "uniform, GPTQ" if method == "gptq" else frontier.UNIFORM
    points = frontier.points_table(records)
    at = points[
        (points["task"] == answers.RANKED)
        & (points["how"] == name)
        & (points["budget"] == f"uniform {width} bits")
    ]
    if at.empty:
        raise LookupError(f"{name} at {width} bits")
    value, low, high = (exp(at.iloc[0][column]) for column in ("loss increase (nats)", "low", "high"))
    return value, low, high


def _retrained(
    records: Sequence[Record], criterion: str, pattern: str, subset: str
) -> tuple[float, float, float]:
    runs, dense = (
        _runs(records, criterion, subset, pattern),
        _runs(records, criterion="magnitude", subset="nothing", pattern="0%"),
    )
    seeds = min(len(runs), len(dense))
    return interval(runs[:seeds] - dense[:seeds], exp)


def _runs(records: Sequence[Record], criterion: str, subset: str, pattern: str) -> np.ndarray:
    """Losses [seeds, windows] of these runs, at the rate that was best of those tried."""
    rate = None
    if subset != "nothing":
        frame = best(records, answers.CORPUS)
        at = frame.query("criterion == @criterion and pattern == @pattern and subset == @subset")
        rate = None if at.empty else at["learning rate"].iloc[0]
    found = _losses(records, answers.CORPUS).get((criterion, pattern, subset, rate))
    if not found:
        raise LookupError(f"no run of {subset} after {criterion} at {pattern}")
    return np.stack([found[seed] for seed in sorted(found)])


def _seconds(records: Sequence[Record], kind: str | None = None, **parameters: object) -> float:
    """Mean seconds of the language model's runs with these parameters, tests included."""
    found = [
        float(one.provenance["seconds"])
        for one in records
        if (kind is None or one.kind == kind)
        and one.parameters["task"] == "language"
        and all(one.parameters.get(name) == value for name, value in parameters.items())
    ]
    if not found:
        raise LookupError(f"runs of {kind or ''} {parameters}")
    return mean(found)


def size(way: Way) -> float:
    """Bits a weight of a block of Llama 2 7B, scales and mask counted."""
    shape = MODELS["Llama 2 7B"]
    whole = Shape(shape.blocks, shape.linears, 0)
    return 16 * whole.gigabytes(way.kept, way.bits) / whole.gigabytes(None, 16)


def recipes() -> Html:
    """Every way with its size, loss, seconds and command."""
    rows = [
        {
            "way": way.name,
            "bits a weight": round(size(way), 2),
            "perplexity, times dense": estimate(*way.times),
            "seconds": round(way.seconds),
            "kernel": way.kernel,
            "options": f"`{way.command}`",
            "from": f"[page {way.page[:2]}](../../notebooks/{way.page}.html)",
        }
        for way in ways()
    ]
    return table(pd.DataFrame(rows), "Ways to make a model smaller, the gentlest first")


def choice(shape: Shape, budget: float, found: Sequence[Way]) -> str:
    """What to do with a model of this shape in ``budget`` GB: nothing, or the gentlest way with a kernel that fits."""
    room = (1 - FREE) * budget
    if shape.gigabytes(None, 16) <= room:
        return f"as it is ({shape.gigabytes(None, 16):.0f} GB)"
    for way in (one for one in found if one.kernel != "none"):
        if (needed := shape.gigabytes(way.kept, way.bits)) <= room:
            return f"{way.name} ({needed:.0f} GB)"
    return "nothing here fits"


def fits() -> Html:
    """For each model and budget the gentlest way that fits."""
    found = ways()
    rows = [
        {"model": name} | {f"{budget} GB": choice(shape, budget, found) for budget in BUDGETS}
        for name, shape in MODELS.items()
    ]
    return table(pd.DataFrame(rows), "The gentlest way that fits a GPU, a fifth of its memory left free")


def speeds() -> Html:
    """What was timed, model by model."""
    found = [
        sentence
        for sentence in verdict(speed_table(published("35_real_size_and_speed")))
        if sentence.startswith("llama-2-7b")
    ]
    if not found:
        raise LookupError("speeds at the shape of Llama 2 7B")
    return Html("<ul>" + "".join(f"<li>{sentence}</li>" for sentence in found) + "</ul>")
