"""The pages on CMPQ, PMPQ and TDMPQ on tiny models: flaws show, tables follow from records."""

import math

import pytest
from cptquant_tiny import tiny  # noqa: F401

from lmcompress.pages import cmpq, pmpq, tdmpq
from lmcompress.records import Record, obtain
from lmcompress.report import depth
from lmcompress.report.agreement import agreement
from lmcompress.report.words import by_depth


@pytest.fixture(scope="module")
def common(tiny):  # noqa: F811
    return {**tiny, "group": 8, "language_widths": [2, 3, 4]}


def test_cmpq(common):
    study = cmpq.Study(**common, counts=[8, 120], padding=8)
    records = obtain(study.experiments(), progress=False)
    table = cmpq.flaw_table(records)
    few = table[table["released CMPQ with"].str.startswith("8 texts")]
    assert few["most of the blocks"].iloc[0] == pytest.approx(0, abs=1e-6)  # fewer texts than features
    plain, padded = table["most of the blocks"].iloc[-2:]
    assert abs(padded / plain - 1) > 0.01  # masked tokens move it
    nulls = depth.null_table(records)
    assert set(nulls["score"]) == set(depth.MEASURES)
    assert (nulls["explained by distance"] <= 1).all()
    assert len(cmpq.verdict(records, agreement(records))) == 2
    assert len(cmpq.check_table(records)) == 3
    assert len(cmpq.pieces(records)) == 8


def test_pmpq(common):
    study = pmpq.Study(**common, language_scores=["PMPQ", "PMPQ as released"])
    records = obtain(study.experiments(), progress=False)
    signs = pmpq.sign_table(records).set_index("task")["Spearman of released with ours"]
    assert set(signs.index) == {"language modelling", "classification"}
    heads = pmpq.head_table(records).iloc[0]
    assert heads["heads"] == 3
    assert heads["chance"] == 0.5
    assert set(pmpq.sparsity_table(records)["score"]) >= {"PMPQ", "PMPQ, Wanda"}
    assert len(pmpq.pieces(records)) == 7


def test_tdmpq(common):
    records = obtain(tdmpq.Study(**common).experiments(), progress=False)
    sizes = tdmpq.size_table(records)
    second = sizes[(sizes["score"] == "TDMPQ, second order") & (sizes["bits"] == 4)]
    assert 0.3 < second["median of predicted over measured"].iloc[0] < 3
    draws = tdmpq.draws_table(records)
    assert draws["draws"].tolist() == [4]
    assert abs(draws["Spearman between draws"].iloc[0]) <= 1
    assert len(tdmpq.pieces(records)) == 7


def test_layers_stand_in_their_order_of_depth():
    names = [f"layers.{block}.{part}" for block in (0, 2, 10) for part in ("k", "q")]
    assert list(by_depth(dict.fromkeys(sorted(names), 0.0))) == names
    assert sorted(names) != names  # as records hold them


def test_what_training_on_would_gain_is_read_at_the_best_rate_with_nothing_pruned():
    def run(pattern, lr, perplexity, seed=0):
        about = {"model": "m", "data": "c", "steps": 7, "pattern": pattern, "subset": "full", "seed": seed}
        result = {"lr": lr, "tests": {"c": {"dense": math.exp(2.0), "perplexity": perplexity}}}
        return Record("key", "retrain", 1, about, {}, result, {})

    best = [run("0%", 0.1, math.exp(1.6), 0), run("0%", 0.1, math.exp(1.8), 1)]
    others = [run("0%", 0.2, math.exp(1.9)), run("50%", 0.1, math.exp(1.0)), run("0%", 0.3, None)]
    (sentence,) = tdmpq.still_to_gain([*others, *best])
    assert "7 steps" in sentence
    assert "by 0.30 nats" in sentence
    assert tdmpq.still_to_gain([run("50%", 0.1, 2.0)]) == []
