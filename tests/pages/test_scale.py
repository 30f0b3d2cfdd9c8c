"""The page of costs at size: exponents, what fits, and the two claims that are judged by its record."""

import json

import pandas as pd
import pytest

from lmcompress import files
from lmcompress.pages import scale
from lmcompress.report import perp_evidence

SIZES = {"OPT-1.3B": 1.3e9, "OPT-6.7B": 6.7e9, "OPT-30B": 30e9}


def row(model, method, minutes, peak, checkpointing=None):
    size = SIZES[model]
    about = {
        "device": "a GPU",
        "bound by": "matrix products",
        "tokens": 10,
        "run": "scaled",
        "of": "2 of 4 blocks",
    }
    return about | {
        "model": model,
        "parameters": size,
        "method": method,
        "minutes": minutes,
        "floor minutes": size / 1e10,
        "share of peak": size / 1e10 / (minutes or 1),
        "peak GiB": peak,
        "share of card": peak / 80,
        "checkpointing": checkpointing,
    }


@pytest.fixture
def rows(tmp_path, monkeypatch):
    found = [row(model, "wanda", (size / 1e9) ** 1.5, 3 + size / 1e9) for model, size in SIZES.items()]
    for model, peak in (("OPT-1.3B", 30.0), ("OPT-30B", 70.0)):
        for number, mode in enumerate(
            ("as memory needs", "as memory needs, a window at a time", "all blocks")
        ):
            found.append(
                row(model, "biases+norms", 12 + number, peak / 5, mode) | {"checkpointed": 10 + 2 * number}
            )
            found.append(row(model, "masklora", 25 - number, peak / 4, mode))
    found.append(row("OPT-1.3B", "full", 9.0, 30.0, "all blocks"))
    for model, method, peak in (("OPT-6.7B", "full", 100.0), ("OPT-6.7B", "biases+norms", 20.0)):
        found.append(row(model, method, None, peak, "all blocks") | {"run": "counted"})
    found.append(row("OPT-30B", "biases+norms", None, 13.9, "all blocks") | {"run": "counted"})
    (tmp_path / "benchmarks").mkdir()
    record = {"rows": found, "card GiB": 79.2, "out of memory or failed": []}
    (tmp_path / "benchmarks" / "at_size.json").write_text(json.dumps(record))
    monkeypatch.setattr(files, "carried", lambda *parts: tmp_path.joinpath(*parts[1:]))
    return scale.rows()


def test_the_exponent_is_that_of_the_power_law():
    assert scale.exponent([1, 2, 4], [3, 3 * 2**1.5, 3 * 4**1.5]) == pytest.approx(1.5)
    assert pd.isna(scale.exponent([1, 2], [1, 2]))


def test_each_method_has_its_exponent_beside_that_of_the_floor(rows):
    table = scale.growth(rows).set_index("method")
    assert table.loc["wanda", "minutes grow with parameters to the power"] == pytest.approx(1.5)
    assert table.loc["wanda", "the floor's"] == pytest.approx(1.0)
    assert table.loc["wanda", "the peak memory's"] == pytest.approx(
        scale.exponent(list(SIZES.values()), [4.3, 9.7, 33.0])
    )


def test_of_several_ways_the_fastest_counts_for_time_and_the_leanest_for_memory(rows):
    fast = scale.fastest(rows).set_index(["model", "method"])
    assert fast.loc[("OPT-30B", "biases+norms"), "minutes"] == 12
    assert fast.loc[("OPT-30B", "masklora"), "minutes"] == 23
    fits = scale.fits(rows, (8, 24)).set_index("method")
    assert fits.loc["wanda", "8 GiB"] == "OPT-1.3B (4.3)"
    assert fits.loc["wanda", "24 GiB"] == "OPT-6.7B (9.7)"
    assert fits.loc["full", "24 GiB"] == "none that ran"
    assert fits.loc["biases+norms", "24 GiB"] == "OPT-30B (14.0)"
    assert scale.fits(rows, (100,)).set_index("method").loc["full", "100 GiB"] == "OPT-6.7B (100.0, counted)"


def test_pieces_of_the_page(rows):
    sentences = scale.answers(rows)
    assert "biases and norms take 6.0 GiB at most, full retraining 30.0, 5.0 times as much" in sentences[3]
    assert "10 blocks are checkpointed" in sentences[1]
    assert "costs 0.50 minutes; a card that holds all activations would need 7.0." in sentences[1]
    assert (
        sentences[-1]
        == "GiB counted and measured, where both are known: OPT-30B with biases+norms 13.9 and 14.0."
    )
    assert (
        "OPT-30B, biases+norms, one window at a time, two of them a step: 12 of the blocks checkpointed"
        in sentences[2]
    )
    text = scale.aims(rows)
    assert text.count("not run here") == 3
    assert "does not hold here" in text or "holds in part" in text  # Wanda takes far more than it should
    assert scale.time_figure(rows).table["minutes"].max() == pytest.approx(30**1.5)
    alone = scale.time_figure(rows[rows["model"] == "OPT-30B"])
    assert set(alone.table["time"]) == {"measured", "floor"}
    assert "the card" in scale.memory_figure(rows).svg
    assert "2 of 4 blocks" in scale.costs(rows)


def test_the_two_claims_are_judged_by_it(rows):
    evidence = perp_evidence.Evidence([])
    assert {case.setting: round(case.value, 3) for case in evidence.memory(0.95)} == {
        "OPT-1.3B, biases+norms": 0.2,
        "OPT-1.3B, masklora": 0.25,
        "OPT-6.7B, biases+norms, counted": 0.2,
    }
    assert {case.setting: case.value for case in evidence.minutes(0.95)} == {
        "biases+norms, a GPU": 12,
        "masklora, a GPU": 23,
    }


def test_without_a_record_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "carried", lambda *parts: tmp_path.joinpath(*parts[1:]))
    assert scale.rows().empty
    assert scale.aims(scale.rows()).count("not run here") == len(scale.AIMS)
    assert "Not run here" in scale.peers()


def test_other_codes_stand_beside_ours_in_processor_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "carried", lambda *parts: tmp_path.joinpath(*parts[1:]))
    (tmp_path / "benchmarks").mkdir()
    row = {
        "method": "wanda",
        "pattern": "50%",
        "code": "ours",
        "cpu s": 3.0,
        "clock s": 9.0,
        "zeros": 0.5,
        "over ours": 1,
    }
    about = {"settings": {"model": "m", "windows": 2, "length": 8, "dtype": "bf16"}, "threads": 1}
    record = {"rows": [row], "peers": {"other": "1.0"}, "provenance": about}
    (tmp_path / "benchmarks" / "peers.json").write_text(json.dumps(record))
    text = scale.peers()
    assert "m, 2 x 8 tokens, bf16, threads: 1 of a shared machine" in text
    assert text.index("cpu s") < text.index("clock s")
