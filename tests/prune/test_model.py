import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_tokens

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import block_linears
from lmcompress.prune import magnitude, mask, sparsegpt, wanda
from lmcompress.prune import model as prune
from lmcompress.prune.criteria import CRITERIA
from lmcompress.prune.model import prune_model
from lmcompress.prune.pattern import NofM, Unstructured
from lmcompress.stats import ColumnNorms, Gram, relative_output_error


def batches(count=4, size=2):
    return [{"input_ids": part} for part in tiny_tokens(count).split(size)]


def inputs_of(model, name, data):
    """Rows that one Linear sees in plain forward passes of the model: an independent reference."""
    seen = []

    def collect(_module, arguments):
        seen.append(arguments[0].reshape(-1, arguments[0].shape[-1]))

    handle = model.get_submodule(name).register_forward_pre_hook(collect)
    with torch.no_grad():
        for batch in data:
            model(**batch)
    handle.remove()
    return torch.cat(seen)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_prunes_every_family(family, criterion):
    model, dense = tiny_model(family), tiny_model(family)
    report = prune_model(model, criterion, 0.5, batches(), progress=False)
    assert list(report.masks) == list(report.layers) == list(block_linears(model))
    mask.check(model, report.masks)
    assert report.sparsity == pytest.approx(0.5, abs=0.002)
    assert all(0 < layer.relative_error < 2 and layer.seconds >= 0 for layer in report.layers.values())
    inside = {f"{name}.weight" for name in report.masks}
    for key, value in dense.state_dict().items():
        assert torch.equal(model.state_dict()[key], value) == (key not in inside), key


@pytest.mark.parametrize("criterion", [name for name, one in CRITERIA.items() if not one.by_data])
def test_criteria_without_data_are_the_pure_functions(criterion):
    model, seen = tiny_model("llama"), tiny_model("llama")
    weights = {name: linear.weight for name, linear in block_linears(tiny_model("llama")).items()}
    pure = {
        "magnitude": magnitude.per_matrix,
        "magnitude-row": magnitude.per_row,
        "magnitude-global": magnitude.over_model,
        "random": lambda weights, pattern: magnitude.at_random(weights, pattern, 3),
    }[criterion](weights, Unstructured(0.3))
    report = prune_model(model, criterion, "30%", seed=3)
    measured = prune_model(seen, criterion, "30%", batches(), seed=3, progress=False)
    for name, kept in pure.items():
        assert torch.equal(report.masks[name], kept)
        assert torch.equal(measured.masks[name], kept)
        assert torch.equal(model.get_submodule(name).weight, weights[name] * kept)
        assert report.layers[name].relative_error is None
        assert report.layers[name].sparsity == pytest.approx(1 - kept.float().mean().item())


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("pattern", [Unstructured(0.5), NofM(2, 4)])
def test_a_layer_is_pruned_on_what_it_sees_after_the_blocks_before_it(criterion, pattern):
    """The last block of the pruned model and its inputs, by hooks: the pure function gives the same
    weights.
    """
    model, dense = tiny_model("opt"), tiny_model("opt")
    report = prune_model(model, criterion, pattern, batches(), progress=False)
    last = "model.decoder.layers.2."
    with torch.no_grad():
        for name in report.masks:  # blocks 0 and 1 pruned, block 2 dense: what its visit saw
            if not name.startswith(last):
                dense.get_submodule(name).weight.copy_(model.get_submodule(name).weight)
    for name in [name for name in report.masks if name.startswith(last)]:
        x, weight = inputs_of(dense, name, batches()), dense.get_submodule(name).weight.detach()
        norms, gram = ColumnNorms(x.shape[1]), Gram(x.shape[1])
        norms.update(x)
        gram.update(x)
        if criterion == "wanda":
            kept = wanda.prune(weight, norms.result(), pattern)
            expected = weight * kept
        else:
            expected, kept, damping, _ = sparsegpt.prune(weight, gram.result(), pattern)
            assert report.layers[name].damping == damping
        assert torch.equal(report.masks[name], kept)
        found = model.get_submodule(name).weight.detach()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        error = relative_output_error(weight, expected, gram.result())
        assert report.layers[name].relative_error == pytest.approx(error, rel=1e-3)


def test_only_the_chosen_layers_are_pruned():
    model = tiny_model("llama")
    report = prune_model(model, "wanda", "2:4", batches(), layers="mlp", progress=False)
    assert len(report.masks) == 9
    assert all("mlp" in name for name in report.masks)
    assert report.sparsity == 0.5


def test_without_output_errors_wanda_prunes_the_same():
    one, other = tiny_model("llama"), tiny_model("llama")
    with_errors = prune_model(one, "wanda", 0.5, batches(), progress=False)
    without = prune_model(other, "wanda", 0.5, batches(), progress=False, output_errors=False)
    assert all(torch.equal(with_errors.masks[name], without.masks[name]) for name in without.masks)
    assert all(layer.relative_error is None for layer in without.layers.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"criterion": "wandah"}, "magnitude, magnitude-row, magnitude-global, random, wanda, sparsegpt"),
        ({"pattern": 1.0}, r"a sparsity in \[0, 1\)"),
        ({"pattern": "2:5"}, "divides the 32 inputs of model.layers.0"),
        ({"pattern": "4:2"}, "n < m"),
        ({"layers": "fc1"}, "a regular expression that matches"),
        ({"batches": None}, "calibration inputs for wanda"),
        ({"criterion": "magnitude-global", "pattern": "2:4"}, "an unstructured sparsity"),
    ],
)
def test_bad_parameters_are_refused_and_the_model_is_untouched(change, message):
    model = tiny_model("llama")
    arguments = {"criterion": "wanda", "pattern": 0.5, "batches": batches()} | change
    with pytest.raises(ParameterError, match=message):
        prune_model(model, **arguments)
    for key, value in tiny_model("llama").state_dict().items():
        assert torch.equal(model.state_dict()[key], value)


def test_a_weight_that_is_not_finite_is_named_before_anything_is_pruned():
    model = tiny_model("llama")
    model.model.layers[2].mlp.up_proj.weight.data[0, 0] = float("inf")
    with pytest.raises(NumericError, match=r"model\.layers\.2\.mlp\.up_proj: non-finite weight"):
        prune_model(model, "magnitude", 0.5)
    assert (model.model.layers[0].mlp.up_proj.weight != 0).all()


KILLED = """
import os, signal, sys
from pathlib import Path
from test_model import batches
from tiny import tiny_model
from lmcompress.prune import model as prune

decide, layers = prune._prune_layer, []

def and_die(name, *arguments):
    layers.append(name)
    if len(layers) == 10:  # in the middle of the second block of seven layers
        os.kill(os.getpid(), signal.SIGKILL)
    return decide(name, *arguments)

prune._prune_layer = and_die
prune.prune_model(tiny_model("llama"), "sparsegpt", 0.5, batches(), progress=False, checkpoint=sys.argv[1])
"""


def test_a_killed_process_is_resumed_at_its_block(tmp_path, monkeypatch):
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    call = [sys.executable, "-c", KILLED, str(tmp_path)]
    died = subprocess.run(call, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (tmp_path / "000.json").is_file()
    assert not (tmp_path / "001.json").is_file()

    decided, decide = [], prune._prune_layer

    def noted(name, *arguments):
        decided.append(name)
        return decide(name, *arguments)

    monkeypatch.setattr(prune, "_prune_layer", noted)
    model, whole = tiny_model("llama"), tiny_model("llama")
    resumed = prune_model(model, "sparsegpt", 0.5, batches(), progress=False, checkpoint=tmp_path)
    assert {name.split(".")[2] for name in decided} == {"1", "2"}
    expected = prune_model(whole, "sparsegpt", 0.5, batches(), progress=False)
    for key, value in whole.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert list(resumed.masks) == list(expected.masks)
    assert all(torch.equal(resumed.masks[name], kept) for name, kept in expected.masks.items())
    assert [layer.relative_error for layer in resumed.layers.values()] == [
        layer.relative_error for layer in expected.layers.values()
    ]
    with pytest.raises(ParameterError, match="belongs to"):
        prune_model(tiny_model("llama"), "wanda", 0.5, batches(), progress=False, checkpoint=tmp_path)
    with pytest.raises(
        ParameterError, match="another model, other inputs or other settings"
    ):  # not the dense model any more
        prune_model(model, "sparsegpt", 0.5, batches(), progress=False, checkpoint=tmp_path)
    assert json.loads((tmp_path / "prune.json").read_text())["pattern"] == "50%"
