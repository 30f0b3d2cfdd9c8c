"""The front page's answers are made of records, and a missing record is an error."""

import pytest

from lmcompress.report import answers


@pytest.fixture(scope="module")
def claims():
    return answers._of(answers.CLAIMS)


def test_sentences_hold_the_values_of_the_records(claims):
    pruned, norms = (answers.level(claims, "magnitude", subset) for subset in ("nothing", "norms"))
    sentence = answers.survives(claims).sentence
    assert answers.shown(pruned) in sentence
    assert answers.shown(norms) in sentence
    assert norms[1] <= norms[0] <= norms[2] < pruned[0]


@pytest.mark.parametrize("make", [answers.survives, answers.which_subset, answers.contender])
def test_records_that_are_missing_fail_the_build(claims, make):
    with pytest.raises(LookupError):
        make([one for one in claims if one.parameters.get("subset") == "full"])


def test_the_best_allocation_of_a_score_is_neither_measured_nor_by_another_solver():
    sentence = answers.three_bits(answers._of(answers.BITS)).sentence
    assert "GPTQ" not in sentence
    assert "measured" not in sentence
