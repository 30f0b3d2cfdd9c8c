"""Claims judged setting by setting, on a tiny model; and a language model that is given biases."""

import pytest
import torch
from perp_tiny import language, tiny_place  # noqa: F401

from lmcompress.experiments.biased import with_biases
from lmcompress.models import block_linears
from lmcompress.pages import other_settings
from lmcompress.pages.other_settings import Study
from lmcompress.records import obtain
from lmcompress.report.html import NOT_RUN


@pytest.fixture(scope="module")
def study(language):  # noqa: F811
    compared = [{"subsets": ["nothing", "norms", "full"]}, {"criteria": ["wanda"], "subsets": ["nothing"]}]
    on = {"compared": [{"subsets": ["nothing", "biases"]}], "biases": 8, "length": 16}
    return Study(
        **language,
        settings=[{"name": "as it comes", "compared": compared}, {"name": "with biases", **on}],
        budgets=[4, 8],
    )


@pytest.fixture(scope="module")
def records(study):
    return obtain(study.experiments(), progress=False)


def test_every_setting_has_its_own_runs(study, records):
    rows = other_settings.levels(study, records)
    assert set(rows["setting"]) == {"as it comes", "with biases"}
    one, other = (set(rows[rows["setting"] == name]["retrained"]) for name in ("as it comes", "with biases"))
    assert (one, other) == ({"nothing", "norms", "full"}, {"nothing", "biases"})


def test_a_claim_is_judged_only_where_its_runs_are(study, records):
    frame = other_settings.verdict_table(study, records).set_index("claim")
    contender = next(name for name in frame.index if name.startswith("With its norms retrained"))
    assert frame.loc[contender, "as it comes"] != NOT_RUN
    assert frame.loc[contender, "with biases"] == NOT_RUN


def test_biases_begin_at_zero_and_are_worth_what_their_ablation_costs(language, records):  # noqa: F811
    (row,) = other_settings.biases_table(records).to_dict("records")
    assert row["with trained biases"] != row["these set to zero"]
    about = (language["model"], "fp32", language["corpus"], 16, language["batch"])
    model, _ = with_biases(*about, 8)
    assert row["biases"] == sum(layer.out_features for layer in block_linears(model).values())
    assert all(torch.count_nonzero(layer.bias) for layer in block_linears(model).values())
    untrained, _ = with_biases(*about, 0)
    assert not any(torch.count_nonzero(layer.bias) for layer in block_linears(untrained).values())


def test_budgets_are_compared_at_their_own_rates(study, records):
    rows = other_settings.budget_table(study, records)
    assert sorted(set(rows["steps"])) == [4, 8]
    assert set(rows["subset"]) == set(other_settings.BUDGET_SUBSETS)
    assert rows["passes"].max() == pytest.approx(8 * 4 / 48)
    assert "8 steps" in other_settings.budget_figure(rows, "50%").alt
