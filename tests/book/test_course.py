"""The course: four sessions of ninety minutes, whose numbers for the blackboard are computed here."""

import itertools
import re

import numpy as np
import pytest
from conftest import ROOT

from lmcompress.quantize.formats import Bits
from lmcompress.report import drawings

PAGE = (ROOT / "book" / "exercises" / "teaching.md").read_text(encoding="utf-8")
SESSIONS = re.split(r"^## Session ", PAGE, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("session", SESSIONS, ids=lambda text: text.splitlines()[0])
def test_a_session_is_planned_to_the_minute(session):
    minutes = [int(found) for found in re.findall(r"^\| (\d+) \|", session, re.MULTILINE)]
    assert minutes[0] == 0
    assert minutes == sorted(set(minutes))
    assert 84 <= minutes[-1] < 90
    assert all(b - a <= 18 for a, b in itertools.pairwise(minutes)), "nothing takes longer without a change"
    answers = re.findall(r"^\| \d+ \|.*\| ([^|]+) \|$", session, re.MULTILINE)
    assert len(answers) == len(minutes)


def test_there_are_four_sessions():
    assert len(SESSIONS) == 4


def test_exercises_that_the_course_names_exist():
    for name, words in re.findall(r"\[[\w ]+\]\((\w+)\.md\) ([\d, toand]*\d)", PAGE):
        text = (ROOT / "book" / "exercises" / f"{name}.md").read_text(encoding="utf-8")
        numbers = {int(one) for one in re.findall(r"^## (\d+)\.", text, re.MULTILINE)}
        assert {int(one) for one in re.findall(r"\d+", words)} <= numbers, f"{name}: {words}"


def test_shares_and_bytes_are_those_that_code_computes():
    counts = drawings.subset_counts(**drawings.OPT)
    share = {name: 100 * count / counts["everything"] for name, count in counts.items()}
    shown = re.search(
        r"norms ([\d.]+) %, biases ([\d.]+) %, adapters of rank 16 ([\d.]+) %, head (\d+) %", PAGE
    )
    wanted = [share[name] for name in ("norms", "biases", "adapters", "head")]
    assert np.allclose(list(map(float, shown.groups())), wanted, rtol=0.05)
    assert f"{12 * 29.97:.0f} GB and {12 * 2 * 7168 * 97 / 1e6:.0f} MB" in PAGE
    for format in (Bits(4, group=128), Bits(4, group=128, symmetric=False)):
        assert f"{8 * format.bytes_for((128, 128)) / 128**2:.3f}" in PAGE


def test_mean_distances_on_a_line_of_nine_layers():
    first, middle = (
        np.mean([abs(0 - j) for j in range(1, 9)]),
        np.mean([abs(4 - j) for j in range(9) if j != 4]),
    )
    assert f"{first:g} and {middle:g}: a U" in PAGE
