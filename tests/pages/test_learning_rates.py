"""Learning rates as a study: which runs there are, and the best rate of each subset on each corpus by hand."""

import math
from dataclasses import replace

import pytest
from perp_tiny import language, tiny_place  # noqa: F401

from lmcompress.pages.learning_rates import Study, answers, beside_chosen, best_rates, curves
from lmcompress.records import Record, obtain
from lmcompress.report.rate_tables import RATE, best, by_rate


def record(subset, rate, losses, pattern="50%", seed=0, criterion="magnitude"):
    """Losses of two windows by corpus."""
    about = {
        "criterion": criterion,
        "pattern": pattern,
        "subset": subset,
        "lr": rate,
        "seed": seed,
        "rounds": 1,
    }
    about |= {"model": "tiny", "steps": 9, "batch": 4, "length": 8, "tests": list(losses)}
    tests = {
        corpus: {"nll": nll, "dense": 2.0, "convention": "mean over predicted tokens"}
        for corpus, nll in losses.items()
    }
    return Record("", "retrain", 1, about, {}, {"tests": tests}, {"device": "some device"})


@pytest.fixture(scope="module")
def by_hand():
    """On the corpus retrained on the large rate is best for both; on the other full retraining wants the small one."""
    return [
        record("nothing", None, {"own": [5.0, 5.2], "other": [5.0, 5.2]}),
        record("norms", 0.1, {"own": [3.0, 3.2], "other": [4.0, 4.2]}),
        record("norms", 0.3, {"own": [2.5, 2.7], "other": [3.5, 3.7]}),
        record("full", 0.1, {"own": [2.2, 2.4], "other": [3.0, 3.2]}),
        record("full", 0.3, {"own": [2.0, 2.2], "other": [3.9, 4.1]}),
        record("full", 0.9, {"own": None, "other": None}),  # diverged
    ]


def test_the_best_rate_is_that_of_each_corpus(by_hand):
    own, other = (best(by_hand, corpus).set_index("subset") for corpus in ("own", "other"))
    assert own[RATE].to_dict() == {"full": 0.3, "norms": 0.3}
    assert other[RATE].to_dict() == {"full": 0.1, "norms": 0.3}
    assert own.loc["norms", "perplexity"] == pytest.approx(math.exp(2.6))
    assert own.loc["norms", "times full"] == pytest.approx(math.exp(0.5))
    assert other.loc["norms", "times full"] == pytest.approx(
        math.exp(0.5)
    )  # 3.6 against 3.1, not against 4.0
    assert math.isnan(own.loc["full", "times full"])


def test_a_subset_that_was_tried_at_fewer_rates_than_elsewhere_has_no_best_rate(by_hand):
    others = [
        record("norms", 0.3, {"own": [2.4, 2.6], "other": [3.0, 3.2]}, criterion="wanda"),
        *(
            record("full", rate, {"own": [2.0, 2.2], "other": [2.0, 2.2]}, criterion="wanda")
            for rate in (0.1, 0.3)
        ),
    ]
    found = best([*by_hand, *others], "own")
    assert set(found["criterion"]) == {"magnitude"}  # the rate 0.9 of full retraining is missing after Wanda
    found = best(
        [*by_hand, *others, record("full", 0.9, {"own": None, "other": None}, criterion="wanda")], "own"
    )
    assert found[found["criterion"] == "wanda"]["subset"].tolist() == ["full"]
    found = best([*by_hand, record("norms", 0.3, {"own": [9.0, 9.0], "other": [9.0, 9.0]}, seed=1)], "own")
    assert found.set_index("subset").loc["norms", RATE] == 0.3  # the only rate with both seeds


def test_sentences_and_tables_say_so(by_hand):
    first, second, price = answers(by_hand)
    assert first.startswith("own, ")
    assert "norms 1.65 times, as good after 0 of 1 prunings" in first
    assert second.startswith("other, ")
    assert f"full up to {math.exp(4.0 - 3.1):.2f}, norms up to 1.00" in price
    table = best_rates(by_hand).set_index("subset")
    assert table.loc["nothing", "own"] == f"{math.exp(5.1):,.1f}"
    assert table.loc["full", "other"] == f"{math.exp(3.1):,.1f} at 0.1"
    assert len(by_rate(by_hand, "own")) == len(curves(by_hand, "own").table) == 4


def test_the_chosen_rates_stand_beside_the_best_ones(by_hand):
    chosen = [
        replace(one, parameters=one.parameters | {"task": "language"})
        for one in by_hand
        if one.parameters["lr"] != 0.3
    ]
    others = [
        replace(chosen[0], kind="choose_rate", result={}),
        replace(chosen[0], kind="share_trained", result={}),
    ]
    (row,) = beside_chosen(by_hand, [*others, *chosen], "own").to_dict("records")
    assert row["subset"] == "norms"
    assert row["at chosen rates"].startswith(f"{math.exp(3.1 - 2.3):.2f} (")
    assert row["at best rates"].startswith(f"{math.exp(2.6 - 2.1):.2f} (")


def test_what_an_unpruned_model_forgets_is_said(by_hand):
    control = [
        record("full", rate, {"own": [own, own + 0.2], "other": [2.4, 2.6]}, pattern="0%")
        for rate, own in ((0.1, 1.5), (0.3, 1.8), (0.9, 2.5))
    ]
    (sentence,) = [one for one in answers([*by_hand, *control]) if one.startswith("Nothing pruned")]
    assert f"other reads: full {math.exp(2.5):.1f}; before: 2.0" in sentence


def test_without_full_retraining_there_is_no_ratio(by_hand):
    norms = [one for one in by_hand if one.parameters["subset"] in ("nothing", "norms")]
    assert best(norms, "own")["times full"].isna().all()
    assert not any("over full retraining" in sentence for sentence in answers(norms))
    assert len(best_rates(norms)) == 2


def test_every_rate_is_run_once_for_each_seed(language):  # noqa: F811
    study = Study(
        **language | {"steps": 2}, trials={"norms": [0.01, 0.03]}, patterns=["0%", "50%"], seeds=[0, 1]
    )
    found = study.experiments()
    assert len(found) == len(set(found)) == 2 * 2 * 3
    records = obtain(found[:3], progress=False)
    assert [run.result["lr"] for run in records][1:] == [0.01, 0.03]
