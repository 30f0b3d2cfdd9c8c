"""Rounds of pruning and retraining as a study: equal steps, and the comparison by hand."""

import math

import pytest
from perp_tiny import language, tiny_place  # noqa: F401

from lmcompress.pages.iterative_or_one_shot import Study, answers
from lmcompress.records import Record, obtain
from lmcompress.report.perp_tables import against_one_shot


def test_rounds_share_the_steps_and_end_at_the_same_sparsity(language):  # noqa: F811
    study = Study(**language, rates={"norms": 0.02}, rounds=[1, 2])
    records = obtain(study.experiments(), progress=False)
    assert [len(record.result["losses"]) for record in records] == [12, 12]
    assert records[0].result["sparsity"] == pytest.approx(records[1].result["sparsity"], abs=1e-3)
    frame = against_one_shot(records, language["corpus"]).set_index("rounds")
    ratio = frame.loc[2, "perplexity"] / frame.loc[1, "perplexity"]
    assert frame.loc[2, "times one-shot"] == pytest.approx(ratio)
    assert math.isnan(frame.loc[1, "times one-shot"])
    assert len(answers(records, language["corpus"])) == 1


@pytest.mark.parametrize(
    ("losses", "word"), [([1, 2], "better"), ([3, 3.5], "worse"), ([1, 4], "not told apart")]
)
def test_verdicts_by_hand(losses, word):
    def record(rounds, nll):
        about = {
            "criterion": "magnitude",
            "pattern": "70%",
            "subset": "norms",
            "steps": 4,
            "rounds": rounds,
            "seed": 0,
        }
        return Record("", "retrain", 1, about, {}, {"tests": {"text": {"nll": nll}}}, {})

    (sentence,) = answers([record(1, [2, 3]), record(3, losses)], "text")
    assert word in sentence
    assert "3 rounds" in sentence
