"""Evolutionary search against brute force on losses that add up, and what it promises on any."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_solve import brute_force, knapsack, problems

from lmcompress.allocate.evolve import evolve
from lmcompress.errors import ParameterError


def added(problem):
    return lambda choice, _windows: problem.allocation(choice).objective


@pytest.mark.parametrize("budget", [6, 8, 10, 12, 14, 16, 24])
def test_it_finds_the_optimum_of_a_small_problem(budget):
    problem = knapsack()
    found = evolve(problem, budget, added(problem), dict.fromkeys("abc", "2"), windows=1, generations=30)
    assert problem.allocation(found.choice).objective == pytest.approx(brute_force(problem, budget))


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 60), st.integers(0, 3))
def test_it_keeps_the_budget_and_never_gets_worse_on_windows_that_agree(problem, more, seed):
    start = {layer: problem.by_cost(layer)[0] for layer in problem.cost}
    budget = problem.allocation(start).bytes + more
    found = evolve(problem, budget, added(problem), start, windows=3, generations=5, offspring=4, seed=seed)
    assert problem.allocation(found.choice).bytes <= budget
    losses = [problem.allocation(start).objective, *found.history]
    assert losses == sorted(losses, reverse=True)
    assert found == evolve(
        problem, budget, added(problem), start, windows=3, generations=5, offspring=4, seed=seed
    )


def test_what_was_read_is_counted_and_windows_are_drawn_without_repetition():
    problem, read = knapsack(), []

    def fitness(choice, windows):
        read.append(windows)
        return 0.0

    found = evolve(
        problem,
        12,
        fitness,
        dict.fromkeys("abc", "4"),
        windows=6,
        generations=2,
        offspring=3,
        stages=((2, 1), (1, 4)),
    )
    assert found.forwards == sum(map(len, read)) == 2 * (3 * 1 + 3 * 4)
    assert all(len(set(windows)) == len(windows) and max(windows) < 6 for windows in read)
    assert found.choice == dict.fromkeys("abc", "4")  # of equal ones the parent stays


def test_bad_input_is_refused():
    problem = knapsack()
    for field, change in {
        "start": {"budget": 11},
        "stages": {"stages": ((2, 4),)},
        "offspring": {"offspring": 0},
    }.items():
        options = {"budget": 12, "fitness": added(problem), "start": dict.fromkeys("abc", "4"), "windows": 1}
        with pytest.raises(ParameterError, match=field):
            evolve(problem, **options | {"generations": 1} | change)
