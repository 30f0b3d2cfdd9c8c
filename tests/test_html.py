"""Pieces of HTML: numbers as a reader wants them, nothing unescaped, the run attached, honest verdicts."""

import base64
import gzip
import json
import re
from dataclasses import asdict
from html import unescape

import numpy as np
import pandas as pd
import pytest

from lmcompress.errors import ParameterError
from lmcompress.records import Record
from lmcompress.report import html


def record(**changes) -> Record:
    fields = {
        "key": "0123456789abcdef" * 4,
        "kind": "pruning_run",
        "version": 1,
        "parameters": {"model": "smollm2-135m", "sparsity": 0.5},
        "assets": {"smollm2-135m": "ab" * 32},
        "result": {"perplexity": 412.25},
        "provenance": {
            "commit": "9f45524",
            "versions": {"torch": "2.13.0"},
            "device": "CPU",
            "seconds": 12.5,
            "date": "2026-11-24T20:00:00",
            "command": "lmcompress records redo '0123456789ab'",
        },
    }
    return Record(**fields | changes)


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


def attached(text: str, kind: str) -> list[bytes]:
    return [
        base64.b64decode(data) for data in re.findall(rf'href="data:application/{kind};base64,([^"]+)"', text)
    ]


def test_provenance_says_how_to_redo_it_and_carries_the_record():
    text = html.provenance([record()])
    assert "[run] 1 record · CPU · 12.5 s · 2026-11-24<" in text
    for words in ("9f45524", "torch 2.13.0", "smollm2-135m sha256 abababababab", "sparsity 0.5"):
        assert words in text
    assert record().provenance["command"] in unescape(text)
    assert [json.loads(content) for content in attached(text, "json")] == [asdict(record())]
    assert 'download="pruning_run-0123456789ab.json"' in text


def test_what_several_records_share_is_said_once():
    later = record().provenance | {"seconds": 0.5, "date": "2026-11-25T01:00"}
    later["command"] = "lmcompress records redo 'fedcfedcfedc'"
    other = record(key="fedc" * 16, provenance=later, parameters={"model": "smollm2-135m", "sparsity": 0.7})
    text = html.provenance([record(), other])
    assert "[run] 2 records · CPU · 13 s · 2026-11-24 to 2026-11-25<" in text
    assert text.count("model smollm2-135m") == 1
    assert text.count("sparsity 0.5") == text.count("sparsity 0.7") == 1
    assert unescape(text).count("lmcompress records redo 'RECORD'") == 1
    assert [json.loads(content) for content in attached(text, "json")] == [asdict(record()), asdict(other)]


def test_many_records_are_attached_as_one_file():
    records = [record(key=f"{i:064x}"[::-1]) for i in range(html.ATTACHED + 1)]
    text = html.provenance(records)
    assert not attached(text, "json")
    (packed,) = attached(text, "gzip")
    read = [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]
    assert read == [asdict(one) for one in records]
    assert text == html.provenance(records)  # the same bytes


def test_provenance_of_nothing_is_refused():
    with pytest.raises(ParameterError, match="not_run"):
        html.provenance([])


def test_provenance_needs_no_field_of_the_run():
    assert "date unknown" in html.provenance([record(provenance={}, assets={})])


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
