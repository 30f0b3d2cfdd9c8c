"""The model of a record, made again, is the one that the record's numbers are of."""

import json
import math

import pytest
import torch
import transformers
from tiny_assets import tiny_corpus, tiny_model_folder

from lmcompress import data, records
from lmcompress.cli import main
from lmcompress.errors import ParameterError
from lmcompress.evaluate import perplexity
from lmcompress.experiments import one_shot, pruned
from lmcompress.experiments.joint import Joint
from lmcompress.experiments.one_shot import PrunedModel
from lmcompress.experiments.reconstructed import Reconstruct
from lmcompress.experiments.retrained import Retrain
from lmcompress.experiments.subjects import measure
from lmcompress.experiments.uniform import UniformFormat
from lmcompress.export import export
from lmcompress.prune import mask

PERP = {
    "dtype": "fp32", "length": 32, "batch": 4, "criterion": "wanda", "calibration": 4, "retraining": 16,
    "validation": 4, "test": 4, "seed": 0,
}  # fmt: skip
CPTQUANT = {"task": "language", "length": 32, "windows": 4, "seed": 0, "test": 4, "group": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMCOMPRESS_ROOT", str(folder))
        for cached in (pruned._dense, pruned._texts, pruned._pruned, pruned._reference, one_shot._dense,
                       one_shot._reference):  # fmt: skip
            cached.cache_clear()
        tiny_model_folder(folder / "llama")
        tiny_corpus(folder / "corpus", 600)
        yield folder


def exported(place, experiment, out, **options):
    (record,) = records.obtain([experiment], progress=False)
    export(record.key[:16], out, **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto")
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    assert record.key[:12] in (out / "README.md").read_text()
    assert json.loads((out / "lmcompress.json").read_text())["record"] == record.key
    windows = data.windows(str(place / "corpus"), tokenizer, "test", 32, 4)
    return record, model, windows


@pytest.mark.parametrize("kind", ["pruned", "retrained", "reconstructed"])
def test_pruned_models(kind, place, tmp_path):
    about = PERP | {"model": str(place / "llama"), "data": str(place / "corpus"), "pattern": "2:4"}
    corpus = (str(place / "corpus"),)
    if kind == "pruned":
        few = {key: about[key] for key in ("model", "data", "dtype", "length", "test", "calibration", "seed")}
        run = PrunedModel(**few, criterion="wanda", pattern="2:4", layer_errors=False)
    elif kind == "retrained":
        run = Retrain(**about, tests=corpus, subset="masklora", steps=3, lr=1e-2)
    else:
        run = Reconstruct(**about, tests=corpus, subset="norms", granularity="block", steps=3, lr=1e-2)
    record, model, windows = exported(place, run, tmp_path / "out")
    told = (
        record.result["perplexity"]["value"]
        if kind == "pruned"
        else record.result["tests"][corpus[0]]["perplexity"]
    )
    assert perplexity(model, windows).value == pytest.approx(told, rel=1e-6)
    assert str(told) in (tmp_path / "out" / "README.md").read_text()
    masks = mask.load(tmp_path / "out" / "masks.safetensors")
    mask.check(model, masks)
    assert mask.sparsity(masks) == 0.5


@pytest.mark.parametrize(("symmetric", "width"), [(True, 4), (False, 4), (True, 3)])
def test_quantized_models_are_packed_where_the_format_can_hold_them(symmetric, width, place, tmp_path):
    about = CPTQUANT | {"model": str(place / "llama"), "data": str(place / "corpus"), "symmetric": symmetric}
    run = UniformFormat(**about, method="gptq", widths=(width, 8), per="block")
    with pytest.raises(ParameterError, match=r"0: \d.* bits a weight; 1: "):
        exported(place, run, tmp_path / "out")
    record, model, windows = exported(place, run, tmp_path / "out", point=0)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert ("quantization_config" in config) == (width == 4)
    assert ("stored as they read" in (tmp_path / "out" / "README.md").read_text()) == (width == 3)
    loss = float(measure(model, data.batches(windows, 4)).losses.mean())
    assert loss == pytest.approx(record.result["points"][0]["loss"], rel=1e-5)


def test_a_joint_choice_has_its_masks(place, tmp_path):
    about = CPTQUANT | {"model": str(place / "llama"), "data": str(place / "corpus"), "symmetric": True}
    run = Joint(**about, patterns=("0%", "2:4"), widths=(4,), criterion="wanda", averages=(4.5,))
    record, model, windows = exported(place, run, tmp_path / "out")
    masks = mask.load(tmp_path / "out" / "masks.safetensors")
    assert masks
    assert all(mask.sparsity({name: kept}) == 0.5 for name, kept in masks.items())
    with torch.no_grad():
        model(windows)  # which decompresses the weights
    mask.check(model, masks)
    value = math.log(perplexity(model, windows).value)
    assert value == pytest.approx(record.result["points"][0]["loss"], rel=1e-5)


def test_what_has_no_model_is_refused(place, tmp_path, capsys):
    about = PERP | {"model": str(place / "llama"), "data": str(place / "corpus"), "pattern": "2:4"}
    run = Retrain(**about, tests=(str(place / "corpus"),), subset="new-biases", steps=1, lr=1e-3)
    (record,) = records.obtain([run], progress=False)
    with pytest.raises(ParameterError, match="new-biases does not"):
        export(record.key, tmp_path / "out")
    assert main(["export", "no-such-key", str(tmp_path / "out")]) == 2
    assert "0 begin so" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    assert main(["export", record.key, str(tmp_path / "out")]) == 2
    assert "does not exist yet" in capsys.readouterr().err
