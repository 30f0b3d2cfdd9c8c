"""Scores of layers as values, and how well a score ranks the layers as the measured truth does. No torch."""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from lmcompress.errors import NumericError, ParameterError
from lmcompress.lazily import lazy

stats = lazy("scipy.stats")


@dataclass(frozen=True)
class Scores:
    """One number per layer, higher = more sensitive.

    ``per_layer``: full module name of a Linear (``per="linear"``) or of a block (``per="block"``) -> score.
    ``seconds``: wall time that the scores cost. ``detail``: JSON-able; a score that depends on the bit-width
    keeps all of them in ``detail["per_width"][str(bits)]``, and ``per_layer`` is then the one of the first
    width asked for. Raises :class:`NumericError` with the layer's name for a score that is not finite.
    """

    per_layer: dict[str, float]
    seconds: float
    detail: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for table in (self.per_layer, *self.detail.get("per_width", {}).values()):
            for name, value in table.items():
                if not math.isfinite(value):
                    raise NumericError(name, f"sensitivity is {value}")

    def at(self, bits: int) -> dict[str, float]:
        """The scores at one bit-width; one that does not depend on the width is the same at all of them."""
        table = self.detail.get("per_width")
        if table is None:
            return self.per_layer
        if str(bits) not in table:
            raise ParameterError("bits", bits, table)
        return table[str(bits)]


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How well a score ranks the layers. ``layers``: how many.

    ``reliability``: Spearman correlation of the truth on one half of the windows with the truth on the other
    (mean over splits): where it is low, the truth itself is noise and no score can rank well. None with fewer
    than two windows. ``kendall``: None where it was not asked for.
    """

    spearman: Correlation
    kendall: Correlation | None
    reliability: float | None
    layers: int


def ceiling(halves: float) -> float:
    """The rank correlation that a perfect score would reach with a noisy truth, about.

    halves: r, the correlation of the truth on one half of the windows with the other half, 0 to 1. By Spearman and
    Brown the truth on all windows has the reliability 2 r / (1 + r); what is free of noise correlates with it as the
    square root of that.
    """
    return math.sqrt(2 * halves / (1 + halves))


def rank_agreement(
    scores: Scores, truth: Scores, bits: int, *, draws: int = 1000, seed: int = 0, with_kendall: bool = True
) -> Agreement:
    """Spearman's rho between ``scores`` and the measured loss increase at one bit-width; and Kendall's tau-b, whose
    interval takes most of the time.

    Intervals: each of ``draws`` bootstrap samples redraws layers and windows both, so that they cover the
    choice of layers and the noise of the truth. A draw in which one side is constant has no rank correlation
    and is left out. Raises :class:`ParameterError` unless both cover the same three or more layers and
    neither is constant.
    """
    if draws < 1:
        raise ParameterError("draws", draws, "an integer of at least 1")
    predicted, layers = scores.at(bits), list(truth.at(bits))
    if set(predicted) != set(layers) or len(layers) < 3:
        raise ParameterError(
            "scores",
            f"{len(predicted)} layers",
            f"scores of the {len(layers)} layers of the truth (3 at least)",
        )
    x = np.array([predicted[layer] for layer in layers])
    tried = np.array([truth.detail["losses"][layer][str(bits)] for layer in layers])
    increase = tried - np.array(truth.detail["base"])  # [layers, windows]
    for name, side in (("scores", x), ("truth", increase.mean(1))):
        if np.ptp(side) == 0:
            raise ParameterError(
                name, float(side[0]), "at least two different values: constants have no ranks"
            )
    rows, redrawn, reliability = _redrawn(increase.tobytes(), increase.shape, draws, seed)
    found = []
    for of in (spearman, kendall) if with_kendall else (spearman,):
        low, high = np.nanpercentile(of(x[rows], redrawn), [2.5, 97.5]).tolist()
        found.append(Correlation(float(of(x, increase.mean(1))), low, high))
    return Agreement(found[0], found[1] if with_kendall else None, reliability, len(layers))


@lru_cache(maxsize=32)
def _redrawn(
    increase: bytes, shape: tuple[int, int], draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Of a truth, for all scores that are held against it: which layers each bootstrap sample takes [draws, layers],
    their increase over the windows that it takes [draws, layers], and the truth's own reliability.

    increase: [layers, windows] of ``shape``, float64.
    """
    truth, source = np.frombuffer(increase).reshape(shape), np.random.default_rng(seed)
    layers, windows = shape
    rows, redrawn = np.empty((draws, layers), dtype=np.intp), np.empty((draws, layers))
    for draw in range(draws):
        rows[draw] = source.integers(layers, size=layers)
        redrawn[draw] = truth[rows[draw]][:, source.integers(windows, size=windows)].mean(1)
    return rows, redrawn, _reliability(truth, source)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's rho along the last axis, of many pairs at once (scipy's takes one at a time); NaN for a constant."""
    a, b = (stats.rankdata(side, axis=-1) - (side.shape[-1] + 1) / 2 for side in (x, y))
    with np.errstate(invalid="ignore"):
        return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def kendall(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Kendall's tau-b along the last axis, of many pairs at once; NaN for a constant."""
    a, b = (
        (2 * stats.rankdata(side, axis=-1)).astype(np.int16) for side in (x, y)
    )  # whole numbers, ties included
    both, one, other = (np.zeros(x.shape[:-1], dtype=np.int64) for _ in range(3))
    for item in range(1, x.shape[-1]):  # with all before it
        first, second = (np.sign(ranks[..., :item] - ranks[..., item, None]) for ranks in (a, b))
        both += (first * second).sum(-1)
        one += (first != 0).sum(-1)
        other += (second != 0).sum(-1)
    with np.errstate(invalid="ignore"):
        return both / np.sqrt(one * other)


def _reliability(increase: np.ndarray, source: np.random.Generator, splits: int = 20) -> float | None:
    count = increase.shape[1]
    if count < 2:
        return None
    halves = np.empty((2, splits, len(increase)))
    for split in range(splits):
        order = source.permutation(count)
        halves[:, split] = [increase[:, part].mean(1) for part in np.split(order, [count // 2])]
    values = spearman(*halves)
    return float(np.nanmean(values)) if not np.isnan(values).all() else None
