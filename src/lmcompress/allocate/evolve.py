"""Evolutionary search for an allocation, after EvoPress (arXiv 2410.14649): nothing is assumed to add up."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lmcompress.allocate.problem import Problem
from lmcompress.errors import ParameterError

Fitness = Callable[[dict[str, str], list[int]], float]
"""``fitness(choice of every layer, windows) -> loss``: of the whole model, over these windows (numbers from 0)."""


@dataclass(frozen=True)
class Evolved:
    """``choice`` of every layer; ``history``: loss of the survivor of each generation on the windows it was chosen by;
    ``forwards``: how many windows were read in all.
    """

    choice: dict[str, str]
    history: list[float]
    forwards: int


def evolve(
    problem: Problem,
    budget: int,
    fitness: Fitness,
    start: dict[str, str],
    *,
    windows: int,
    generations: int,
    offspring: int = 16,
    stages: Sequence[tuple[int, int]] = ((4, 4), (1, 16)),
    seed: int = 0,
) -> Evolved:
    """From ``start``, ``generations`` times the best of ``offspring`` mutants and their parent.

    A mutant goes up a step of bytes in one to three layers, and down in others until it is within ``budget`` bytes.
    Selection has stages ``(survivors, windows)``: many mutants are compared on few windows, the last ones and the
    parent on more. Windows are drawn anew for each stage, so that no mutant wins by its luck on a few. The losses in
    ``problem`` are not used. Raises :class:`ParameterError` for a start beyond the budget, and unless the last stage
    leaves one survivor.
    """
    parent = problem.allocation(start)
    if parent.bytes > budget:
        raise ParameterError("start", parent.bytes, f"an allocation within {budget} bytes")
    if not stages or stages[-1][0] != 1 or min(map(min, stages)) < 1:
        raise ParameterError("stages", stages, "pairs (survivors, windows), the last with one survivor")
    if offspring < 1 or generations < 0:
        raise ParameterError("offspring", offspring, "at least 1, and generations of at least 0")
    source, best, history, forwards = random.Random(seed), dict(parent.choice), [], 0
    for _ in range(generations):
        found = [_mutant(problem, budget, best, source) for _ in range(offspring)]
        for stage, (survivors, count) in enumerate(stages):
            if stage == len(stages) - 1:
                found = [best, *found]  # a mutant must beat its parent; of equal ones the parent stays
            read = source.sample(range(windows), min(count, windows))
            losses = [fitness(choice, read) for choice in found]
            forwards += len(found) * len(read)
            order = sorted(range(len(found)), key=losses.__getitem__)[:survivors]
            found = [found[index] for index in order]
        best = found[0]
        history.append(losses[order[0]])
    return Evolved(best, history, forwards)


def _mutant(problem: Problem, budget: int, parent: dict[str, str], source: random.Random) -> dict[str, str]:
    ladders = {layer: problem.by_cost(layer) for layer in parent}
    step = {layer: ladders[layer].index(choice) for layer, choice in parent.items()}

    def price() -> int:
        return sum(problem.cost[layer][ladders[layer][at]] for layer, at in step.items())

    for _ in range(source.randint(1, 3)):
        movable = [layer for layer, at in step.items() if at + 1 < len(ladders[layer])]
        if not movable:
            break
        raised = source.choice(movable)
        step[raised] += 1
        while price() > budget:
            lower = [layer for layer, at in step.items() if at > 0 and layer != raised]
            if not lower:
                step[raised] -= 1
                break
            step[source.choice(lower)] -= 1
    return {layer: ladders[layer][at] for layer, at in step.items()}
