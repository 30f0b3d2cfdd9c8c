"""Verdicts by hand: what one case says, what the cases of a claim say together, and the intervals that decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lmcompress.errors import ParameterError
from lmcompress.report import verdicts
from lmcompress.report.html import FAILS, HOLDS, NOT_RUN, OPEN, PART
from lmcompress.report.verdicts import Case, Claim, Rule, interval, judge


def claim(**rule):
    return Claim(
        id="c", claim="It is so.", origin="us", measure="m", quantity="ratio", rule=Rule(**rule), needs="runs"
    )


@pytest.mark.parametrize(
    ("low", "high", "word"), [(0.8, 1.0, "as claimed"), (1.01, 1.2, "against"), (0.9, 1.1, "open")]
)
def test_a_case_needs_its_whole_interval_on_one_side(low, high, word):
    assert Rule(at_most=1.0).says(Case("", 1.0, low, high)) == word
    assert Rule(at_least=-1.0).says(Case("", -1.0, -high, -low)) == word


YES, NO, MAYBE = Case("a", 0.9, 0.8, 0.95, 3), Case("b", 1.2, 1.1, 1.3, 3), Case("d", 1.0, 0.9, 1.1, 3)


@pytest.mark.parametrize(
    ("cases", "verdict"),
    [
        ([], NOT_RUN),
        ([YES, YES], HOLDS),
        ([YES, NO], PART),
        ([YES, MAYBE], PART),
        ([NO, NO], FAILS),
        ([NO, MAYBE], OPEN),
        ([MAYBE], OPEN),
    ],
)
def test_the_verdict_on_several_cases(cases, verdict):
    judged = judge(claim(at_most=1.0), lambda _level: cases)
    assert judged.verdict == verdict
    assert judged.evidence == "runs" if not cases else "rule: at most 1" in judged.evidence


def test_the_level_is_shared_among_the_cases_and_few_seeds_are_said():
    asked = []

    def measure(level):
        asked.append(level)
        return [Case("x", 1.0, 0.9, 1.1, 1)] * 4

    judged = judge(claim(at_most=1.0), measure)
    assert asked == [0.95, 1 - 0.05 / 4]
    assert "1 seed a case: says nothing of other seeds" in judged.evidence


@pytest.mark.parametrize("paper", ["perp", "cptquant"])
def test_every_claim_of_the_book_is_well_formed_and_an_unknown_measure_is_refused(paper):
    found = verdicts.read(paper)
    assert len({one.id for one in found}) == len(found) > 15
    with pytest.raises(ParameterError, match="measure"):
        verdicts.judge_all(paper, {})


def test_with_three_seeds_the_interval_is_students_t_where_that_is_wider():
    seeds = np.array([1.0, 2.0, 6.0])
    values = np.tile(seeds[:, None], 50)  # windows do not differ: only the seeds speak
    reach = stats.t.ppf(0.975, 2) * seeds.std(ddof=1) / 3**0.5
    assert interval(values) == pytest.approx((3.0, 3 - reach, 3 + reach))
    value, low, high = interval(values[:1])
    assert value == low == high == 1.0  # one seed: nothing is known of others


def test_with_seeds_that_agree_the_windows_speak():
    windows = np.random.default_rng(1).normal(size=400)
    _, low, high = interval(np.stack([windows] * 3))
    assert high - low == pytest.approx(2 * 1.96 * windows.std() / 20, rel=0.1)


@given(st.integers(1, 5), st.floats(0.5, 0.99))
def test_a_share_is_the_ratio_of_means_and_a_higher_level_is_never_narrower(seeds, level):
    generator = np.random.default_rng(seeds)
    part, whole = generator.uniform(1, 2, (2, seeds, 30))
    value, low, high = interval(part, level, over=whole)
    assert value == pytest.approx(part.mean() / whole.mean())
    assert low <= value <= high
    _, lower, higher = interval(part, (1 + level) / 2, over=whole)
    assert lower <= low
    assert high <= higher


def test_an_interval_at_another_level_is_that_of_a_normal_distribution():
    low, high = verdicts.widened(1.0, 0.0, 3.0, 0.99)
    wider = stats.norm.ppf(0.995) / stats.norm.ppf(0.975)
    assert (low, high) == pytest.approx((1 - wider, 1 + 2 * wider))
    assert verdicts.widened(1.0, 0.0, 3.0, 0.95) == pytest.approx((0.0, 3.0))
