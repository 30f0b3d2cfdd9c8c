"""Two classification tasks beside each other: sentences by hand, and both pages on tiny models."""

from dataclasses import replace

import pandas as pd
import pytest
from cptquant_tiny import tiny  # noqa: F401

from lmcompress.pages import bit_allocation, sensitivity_shootout
from lmcompress.records import obtain
from lmcompress.report import agreement, second_task, words

SCORES = ["CMPQ as released", "PMPQ", "TDMPQ"]


def renamed(found, texts):
    """The records as if the classifier had read other texts."""
    return [replace(record, parameters=record.parameters | {"data": texts}) for record in found]


@pytest.fixture(scope="module")
def scored(tiny):  # noqa: F811
    study = sensitivity_shootout.Study(**tiny | {"language": ""}, group=8, classifier_scores=SCORES)
    return obtain(study.experiments(), progress=False)


@pytest.fixture(scope="module")
def allocated(tiny):  # noqa: F811
    few = {
        "averages": [6.0],
        "widths": [2, 4, 8],
        "as_uniform": [4],
        "draws": 3,
        "gptq_widths": [4],
        "test": 24,
    }
    study = bit_allocation.Study(
        **tiny | {"language": ""},
        **few,
        group=8,
        classifier_scores=["measured truth", "TDMPQ"],
        clustered=["TDMPQ"],
    )
    return obtain(study.experiments(), progress=False)


def test_sentences_on_scores_by_hand():
    rows = [
        ("easy", "PMPQ", 0.4, 0.1, 0.6, 0.1),
        ("easy", "CMPQ", 0.1, -0.2, 0.4, 0.1),
        ("hard", "TDMPQ", 0.9, 0.8, 0.95, 0.7),
        ("hard", "PMPQ", 0.8, 0.7, 0.9, 0.7),
        ("hard", "constant", None, None, None, None),
    ]
    table = pd.DataFrame(rows, columns=["texts", "score", "Spearman", "low", "high", "truth's own"])
    assert second_task.scores_verdict(table, [], 3) == [
        "At 3 bits the truth's own rank correlation rises: 0.10 on easy, 0.70 on hard.",
        "PMPQ's Spearman correlation with the truth changes beyond its interval: 0.40 (0.10 to 0.60) on easy, "
        "0.80 (0.70 to 0.90) on hard.",
        "On easy the best of 2 scores is PMPQ, 0.40 (0.10 to 0.60); scores whose interval lies above 0: PMPQ.",
        "On hard the best of 2 scores is TDMPQ, 0.90 (0.80 to 0.95); scores whose interval lies above 0: TDMPQ, PMPQ.",
    ]
    turned = pd.concat([table[table["texts"] == "hard"], table[table["texts"] == "easy"]])
    assert "does not rise" in second_task.scores_verdict(turned, [], 3)[0]
    alone = second_task.scores_verdict(table[table["texts"] == "hard"], [], 3)
    assert [sentence[:7] for sentence in alone] == ["On hard"]


def test_the_size_of_the_truth_by_hand():
    rows = [("easy", "2 bits", -9.0, 9.0), ("easy", "3 bits", -1.04, 2.5), ("hard", "3 bits", 10.0, 30.25)]
    costs = pd.DataFrame(rows, columns=["texts", "width", "smallest", "largest"])
    assert second_task.size_of_the_truth(costs, 3) == (
        "One Linear at 3 bits changes the loss by -1.0 to 2.5 on easy, by 10.0 to 30.2 on hard (thousandths of a nat)."
    )


def test_sentences_on_allocation_by_hand():
    rows = [
        ("easy", "uniform_format", "uniform, groups", "uniform 3 bits", 0.02, 0.01, 0.03),
        ("easy", "frontier", "PMPQ", "uniform 3 bits", 0.005, 0.0, 0.01),
        ("easy", "frontier", "measured truth", "uniform 3 bits", 0.001, 0.0, 0.002),
        ("hard", "uniform_format", "uniform, groups", "uniform 3 bits", 0.05, 0.01, 0.09),
        ("hard", "frontier", "PMPQ", "uniform 3 bits", 0.06, 0.03, 0.09),
        ("hard", "frontier", "CMPQ", "uniform 3 bits", 0.04, 0.03, 0.06),
        ("hard", "frontier", "CMPQ", "2.5 bits", 0.14, 0.13, 0.16),
    ]
    names = ["texts", "kind", "how", "budget", "loss increase (nats)", "low", "high"]
    points = pd.DataFrame(rows, columns=names)
    assert second_task.allocation_verdict(points) == [
        "At the bytes of uniform 3 bits the best score is PMPQ on easy (+0.005 nats, +0.000 to +0.010, uniform "
        "+0.020), CMPQ on hard (+0.040 nats, +0.030 to +0.060, uniform +0.050). Scores whose interval lies below "
        "uniform widths: PMPQ on easy, none on hard."
    ]
    table = second_task.beside(points)
    assert list(table.columns) == ["how", "3 bits, easy", "3 bits, hard"]
    assert list(table["how"]) == ["PMPQ", "uniform, groups"]  # CMPQ and the truth were tried on one task only
    assert table["3 bits, easy"][0] == "+0.005 (+0.000 to +0.010)"


def test_the_page_on_scores(scored):
    first, second = renamed(scored, "easy"), renamed(scored, "hard")
    sentences, figure, table = second_task.scores(first, second)
    assert "24 test texts" in sentences
    assert "does not rise" in sentences  # the same records twice
    assert set(figure.table["texts"]) == {"easy", "hard"}
    assert "easy" in table
    truth = second_task.truth_by_width(second)
    assert list(truth["width"]) == ["2 bits", "3 bits", "4 bits"]
    by_layer = agreement.truth_table(second)
    mean = by_layer[by_layer["width"] == "3 bits"]["loss increase (nats)"].mean()
    assert truth["mean"][1] == pytest.approx(1000 * mean)
    ranks = agreement.agreement_table(second, 3)
    assert truth["truth's own"][1] == pytest.approx(ranks["truth's own"].dropna().iloc[0])


def test_the_page_on_allocation(allocated):
    pieces = second_task.allocation(renamed(allocated, "easy"), renamed(allocated, "hard"))
    assert len(pieces) == 5
    assert "TDMPQ on easy" in pieces[0]
    assert "4 bits, hard" in pieces[3]


def test_a_page_of_some_of_the_runs(allocated):
    first, second = renamed(allocated, "easy"), renamed(allocated, "hard")
    for kind in ("uniform_format", "frontier", "clustered"):
        assert len(second_task.allocation(first, words.of_kind(second, kind))) in (3, 4)


def test_the_second_task_alone(scored, allocated):
    assert "hard" in second_task.scores([], renamed(scored, "hard"))[0]
    assert "TDMPQ on hard" in second_task.allocation([], renamed(allocated, "hard"))[0]


def test_nothing_published_says_what_it_needs():
    (piece,) = words.page([], list, "SST-2", second_task.needs("33_sensitivity_shootout"))
    assert "Not run here" in piece
    assert "data/local/sst2" in piece
    assert "lmcompress compute 33_sensitivity_shootout --profile sst2" in piece
