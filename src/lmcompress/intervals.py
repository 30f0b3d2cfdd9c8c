"""Intervals of means by the bootstrap: for what was measured on windows, texts, and (elsewhere) seeds. No torch."""

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from lmcompress.errors import ParameterError

_KEPT = 2_000_000  # numbers, 16 MB: samples of more are drawn one after the other


def bootstrap(values: ArrayLike, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``values``.

    values: [N], at least 2; for two models on the same windows pass the differences, so that the interval is paired.
    draws: samples of size N, with replacement; they depend on ``seed``, N and ``draws`` only.

    Raises :class:`ParameterError` for fewer than 2 values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2:
        raise ParameterError("values", numbers.shape, "at least 2 values in one dimension")
    low, high = np.quantile(_means(numbers, draws, seed), [0.025, 0.975])
    return float(low), float(high)


def _means(numbers: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Means [draws] of the samples."""
    if draws * len(numbers) <= _KEPT:
        return np.asarray(numbers[_samples(len(numbers), draws, seed)].mean(1))
    generator = np.random.default_rng(seed)
    return np.array(
        [numbers[generator.integers(len(numbers), size=len(numbers))].mean() for _ in range(draws)]
    )


@lru_cache(maxsize=16)
def _samples(count: int, draws: int, seed: int) -> np.ndarray:
    """Which values each sample takes [draws, count]: the same for all values of a page, and most of the work."""
    return np.random.default_rng(seed).integers(count, size=(draws, count))
