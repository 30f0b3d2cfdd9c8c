"""lmcompress redo: what it would take, and a verdict on every number. lmcompress run: what the notebook found."""

import dataclasses

import experiments_for_tests as experiments
import pytest

from lmcompress import cli, publish, records
from lmcompress.cli.redo import compared
from lmcompress.cli.run import found
from lmcompress.report.html import verdicts


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (1.5, 1.5, "same"),
        (100.0, 100.9, "within"),
        (100.0, 102.0, "outside"),
        (100.0, float("nan"), "outside"),
        ("a", "b", "outside"),
        (1, True, "outside"),
        (1.0, None, "outside"),
    ],
)
def test_a_number_is_same_within_or_outside(old, new, verdict):
    assert list(compared({"x": old}, {"x": new}, 0.01)) == [("x", verdict, old, new)]


def test_a_value_may_lie_anywhere_in_its_interval_and_times_do_not_count():
    old = {"ppl": {"value": 10.0, "low": 8.0, "high": 12.0}, "seconds": 1.0, "losses": [1.0, 2.0]}
    new = {"ppl": {"value": 11.9, "low": 8.0, "high": 12.0}, "seconds": 9.0, "losses": [1.0, 3.0]}
    assert {name: verdict for name, verdict, *_ in compared(old, new, 0.01)} == {
        **{"ppl.value": "within", "ppl.low": "same", "ppl.high": "same"},
        **{"losses.0": "same", "losses.1": "outside"},
    }


def test_redo_says_what_it_takes_then_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    monkeypatch.setattr(records, "classes", lambda: {"doubling": experiments.Doubling})
    (record,) = records.obtain([experiments.Doubling(value=3)])
    publish.publish([dataclasses.replace(record, result={"doubled": 7})])
    assert cli.main(["redo", "doubling", "--estimate"]) == 0
    assert capsys.readouterr().out.startswith("1 runs; they took 0 s on ")
    assert cli.main(["redo", "doubling"]) == 1
    said = capsys.readouterr()
    assert "doubled: outside, published 7, here 6" in said.out + said.err
    assert said.out.splitlines()[-1] == "0 same, 0 within, 1 outside"
    assert cli.main(["redo", "doublin"]) == 2


def test_the_verdicts_of_a_notebook_are_read_from_its_tables():
    page = verdicts([("Norms <suffice>.", "holds", "12.3 beside 12.4")])._repr_html_()
    cell = {"outputs": [{"data": {"text/html": [page]}}, {"text": ["no html"]}]}
    published = {"outputs": [{"data": {"text/html": [verdicts([("Published.", "holds", "1")])]}}]}
    given = {"metadata": {"tags": ["parameters"]}}
    assert found({"cells": [published, given, cell, {"source": "text"}]}) == [
        "✓ holds: Norms <suffice>. 12.3 beside 12.4"
    ]


def test_what_this_machine_says_is_printed():
    text = "<details><summary>On this machine: agrees (holds)</summary><p><strong>A &lt; B.</strong></p></details>"
    cell = {"outputs": [{"data": {"text/html": [text]}}]}
    assert found({"cells": [cell]}) == ["On this machine: agrees (holds)", "A < B."]


def test_a_figure_is_redone_by_its_number(capsys):
    """The runs of Figure 20.5 are those that its cell picks: retrainings of pruned language models."""
    assert cli.main(["redo", "20.5", "--estimate"]) == 0
    assert " runs; they took " in capsys.readouterr().out
    assert cli.main(["redo", "99.1", "--estimate"]) == 2
    assert "such as 20.1" in capsys.readouterr().err
