"""Frontiers on tiny models: budgets hold, the solver spends them, clusters and bands are where they should
be.
"""

import pandas as pd
import pytest
from cptquant_tiny import tiny  # noqa: F401

from lmcompress.experiments import scored
from lmcompress.pages import bit_allocation
from lmcompress.records import obtain
from lmcompress.report import frontier, words


@pytest.fixture(scope="module")
def records(tiny):  # noqa: F811
    chosen = bit_allocation.Study(
        **tiny,
        group=8,
        averages=[6.0, 7.0],
        widths=[2, 4, 8],
        as_uniform=[4],
        draws=5,
        permuted=["CMPQ"],
        generations=2,
        language_scores=[*scored.TRUTHS, "TDMPQ, Fisher", "CMPQ"],
        classifier_scores=[scored.MEASURED, "TDMPQ, Fisher", "CMPQ"],
        clustered=["CMPQ"],
        gptq_language=True,
        gptq_widths=[4],
        gptq_windows=[3],
        gptq_window=48,
        truth_windows=[8],
        language_widths=[2, 4, 8],
        test=24,
        test_windows=4,
    )
    return obtain(chosen.experiments(), progress=False)


def uniform_bytes(records, task, width):
    record = next(
        one
        for one in records
        if one.kind == "uniform_format" and one.parameters["task"] == task and one.parameters["group"] == 8
    )
    return record.result["points"][record.parameters["widths"].index(width)]["bytes"]


def test_budgets_hold_and_predictions_fall_with_more_bits(records):
    frontiers = [record for record in records if record.kind == "frontier"]
    assert len(frontiers) == 6 + 3 + 4  # scores with that of GPTQ, costs of more windows; the classifier's
    for record in frontiers:
        if record.parameters["method"] == "gptq":
            (point,) = record.result["points"]
            assert point["bytes"] <= uniform_bytes(records, record.parameters["task"], 4)
            continue
        small, large, as_uniform = record.result["points"]
        assert small["bits"] <= 6
        assert large["bits"] <= 7
        assert large["predicted"] <= small["predicted"]
        assert 0 <= small["gap"] <= 1e-4
        assert as_uniform["bytes"] <= uniform_bytes(records, record.parameters["task"], 4)
        assert small["model_bytes"] > small["bytes"]


def test_weights_are_put_back(records):
    """The dense model measured in every experiment is the same."""
    for task in ("language", "classification"):
        dense = {
            record.result["dense"]["loss"]
            for record in records
            if record.parameters["task"] == task and "dense" in record.result
        }
        assert len(dense) == 1


def test_random_band_and_clusters(records):
    bands = [record for record in records if record.kind == "random_band"]
    assert [len(record.result["points"]) for record in bands] == [5, 5]
    clusters = [record for record in records if record.kind == "clustered"]
    assert {record.parameters["clusters"] for record in clusters} == {
        "k_means",
        "k_harmonic_means",
        "as_released",
    }
    released = next(record for record in clusters if record.parameters["clusters"] == "as_released")
    assert len(released.result["points"]) == 4


def test_permuted_widths_are_the_scores_own(records):
    for band in (record for record in records if record.kind == "permuted_band"):
        own = next(
            record
            for record in records
            if record.kind == "frontier"
            and (record.parameters["score"], record.parameters["task"])
            == (band.parameters["score"], band.parameters["task"])
        )
        point = next(one for one in own.result["points"] if one["budget"] == "uniform 4 bits")
        assert len(band.result["points"]) == 5
        for drawn in band.result["points"]:
            assert (drawn["bytes"], sorted(drawn["choice"])) == (point["bytes"], sorted(point["choice"]))


def test_the_search_keeps_the_bytes_of_uniform_widths_and_counts_what_it_read(records):
    searches = [record for record in records if record.kind == "evolutionary"]
    assert len(searches) == 2
    for record in searches:
        (point,) = record.result["points"]
        assert point["bytes"] <= uniform_bytes(records, record.parameters["task"], 4)
        count = record.parameters["windows"]
        assert point["forwards"] == 2 * (16 * min(4, count) + 5 * min(16, count))
        assert len(point["history"]) == 2


def test_the_table_of_allocators_says_what_each_had_to_read(records):
    rows = frontier.allocators_table([one for one in records if one.parameters["task"] == "language"])
    read = rows.drop_duplicates("how").set_index("how")["read"]
    layers = len(
        next(
            one for one in records if one.kind == "frontier" and one.parameters["task"] == "language"
        ).result["points"][0]["choice"]
    )
    assert read[scored.MEASURED] == read[scored.SHRUNK] == 4 * (1 + 3 * layers)
    assert read["CMPQ"] == 4
    assert read[frontier.EVOLVED] == 2 * (16 * 4 + 5 * 4)
    assert (rows.groupby("budget")[frontier.INCREASE].diff().dropna() >= 0).all()
    (sentence,) = frontier.allocators_verdict(
        pd.DataFrame(
            [
                ("t", "3 bits", name, 3.0, loss, loss - 0.1, loss + 0.1, 1)
                for name, loss in (("a", 0.1), ("b", 0.25), ("c", 0.5))
            ],
            columns=["task", "budget", "how", "bits", frontier.INCREASE, "low", "high", "read"],
        )
    )
    assert "a adds the least, +0.100" in sentence
    assert sentence.endswith("against interval: c.")


def test_costs_of_more_windows_and_calibrations_have_rows_of_their_own(records):
    rows = frontier.truths_table(records).set_index("how")
    names = [*scored.TRUTHS, *(f"{name}, 8 windows" for name in scored.TRUTHS), frontier.UNIFORM]
    assert sorted(rows.index) == sorted(names)
    promised = rows["predicted"]
    assert promised.drop(frontier.UNIFORM).notna().all()
    assert (promised[["measured divergence", "measured truth, shrunk"]] >= 0).all()
    assert promised["measured truth"] != promised["measured truth, 8 windows"]
    assert not any(
        "measured" in one.partition("best score is")[2].split(",")[0] for one in frontier.verdict(records)
    )
    calibrated = frontier.gptq_table(records)
    assert sorted(calibrated["how"]) == [
        "uniform, GPTQ",
        "uniform, GPTQ, 3 windows of 48",
        "uniform, GPTQ, 3 windows of 48, largest inputs first",
        "uniform, groups",
    ]
    assert calibrated["bits"].nunique() == 1
    assert calibrated[frontier.INCREASE].nunique() == 4
    few = [one for one in records if one.parameters.get("windows") != 8 and one.kind != "calibrated_gptq"]
    assert len(frontier.truths_table(few)) == 4
    with pytest.raises(LookupError):
        frontier.gptq_table(few)


def test_pages_tables_and_verdict(records):
    points = frontier.points_table(records)
    assert {"task", "how", "MB", "bits", "loss"} <= set(points.columns)
    assert frontier.RANDOM in set(points["how"])
    sentences = frontier.verdict(records)
    assert len(sentences) == 2
    assert "bits" in sentences[0]
    assert len(words.page(records, bit_allocation.pieces, "the runs")) >= 6
    assert "Not run here" in words.page([], bit_allocation.pieces, "the runs")[0]
