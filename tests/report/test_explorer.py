"""The explorer's table: every published result once, with the numbers of its record."""

import json
import re

import pandas as pd
import pytest

from lmcompress import records
from lmcompress.report import canvas, explorer


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return explorer.points()


def data_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])


def test_every_published_record_is_there(frame):
    kinds = records.published_kinds()
    assert {one.key for one in frame["record"]} == {
        one.key for kind in kinds for one in records.published_records(kind)
    }


def test_numbers_are_those_of_the_record(frame):
    row = frame[frame["kind"] == "pruned_model"].iloc[0]
    result = row["record"].result
    assert (row["perplexity"], row["KL"]) == (result["perplexity"]["value"], result["kl"]["value"])
    rows = frame[frame["kind"] == "frontier"]
    rows = rows[[one.key == rows.iloc[0]["record"].key for one in rows["record"]]]
    points = rows.iloc[0]["record"].result["points"]
    assert list(rows["loss increase"]) == [one["increase"] for one in points]
    assert list(rows["MB"]) == [one["model_bytes"] / 1e6 for one in points]
    assert [list(bars[1].values()) for bars in rows["bars"]] == [one["choice"] for one in points]
    row = frame[frame["kind"] == "retrain"].iloc[0]
    test = row["record"].result["tests"][row["measured on"]]
    assert [row["accuracy"], row["perplexity"]] == pytest.approx(
        [test.get("accuracy", float("nan")), test.get("perplexity", float("nan"))], nan_ok=True
    )


def test_a_result_knows_the_first_page_that_asks_for_it(frame):
    assert set(frame.loc[frame["kind"] == "pruned_model", "page"]) == {"10_pruning_sweep"}


@pytest.mark.parametrize("pages", explorer.VIEWS)
def test_every_offered_view_shows_something(frame, pages):
    frame = frame[frame["page"].str.startswith(pages)]
    for title, view in explorer.VIEWS[pages].items():
        shown = frame
        for name in explorer.FACETS:
            shown = shown[shown[name] == view[name]] if name in view else shown
        assert len(shown.dropna(subset=[view["y"], view["x"]])) > 5, title


def test_what_the_page_holds_is_the_frame():
    frame = pd.DataFrame(
        {"name": ["<b>", None, "<b>"], "n": ["10%", "2:4", "9%"], "y": [1.234567, None, 3.0]}
    )
    html = explorer.piece(frame, ["name", "n"], ["y"], {"all": {"y": "y", "x": "n"}}, "a & b", "static")
    assert "<b>" not in html
    assert 'aria-label="a &amp; b"' in html
    data = data_of(html)
    name, percent, y = data["columns"]
    assert (name["levels"], name["codes"]) == (["<b>"], [0, -1, 0])
    assert percent["levels"] == ["9%", "10%", "2:4"]
    assert y["numbers"] == [1.2346, None, 3]


def test_a_method_keeps_its_colour_whatever_stands_beside_it():
    assert canvas.slot(["wanda", "magnitude"], 0) == canvas.slot(["sparsegpt", "random", "wanda"], 2) == 1
    names = ["other", "wanda", "magnitude", "CMPQ", 3]
    assert sorted(canvas.slot(names, index) for index in range(5)) == [0, 1, 2, 3, 4]
