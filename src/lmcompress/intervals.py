"""Intervals of means by the bootstrap: for what was measured on windows, texts, and (elsewhere) seeds. No torch."""

import numpy as np
from numpy.typing import ArrayLike

from lmcompress.errors import ParameterError


def bootstrap(values: ArrayLike, draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``values``.

    values: [N], at least 2; for two models on the same windows pass the differences, so that the interval is paired.
    draws: samples of size N, with replacement; they depend on ``seed``, N and ``draws`` only.

    Raises :class:`ParameterError` for fewer than 2 values.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2:
        raise ParameterError("values", numbers.shape, "at least 2 values in one dimension")
    generator = np.random.default_rng(seed)
    means = [numbers[generator.integers(len(numbers), size=len(numbers))].mean() for _ in range(draws)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
