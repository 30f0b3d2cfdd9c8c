"""Which weights may be zero: any share of them, or n of every m consecutive inputs. Patterns are values.

``n:m`` counts the zeros, as the ``prune_n, prune_m`` of the official SparseGPT and Wanda codes do; hardware
papers count what is kept. For 2:4 and 4:8 the two agree.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal

from lmcompress.errors import ParameterError

MOST = 1024  # inputs of a group of N:M
VALID = "a sparsity in [0, 1) such as 0.5 or '50%', or zeros among consecutive inputs such as '2:4' (n < m <= 1024)"


@dataclass(frozen=True)
class Unstructured:
    """A share ``sparsity`` (0 <= sparsity < 1) of the weights is zero, anywhere. ``str`` gives ``50%``."""

    sparsity: float

    def __post_init__(self) -> None:
        number = isinstance(self.sparsity, (int, float)) and not isinstance(self.sparsity, bool)
        if not number or not 0 <= self.sparsity < 1:
            raise ParameterError("sparsity", self.sparsity, VALID)
        object.__setattr__(self, "sparsity", float(self.sparsity) + 0.0)  # not -0.0

    def __str__(self) -> str:
        percent = Decimal(repr(self.sparsity)) * 100  # decimal, so that every float survives the round trip
        return f"{percent.normalize():f}%"


@dataclass(frozen=True)
class NofM:
    """``n`` zeros (1 <= n < m <= 1024) among every ``m`` consecutive inputs of an output. ``str`` gives ``2:4``."""

    n: int
    m: int

    def __post_init__(self) -> None:
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (self.n, self.m))
        if not whole or not 1 <= self.n < self.m <= MOST:
            raise ParameterError("pattern", f"{self.n}:{self.m}", VALID)

    @property
    def sparsity(self) -> float:
        return self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


Pattern = Unstructured | NofM


def parse(value: str | float | Pattern) -> Pattern:
    """The pattern that ``0.5``, ``"0.5"``, ``"50%"``, ``"2:4"`` or a pattern means; the inverse of ``str``.

    Raises :class:`ParameterError` for anything else.
    """
    if isinstance(value, Pattern):
        return value
    if not isinstance(value, str):
        return Unstructured(value)
    text = value.strip()
    if match := re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text):
        return NofM(int(match[1]), int(match[2]))
    try:
        number = float(Decimal(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1))
    except ArithmeticError:
        number = math.nan
    if math.isnan(number):
        raise ParameterError("pattern", value, VALID)
    return Unstructured(number)


def ladder(pattern: Pattern, rounds: int) -> list[Pattern]:
    """Patterns that end at ``pattern`` and grow in every round; every one of them is of its kind.

    Unstructured: the same share of the remaining weights is dropped in every round, to sparsities
    1 - (1 - sparsity)^(k / rounds) for k = 1 ... rounds, the schedule of iterative magnitude pruning (Han et al. 2015).
    N:M: n zeros of every m are reached by whole numbers, evenly spaced; so there are at most n rounds.

    Raises :class:`ParameterError` for rounds below 1, and for more than n rounds of N:M.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ParameterError("rounds", rounds, "a whole number of at least 1")
    if isinstance(pattern, NofM):
        if rounds > pattern.n:
            raise ParameterError(
                "rounds", rounds, f"at most {pattern.n} for {pattern}: one zero more a round"
            )
        return [NofM(-(-pattern.n * k // rounds), pattern.m) for k in range(1, rounds + 1)]
    shares = [1 - (1 - pattern.sparsity) ** (k / rounds) for k in range(1, rounds)]
    return [*map(Unstructured, shares), pattern]
