"""The joint budget on tiny models: bytes hold, more choices never predict worse, masks are counted."""

from dataclasses import replace

import pytest
from cptquant_tiny import tiny  # noqa: F401

from lmcompress.experiments.joint import DENSE
from lmcompress.pages.prune_and_quantize import Study, name_of, pieces, points_table, verdict
from lmcompress.records import obtain


@pytest.fixture(scope="module")
def records(tiny):  # noqa: F811
    study = Study(
        **tiny, group=8, averages=[4.5, 6.0, 9.0], patterns=[DENSE, "2:4"], widths=[2, 4, 8], test=24
    )
    return obtain(study.experiments(), progress=False)


def test_every_set_of_choices_meets_its_budgets_or_says_that_it_cannot(records):
    assert {name_of(record) for record in records} == {
        "joint",
        "quantize only",
        "prune only (8 bits)",
        "all at 2:4",
    }
    for record in records:
        for point in record.result["points"]:
            if point["bytes"] is None:
                assert point["average"] < 9
                continue
            assert point["bytes"] * 8 / record.result["numbers"] <= point["average"]
            assert point["gap"] < 1e-6
            sparse = {choice.startswith("2:4") for choice in point["choice"].values()}
            if name_of(record) == "quantize only":
                assert point["sparsity"] == 0
            if sparse == {True}:
                assert point["sparsity"] == pytest.approx(0.5)


def test_a_mask_costs_a_bit_a_weight(records):
    """2:4 at 8 bits in groups of 8: 1 mask bit, 4 bits of codes, 16 + 8 bits for every 8 weights."""
    record = next(one for one in records if name_of(one) == "all at 2:4")
    point = record.result["points"][-1]
    assert set(point["choice"].values()) == {"2:4 at 8 bits"}
    assert point["bits"] == pytest.approx(1 + 4 + 3)


def test_page(records):
    table = points_table(records)
    assert set(table["task"]) == {"language modelling", "classification"}
    assert len(pieces(records)) == 1 + 2 * 2


def test_sets_differ_where_intervals_do_not_overlap(records):
    (joint,) = [one for one in records if name_of(one) == "joint" and one.parameters["task"] == "language"]
    (alone,) = [
        one for one in records if name_of(one) == "quantize only" and one.parameters["task"] == "language"
    ]

    def at(record, *losses):
        known = record.result["points"][-1]
        points = [
            known | {"average": average, "increase": loss, "low": loss - 0.1, "high": loss + 0.1}
            for average, loss in zip((3.0, 4.0), losses, strict=True)
        ]
        return replace(record, result={**record.result, "points": points})

    (sentence,) = verdict([at(joint, 1.0, 0.5), at(alone, 2.0, 0.6)])
    assert "It loses less than quantization alone at 3 bits (at 3 bits 1.000 against 2.000 nats)." in sentence
    (sentence,) = verdict([at(joint, 1.0, 0.5), at(alone, 1.1, 0.6)])
    assert "nowhere told apart" in sentence
