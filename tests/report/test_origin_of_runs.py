"""A page says which of its runs are published ones, and which are of an older version of their kind."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from experiments_for_tests import Doubling

from lmcompress import records
from lmcompress.report.opening import Page
from lmcompress.report.run_card import provenance


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two records that this machine computed, in a project folder of their own."""
    monkeypatch.setattr(records, "project_root", lambda: tmp_path)
    return records.obtain([Doubling(value=1), Doubling(value=2)], progress=False)


def forget(record):
    (records.build_folder() / record.kind / f"{record.key}.json").unlink()


def no_answer(_records):
    raise LookupError("no question")


def heading(page, runs):
    return page.here(runs, no_answer, lambda _records: [])._repr_html_().partition("</summary>")[0]


def test_no_published_run_passes_for_one_of_this_machine(runs):
    page = Page.__new__(Page)
    page.published = []
    assert "computed; these runs are too few" in heading(page, runs)
    forget(runs[0])
    assert "computed in part (1 of 2 runs" in heading(page, runs)
    forget(runs[1])
    assert "not computed (the runs with these parameters are published ones)" in heading(page, runs)


def test_runs_of_an_older_version_are_named(runs, monkeypatch):
    assert "older version" not in provenance(runs)._repr_html_()
    monkeypatch.setattr(Doubling, "version", 2)
    newer = replace(runs[0], version=2)
    text = provenance([newer, runs[1]])._repr_html_()
    assert "computed with an older version of their kind: 1 of kind doubling" in text
