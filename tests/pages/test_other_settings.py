"""Claims judged setting by setting, on a tiny model; and a language model that is given biases."""

import pytest
import torch
from perp_tiny import language, tiny_place  # noqa: F401

from lmcompress.experiments.biased import with_biases
from lmcompress.models import block_linears
from lmcompress.pages import other_settings
from lmcompress.pages.other_settings import Study
from lmcompress.records import obtain
from lmcompress.report import budget_tables


@pytest.fixture(scope="module")
def study(language):  # noqa: F811
    compared = [{"subsets": ["nothing", "norms", "full"]}, {"criteria": ["wanda"], "subsets": ["nothing"]}]
    on = {"compared": [{"subsets": ["nothing", "biases"]}], "biases": 8, "length": 16}
    return Study(
        **language,
        settings=[{"compared": compared}, on],
        budgets=[4, 8],
    )


@pytest.fixture(scope="module")
def records(study):
    return obtain(study.experiments(), progress=False)


def test_every_setting_has_its_own_runs(records):
    rows = other_settings.levels(records)
    one, other = (set(rows[rows["setting"] == name]["retrained"]) for name in dict.fromkeys(rows["setting"]))
    assert (one, other) == ({"nothing", "norms", "full"}, {"nothing", "biases"})


def test_a_claim_is_judged_only_where_its_runs_are(records):
    one, other = other_settings.judged(records).values()
    assert "contender-norms" in [found.claim.id for found in one]
    assert not other
    with pytest.raises(LookupError, match="two settings"):
        other_settings.answer(records)


def test_settings_are_compared_with_full_retraining(records):
    (row,) = other_settings.ratios(records).to_dict("records")
    assert (row["retrained"], row["pattern"]) == ("norms", "50%")
    assert row["low"] <= row["times full"] <= row["high"]
    assert f"{row['times full']:.2f}" in other_settings.ratio_figure(records).alt


def test_biases_begin_at_zero_and_are_worth_what_their_ablation_costs(language, records):  # noqa: F811
    (row,) = budget_tables.biases_frame(records).to_dict("records")
    assert row["with trained biases"] != row["these set to zero"]
    about = (language["model"], "fp32", language["corpus"], 16, language["batch"])
    model, _ = with_biases(*about, 8)
    assert row["biases"] == sum(layer.out_features for layer in block_linears(model).values())
    assert all(torch.count_nonzero(layer.bias) for layer in block_linears(model).values())
    untrained, _ = with_biases(*about, 0)
    assert not any(torch.count_nonzero(layer.bias) for layer in block_linears(untrained).values())


def test_budgets_are_compared_at_their_own_rates(records):
    rows = budget_tables.budgets(records)
    assert {4, 8} <= set(rows["steps"])
    assert set(rows["subset"]) == set(other_settings.BUDGET_SUBSETS)
    assert set(rows[rows["steps"] == 8]["passes"]) == {8 * 4 / 48}
    assert "steps" in budget_tables.budget_figure(records).alt
