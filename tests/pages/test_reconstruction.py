"""Reconstruction as a study: its runs, its tables, and that it helps on a tiny model."""

import pytest
from perp_tiny import language, tiny_place  # noqa: F401

from lmcompress.errors import ParameterError
from lmcompress.experiments.reconstructed import ChooseReconstructionRate, Reconstruct
from lmcompress.pages.reconstruction import Study
from lmcompress.records import obtain
from lmcompress.report.reconstruction_tables import block_errors, levels, method, methods


@pytest.fixture(scope="module")
def records(language):  # noqa: F811
    study = Study(
        **language, block_rates={"masklora": 0.01}, rates={"norms": 0.02}, targets=["sparse", "dense"]
    )
    return obtain(study.experiments(), progress=False)


def test_every_method_is_one_row(records, language):  # noqa: F811
    frame = methods(records, language["corpus"]).set_index("method")
    assert list(frame.index) == [
        "pruned",
        "norms retrained",
        "masklora by block",
        "masklora by block, dense targets",
        "masklora by attention and mlp",
        "masklora by attention and mlp, dense targets",
        "masklora by linear",
    ]
    assert (frame["low"] <= frame["perplexity"]).all()
    assert frame.loc["masklora by linear", "texts seen (tokens)"] == 8 * 32
    wide = levels(records, language["corpus"])
    assert len(wide) == 1
    assert wide["masklora by linear"].notna().all()


def test_no_block_gets_worse(records):
    frame = block_errors(records)
    wide = frame.pivot(index=["method", "block"], columns="state", values="relative error")
    assert (wide["reconstructed"] <= wide["pruned"]).all()
    assert frame["improved"].any()
    assert set(frame["block"]) == {0, 1, 2}


def test_rates_are_chosen_once_for_all_criteria(language):  # noqa: F811
    study = Study(
        **language,
        criteria=["magnitude", "wanda"],
        granularities=["block", "linear"],
        block_subsets=["norms", "masklora"],
        block_rate_pattern="50%",
        retrained=["nothing"],
    )
    found = study.experiments()
    choices = [one for one in found if isinstance(one, ChooseReconstructionRate)]
    assert [(one.subset, one.granularity) for one in choices] == [
        ("norms", "block"),
        ("masklora", "block"),
        ("masklora", "linear"),
    ]
    runs = [one for one in found if isinstance(one, Reconstruct)]
    assert len(runs) == 6
    assert found[: len(choices)] == choices


def test_a_chosen_rate_is_the_best_of_its_trials(language):  # noqa: F811
    study = Study(**language, granularities=["block"], block_rate_pattern="50%", retrained=[], block_steps=4)
    choice, run = obtain(study.experiments(), progress=False)
    losses = {trial["lr"]: trial["loss"] for trial in choice.result["trials"] if trial["loss"] is not None}
    assert run.result["lr"] == min(losses, key=losses.get)
    assert method(run) == "masklora by block"


@pytest.mark.parametrize(
    "change",
    [
        {"granularities": ["layer"]},
        {"targets": ["both"]},
        {"more": [{"rounds": [1]}]},
        {"block_rate_pattern": "2"},
    ],
)
def test_bad_parameters_are_refused(change):
    with pytest.raises(ParameterError):
        Study(**change)
