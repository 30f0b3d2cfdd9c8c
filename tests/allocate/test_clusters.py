"""Clusters on hand-made cases, against brute force, and the arbitrary ids of the released scripts."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcompress.allocate.clusters import as_released, by_clusters, k_harmonic_means, k_means
from lmcompress.errors import ParameterError

SCORES = {"a": 0.1, "b": 5.0, "c": 0.12, "d": 1.0, "e": 1.1, "f": 0.11}


def spread(values, labels):
    groups = [[v for v, l in zip(values, labels, strict=True) if l == label] for label in set(labels)]
    return sum(sum((v - np.mean(group)) ** 2 for v in group) for group in groups)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=7), st.integers(1, 3))
def test_k_means_is_the_best_partition(values, k):
    found = spread(values, k_means(values, k))
    best = min(spread(values, labels) for labels in itertools.product(range(k), repeat=len(values)))
    assert found == pytest.approx(best, rel=1e-6, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12), st.integers(1, 4), st.floats(-1e6, 1e6)
)
def test_clusters_are_intervals_in_order(values, k, shift):
    for method in (k_means, k_harmonic_means):
        labels = method([value + shift for value in values], k)
        pairs = sorted(zip([value + shift for value in values], labels, strict=True))
        assert [label for _, label in pairs] == sorted(labels)


def test_k_harmonic_means_finds_clear_clusters_and_its_objective_is_low():
    values = [0.0, 0.1, 0.2, 5.0, 5.1, 9.0, 9.1, 9.2]
    assert k_harmonic_means(values, 3) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_k_harmonic_means_differs_from_k_means_where_it_should():
    """One far value takes a k-means centre of its own; so does it here, but ties within are the same."""
    values = [0.0, 0.0, 0.0, 1.0, 10.0]
    assert k_means(values, 2) == k_harmonic_means(values, 2) == [0, 0, 0, 0, 1]


def test_sorted_clusters_give_the_most_sensitive_the_most_bits():
    for method in ("k_means", "k_harmonic_means"):
        assert by_clusters(SCORES, method=method) == {"a": 4, "b": 16, "c": 4, "d": 8, "e": 8, "f": 4}


def test_fewer_distinct_scores_than_widths():
    assert by_clusters({"a": 1.0, "b": 1.0}) == {"a": 16, "b": 16}
    assert by_clusters({"a": 1.0, "b": 2.0}) == {"a": 8, "b": 16}


def test_released_ids_follow_the_seed_and_not_the_scores():
    found = [as_released(SCORES, seed=seed) for seed in range(30)]
    assert found[0] == as_released(SCORES, seed=0)
    assert all(one["a"] == one["c"] == one["f"] and one["d"] == one["e"] for one in found)
    assert {one["b"] for one in found} == {16, 8, 4}  # the most sensitive layer gets anything


def test_refusals():
    with pytest.raises(ParameterError, match="method"):
        by_clusters(SCORES, method="k_modes")
    with pytest.raises(ParameterError, match="widths"):
        by_clusters(SCORES, widths=(4, 8, 16))
    with pytest.raises(ParameterError, match="scores"):
        by_clusters({})
    with pytest.raises(ParameterError, match="scores"):
        as_released({})
    with pytest.raises(ParameterError, match="scores"):
        k_means([float("nan")], 2)
    with pytest.raises(ParameterError, match="k"):
        k_means([1.0], 0)
