"""What a method did not reach is counted in its report and its record, and can be read beside every number."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tiny import tiny_tokens
from tiny_assets import tiny_corpus, tiny_tokenizer
from tiny_families import FAMILIES

from lmcompress import covered
from lmcompress.cli.records import deviation
from lmcompress.cli.redo import compared
from lmcompress.models import block_linears
from lmcompress.prune.model import prune_model
from lmcompress.quantize.model import quantize_model
from lmcompress.records import Record, classes, experiment_class
from lmcompress.report.run_card import provenance
from lmcompress.retrain.reconstruct import reconstruct
from lmcompress.retrain.subsets import count

PARTIAL = {"Mixtral": 4 * 32 * 2, "Mamba": 2 * (64 * 4 + 64 * 8)}  # routers; convolutions and state matrices
WHOLE = ("GPT2", "Falcon", "Nemotron")


def model_of(family):
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(FAMILIES[family](), dtype=torch.float32).eval()


def test_the_sentence_by_hand():
    assert covered.told(1.0) == ""
    left = {"model.layers.0.mlp.gate.weight": 10, "model.layers.1.mlp.gate.weight": 10}
    expected = "covers 97.50 % of the weights in the blocks' matrices, not all; left as they were: "
    assert covered.told(0.975, left) == expected + "`model.layers.*.mlp.gate.weight`"
    assert covered.told(0.99999).startswith("covers 99.99 %")  # never rounded up to all
    many = {f"h.0.{name}": size for size, name in enumerate("abcde")}
    assert covered.told(0.5, many).endswith("`h.*.e`, `h.*.d`, `h.*.c` and 2 more kinds")


@pytest.mark.parametrize("family", [*PARTIAL, *WHOLE])
def test_every_report_counts_what_it_did_not_reach(family):
    model, batches = model_of(family), [{"input_ids": tiny_tokens(2)}]
    pruned = prune_model(model, "magnitude", "50%", progress=False)
    quantized = quantize_model(model, dict.fromkeys(block_linears(model), "4bit"), masks=pruned.masks)
    matrices = sum(layer.weight.numel() for layer in block_linears(model).values())
    expected = matrices / (matrices + PARTIAL.get(family, 0))
    assert sum(pruned.left.values()) == sum(quantized.left.values()) == PARTIAL.get(family, 0)
    for share in (pruned.coverage, quantized.coverage, count(model, "masklora").coverage):
        assert share == pytest.approx(expected)
        assert bool(covered.told(share)) == (family in PARTIAL)
    assert count(model, "norms").coverage == 1
    blocks = reconstruct(model, pruned.masks, batches, "masklora", lr=1e-3, steps=1, progress=False)
    assert all(block.coverage == pytest.approx(expected) for block in blocks)


def folder_of(family, place):
    model_of(family).save_pretrained(place)
    tiny_tokenizer().save_pretrained(place)
    return str(place)


@pytest.mark.parametrize("family", ["Mixtral", "GPT2"])
@pytest.mark.parametrize("kind", ["pruned_model", "truth", "score"])
def test_a_record_says_it_and_its_page_shows_it(family, kind, tmp_path):
    on = {
        "model": folder_of(family, tmp_path / "model"),
        "data": tiny_corpus(tmp_path / "corpus"),
        "length": 16,
    }
    scored = {
        "task": "language",
        "per": "block",
        "widths": [4],
        "group": "row",
        "symmetric": True,
        "windows": 2,
    }
    own = {
        "pruned_model": {"dtype": "fp32", "test": 4, "calibration": 2, "seed": 0, "layer_errors": False}
        | {"criterion": "magnitude", "pattern": "50%"},
        "truth": scored,
        "score": scored | {"score": "weight error", "seed": 0},
    }
    result = experiment_class(kind)(**on, **own[kind]).run()
    shown = provenance([Record("0" * 64, kind, 1, {}, {}, result, {"date": "2026-01-01"})])
    assert ("Not all of it." in shown) == ("left" in result) == (family == "Mixtral")
    if family == "Mixtral":
        assert 0.9 < result["covered"] < 1
        assert "mlp.gate.weight" in shown
    else:
        assert result["covered"] == 1
        assert "100 % of the weights in the blocks" in shown


def test_a_record_of_before_is_said_not_to_have_recorded_it():
    record = Record("0" * 64, "truth", 1, {}, {}, {"losses": {}}, {"date": "2026-01-01"})
    assert "<dt>covered</dt><dd>" in provenance([record])
    assert "not recorded" in provenance([record])
    assert "not recorded" not in provenance([replace(record, kind="dense_perplexity")])


def test_the_kinds_that_cover_blocks_are_those_whose_golden_result_says_so():
    golden = json.loads((Path(__file__).parent / "golden" / "results.json").read_text(encoding="utf-8"))
    assert {kind for kind, run in golden.items() if "covered" in run["result"]} == {
        kind for kind in golden if classes()[kind].covers
    }


def test_a_coverage_that_was_not_recorded_is_no_difference():
    old, new = {"value": 1.0}, {"value": 1.0, "covered": 1.0}
    assert deviation(old, new) == 0
    assert deviation(new, old) == math.inf
    assert [verdict for _, verdict, *_ in compared(old, new, 0.0)] == ["same"]
