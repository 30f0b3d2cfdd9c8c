"""The library's face: what it offers is there, imports nothing early, and does what the functions behind it do."""

import inspect
import subprocess
import sys

import pytest
import torch
from tiny import tiny_model, tiny_tokens

import lmcompress
from lmcompress import (
    Bits,
    Training,
    Walk,
    allocate,
    evaluate,
    load,
    prune_model,
    quantize_model,
    reconstruct,
    retrain,
)
from lmcompress.errors import ParameterError
from lmcompress.evaluate import perplexity, reference
from lmcompress.models import block_linears
from lmcompress.prune import mask
from lmcompress.prune import model as pruning
from lmcompress.sensitivity.agreement import Scores

QUIET = Walk(progress=False)


def batches():
    return [{"input_ids": part} for part in tiny_tokens(8, 16).split(4)]


@pytest.mark.parametrize(
    "first",
    [
        "",
        "import lmcompress.retrain.train, lmcompress.allocate.solve, lmcompress.evaluate, lmcompress.compress",
    ],
)
def test_the_face_is_the_same_whatever_was_imported_before_and_needs_no_torch_to_be_listed(first):
    code = f"""
import sys
import lmcompress
assert "torch" not in sys.modules
assert set(lmcompress.FACE) <= set(dir(lmcompress))
{first}
from lmcompress import {", ".join(lmcompress.FACE)}
import lmcompress.retrain.subsets, lmcompress.allocate.clusters
from lmcompress import retrain
assert all(callable(one) for one in ({", ".join(lmcompress.FACE)})), "callable"
retrain.train, allocate.solve, evaluate.perplexity, compress.check
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_argument_has_a_line_of_its_own():
    from lmcompress import api

    for name in ("prune_model", "retrain", "reconstruct", "quantize_model", "allocate", "evaluate"):
        function = getattr(api, name)
        lines = [line.strip().partition(":")[0] for line in inspect.getdoc(function).splitlines()]
        assert set(inspect.signature(function).parameters) <= set(lines), name
        assert len(inspect.signature(function).parameters) <= 9


def test_prune_retrain_quantize_evaluate():
    model, expected, windows = tiny_model("llama"), tiny_model("llama"), tiny_tokens(8, 16)
    dense = reference(model, windows)
    masks = prune_model(model, "wanda", "2:4", batches(), walk=QUIET).masks
    pruning.prune_model(expected, "wanda", "2:4", batches(), progress=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    before = evaluate(model, windows)
    assert before.value == perplexity(expected, windows).value
    report = retrain(
        model, windows, "masklora", masks, training=Training(steps=5, lr=1e-2, batch_size=4), progress=False
    )
    assert len(report.losses) == 5
    mask.check(model, masks)
    assert evaluate(model, windows).value < before.value
    found = quantize_model(model, Bits(4, 16), "gptq", batches(), masks=masks, walk=QUIET)
    assert set(found.layers) == set(block_linears(model))
    mask.check(model, masks)
    assert evaluate(model, windows, dense).ratio.value > 0


def test_reconstruct():
    model, masks = tiny_model("opt"), prune_model(tiny_model("opt"), "magnitude", 0.5).masks
    found = reconstruct(model, masks, batches(), "biases", training=Training(steps=4, lr=1e-2), walk=QUIET)
    assert all(block.after <= block.before for block in found)
    mask.check(model, masks)


def test_allocate_gives_the_layers_that_matter_more_bits():
    model = tiny_model("llama")
    names = list(block_linears(model))
    scores = Scores({name: 100.0 if index < 3 else 0.01 for index, name in enumerate(names)}, 0.0)
    formats = allocate(model, scores, 4.6, widths=(2, 8), like=Bits(4, 16))
    assert {str(formats[name]) for name in names[:3]} == {"8bit-g16"}
    assert {"2bit-g16"} <= {str(formats[name]) for name in names[3:]}
    paid = sum(formats[name].bytes_for(layer.weight.shape) for name, layer in block_linears(model).items())
    assert 8 * paid <= 4.6 * sum(layer.weight.numel() for layer in block_linears(model).values())
    with pytest.raises(ParameterError, match="budget"):
        allocate(model, scores, 0.5, like=Bits(4, 16))


def test_load_is_the_one_of_models():
    from lmcompress import models

    assert load is models.load
    with pytest.raises(AttributeError, match="no attribute 'prune_'"):
        _ = lmcompress.prune_
