"""Verdicts by hand: each rule with records made up for it; no records, no verdict; zero-shot on a tiny model."""

import json

import pytest
from perp_tiny import language, tiny_place  # noqa: F401

from lmcompress.files import project_root
from lmcompress.pages import perp_claims
from lmcompress.pages.perp_claims import Study, claims
from lmcompress.records import Record, obtain
from lmcompress.report import html
from lmcompress.report.html import FAILS, HOLDS, NOT_RUN, PART


def run(subset, loss, pattern="50%", criterion="magnitude", rounds=1, steps=9, merged=True):
    about = {"task": "language", "criterion": criterion, "pattern": pattern, "subset": subset}
    about |= {"steps": steps, "rounds": rounds, "seed": 0}
    test = {"nll": [loss, loss + 0.1], "dense": 2.0, "kl": 0.5}
    result = {"lr": 1.0, "merged": merged, "percent": 0.02, "tokens": 9, "tests": {"text": test}}
    return Record("", "retrain", 1, about, {}, result, {})


def found(records, words):
    (claim,) = [one for one in claims(records) if words in one[0]]
    return claim


def test_without_records_nothing_is_claimed():
    assert {verdict for _, verdict, _ in claims([])} == {NOT_RUN}
    assert html.verdicts(claims([])).count("not run here") >= len(claims([]))


@pytest.mark.parametrize(("norms", "verdict"), [(2.05, HOLDS), (2.9, PART), (3.9, FAILS)])
def test_how_much_the_norms_repair(norms, verdict):
    records = [run("nothing", 4.0), run("norms", norms), run("full", 2.0)]
    assert found(records, "ruins a model")[1] == verdict


def test_matching_full_retraining_at_some_patterns_is_in_part():
    records = [run("norms", 2.01), run("full", 2.0), run("norms", 3.0, "70%"), run("full", 2.5, "70%")]
    _claim, verdict, evidence = found(records, "0.01 to 0.05 % of the parameters")
    assert verdict == PART
    assert "1.01 to 1.65 on text, at most 1.05 in 1 of 2 settings" in evidence


@pytest.mark.parametrize(
    ("biases", "verdict"), [([1] * 50, HOLDS), ([1] * 48 + [0] * 2, PART), ([1] * 10 + [0] * 40, FAILS)]
)
def test_biases_of_a_classifier(biases, verdict):
    def labelled(subset, correct):
        about = {
            "task": "classification",
            "criterion": "magnitude",
            "pattern": "70%",
            "subset": subset,
            "steps": 9,
        }
        result = {"lr": 1.0, "percent": 0.1, "tests": {"texts": {"correct": correct, "dense": 1.0}}}
        return Record("", "retrain", 1, about | {"rounds": 1, "seed": 0}, {}, result, {})

    assert found([labelled("biases", biases), labelled("full", [1] * 49 + [0])], "Biases alone")[1] == verdict


def test_adapters_side_by_side():
    records = [run("masklora", 2.0, "70%"), run("norms", 2.5, "70%"), run("lora-prune", 1.9, "70%")]
    assert found(records, "From 60 %")[1] == HOLDS
    assert found(records, "Masking during training")[1] == FAILS
    assert found(records, "without losing a zero")[1] == HOLDS
    assert found([*records, run("scalelora", 2.0, merged=False)], "without losing a zero")[1] == PART


def test_rounds_and_other_budgets_do_not_mix():
    records = [run("norms", 2.0), run("norms", 1.5, rounds=3), run("norms", 1.0, steps=99), run("full", 2.0)]
    assert found(records, "One-shot pruning")[1] == FAILS
    assert "1 to 1 on text" in found(records, "0.01 to 0.05 % of the parameters")[2]


def test_costs_and_counts():
    def timed(subset, speed, peak):
        result = {
            "trainable": 1,
            "percent": 1.0,
            "tokens_per_s": speed,
            "seconds_a_step": 1.0,
            "peak_bytes": peak,
        }
        return Record("", "step_cost", 1, {"subset": subset}, {}, result, {})

    assert found([timed("norms", 2.0, 4), timed("full", 1.0, 10)], "fraction of the memory")[1] == HOLDS
    assert found([timed("norms", 1.2, 4), timed("full", 1.0, 10)], "fraction of the memory")[1] == PART
    shares = {"subsets": {"norms": {"percent": 0.0046}, "biases": {"percent": 0.0127}}}
    counted = Record("", "share_trained", 1, {"architecture": "OPT-30B"}, {}, shares, {})
    assert found([counted], "of OPT-2.7B to 30B")[1] == PART  # 0.0046 % is below 0.005


def test_zero_shot_of_dense_pruned_and_retrained(language, tiny_place, monkeypatch):  # noqa: F811
    folder = tiny_place / "questions"
    folder.mkdir()
    questions = [{"goal": f"g{k}", "sol1": "a ship", "sol2": "the sea"} for k in range(4)]
    (folder / "valid.jsonl").write_text("\n".join(map(json.dumps, questions)))
    (folder / "valid-labels.lst").write_text("0\n1\n0\n1\n")
    monkeypatch.setattr(perp_claims, "NOTEBOOKS", ())
    study = Study(**language, tasks={"piqa": str(folder)}, zero_shot=["norms"], rates={"norms": 0.02})
    records = obtain(study.experiments(), progress=False)
    frame = perp_claims.zero_shot_table(records)
    assert list(frame["state"]) == ["dense", "pruned", "norms"]
    assert list(frame["questions"]) == [4, 4, 4]
    assert records[0].result["sparsity"] == 0
    assert found(records, "Zero-shot")[1] == NOT_RUN  # without full retraining


@pytest.mark.parametrize(
    ("dense", "norms", "full", "verdict"),
    [
        (0.70, 0.60, 0.61, HOLDS),  # 0.1 above pruned, errors 0.02: 3.5 errors of the difference
        (0.70, 0.60, 0.67, PART),  # full is 2.5 errors of the difference above norms
        (0.70, 0.52, 0.60, PART),  # norms are no better than pruned, full is
        (0.70, 0.52, 0.52, FAILS),
        (0.52, 0.52, 0.52, NOT_RUN),  # the task cannot tell dense from pruned
    ],
)
def test_zero_shot_verdicts(dense, norms, full, verdict):
    def asked(pattern, subset, accuracy):
        result = {"tasks": {"piqa": {"accuracy": accuracy, "error": 0.02, "questions": 600}}}
        return Record("", "zero_shot", 1, {"pattern": pattern, "subset": subset}, {}, result, {})

    states = ("0%", "nothing", dense), ("50%", "nothing", 0.5), ("50%", "norms", norms), ("50%", "full", full)
    _, given, evidence = found([asked(*state) for state in states], "Zero-shot")
    assert given == verdict
    assert ("piqa cannot tell" in evidence) == (verdict == NOT_RUN)


def test_the_runs_of_the_other_notebooks_are_judged(monkeypatch):
    monkeypatch.setattr("lmcompress.records.project_root", project_root)  # the checkout, with its config
    study = Study(runs_of="quick")
    kinds = {experiment.kind for experiment in study.experiments()}
    assert {"retrain", "reconstruct", "share_trained", "step_cost"} <= kinds
