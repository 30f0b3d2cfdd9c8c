"""The measures behind PERP's verdicts, by hand, on records made up for them."""

import pytest

from lmcompress import plans
from lmcompress.pages import perp_claims
from lmcompress.pages.perp_claims import Study, claims
from lmcompress.records import Record
from lmcompress.report import html, perp_evidence
from lmcompress.report.html import FAILS, HOLDS, NOT_RUN, PART
from lmcompress.report.perp_evidence import judged


def run(
    subset, loss, pattern="50%", criterion="magnitude", seed=0, rank=16, percent=0.02, merged=True, **more
):
    about = {"task": "language", "criterion": criterion, "pattern": pattern, "subset": subset}
    about |= {"steps": 9, "rank": rank, "seed": seed, "tests": ["text"]}
    test = {"nll": [loss, loss + 0.1], "dense": 2.0, "kl": 0.5}
    result = {"lr": 1.0, "merged": merged, "percent": percent, "tests": {"text": test}, "tasks": {}} | more
    return Record("", "tuned", 1, about, {}, result, {})


def verdict(found, name):
    (one,) = [one for one in judged(found) if one.claim.id == name]
    return one.verdict


def three(subset, loss, *arguments, **options):
    return [run(subset, loss + 0.001 * seed, *arguments, seed=seed, **options) for seed in range(3)]


def test_without_records_nothing_is_claimed(monkeypatch):
    monkeypatch.setattr(perp_evidence, "benchmark", lambda _name: {"rows": []})  # which is no record
    assert {one.verdict for one in judged([])} == {NOT_RUN}
    assert html.verdicts(claims([])).count("not run here") >= len(claims([]))


@pytest.mark.parametrize(("norms", "word"), [(2.05, HOLDS), (3.9, FAILS)])
def test_how_much_the_norms_repair(norms, word):
    found = [*three("nothing", 4.0), *three("norms", norms), *three("full", 2.0)]
    assert verdict(found, "repairs") == word


def test_matching_full_retraining_after_some_prunings_is_in_part():
    found = [
        *three("norms", 2.01),
        *three("full", 2.0),
        *three("norms", 3.0, "70%"),
        *three("full", 2.5, "70%"),
    ]
    assert verdict(found, "matches-tiny") == PART


def test_magnitude_with_retraining_against_others_without():
    found = [*three("norms", 2.5), *three("nothing", 2.7, criterion="wanda")]
    assert verdict(found, "contender-norms") == HOLDS
    assert verdict([*found, *three("nothing", 2.2, criterion="sparsegpt")], "contender-norms") == PART
    assert verdict(found, "contender-masklora") == NOT_RUN


def test_ranks_of_the_claimed_share_alone_are_judged():
    full = three("full", 2.0)
    small = three("masklora", 2.01, rank=1, percent=0.23)
    assert verdict([*full, *three("masklora", 2.0, rank=16, percent=3.6)], "matches-small") == NOT_RUN
    assert verdict([*full, *small], "matches-small") == HOLDS


def test_adapters_side_by_side():
    found = [*three("masklora", 2.0, "70%"), *three("norms", 2.5, "70%"), *three("lora-prune", 1.9, "70%")]
    assert verdict(found, "high-sparsity") == HOLDS
    assert verdict(found, "masking") == FAILS
    assert verdict(found, "merges") == HOLDS
    assert verdict([*found, run("scalelora", 2.0, merged=False)], "merges") == FAILS


def test_biases_of_a_classifier_are_compared_text_by_text():
    def labelled(subset, correct, seed):
        found = run(subset, 0, seed=seed)
        found.parameters["task"] = "classification"
        found.result["tests"] = {"texts": {"correct": correct, "dense": 1.0}}
        return found

    same = [labelled(subset, [1] * 99 + [0], seed) for subset in ("biases", "full") for seed in range(3)]
    assert verdict(same, "biases") == HOLDS
    worse = [labelled("biases", [1] * 50 + [0] * 50, seed) for seed in range(3)]
    assert verdict([*same[3:], *worse], "biases") == FAILS


def test_zero_shot_is_judged_where_a_task_tells_dense_from_pruned():
    def asked(pattern, subset, right):
        hits = [1] * right + [0] * (200 - right)
        tasks = {
            "rte": {"hits": hits, "accuracy": right / 200, "error": 0.03, "questions": 200, "official": 277}
        }
        return run(subset, 2.0, pattern, tasks=tasks)

    silent = [asked("0%", "nothing", 101), asked("50%", "nothing", 100), asked("50%", "norms", 100)]
    assert verdict(silent, "zero-shot") == NOT_RUN
    telling = [asked("0%", "nothing", 160), asked("50%", "nothing", 100), asked("50%", "norms", 150)]
    assert verdict(telling, "zero-shot") == HOLDS
    assert list(perp_claims.zero_shot_table(telling)["model"]) == ["dense", "pruned", "norms"]


def test_counted_shares():
    shares = {"subsets": {"norms": {"percent": 0.0046}, "biases": {"percent": 0.0127}}}
    assert (
        verdict([Record("", "share_trained", 1, {"architecture": "OPT-30B"}, {}, shares, {})], "share")
        == HOLDS
    )


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_the_plans_hold_what_is_judged(profile, monkeypatch):
    monkeypatch.delenv("LMCOMPRESS_ROOT", raising=False)  # the checkout, with its config
    study = Study(**plans.profile(profile, "29_perp_claims"))
    kinds = {experiment.kind for experiment in study.experiments()}
    assert {"tuned", "retrain", "reconstruct", "share_trained", "step_cost"} <= kinds
