"""Verdicts follow their rules on records made by hand; the released replacement of layers does nothing."""

from dataclasses import replace

import pytest
from cptquant_tiny import tiny  # noqa: F401

from lmcompress.pages import cptquant_claims
from lmcompress.records import Record, obtain
from lmcompress.report import html


def test_quick_experiments_are_those_of_the_other_notebooks():
    kinds = {run.kind for run in cptquant_claims.quick_experiments()}
    assert {"truth", "score", "frontier", "random_band", "packed"} <= kinds


def record(kind, result, **parameters):
    return Record("key", kind, 1, parameters, {}, result, {"device": "a GPU"})


def packed(ratio, increase, score="TDMPQ"):
    about = {"task": "classification", "average": 4.0, "score": score, "method": "rtn", "embeddings": "8bit"}
    result = {"block_bits": 4.0, "file_bytes": 1, "over_fp16": ratio, "over_fp32": 2 * ratio, "same": True}
    result |= {"loss": 1.0, "right": 0.9, "right_low": 0.8, "right_high": 1.0}
    return record("packed", result | {"increase": increase, "low": increase, "high": increase}, **about)


@pytest.mark.parametrize(
    ("ratio", "increase", "verdict"),
    [(4.1, 0.0, html.HOLDS), (2.5, 0.0, html.PART), (1.5, 0.0, html.FAILS)],
)
def test_compression_counts_from_fp16(ratio, increase, verdict):
    claim = cptquant_claims.claims([packed(ratio, increase)])[0]
    assert claim[1] == verdict
    assert f"{ratio:.2f} times FP16" in claim[2]


def speed(kernel, decode):
    result = {
        "decode": decode,
        "decode_low": decode,
        "decode_high": decode,
        "prefill": 1.0,
        "bandwidth_share": 0.5,
        "loss": 1.0,
        "weight_bytes": 1,
        "refused": None,
    }
    return record("speed", result, model="tiny", kernel=kernel, batch=1)


@pytest.mark.parametrize(("decode", "verdict"), [(250.0, html.HOLDS), (90.0, html.FAILS)])
def test_efficiency_is_timed(decode, verdict):
    claim = cptquant_claims.claims([speed("bf16", 100.0), speed("int8", decode)])[1]
    assert claim[1] == verdict
    assert "Not timed on a GPU: int4, 2:4." in claim[2]


def test_speeds_of_two_devices_are_not_mixed():
    slow = [replace(speed(*one), provenance={"device": "a CPU"}) for one in (("bf16", 10.0), ("int4", 25.0))]
    claim = cptquant_claims.claims([speed("bf16", 100.0), *slow])[1]
    assert claim[1] == html.HOLDS
    assert "at best 2.50 (2.50 to 2.50): int4, tiny, batch 1." in claim[2]
    assert "a CPU, tiny: int4 2.50 at batch 1. Not timed on a GPU: int8, int4, 2:4." in claim[2]


@pytest.mark.parametrize(("ends", "verdict"), [(0.3, html.HOLDS), (0.1, html.FAILS)])
def test_the_ends_must_cost_more_beyond_the_interval(ends, verdict):
    cost = [*[ends] * 4, *[0.1] * 4, *[ends] * 4]  # of blocks 0 to 11, whose names do not sort by depth
    losses = {f"layers.{i}": {"3": [1 + value, 1 + value + 0.01 * (-1) ** i]} for i, value in enumerate(cost)}
    truth = {"base": [1.0, 1.0], "losses": losses, "seconds": 1.0}
    about = {"task": "language", "per": "block", "widths": [3]}
    claim = cptquant_claims.claims([record("truth", truth, **about)])[4]
    assert claim[1] == verdict
    assert f"{ends - 0.1:+.4f} nats" in claim[2]


def frontier(score, increase):
    point = {"budget": "uniform 3 bits", "bits": 3.0, "bytes": 1, "model_bytes": 2, "loss": 1.0, "right": 0.5}
    points = [point | {"increase": increase, "low": increase, "high": increase}]
    about = {"task": "classification", "score": score, "method": "rtn", "widths": [3]}
    return record("frontier", {"points": points}, **about)


def uniform(increase):
    return replace(
        frontier("", increase),
        kind="uniform_format",
        parameters={"task": "classification", "method": "rtn", "widths": [3], "group": 128},
    )


def band(values):
    point = {"budget": "uniform 3 bits", "bits": 3.0, "bytes": 1, "model_bytes": 2, "loss": 1.0, "right": 0.5}
    points = [point | {"increase": value, "low": value, "high": value} for value in values]
    return record("random_band", {"points": points}, task="classification", widths=[3])


@pytest.mark.parametrize(("pmpq", "verdict"), [(0.05, html.HOLDS), (0.25, html.PART), (0.6, html.FAILS)])
def test_the_best_score_must_beat_random_too(pmpq, verdict):
    others = [
        frontier("CMPQ", 0.4),
        frontier("TDMPQ", 0.5),
        uniform(0.3),
        band([0.1 * step for step in range(2, 8)]),
    ]
    claims = cptquant_claims.claims([frontier("PMPQ", pmpq), *others])
    assert claims[2][1] == verdict
    assert claims[3][1] == html.NOT_RUN  # nothing on language modelling


def test_without_records_nothing_is_claimed():
    claims = cptquant_claims.claims([])
    assert {verdict for _, verdict, _ in claims} == {html.NOT_RUN}
    assert "not run here" in cptquant_claims.pieces([])[-1]


def test_replacing_by_a_dotted_name_changes_nothing(tiny):  # noqa: F811
    records = obtain(cptquant_claims.Study(**tiny, test=24, test_windows=4).experiments(), progress=False)
    for found in records:
        assert found.result["untouched"]
        assert found.result["in_place"]["increase"] != 0
    assert len(cptquant_claims.dotted_table(records)) == 2
