"""Verdicts follow their rules on records made by hand; the released replacement of layers does nothing."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cptquant_tiny import tiny  # noqa: F401
from scipy import stats

from lmcompress.pages import cptquant_claims
from lmcompress.plans import published
from lmcompress.records import Record, obtain
from lmcompress.report import cptquant_evidence, cptquant_facts, depth, frontier, html
from lmcompress.report.cptquant_evidence import Evidence
from lmcompress.sensitivity.agreement import ceiling


def test_the_runs_of_a_profile_are_those_of_the_other_notebooks():
    assert cptquant_claims.runs_of("") == []
    kinds = {run.kind for run in cptquant_claims.runs_of("quick")}
    assert {"truth", "score", "frontier", "random_band", "packed"} <= kinds


def record(kind, result, **parameters):
    return Record(
        "key", kind, 1, {"data": "texts", "model": "tiny"} | parameters, {}, result, {"device": "a GPU"}
    )


def verdicts(records):
    return {one.claim.id: one for one in cptquant_claims.judged(records)}


def packed(ratio, increase, low=None, high=None):
    about = {
        "task": "classification",
        "average": 4.0,
        "score": "TDMPQ",
        "method": "rtn",
        "embeddings": "8bit",
    }
    result = {"block_bits": 4.0, "file_bytes": 1, "over_fp16": ratio, "over_fp32": 2 * ratio, "same": True}
    result |= {"loss": 1.0, "right": 0.9, "right_low": 0.8, "right_high": 1.0, "increase": increase}
    return record("packed", result | {"low": low or increase, "high": high or increase}, **about)


@pytest.mark.parametrize(
    ("ratio", "from_16", "from_32"),
    [(4.1, html.HOLDS, html.HOLDS), (2.5, html.FAILS, html.HOLDS), (1.5, html.FAILS, html.FAILS)],
)
def test_compression_is_counted_from_fp16_and_from_fp32(ratio, from_16, from_32):
    found = verdicts([packed(ratio, 0.0)])
    assert (found["compression"].verdict, found["compression-fp32"].verdict) == (from_16, from_32)


def test_a_file_that_may_or_may_not_be_harmless_leaves_compression_open():
    case = Evidence([packed(1.0, 0.0), packed(4.5, 0.03, 0.01, 0.06)]).compression(0.95, "fp16", 0.05)[0]
    assert (case.value, case.low, case.high) == (4.5, 1.0, 4.5)


def speed(kernel, decode, device="a GPU"):
    result = {"decode": decode, "decode_low": decode, "decode_high": decode, "prefill": 1.0}
    result |= {"bandwidth_share": 0.5, "loss": 1.0, "weight_bytes": 1, "refused": None}
    found = record("speed", result, kernel=kernel, batch=1)
    return replace(found, provenance={"device": device})


@pytest.mark.parametrize(("decode", "verdict"), [(250.0, html.HOLDS), (90.0, html.FAILS)])
def test_efficiency_is_timed_and_the_kernels_are_named(decode, verdict):
    found = verdicts([speed("bf16", 100.0), speed("int8", decode)])["efficiency"]
    assert found.verdict == verdict
    assert "torchao's weight-only int8" in found.evidence
    assert "seed" not in found.evidence


def test_speeds_of_two_devices_are_not_mixed():
    slow = [speed("bf16", 10.0, "a CPU"), speed("int4", 25.0, "a CPU")]
    cases = Evidence([speed("bf16", 100.0), *slow]).efficiency(0.95)
    assert [(case.setting, case.value) for case in cases] == [("int4, tiny, batch 1, a CPU", 2.5)]


def truth(costs, noise=0.0, prefix="model.layers", kinds=("",), task="language"):
    """A truth whose layers cost ``costs`` at 3 bits, in two windows that differ by ``noise``."""
    names = [f"{prefix}.{block}{kind}" for block in range(len(costs) // len(kinds)) for kind in kinds]
    losses = {
        name: {"3": [1 + cost - noise, 1 + cost + noise]} for name, cost in zip(names, costs, strict=True)
    }
    about = {"task": task, "per": "linear" if any(kinds) else "block", "widths": [3]}
    return record("truth", {"base": [1.0, 1.0], "losses": losses, "seconds": 1.0}, **about)


def test_ends_are_judged_by_permutations():
    costs = [0.1 + 0.001 * block for block in range(20)]
    apart = verdicts([truth([0.9] * 6 + costs[:8] + [0.9] * 6)])
    assert apart["ends"].verdict == html.HOLDS
    one = verdicts([truth([0.9, *costs[:18], 0.9])])  # two outliers say nothing of the 30 % beside them
    assert one["ends"].verdict == html.OPEN
    assert one["outermost"].verdict == html.HOLDS
    assert verdicts([truth(costs)])["ends"].verdict == html.OPEN


def test_the_p_value_is_the_share_of_all_orders():
    found = depth.placed(
        np.array([[3.0], [0.0], [1.0], [2.0]]), 1
    )  # contrasts of pairs: sums 1 to 5, each as likely
    assert found.value == pytest.approx(2.5 - 0.5)
    assert found.p == pytest.approx(2 / 6, abs=0.02)
    assert found.low <= found.value <= found.high


def test_without_the_outermost_two_is_what_is_left():
    row = depth.ends_table([truth([5.0, *[0.2] * 5, *[0.1] * 8, *[0.2] * 5, 5.0])]).iloc[0]
    assert row["without the outermost two"] == pytest.approx(0.1)
    assert row["the outermost two minus all others"] == pytest.approx(5 - np.mean([0.2] * 10 + [0.1] * 8))


def curve(score, losses, seed=0, task="language", kind="frontier", spread=0.0):
    points = [
        {"budget": f"uniform {bits} bits", "bits": float(bits), "bytes": bits, "model_bytes": 2, "loss": 1.0}
        | {"right": 0.5, "increase": loss, "low": loss - spread, "high": loss + spread}
        for bits, loss in losses.items()
    ]
    about = {
        "task": task,
        "score": score,
        "method": "rtn",
        "widths": list(losses),
        "seed": seed,
        "group": 128,
    }
    return record(kind, {"points": points}, **about)


def test_bits_at_equal_loss_lie_between_budgets_by_the_logarithm_of_the_loss():
    assert frontier.bits_at([2, 4], [0.5, 0.005], 0.05) == pytest.approx(3)
    assert frontier.bits_at([4, 2], [-0.1, 0.1], 0.05) == pytest.approx(2.5)  # no logarithm: a straight line
    assert frontier.bits_at([2, 3, 4], [0.01, 0.09, 0.01], 0.05) > 3  # from where on it stays below
    assert frontier.bits_at([2, 4], [0.01, 0.005], 0.05) == 0
    assert frontier.bits_at([2, 4], [0.5, 0.1], 0.05) == math.inf


def test_seeds_that_differ_widen_the_bits_at_equal_loss():
    alike = [curve("PMPQ", {2: 0.5, 4: 0.005}, seed) for seed in range(3)]
    apart = [curve("PMPQ", {2: 0.5 * 10**seed, 4: 0.005 * 10**seed}, seed) for seed in (-0.3, 0, 0.3)]
    rows = [frontier.equal_loss(frontier.seed_points(found), 0.05).iloc[0] for found in (alike, apart)]
    assert [row["bits"] for row in rows] == pytest.approx([3, 3], abs=0.15)
    assert rows[0]["low"] == pytest.approx(3)
    assert rows[1]["low"] < 2.5 < 3.5 < rows[1]["high"]


@pytest.mark.parametrize(
    ("tdmpq", "verdict"), [({2: 0.05, 4: 0.001}, html.HOLDS), ({2: 0.5, 4: 0.005}, html.FAILS)]
)
def test_thirty_percent_is_bits_at_equal_loss_in_each_form_of_tdmpq(tdmpq, verdict):
    others = [curve("CMPQ", {2: 0.5, 4: 0.005}), curve("PMPQ", {2: 0.5, 4: 0.005})]
    found = verdicts([curve("TDMPQ", {1: 0.5} | tdmpq, spread=1e-4), *others])
    assert found["tdmpq-30-taylor"].verdict == verdict
    assert found["tdmpq-30-input"].verdict == html.NOT_RUN
    assert found["pmpq-11"].verdict == html.NOT_RUN  # nothing on classification


def test_at_equal_bytes_the_interval_must_exclude_no_difference():
    uniform = curve("", {3: 0.3}, kind="uniform_format", spread=0.01)
    assert verdicts([curve("PMPQ", {3: 0.1}, spread=0.01), uniform])["pmpq-uniform"].verdict == html.HOLDS
    assert verdicts([curve("PMPQ", {3: 0.29}, spread=0.01), uniform])["pmpq-uniform"].verdict == html.OPEN
    seeds = [curve("PMPQ", {3: loss}, seed) for seed, loss in enumerate((0.1, 0.2, 0.3))]
    assert verdicts([*seeds, uniform])["pmpq-uniform"].verdict == html.OPEN


def test_a_scores_widths_must_beat_random_orders_of_themselves():
    def band(losses):
        points = [
            {"budget": "uniform 3 bits", "bits": 3.0, "bytes": 3, "model_bytes": 2, "loss": 1.0, "right": 0.5}
            | {"increase": loss, "low": loss, "high": loss}
            for loss in losses
        ]
        about = {"task": "language", "score": "PMPQ", "method": "rtn", "widths": [3], "seed": 0}
        return record("permuted_band", {"points": points}, **about)

    orders = [1.0, 1.1, 0.9, 1.05, 0.95]
    reach = stats.t.ppf(0.975, 4) * np.std(orders, ddof=1) * (1 + 1 / 5) ** 0.5
    (case,) = Evidence([curve("PMPQ", {3: 0.6}), band(orders)]).permuted(0.95, "PMPQ")
    assert (case.value, case.low, case.high) == pytest.approx((-0.4, -0.4 - reach, -0.4 + reach))
    found = {
        loss: verdicts([curve("PMPQ", {3: loss}), band(orders)])["depth-pmpq"].verdict
        for loss in (0.6, 0.95, 2.0)
    }
    assert found == {0.6: html.HOLDS, 0.95: html.OPEN, 2.0: html.FAILS}
    assert (
        Evidence([curve("PMPQ", {3: 0.6}), band([1.0] * 5)]).permuted(0.95, "PMPQ") == []
    )  # uniform: no order


def test_layers_of_records_are_put_in_the_order_of_the_model():
    names = [
        f"model.layers.{block}.{kind}" for block in (10, 2) for kind in ("mlp.up_proj", "self_attn.q_proj")
    ]
    assert [name.split(".", 2)[2] for name in cptquant_evidence.in_order(names)] == [
        *("2.self_attn.q_proj", "2.mlp.up_proj", "10.self_attn.q_proj", "10.mlp.up_proj")
    ]
    table = {2: np.array([9.0, 1.0, 1.0, 2.0]), 4: np.zeros(4)}
    assert cptquant_evidence.added(table, [4, 4, 2, 2]) == 3.0


def test_a_score_of_squares_is_added_up_where_blocks_were_measured():
    blocks = truth([0.1, 0.3, 0.2, 0.4, 0.5, 0.6], noise=0.01)
    names = [
        f"model.layers.{block}.{kind}" for block in range(6) for kind in ("mlp.up_proj", "self_attn.q_proj")
    ]
    parts = [
        0.1,
        0.0,
        0.1,
        0.2,
        0.2,
        0.0,
        0.4,
        0.0,
        0.1,
        0.4,
        0.6,
        0.0,
    ]  # of the blocks above, Linear by Linear
    table = dict(zip(names, parts, strict=True))
    linears = record(
        "score",
        {"seconds": 1.0, "per_layer": table, "per_width": {"3": table}},
        **{"task": "language", "per": "linear", "score": "TDMPQ, Gauss-Newton", "widths": [3], "seed": 0},
    )
    (case,) = Evidence([blocks, linears]).ranks(0.95, "TDMPQ, Gauss-Newton", 3)
    assert case.setting == "texts, 6 blocks, sums of their Linears"
    assert case.value == pytest.approx(1)
    linears.parameters["score"] = "TDMPQ"  # not a sum of squares
    assert Evidence([blocks, linears]).ranks(0.95, "TDMPQ", 3) == []


def test_widths_in_published_records_are_read_in_the_order_of_the_model():
    """What the solver promised for the measured costs is the sum of these costs at the widths that it chose."""
    records = published("34_bit_allocation")
    for found in cptquant_claims.published_evidence():
        if found.kind == "truth" and found.parameters["per"] == "linear":
            table = cptquant_evidence.costs(found)
            chosen = [
                point
                for one in records
                if one.kind == "frontier" and one.parameters["score"] == "measured truth"
                if one.parameters["data"] == found.parameters["data"] and one.parameters["method"] == "rtn"
                if one.parameters["windows"] == found.parameters["windows"]
                for point in one.result["points"]
            ]
            added = [cptquant_evidence.added(table, point["choice"]) for point in chosen]
            assert added == pytest.approx([point["predicted"] for point in chosen], abs=1e-6)


def test_scores_are_held_against_the_truth_of_the_most_windows():
    few, many = (truth([0.1, 0.3, 0.2, 0.4][::order], noise=0.01) for order in (-1, 1))
    few.parameters["windows"], many.parameters["windows"] = 2, 4
    score = record(
        "score",
        {"seconds": 1.0, "per_layer": dict(zip(many.result["losses"], [1.0, 3.0, 2.0, 4.0], strict=True))},
        **{"task": "language", "per": "block", "score": "PMPQ", "widths": [3], "seed": 0},
    )
    for found in ([few, many, score], [many, few, score]):
        (case,) = Evidence(found).ranks(0.95, "PMPQ", 3)
        assert case.value == pytest.approx(1)


def test_a_perfect_score_correlates_with_half_a_truth_as_spearman_and_brown_say():
    source = np.random.default_rng(0)
    clean = source.normal(size=20_000)
    one, two = (clean + source.normal(size=20_000) for _ in range(2))
    halves = np.corrcoef(one, two)[0, 1]
    assert ceiling(halves) == pytest.approx(np.corrcoef(clean, one + two)[0, 1], abs=0.01)
    assert ceiling(0.71) == pytest.approx(0.91, abs=0.002)


def test_headlines_are_made_of_records():
    found = [
        curve("CMPQ", {3: 0.5}),
        curve("measured truth", {3: 0.4}),
        curve("", {3: 0.3}, kind="uniform_format"),
        truth([0.1] * 4),
        record(
            "score", {"seconds": 2.0, "per_layer": {}}, task="language", per="block", score="PMPQ", widths=[3]
        ),
    ]
    for one in found[:2]:
        one.result["points"][0]["choice"] = [2, 3, 4]
    told = cptquant_facts.headlines(found)
    assert "beats every score (the best, CMPQ: +0.500) and the measured truth (+0.400)" in told[0]
    better = [*found, curve("measured divergence", {3: 0.2})]
    better[-1].result["points"][0]["choice"] = [2, 3, 4]
    assert (
        "and the measured truth (+0.400), but not the measured divergence (+0.200)."
        in (cptquant_facts.headlines(better)[0])
    )
    assert "PMPQ takes more seconds than the truth itself: 2 for one score a block, 1 to measure" in told[1]
    assert not cptquant_facts.headlines(found[:2])


def test_without_records_nothing_is_claimed():
    assert {one.verdict for one in cptquant_claims.judged([])} == {html.NOT_RUN}
    assert "not run here" in cptquant_claims.pieces([])[1]


def test_replacing_by_a_dotted_name_changes_nothing(tiny):  # noqa: F811
    records = obtain(cptquant_claims.Study(**tiny, test=24, test_windows=4).experiments(), progress=False)
    for found in records:
        assert found.result["untouched"]
        assert found.result["in_place"]["increase"] != 0
    assert len(cptquant_claims.dotted_table(records)) == 2
    assert isinstance(cptquant_facts.caveats(records), pd.DataFrame)
