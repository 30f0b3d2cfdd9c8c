"""Two functions that many rooms need. No torch."""

import math
from collections.abc import Iterable


def mean(values: Iterable[float]) -> float:
    """Arithmetic mean."""
    values = list(values)
    return sum(values) / len(values)


def exp(value: float) -> float:
    """exp that stays finite where a model has collapsed: of at most 700."""
    return math.exp(min(value, 700.0))
