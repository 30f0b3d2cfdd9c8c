"""The tables that an allocation is decided on, and the allocation."""

import math
from dataclasses import dataclass

from lmcompress.errors import ParameterError

Table = dict[str, dict[str, float]]
"""Layer -> choice -> number. A choice is any name: ``"4"``, ``"2:4 at 4 bits"``."""


@dataclass(frozen=True)
class Allocation:
    """One choice a layer. ``bytes``: what it costs. ``objective``: sum of the predicted losses.

    ``bound``: no allocation within the budget has a lower objective (None where nothing is proved).
    """

    choice: dict[str, str]
    bytes: int
    objective: float
    bound: float | None = None

    @property
    def gap(self) -> float | None:
        """How far the objective may be above the optimum; None where nothing is proved."""
        return None if self.bound is None else self.objective - self.bound


@dataclass(frozen=True)
class Problem:
    """``cost[layer][choice]`` in whole bytes, at least 0; ``loss[layer][choice]`` in any one unit, lower =
    better.

    Layers need not offer the same choices. Raises :class:`ParameterError` for tables that do not cover the
    same layers and choices, a layer without a choice, and numbers that are not finite.
    """

    cost: dict[str, dict[str, int]]
    loss: Table

    def __post_init__(self) -> None:
        if not self.cost or set(self.cost) != set(self.loss):
            raise ParameterError("loss", sorted(self.loss), f"a table over the layers {sorted(self.cost)}")
        for layer, offered in self.cost.items():
            if not offered or set(offered) != set(self.loss[layer]):
                found = f"{layer}: {sorted(self.loss[layer])}"
                raise ParameterError("loss", found, f"a loss for each of the choices {sorted(offered)}")
            for choice, price in offered.items():
                if isinstance(price, bool) or not isinstance(price, int) or price < 0:
                    raise ParameterError(
                        "cost", f"{layer}, {choice}: {price}", "a whole number of bytes from 0"
                    )
                if not math.isfinite(self.loss[layer][choice]):
                    raise ParameterError(
                        "loss", f"{layer}, {choice}: {self.loss[layer][choice]}", "a finite number"
                    )

    def allocation(self, choice: dict[str, str], bound: float | None = None) -> Allocation:
        """The allocation that gives every layer its ``choice``. Raises :class:`ParameterError` for an
        unknown one.
        """
        for layer, offered in self.cost.items():
            if choice.get(layer) not in offered:
                raise ParameterError("choice", f"{layer}: {choice.get(layer)}", offered)
        paid = sum(offered[choice[layer]] for layer, offered in self.cost.items())
        total = math.fsum(offered[choice[layer]] for layer, offered in self.loss.items())
        return Allocation({layer: choice[layer] for layer in self.cost}, paid, total, bound)

    def by_cost(self, layer: str) -> list[str]:
        """The choices of a layer from the cheapest on; of equal ones the better first."""
        return sorted(
            self.cost[layer], key=lambda choice: (self.cost[layer][choice], self.loss[layer][choice])
        )

    @property
    def least_bytes(self) -> int:
        """Bytes of the cheapest choice everywhere."""
        return sum(min(offered.values()) for offered in self.cost.values())

    def require_feasible(self, budget: int) -> None:
        """Raise :class:`ParameterError` naming the least number of bytes when ``budget`` (bytes) is below
        it.
        """
        if not budget >= self.least_bytes:
            what = f"at least {self.least_bytes} bytes, the cheapest choice everywhere"
            raise ParameterError("budget", budget, what)
