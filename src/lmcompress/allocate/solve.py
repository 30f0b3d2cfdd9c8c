"""Solvers: sum of predicted losses as low as possible, sum of bytes within a budget, one choice a layer.

This is the multiple-choice knapsack problem. HAWQ-V3 (Yao et al. 2021) solves it as an integer program, as
:func:`exact` does; :func:`greedy` is the older marginal analysis, optimal but for the last step.
"""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lmcompress.allocate.problem import Allocation, Problem
from lmcompress.errors import ParameterError
from lmcompress.lazily import lazy

optimize = lazy("scipy.optimize")
sparse = lazy("scipy.sparse")

AVERAGES = (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 7.0, 8.0)
RELATIVE_GAP = 1e-7  # of the excess over the best loss that each layer can have; a stated bound goes with it


def greedy(problem: Problem, budget: int) -> Allocation:
    """Marginal analysis: from the cheapest choices, buy the step with the most loss saved a byte while any
    fits.

    Steps run along each layer's lower convex hull of (bytes, loss), so that they come in falling order of
    worth. The same allocations as a Lagrange multiplier gives, and the leftover spent. Raises
    :class:`ParameterError` for a budget (bytes) below the least possible.
    """
    problem.require_feasible(budget)
    choice, steps = {}, []
    for order, layer in enumerate(problem.cost):
        hull = _hull(problem, layer)
        choice[layer] = hull[0]
        for here, there in itertools.pairwise(hull):
            price = problem.cost[layer][there] - problem.cost[layer][here]
            worth = (problem.loss[layer][here] - problem.loss[layer][there]) / price
            steps.append((-worth, order, price, layer, there))
    left, stopped = budget - problem.allocation(choice).bytes, set()
    for _, _, price, layer, there in sorted(steps):
        if layer in stopped or price > left:
            stopped.add(layer)  # later steps of this layer start from one that was not bought
            continue
        choice[layer], left = there, left - price
    return problem.allocation(choice)


def _hull(problem: Problem, layer: str) -> list[str]:
    """Choices on the falling part of the lower convex hull of (bytes, loss), cheapest first."""
    cost, loss = problem.cost[layer], problem.loss[layer]
    hull: list[str] = []
    for choice in problem.by_cost(layer):
        if hull and loss[choice] >= loss[hull[-1]]:
            continue  # dearer and no better
        while len(hull) > 1 and (
            (loss[hull[-2]] - loss[hull[-1]]) * (cost[choice] - cost[hull[-1]])
            <= (loss[hull[-1]] - loss[choice]) * (cost[hull[-1]] - cost[hull[-2]])
        ):
            hull.pop()
        hull.append(choice)
    return hull


def exact(problem: Problem, budget: int) -> Allocation:
    """The optimum within ``budget`` bytes, and the bound that proves it.

    min sum_lc loss_lc x_lc  subject to  sum_c x_lc = 1 for every layer l, sum_lc cost_lc x_lc <= budget, x
    binary (HiGHS through ``scipy.optimize.milp``). Losses count from each layer's best choice and in units
    of what greedy leaves: the solver's tolerances are absolute, and predicted losses may be of any size.
    Raises :class:`ParameterError` for a budget below the least possible.
    """
    start = greedy(problem, budget)
    least = {layer: min(offered.values()) for layer, offered in problem.loss.items()}
    floor = math.fsum(least.values())
    reachable = start.objective - floor
    if reachable <= 0:  # every layer has its best choice already
        return problem.allocation(start.choice, bound=start.objective)
    options = [  # a choice that alone loses more than greedy does in all layers is in no optimum
        (layer, choice)
        for layer, offered in problem.loss.items()
        for choice in problem.by_cost(layer)
        if choice == start.choice[layer] or offered[choice] - least[layer] <= reachable
    ]
    value = np.array([(problem.loss[layer][choice] - least[layer]) / reachable for layer, choice in options])
    price = np.array([problem.cost[layer][choice] for layer, choice in options], dtype=float)
    row = {layer: index for index, layer in enumerate(problem.cost)}
    ones = (np.ones(len(options)), ([row[layer] for layer, _ in options], range(len(options))))
    one_each = optimize.LinearConstraint(sparse.csr_array(ones, shape=(len(row), len(options))), 1, 1)
    scale, bound, allowed = 1e4, None, budget
    while True:
        within = optimize.LinearConstraint(price[None] / max(budget, 1), -np.inf, allowed / max(budget, 1))
        found = optimize.milp(
            value * scale,
            integrality=np.ones(len(options)),
            bounds=optimize.Bounds(0, 1),
            constraints=[one_each, within],
            options={"mip_rel_gap": RELATIVE_GAP},
        )
        if found.x is None:  # only when the tightened budget below has become too small
            return problem.allocation(start.choice, bound)
        if bound is None:
            bound = floor + max(found.mip_dual_bound, 0.0) * reachable / scale
        chosen = {
            layer: choice for (layer, choice), taken in zip(options, found.x, strict=True) if taken > 0.5
        }
        best = problem.allocation(chosen)
        over = best.bytes - budget
        if over <= 0:
            break
        allowed -= over  # the solver holds a constraint up to a tolerance; a budget is a budget
    best = min(best, start, key=lambda one: one.objective)
    return problem.allocation(best.choice, min(bound, best.objective))


def random_allocations(problem: Problem, budget: int, draws: int = 20, seed: int = 0) -> list[Allocation]:
    """``draws`` allocations that know nothing of the losses yet spend the budget: what any score must beat.

    From the cheapest choices, a layer drawn at random goes to its next dearer choice, until no step fits.
    Raises :class:`ParameterError` for a budget below the least possible.
    """
    problem.require_feasible(budget)
    if draws < 1:
        raise ParameterError("draws", draws, "an integer of at least 1")
    return [_random(problem, budget, random.Random(f"{seed}/{draw}")) for draw in range(draws)]


def _random(problem: Problem, budget: int, source: random.Random) -> Allocation:
    ladders = {layer: problem.by_cost(layer) for layer in problem.cost}
    step = dict.fromkeys(ladders, 0)
    left: float = budget - sum(problem.cost[layer][ladder[0]] for layer, ladder in ladders.items())
    movable = list(ladders)
    while movable:
        index = source.randrange(len(movable))
        layer = movable[index]
        ladder, cost = ladders[layer], problem.cost[layer]
        here = step[layer]
        price = cost[ladder[here + 1]] - cost[ladder[here]] if here + 1 < len(ladder) else math.inf
        if price > left:  # what is left only falls, so this layer is done
            movable.pop(index)
            continue
        step[layer], left = here + 1, left - price
    return problem.allocation({layer: ladder[step[layer]] for layer, ladder in ladders.items()})


def permuted(problem: Problem, choice: dict[str, str], draws: int = 20, seed: int = 0) -> list[Allocation]:
    """``draws`` times the same choices in random order among the layers whose choices cost the same.

    Bytes and the number of layers at each choice stay: what is left is whether the right layers got them.
    """
    alike: dict[tuple[Any, ...], list[str]] = {}
    for layer, offered in problem.cost.items():
        alike.setdefault(tuple(sorted(offered.items())), []).append(layer)
    found = []
    for draw in range(draws):
        source = random.Random(f"{seed}/{draw}")
        drawn: dict[str, Any] = {}
        for layers in alike.values():
            order = [choice[layer] for layer in layers]
            source.shuffle(order)
            drawn |= dict(zip(layers, order, strict=True))
        found.append(problem.allocation(drawn))
    return found


def budget_for(average_bits: float, weights: int) -> int:
    """Whole bytes that ``weights`` weights may take at ``average_bits`` bits each, all scales and masks
    included.
    """
    if not average_bits > 0:
        raise ParameterError("average_bits", average_bits, "a number above 0")
    return math.floor(Fraction(average_bits) * weights / 8)


def frontier(
    problem: Problem,
    weights: int,
    averages: Sequence[float] = AVERAGES,
    solver: Callable[..., Allocation] = exact,
) -> dict[float, Allocation]:
    """The allocation at each average number of bits a weight; ``weights``: how many weights all layers have.

    Raises :class:`ParameterError` when the least of the averages is infeasible.
    """
    return {average: solver(problem, budget_for(average, weights)) for average in averages}
