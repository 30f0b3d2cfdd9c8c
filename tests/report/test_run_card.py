"""The run behind a number: attached, said once what is shared, and the command that redoes a figure."""

import base64
import gzip
import json
import re
from dataclasses import asdict
from html import unescape

import pandas as pd
import pytest

from lmcompress.errors import ParameterError
from lmcompress.records import Record
from lmcompress.report import figures, run_card


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


def attached(text: str, kind: str) -> list[bytes]:
    return [
        base64.b64decode(data) for data in re.findall(rf'href="data:application/{kind};base64,([^"]+)"', text)
    ]


def test_provenance_says_how_to_redo_it_and_carries_the_record():
    text = run_card.provenance([record()])
    assert "[run] 1 record · CPU · 12 s · 2026-11-24<" in text
    for words in ("9f45524", "torch 2.13.0", "smollm2-135m sha256 abababababab", "sparsity 0.5"):
        assert words in text
    assert record().provenance["command"] in unescape(text)
    assert [json.loads(content) for content in attached(text, "json")] == [asdict(record())]
    assert 'download="pruning_run-0123456789ab.json"' in text


def test_what_several_records_share_is_said_once():
    later = record().provenance | {"seconds": 0.5, "date": "2026-11-25T01:00"}
    later["command"] = "lmcompress records redo 'fedcfedcfedc'"
    other = record(key="fedc" * 16, provenance=later, parameters={"model": "smollm2-135m", "sparsity": 0.7})
    text = run_card.provenance([record(), other])
    assert "[run] 2 records · CPU · 13 s · 2026-11-24 to 2026-11-25<" in text
    assert text.count("model smollm2-135m") == 1
    assert text.count("sparsity 0.5") == text.count("sparsity 0.7") == 1
    assert unescape(text).count("lmcompress records redo 'RECORD'") == 1
    assert [json.loads(content) for content in attached(text, "json")] == [asdict(record()), asdict(other)]


def test_many_records_are_attached_as_one_file():
    records = [record(key=f"{i:064x}"[::-1]) for i in range(run_card.ATTACHED + 1)]
    text = run_card.provenance(records)
    assert not attached(text, "json")
    (packed,) = attached(text, "gzip")
    read = [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]
    assert read == [asdict(one) for one in records]
    assert text == run_card.provenance(records)  # the same bytes


def test_provenance_of_nothing_is_refused():
    with pytest.raises(ParameterError, match="not_run"):
        run_card.provenance([])


def test_provenance_needs_no_field_of_the_run():
    assert "date unknown" in run_card.provenance([record(provenance={}, assets={})])


def test_a_figure_has_a_number_an_address_and_the_command_that_redoes_it():
    texts = {"title": "T", "caption": "C.", "alt": "A."}
    figure = figures.bars(pd.DataFrame({"a": ["x"], "n": [1.0]}), "a", "n", **texts)
    text = run_card.cited("20.1", figure, [record()])._repr_html_()
    assert '<a class="lm-number" href="#fig-20-1">Figure 20.1</a>. <strong>T.</strong>' in text
    assert 'id="fig-20-1"' in text
    assert '<code style="white-space:pre-wrap">lmcompress redo 20.1</code>' in text
    assert not attached(text, "json")  # the page has them all at its end
    table = run_card.cited("20.2", figures.table(pd.DataFrame({"a": [1]}), "t"), [record()])
    assert "Table 20.2</a>. t</span>" in table._repr_html_()
    assert table.records == (record(),)
