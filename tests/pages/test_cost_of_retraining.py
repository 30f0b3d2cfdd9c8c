"""Costs as a study: counts against the fact sheet's percentages, timings that are numbers, budgets that share runs."""

import pytest
from perp_tiny import language, tiny_place  # noqa: F401

from lmcompress.experiments.costs import ShareTrained
from lmcompress.pages import retrain_subsets
from lmcompress.pages.cost_of_retraining import Study
from lmcompress.records import obtain
from lmcompress.report.cost_tables import costs, trained_shares


@pytest.mark.parametrize(
    ("name", "subset", "percent"),
    [
        ("OPT-125M", "biases+norms", 0.0969),
        ("OPT-30B", "biases+norms+head-lora+masklora", 0.347),
        ("OPT-30B", "norms", 0.0046),
        ("LLaMA-2-7B", "norms", 0.0040),
        ("LLaMA-2-13B", "masklora", 0.481),
        ("Mistral-7B", "masklora", 0.579),
    ],
)
def test_shares_of_the_papers_models(name, subset, percent):
    found = ShareTrained(architecture=name, subsets=[subset]).run()["subsets"]
    assert found[subset]["percent"] == pytest.approx(percent, rel=0.013)


def test_a_llama_has_no_biases():
    assert ShareTrained(architecture="LLaMA-2-7B", subsets=["biases"]).run()["subsets"] == {"biases": None}


def test_costs_and_budgets(language):  # noqa: F811
    study = Study(
        **language,
        subsets=["norms", "masklora", "full"],
        timed_steps=2,
        architectures=["OPT-125M"],
        rates={"norms": 0.02, "full": 0.003},
        budgets=[4, 12],
    )
    records = obtain(study.experiments(), progress=False)
    frame = costs(records)
    assert list(frame["subset"]) == ["norms", "masklora", "full"]
    assert (frame[["tokens/s", "seconds a step", "peak memory (GiB)"]] > 0).all(axis=None)
    assert frame["times full"].iloc[2] == 1
    assert set(trained_shares(records)["model"]) == {"OPT-125M"}
    other = retrain_subsets.Study(
        **language, classifier="", subsets=["nothing", "norms"], rates={"norms": 0.02}
    )
    assert set(other.experiments()) <= set(study.experiments())  # the same runs, computed once for both pages
