"""Retraining as a study: which runs a grid makes, what a run reports, and tables checked by hand."""

import math

import numpy as np
import pytest
from perp_tiny import classification, language, tiny_place  # noqa: F401

from lmcompress.errors import ParameterError
from lmcompress.experiments import retrained
from lmcompress.experiments.retrained import ChooseRate, Retrain
from lmcompress.pages.retrain_subsets import Study, closeness, levels
from lmcompress.records import Record, obtain
from lmcompress.report import perp_tables


@pytest.fixture(scope="module")
def records(language, classification):  # noqa: F811
    study = Study(
        **language,
        **classification,
        subsets=["nothing", "norms", "new-biases", "full"],
        rates={"norms": 0.02, "full": 0.003, "new-biases": 0.02},
        classifier_subsets=["nothing", "biases", "full"],
        classifier_rates={"biases": 0.01, "full": 0.001},
        seeds=[0, 1],
    )
    return obtain(study.experiments(), progress=False)


def test_a_grid_and_more_make_each_run_once_with_rates_first(language):  # noqa: F811
    study = Study(
        **language,
        classifier="",
        patterns=["50%", "80%"],
        subsets=["nothing", "norms"],
        more=[
            {"criteria": ["wanda"], "patterns": ["2:4"]},
            {"subsets": ["norms", "full"], "patterns": [0.5]},
        ],
        rates={"full": 1e-3},
        rate_steps=5,
    )
    found = study.experiments()
    assert len(found) == len(set(found))
    choices, runs = found[:2], found[2:]
    assert [type(one) for one in choices] == [ChooseRate] * 2
    assert [(one.subset, one.pattern, one.criterion) for one in choices] == [
        ("norms", "50%", "magnitude"),
        ("norms", "70%", "magnitude"),
    ]
    assert {(run.criterion, run.pattern, run.subset) for run in runs} == {
        ("magnitude", "50%", "nothing"),
        ("magnitude", "50%", "norms"),
        ("magnitude", "50%", "full"),
        ("magnitude", "80%", "nothing"),
        ("magnitude", "80%", "norms"),
        ("wanda", "2:4", "nothing"),
        ("wanda", "2:4", "norms"),
    }
    assert {run.pattern: run.rate_pattern for run in runs if run.subset == "norms"} == {
        "50%": "50%",
        "80%": "70%",
        "2:4": "50%",
    }


def test_runs_recover_report_and_keep_the_zeros(records):
    of_language = perp_tables.of_task(records, "language")
    assert len(of_language) == 8
    for record in of_language:
        assert record.result["sparsity"] == pytest.approx(0.5, abs=0.01)
        assert record.result["merged"]
        assert not record.result["diverged"]
        assert len(record.result["losses"]) == (0 if record.parameters["subset"] == "nothing" else 12)
        (test,) = record.result["tests"].values()
        assert test["perplexity"] == pytest.approx(math.exp(np.mean(test["nll"])), rel=1e-3)
        assert test["kl"] > 0
    corpus = perp_tables.corpora(of_language)[0]
    frame = perp_tables.perplexities(of_language, corpus).set_index("subset")
    assert (
        frame.loc["full", "perplexity"]
        < frame.loc["norms", "perplexity"]
        < frame.loc["nothing", "perplexity"]
    )
    assert (frame["low"] < frame["perplexity"]).all()
    assert (frame["seeds"] == 2).all()
    close = perp_tables.against_full(of_language, corpus).set_index("subset")
    ratio = frame.loc["norms", "perplexity"] / frame.loc["full", "perplexity"]
    assert close.loc["norms", "times full"] == pytest.approx(ratio, rel=1e-3)
    assert 0 < close.loc["norms", "recovered"] < 1
    assert math.isnan(close.loc["nothing", "recovered"])


def test_the_classifier_is_fine_tuned_once_and_retrained(records):
    found = perp_tables.of_task(records, "classification")
    frame = perp_tables.accuracies(found, perp_tables.corpora(found)[0]).set_index("subset")
    assert list(frame.index) == ["nothing", "full", "biases"]
    assert frame["dense"].nunique() == 1
    assert ((frame["accuracy"] >= 0) & (frame["accuracy"] <= 1)).all()
    assert (frame["low"] <= frame["accuracy"]).all()


def test_a_chosen_rate_is_used_and_recorded(language):  # noqa: F811
    study = Study(**language, classifier="", subsets=["norms"], rate_steps=6)
    choice, run = obtain(study.experiments(), progress=False)
    losses = {trial["lr"]: trial["loss"] for trial in choice.result["trials"]}
    assert choice.result["lr"] == min(losses, key=losses.get) == run.result["lr"]
    assert len(losses) >= 3


def test_rates_are_extended_until_the_best_is_inside():
    def tried(rates):
        return [{"lr": lr, "loss": abs(math.log10(lr / 0.1)), "diverged": False} for lr in rates]

    found = retrained.chosen(tried, (0.001, 0.01))
    assert found["lr"] == pytest.approx(0.09)
    assert not found["at_edge"]
    assert [trial["lr"] for trial in found["trials"]] == sorted(trial["lr"] for trial in found["trials"])
    down = retrained.chosen(
        lambda rates: [{"lr": lr, "loss": lr, "diverged": False} for lr in rates], (1.0, 2.0)
    )
    assert down["at_edge"]
    assert len(down["trials"]) == retrained.MOST_RATES
    none = retrained.chosen(
        lambda rates: [{"lr": lr, "loss": None, "diverged": True} for lr in rates], (1.0, 2.0)
    )
    assert none["lr"] is None


def test_iterative_rounds_end_at_the_same_pattern(language):  # noqa: F811
    study = Study(**language, classifier="", rates={"norms": 0.01})
    run = study.retrain("magnitude", "50%", "norms", 0, rounds=3)
    result = obtain([run], progress=False)[0].result
    assert result["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert len(result["losses"]) == 12


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patterns": ["150%"]}, "sparsity in"),
        ({"subsets": ["bias"]}, "biases"),
        ({"criteria": ["obd"]}, "magnitude"),
        ({"more": [{"subset": ["norms"]}]}, "subsets"),
        ({"tests": ["no such corpus"]}, "wikipedia-vital"),
        ({"dtype": "fp8"}, "bf16"),
        ({"step": 3}, "steps"),
    ],
)
def test_bad_parameters_are_refused(change, named):
    with pytest.raises(ParameterError, match=named):
        Study(**change)


def record(subset, seed, nll):
    about = {
        "task": "language",
        "criterion": "magnitude",
        "pattern": "50%",
        "subset": subset,
        "steps": 9,
        "seed": seed,
    }
    result = {"lr": 1.0, "tests": {"text": {"nll": nll, "dense": 2.0, "kl": 0.5}}}
    return Record("", "retrain", 1, about, {}, result, {})


def test_comparisons_by_hand():
    """Two windows: pruning costs (4, 2), full retraining takes back (3, 1), norms (2, 1)."""
    records = [record("nothing", 0, [5, 3]), record("norms", 0, [3, 2]), record("full", 0, [2, 2])]
    frame = perp_tables.perplexities(records, "text").set_index("subset")
    assert frame.loc["nothing", "perplexity"] == pytest.approx(math.exp(4))
    close = perp_tables.against_full(records, "text").set_index("subset").loc["norms"]
    assert close["times full"] == pytest.approx(math.exp(0.5))
    assert (close["low"], close["high"]) == (1, pytest.approx(math.e))
    assert close["recovered"] == pytest.approx((2 + 1) / (3 + 1))
    assert close["recovered low"] == pytest.approx(2 / 3)
    assert close["recovered high"] == pytest.approx(1)


def test_a_collapsed_run_is_a_gap_and_not_a_number():
    records = [record("nothing", 0, None), record("full", 0, [2, 2])]
    frame = perp_tables.perplexities(records, "text").set_index("subset")
    assert math.isnan(frame.loc["nothing", "perplexity"])
    assert perp_tables.against_full(records, "text").empty


def test_patterns_and_subsets_are_in_order():
    records = [record(subset, 0, [1, 1]) for subset in ("norms+masklora", "full", "norms", "nothing")]
    assert list(perp_tables.perplexities(records, "text")["subset"]) == [
        "nothing",
        "full",
        "norms",
        "norms+masklora",
    ]


def test_experiments_survive_the_way_to_another_process():
    run = Study(classifier="").experiments()[0]
    assert Retrain(**run.model_dump(mode="json")) == run


def made_up(subset, loss, pattern="50%"):
    about = {
        "task": "language",
        "criterion": "magnitude",
        "pattern": pattern,
        "subset": subset,
        "steps": 9,
        "seed": 0,
    }
    test = {"nll": [loss, loss], "dense": 2.0, "kl": 0.5}
    result = {"lr": 1.0, "percent": 0.02, "tokens": 9, "tests": {"text": test}}
    return Record("", "retrain", 1, about, {}, result, {})


def test_closeness_is_sorted_and_counts_settings():
    records = [made_up("nothing", 5.0), made_up("norms", 2.5), made_up("full", 2.0), made_up("masklora", 2.0)]
    table = closeness(records)
    assert list(table["retrained"]) == ["masklora", "norms"]
    assert list(table["times full, text"]) == ["1.00", "1.65"]
    assert list(table["as good, text"]) == ["1 of 1", "0 of 1"]
    more = [made_up("norms", 1.5, "30%"), made_up("full", 2.0, "30%")]
    table = closeness([*records, *more]).set_index("retrained")
    assert table.loc["norms", "times full, text"] == "0.61 to 1.65"
    assert table.loc["norms", "as good, text"] == "1 of 2"
    assert closeness([made_up("norms", 2.0)]).empty


def test_levels_name_the_best_only_beside_full_retraining():
    table = levels([made_up("norms", 2.5), made_up("full", 2.0), made_up("norms", 1.5, "30%")], "text")
    assert list(table["pattern"]) == ["30%", "50%"]
    assert list(table["best"]) == ["", "full"]
    assert list(table["norms"]) == ["4.5 (4.5 to 4.5)", "12.2 (12.2 to 12.2)"]
    assert "full" not in table  # half of the rows have it: no more
