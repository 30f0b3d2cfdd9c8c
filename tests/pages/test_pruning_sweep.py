import json
import math

import pytest
import torch
from tiny_assets import tiny_corpus, tiny_model_folder

from lmcompress import data, models
from lmcompress.errors import ParameterError
from lmcompress.evaluate import perplexity
from lmcompress.experiments import one_shot
from lmcompress.pages import pruning_sweep
from lmcompress.prune.model import prune_model
from lmcompress.records import compute
from lmcompress.report import figures, pruning_figures, pruning_tables


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    place = tmp_path_factory.mktemp("assets")
    return {
        "model": tiny_model_folder(place / "llama"),
        "data": tiny_corpus(place / "corpus", 400),
        "dtype": "fp32",
        "length": 32,
        "test": 6,
        "calibration": 4,
        "criteria": ["random", "magnitude", "magnitude-global", "magnitude-row", "wanda", "sparsegpt"],
        "sparsities": ["50%"],
        "seeds": [0, 1],
        "share": 0.1,
    }


@pytest.fixture(scope="module")
def found(given):
    return [compute(experiment) for experiment in pruning_sweep.Study(**given).experiments()]


def of(records, **parameters):
    return [
        record
        for record in records
        if all(record.parameters.get(name) == value for name, value in parameters.items())
    ]


def test_a_run_is_pruning_and_evaluation_by_hand(given, found):
    model, tokenizer = models.load(given["model"])
    windows = data.windows(given["data"], tokenizer, "test", 32, 6)
    calibration = data.windows(given["data"], tokenizer, "calibration", 32, 4, seed=1)
    dense = perplexity(model, windows)
    report = prune_model(model, "wanda", 0.5, data.batches(calibration, 8), progress=False)
    expected = perplexity(model, windows)
    (run,) = of(found, criterion="wanda", pattern="50%", seed=1)
    assert run.result["perplexity"]["value"] == pytest.approx(expected.value, rel=1e-5)
    assert run.result["dense"]["value"] == pytest.approx(dense.value, rel=1e-5)
    assert run.result["sparsity"] == report.sparsity
    name = "model.layers.1.mlp.down_proj"
    error = run.result["errors"]["mlp.down_proj"][1]
    assert error == pytest.approx(report.layers[name].relative_error, rel=1e-3)
    json.dumps(run.result, allow_nan=False)


def test_seeds_are_drawn_where_they_matter_only(found):
    seeds = {
        criterion: {run.parameters["seed"] for run in of(found, criterion=criterion, pattern="50%")}
        for criterion in pruning_tables.ORDER
    }
    assert seeds == {
        "random": {0, 1},
        "magnitude": {0},
        "magnitude-global": {0},
        "magnitude-row": {0},
        "wanda": {0, 1},
        "sparsegpt": {0, 1},
    }
    assert {run.parameters["criterion"] for run in of(found, pattern="2:4")} == {
        "random",
        "magnitude",
        "wanda",
        "sparsegpt",
    }
    assert all(
        bool(run.result["errors"]) == (run.parameters["pattern"] == "50%")
        for run in of(found, criterion="wanda")
    )


def test_a_sum_of_outliers_by_hand(given, monkeypatch):
    """Inputs whose first feature is 50 times as large: it is the peak, and nearly all of the energy."""
    (experiment,) = [
        one for one in pruning_sweep.Study(**given).experiments() if isinstance(one, one_shot.InputNorms)
    ]
    model = one_shot._dense(given["model"], "fp32")[0]
    norms = {name: torch.ones(linear.in_features) for name, linear in models.block_linears(model).items()}
    for values in norms.values():
        values[0] = 50
    monkeypatch.setattr(one_shot, "_norms", lambda _on: norms)
    monkeypatch.setattr(one_shot, "_largest", lambda values, share: values.topk(1).indices)
    result = experiment.run()
    assert result["peak"]["mlp.up_proj"] == pytest.approx([50] * 3)
    assert result["energy"]["mlp.up_proj"] == pytest.approx([2500 / 2531] * 3, rel=1e-4)
    weight = models.block_linears(model)["model.layers.2.mlp.up_proj"].weight.abs()
    share = 50 * weight[:, 0].sum() / (50 * weight[:, 0].sum() + weight[:, 1:].sum())
    assert result["score"]["mlp.up_proj"][2] == pytest.approx(share.item(), rel=1e-3)


def test_norms_are_those_of_the_dense_models_inputs(given):
    on = next(iter(pruning_sweep.Study(**given).experiments()))
    model = one_shot._dense(given["model"], "fp32")[0]
    seen = []
    handle = model.model.layers[2].mlp.down_proj.register_forward_pre_hook(lambda _m, x: seen.append(x[0]))
    for batch in on.batches():
        model(**batch)
    handle.remove()
    expected = torch.cat([x.flatten(0, 1) for x in seen]).norm(dim=0)
    torch.testing.assert_close(
        one_shot._norms(on)["model.layers.2.mlp.down_proj"], expected, rtol=1e-4, atol=1e-5
    )


def test_spared_columns_stay_and_as_many_weights_go(given, found):
    plain, *_ = of(found, criterion="magnitude", pattern="50%")
    for run in of(found, action="spare"):
        assert run.result["sparsity"] == plain.result["sparsity"]
    for run in of(found, action="drop"):
        assert 0 < run.result["sparsity"] < 0.15
    spare = one_shot.FewColumns(**of(found, action="spare")[0].parameters)
    weight = torch.randn(8, 20, generator=torch.Generator().manual_seed(0))
    kept = spare._mask(weight, torch.tensor([3, 11]))
    assert kept[:, [3, 11]].all()
    others = weight.abs()[:, [column for column in range(20) if column not in (3, 11)]].flatten()
    assert int((~kept).sum()) == 81
    assert weight.abs()[~kept].max() == others.sort().values[80]


def test_the_dense_model_is_left_as_it_was(given, found):
    again, _ = models.load(given["model"])
    for key, value in again.state_dict().items():
        assert torch.equal(one_shot._dense(given["model"], "fp32")[0].state_dict()[key], value)


def test_tables_and_figures_say_what_the_records_say(found):
    table = pruning_tables.sweep(found)
    assert len(table) == 6 + 4
    row = table[(table["criterion"] == "wanda") & (table["pattern"] == "50%")].iloc[0]
    runs = of(found, criterion="wanda", pattern="50%")
    nll = sum(sum(run.result["nll"]) / 6 for run in runs) / 2
    assert row["perplexity"] == pytest.approx(math.exp(nll))
    assert row["seeds"] == 2
    assert row["low"] <= row["perplexity"] <= row["high"]
    assert len(pruning_tables.inputs(found)) == 3 * 7
    assert len(pruning_tables.by_depth(found, "50%")) == 3 * 6
    assert len(pruning_tables.few_columns(found)) == 5
    for figure in (
        pruning_figures.perplexity(found),
        pruning_figures.patterns(found),
        pruning_figures.by_depth(found, "50%"),
        pruning_figures.inputs(found),
        pruning_figures.few_columns(found),
        pruning_figures.cost(found),
    ):
        assert figure.svg.startswith("<svg")
    figures.table(pruning_tables.outlier_summary(found), "caption")
    figures.table(table, pruning_tables.about(found))
    figures.verdicts(pruning_tables.claims(found))
    assert "2 draws" in pruning_tables.about(found)


def test_the_page_stands_without_patterns_and_with_few_criteria(given, found):
    study = pruning_sweep.Study(**{**given, "criteria": ["wanda"], "patterns": [], "seeds": [0]})
    wanted = [experiment.model_dump(mode="json") for experiment in study.experiments()]
    few = [record for record in found if record.parameters in wanted]
    assert len(few) == len(wanted) == 7
    assert len(pruning_tables.claims(few)) == 3
    assert pruning_figures.patterns(few).svg
    assert pruning_figures.perplexity(few).svg


def test_verdicts_follow_the_numbers(found):
    verdicts = {claim: verdict for claim, verdict, _ in pruning_tables.claims(found)}
    assert len(verdicts) == 8
    better, worse = (
        of(found, criterion="sparsegpt", pattern="50%"),
        of(found, criterion="wanda", pattern="50%"),
    )
    for run in better:
        run.result["nll"] = [nll - 0.5 for nll in worse[0].result["nll"]]
    claim = next(claim for claim in verdicts if "SparseGPT" in claim)
    assert {one: verdict for one, verdict, _ in pruning_tables.claims(found)}[claim] == "holds"
    for run in better:
        run.result["nll"] = [nll + 0.5 for nll in worse[0].result["nll"]]
    assert {one: verdict for one, verdict, _ in pruning_tables.claims(found)}[claim] == "does not hold here"


def test_what_cannot_be_pruned_is_a_result_too(given, found, monkeypatch):
    on = of(found, criterion="sparsegpt", pattern="2:4")[0]
    monkeypatch.setattr("lmcompress.prune.sparsegpt.DAMPING", (-1e3,))
    failed = compute(on.again())
    assert "no Cholesky factor" in failed.result["failed"]
    table = pruning_tables.sweep([failed if run is on else run for run in found])
    assert len(table) == 10
    assert not pruning_tables.complete([failed])
    assert pruning_tables.complete(found) == found


def test_impossible_parameters_are_refused(given):
    for change, message in (
        ({"criteria": ["wandah"]}, "criteria"),
        ({"sparsities": [1.5]}, "sparsities"),
        ({"sparsity": 0.5}, "no such parameter"),
        ({"model": "no such model"}, "a local folder"),
    ):
        with pytest.raises(ParameterError, match=message):
            pruning_sweep.Study(**{**given, **change})
    for errors_at, valid in (([], "at least 1 item"), (["60%"], "at least one of 50%, 2:4")):
        with pytest.raises(ParameterError, match=valid):
            pruning_sweep.Study(**{**given, "errors_at": errors_at}).experiments()
    assert pruning_sweep.Study(**{**given, "sparsities": "[0.5]"}).sparsities == ("50%",)
    assert pruning_sweep.Study(**{**given, "patterns": "[2:4, 4:8]"}).patterns == ("2:4", "4:8")
