"""Solvers against brute force, hand-worked cases, and each other."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcompress.allocate.problem import Problem
from lmcompress.allocate.solve import budget_for, exact, frontier, greedy, permuted, random_allocations
from lmcompress.errors import ParameterError


def brute_force(problem: Problem, budget: int) -> float:
    layers = list(problem.cost)
    found = []
    for choices in itertools.product(*(problem.cost[layer] for layer in layers)):
        if sum(problem.cost[layer][choice] for layer, choice in zip(layers, choices, strict=True)) <= budget:
            found.append(
                sum(problem.loss[layer][choice] for layer, choice in zip(layers, choices, strict=True))
            )
    return min(found)


@st.composite
def problems(draw, scale=1.0):
    layers = draw(st.integers(1, 4))
    cost, loss = {}, {}
    for layer in range(layers):
        count = draw(st.integers(1, 4))
        numbers = st.floats(-1, 10, allow_nan=False, width=32)
        prices = draw(st.lists(st.integers(0, 50), min_size=count, max_size=count))
        losses = draw(st.lists(numbers, min_size=count, max_size=count))
        cost[f"layer {layer}"] = {str(choice): price for choice, price in enumerate(prices)}
        loss[f"layer {layer}"] = {str(choice): value * scale for choice, value in enumerate(losses)}
    return Problem(cost, loss)


def test_permuted_choices_stay_among_layers_of_equal_cost():
    cost = {layer: {"2": size, "4": 2 * size} for layer, size in zip("abcxy", (2, 2, 2, 4, 4), strict=True)}
    problem = Problem(cost, {layer: dict.fromkeys(offered, 0.0) for layer, offered in cost.items()})
    choice = {"a": "4", "b": "2", "c": "2", "x": "4", "y": "2"}
    drawn = permuted(problem, choice, draws=60)
    assert {one.bytes for one in drawn} == {problem.allocation(choice).bytes}
    assert {"".join(one.choice[layer] for layer in "abcxy") for one in drawn} == {
        first + second for first in ("422", "242", "224") for second in ("42", "24")
    }
    assert permuted(problem, choice, draws=2) == drawn[:2]


def least(problem: Problem) -> int:
    return sum(min(offered.values()) for offered in problem.cost.values())


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 120))
def test_exact_is_the_optimum_and_its_bound_holds(problem, more):
    budget = least(problem) + more
    best, found = brute_force(problem, budget), exact(problem, budget)
    assert found.bytes <= budget
    assert found.objective == pytest.approx(best, abs=1e-5)
    assert found.bound <= best + 1e-6
    assert 0 <= found.gap < 1e-3


@settings(max_examples=40, deadline=None)
@given(problems(scale=1e-9), st.integers(0, 120))
def test_tiny_losses_are_not_lost_in_the_tolerances_of_the_solver(problem, more):
    budget = least(problem) + more
    assert exact(problem, budget).objective == pytest.approx(brute_force(problem, budget), abs=1e-14)


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(0, 120))
def test_greedy_and_random_keep_the_budget_and_never_beat_exact(problem, more):
    budget = least(problem) + more
    best = exact(problem, budget).objective
    for found in (greedy(problem, budget), *random_allocations(problem, budget, draws=3)):
        assert found.bytes <= budget
        assert found.objective >= best - 1e-6
        assert problem.allocation(found.choice) == found


def knapsack() -> Problem:
    """Three layers of 8 weights at 2, 4 or 8 bits; the middle one matters most, the last hardly."""
    cost = {name: {"2": 2, "4": 4, "8": 8} for name in "abc"}
    loss = {
        "a": {"2": 4.0, "4": 1.0, "8": 0.0},
        "b": {"2": 40.0, "4": 10.0, "8": 0.0},
        "c": {"2": 0.4, "4": 0.1, "8": 0.0},
    }
    return Problem(cost, loss)


def test_by_hand():
    problem = knapsack()
    # 14 bytes: 8 for b, 4 for a and 2 for c cost 0 + 1 + 0.4; 4 for all leaves 2 bytes over and costs 11.1
    assert exact(problem, 14).choice == {"a": "4", "b": "8", "c": "2"}
    assert greedy(problem, 14) == problem.allocation({"a": "4", "b": "8", "c": "2"})
    assert exact(problem, 24).objective == 0
    assert exact(problem, 6).choice == {"a": "2", "b": "2", "c": "2"}


def test_greedy_stops_short_where_the_last_step_does_not_fit():
    problem = Problem(
        {"a": {"small": 0, "large": 10}, "b": {"small": 0, "large": 6}},
        {"a": {"small": 10.0, "large": 0.0}, "b": {"small": 9.0, "large": 0.0}},
    )
    # worth a byte: a 1.0, b 1.5. Greedy takes b, then a no longer fits; a alone is better
    assert greedy(problem, 10).objective == 10
    assert exact(problem, 10).choice == {"a": "large", "b": "small"}


def test_choices_above_the_hull_are_left_out_by_greedy_but_not_by_exact():
    problem = Problem({"a": {"0": 0, "1": 5, "2": 10}}, {"a": {"0": 10.0, "1": 9.0, "2": 0.0}})
    assert greedy(problem, 7).choice == {"a": "0"}
    assert exact(problem, 7).choice == {"a": "1"}


def test_random_allocations_differ_repeat_and_spend_the_budget():
    problem = Problem(
        {str(i): {"2": 2, "4": 4, "8": 8} for i in range(30)},
        {str(i): {"2": 1.0, "4": 0.5, "8": 0.0} for i in range(30)},
    )
    found = random_allocations(problem, 130, seed=3)
    assert len(found) == 20
    assert found == random_allocations(problem, 130, seed=3)
    assert found != random_allocations(problem, 130, seed=4)
    assert len({tuple(one.choice.values()) for one in found}) > 15
    assert all(130 - 4 < one.bytes <= 130 for one in found)


def test_real_size_is_solved_and_proved():
    """210 layers of two sizes, six formats: as many as a 30-block model has Linears."""
    cost, loss = {}, {}
    for index in range(210):
        weights = (576 * 576, 576 * 1536)[index % 2]
        worth = 1 + (index * 7919 % 97) ** 2
        cost[str(index)] = {str(bits): weights * bits // 8 + 2 * 576 for bits in (2, 3, 4, 5, 6, 8)}
        loss[str(index)] = {str(bits): worth * 4.0**-bits for bits in (2, 3, 4, 5, 6, 8)}
    problem = Problem(cost, loss)
    weights = 105 * (576 * 576 + 576 * 1536)
    found = frontier(problem, weights)
    best = [one.objective for one in found.values()]
    assert best == sorted(best, reverse=True)
    for average, one in found.items():
        assert one.bytes * 8 / weights <= average
        assert one.gap <= 1e-5 * one.objective
        assert one.objective <= greedy(problem, budget_for(average, weights)).objective


def test_refusals_name_what_would_do():
    with pytest.raises(ParameterError, match="at least 6 bytes"):
        exact(knapsack(), 5)
    with pytest.raises(ParameterError, match="at least 6 bytes"):
        greedy(knapsack(), 5)
    with pytest.raises(ParameterError, match="at least 6 bytes"):
        random_allocations(knapsack(), 5)
    with pytest.raises(ParameterError, match="at least 6 bytes"):
        frontier(knapsack(), 24, [1.0])
    with pytest.raises(ParameterError, match="draws"):
        random_allocations(knapsack(), 6, draws=0)
    with pytest.raises(ParameterError, match="average_bits"):
        budget_for(0, 8)


@pytest.mark.parametrize(
    ("cost", "loss", "message"),
    [
        ({}, {}, "loss"),
        ({"a": {"4": 1}}, {"b": {"4": 1.0}}, "layers"),
        ({"a": {"4": 1}}, {"a": {"8": 1.0}}, "choices"),
        ({"a": {"4": 1.5}}, {"a": {"4": 1.0}}, "whole number"),
        ({"a": {"4": 1}}, {"a": {"4": float("nan")}}, "finite"),
    ],
)
def test_bad_tables(cost, loss, message):
    with pytest.raises(ParameterError, match=message):
        Problem(cost, loss)


def test_budget_is_in_whole_bytes():
    assert budget_for(2.5, 24) == 7  # 7.5
    assert budget_for(0.1, 80) == 1
