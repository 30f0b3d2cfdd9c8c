"""The truth about sensitivity: quantize one layer at a time and measure. Every score is ranked against it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import ConstantInputWarning, kendalltau, spearmanr
from torch import Tensor, nn

from lmcompress.errors import ParameterError
from lmcompress.sensitivity.losses import Loss, window_losses
from lmcompress.sensitivity.scores import (
    Quantizer,
    Scores,
    check_batches,
    check_count,
    check_widths,
    quantized,
)
from lmcompress.sensitivity.trials import Change, try_each


def measure(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    quantizer: Quantizer,
    widths: Sequence[int],
    *,
    per: str = "linear",
    loss: Loss = window_losses,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Scores:
    """Mean loss increase (nats) over the windows when one layer, and nothing else, is quantized.

    ``detail``: ``per_width``[bits][layer], ``base`` [N] and ``losses``[layer][bits] [N] per window, so that
    intervals can be had (``trials.paired_interval``). The weights are put back bit for bit. ``checkpoint``: a
    JSON-lines file from which an interrupted call goes on.
    """
    check_widths(widths)
    check_batches(batches)

    def change(bits: int) -> Change:
        return lambda name, weight: quantized(name, weight, quantizer, bits)

    variants = {str(bits): change(bits) for bits in widths}
    trials = try_each(model, batches, variants, per=per, loss=loss, checkpoint=checkpoint, progress=progress)
    tables = {key: trials.increase(key) for key in variants}
    return trials.scores(next(iter(tables.values())), tables, "per_width")


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
    than two windows.
    """

    spearman: Correlation
    kendall: Correlation
    reliability: float | None
    layers: int


def rank_agreement(
    scores: Scores, truth: Scores, bits: int, *, draws: int = 1000, seed: int = 0
) -> Agreement:
    """Spearman's rho and Kendall's tau-b between ``scores`` and the measured loss increase at one bit-width.

    Intervals: each of ``draws`` bootstrap samples redraws layers and windows both, so that they cover the
    choice of layers and the noise of the truth. A draw in which one side is constant has no rank correlation
    and is left out. Raises :class:`ParameterError` unless both cover the same three or more layers and
    neither is constant.
    """
    check_count("draws", draws)
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
    for field, side in (("scores", x), ("truth", increase.mean(1))):
        if np.ptp(side) == 0:
            raise ParameterError(
                field, float(side[0]), "at least two different values: constants have no ranks"
            )
    source = np.random.default_rng(seed)
    samples = []
    for _ in range(draws):
        rows = source.integers(len(layers), size=len(layers))
        windows = source.integers(increase.shape[1], size=increase.shape[1])
        samples.append(_correlations(x[rows], increase[rows][:, windows].mean(1)))
    value = _correlations(x, increase.mean(1))
    low, high = np.nanpercentile(np.array(samples), [2.5, 97.5], axis=0)
    spearman, kendall = (Correlation(float(value[i]), float(low[i]), float(high[i])) for i in range(2))
    return Agreement(spearman, kendall, _reliability(increase, source), len(layers))


def _correlations(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)  # gives NaN, which the percentiles leave out
        return float(spearmanr(x, y).statistic), float(kendalltau(x, y).statistic)


def _reliability(increase: np.ndarray, source: np.random.Generator, splits: int = 20) -> float | None:
    count = increase.shape[1]
    if count < 2:
        return None
    values = []
    for _ in range(splits):
        order = source.permutation(count)
        halves = increase[:, order[: count // 2]].mean(1), increase[:, order[count // 2 :]].mean(1)
        values.append(_correlations(*halves)[0])
    return float(np.nanmean(values)) if not np.isnan(values).all() else None
