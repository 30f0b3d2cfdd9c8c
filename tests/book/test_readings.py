"""The ten readings, walked through the book as it was last built here: each answer is found within two minutes."""

import json
import sys

import pytest
from test_real_pages import HTML, PAGES, ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from readings import READINGS, walk

RECORD = ROOT / "results" / "benchmarks" / "readings.json"


@pytest.mark.skipif(not PAGES, reason="no book was built here: make book")
@pytest.mark.parametrize("reading", READINGS, ids=lambda one: one.name)
def test_an_answer_is_found_within_two_minutes(browser, reading):
    found = walk(browser, HTML, reading)
    assert found["answer"]
    assert found["seconds"] <= 120


def test_the_page_shows_these_readings():
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    assert [row["reading"] for row in rows] == [reading.name for reading in READINGS]
    assert all(row["seconds"] <= 120 for row in rows)
    assert all(command["status"] == 0 for row in rows for command in row["commands"])
