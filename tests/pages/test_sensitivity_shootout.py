"""The shootout on tiny models: every score runs on both tasks, tables say what the records say."""

import pandas as pd
import pytest
from cptquant_tiny import tiny  # noqa: F401

from lmcompress.errors import ParameterError
from lmcompress.experiments.scored import SCORES, as_scores
from lmcompress.pages.sensitivity_shootout import Study, answer, narrowest, pieces, verdict
from lmcompress.records import obtain
from lmcompress.report.agreement import agreement_table, truth_table
from lmcompress.report.html import VERDICTS

NEEDS_MANY_TOKENS = {"CMPQ", "CMPQ, SVCCA", "CMPQ, PWCCA", "CMPQ, CKA"}


@pytest.fixture(scope="module")
def records(tiny):  # noqa: F811
    every = {"language_scores": list(SCORES), "classifier_scores": list(SCORES)}
    study = Study(**tiny | every, group=8, language_widths=[2, 3, 4])
    return obtain(study.experiments(), progress=False)


def test_every_score_covers_the_layers_of_the_truth(records):
    for task in ("language", "classification"):
        mine = [record for record in records if record.parameters["task"] == task]
        truth = as_scores(next(record for record in mine if record.kind == "truth"))
        assert len(truth.per_layer) == (3 if task == "language" else 18)
        scores = [record for record in mine if record.kind == "score"]
        assert [record.parameters["score"] for record in scores] == list(SCORES)
        for record in scores:
            assert set(as_scores(record).per_layer) == set(truth.per_layer)
            assert record.result["seconds"] >= 0


def test_the_truth_is_what_its_windows_say(records):
    record = next(record for record in records if record.kind == "truth")
    scores = as_scores(record)
    layer = next(iter(record.result["losses"]))
    values, base = record.result["losses"][layer]["2"], record.result["base"]
    assert scores.at(2)[layer] == pytest.approx(sum(values) / len(values) - sum(base) / len(base))
    shown = truth_table(records)
    assert set(shown["task"]) == {"language modelling", "classification"}
    assert len(shown) == 3 * (3 + 18)


def test_the_table_ranks_scores_and_the_sentence_names_the_best(records):
    table = agreement_table(records, 2, draws=50)
    for _, rows in table.groupby("task"):
        values = rows["Spearman"].dropna()
        assert values.is_monotonic_decreasing
        assert (values.abs() <= 1).all()
        assert (rows["low"].dropna() <= rows["high"].dropna()).all()
    sentences = verdict(table)
    assert len(sentences) == 2
    best = table[table["task"] == "classification"].iloc[0]
    assert best["score"] in sentences[0]
    assert f"{best['Spearman']:.2f}" in sentences[0]


def test_the_page_has_sentence_figures_and_tables(records):
    assert len(pieces(records, bits=3)) == 4
    assert narrowest(records)
    assert answer(records).verdict in VERDICTS


def test_a_verdict_by_hand():
    rows = [
        ("language modelling", "HAWQ-V2", 0.9, 0.8, 0.95),
        ("language modelling", "CMPQ", -0.1, -0.3, 0.2),
    ]
    table = pd.DataFrame(rows, columns=["task", "score", "Spearman", "low", "high"])
    assert verdict(table) == [
        "Language modelling: HAWQ-V2 ranks the layers best (Spearman 0.90, 95 % interval 0.80 to 0.95); "
        "the paper's scores reach CMPQ -0.10 (-0.30 to 0.20)."
    ]


def test_refusals(tiny):  # noqa: F811
    with pytest.raises(ParameterError, match="CMPQ"):
        Study(**tiny, classifier_scores=["CPMQ"]).experiments()
    with pytest.raises(ParameterError, match="language"):
        Study(**tiny | {"language": "", "classifier": ""}).experiments()
