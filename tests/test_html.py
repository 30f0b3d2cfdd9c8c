"""Pieces of HTML: numbers as a reader wants them, nothing unescaped, the run attached, honest verdicts."""

import re

import numpy as np
import pandas as pd
import pytest

from lmcompress.errors import ParameterError
from lmcompress.report import html


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (pd.NA, "–"),
        (True, "yes"),
        (np.bool_(False), "no"),
        (134515008, "134,515,008"),
        (np.int64(1234), "1,234"),
        (15.684, "15.68"),
        (np.float32(0.5), "0.5"),
        (128000.4, "128,000"),
        (1.5e12, "1.5e+12"),
        (2.8e-5, "2.8e-05"),
        ("2:4", "2:4"),
    ],
)
def test_numbers(value, written):
    assert html.number(value) == written


def test_table_escapes_and_links_and_can_be_scrolled_by_keyboard():
    frame = pd.DataFrame({"a<b": ["x & y", "[page](30_cmpq.html) and `W`"], "n": [1, None]}, index=[7, 8])
    text = html.table(frame, "A <caption>")
    assert "a&lt;b" in text
    assert "x &amp; y" in text
    assert '<a href="30_cmpq.html">page</a> and <code>W</code>' in text
    assert 'tabindex="0" role="region" aria-label="A &lt;caption&gt;"' in text
    assert text.count('scope="col"') == 2
    assert text._repr_html_() == text
    assert frame.index.tolist() == [7, 8]  # left alone


def test_a_long_table_shows_its_first_rows_and_folds_all_away():
    frame = pd.DataFrame({"n": range(html.SHOWN + 3)})
    text = html.table(frame, "Numbers")
    shown, rest = text.split("<details", 1)
    assert shown.count("<tr>") == html.SHOWN + 1
    assert rest.count("<tr>") == len(frame) + 1
    assert "The first 10 of 13 rows." in shown
    assert "<details" not in html.table(frame[: html.SHOWN], "Numbers")


def test_the_ends_of_an_interval_are_one_column():
    frame = pd.DataFrame(
        {"rho": [0.5], "low": [0.25], "high": [0.75], "r low": [None], "r high": [None], "low t": [1]}
    )
    text = html.table(frame, "t")
    heads = re.findall(r"<th [^>]*>([^<]*)", text)
    assert heads == ["rho", "interval", "r interval", "low t"]
    assert "<td class=n>0.25 to 0.75</td><td class=n>–</td><td class=n>1</td>" in text


def test_low_without_high_stays():
    text = html.table(pd.DataFrame({"low": [1], "x": [2], "high": [3]}), "t")
    assert re.findall(r"<th [^>]*>([^<]*)", text) == ["low", "x", "high"]


def test_a_link_cannot_smuggle_markup():
    assert "<script" not in html.table(pd.DataFrame({"a": ['[x](y"><script>)']}), "t")


@pytest.mark.parametrize("caption", ["", None])
def test_table_without_caption_is_refused(caption):
    with pytest.raises(ParameterError, match="caption"):
        html.table(pd.DataFrame({"a": [1]}), caption)


def test_not_run_says_what_and_needs():
    assert "<strong>Not run here:</strong> OPT-30B" in html.not_run("OPT-30B", "one GPU with 80 GB")
    with pytest.raises(ParameterError, match="needs"):
        html.not_run("OPT-30B", "")


def test_verdicts_are_five_and_need_evidence():
    text = html.verdicts([("c", verdict, "e") for verdict in html.VERDICTS])
    assert text.count("<tr>") == 6
    assert "✗ does not hold here" in text
    for claim in (("c", "maybe", "e"), ("", "holds", "e"), ("c", "holds", "")):
        with pytest.raises(ParameterError):
            html.verdicts([claim])
    with pytest.raises(ParameterError, match="at least one claim"):
        html.verdicts([])


def test_coverage_says_how_many_planned_runs_are_missing(monkeypatch):
    counts = {"retrain": (2, 5), "choose_rate": (1, 1)}
    monkeypatch.setattr(html, "coverage_of", lambda name, profile: {"full": counts}[profile])
    text = html.coverage("20_retrain_subsets")
    assert "3 of the 6 runs planned here (3 of 5 <code>retrain</code>)" in text
    assert "lmcompress compute 20_retrain_subsets --profile full" in text


def test_coverage_is_that_of_the_profile_asked_for(monkeypatch):
    monkeypatch.setattr(html, "coverage_of", lambda name, profile: {"sst2": {"score": (1, 2)}}[profile])
    assert "lmcompress compute 33_shootout --profile sst2" in html.coverage("33_shootout", "sst2")


@pytest.mark.parametrize("counts", [{"retrain": (5, 5)}, {"retrain": (0, 5), "score": (0, 2)}])
def test_coverage_is_silent_where_all_or_nothing_is_there(monkeypatch, counts):
    monkeypatch.setattr(html, "coverage_of", lambda name, profile: counts)
    assert html.coverage("20_retrain_subsets") == ""


def test_what_is_the_same_in_every_row_stands_in_the_caption():
    frame = pd.DataFrame(
        {"subset": ["norms", "full"], "steps": [150, 150], "empty": [None, None], "loss": [2.0, 1.0]}
    )
    text = html.varied(frame, "Runs.")
    assert "Runs. The same in every row: steps 150." in text
    assert re.findall(r"<th [^>]*>([^<]*)", text) == ["subset", "loss"]
    assert ">steps<" in html.varied(frame[:1], "One run")


@pytest.mark.parametrize(
    ("good", "verdict"), [([True, True], html.HOLDS), ([True, False], html.PART), ([False], html.FAILS)]
)
def test_a_claim_on_several_cases(good, verdict):
    assert html.verdict_on(good) == verdict
