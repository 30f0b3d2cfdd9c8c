"""What a method did not reach is counted in its report and its record, and can be read beside every number."""

import pytest
import torch
import transformers
from tiny import tiny_tokens
from tiny_assets import tiny_corpus, tiny_tokenizer
from tiny_families import FAMILIES

from lmcompress import covered
from lmcompress.experiments.one_shot import PrunedModel
from lmcompress.models import block_linears
from lmcompress.prune.model import prune_model
from lmcompress.quantize.model import quantize_model
from lmcompress.records import Record
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


@pytest.mark.parametrize("family", ["Mixtral", "GPT2"])
def test_a_record_says_it_and_its_page_shows_it(family, tmp_path):
    model_of(family).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    result = PrunedModel(
        model=str(tmp_path / "model"),
        data=tiny_corpus(tmp_path / "corpus"),
        **{"dtype": "fp32", "length": 16, "test": 4, "calibration": 2, "seed": 0},
        **{"criterion": "magnitude", "pattern": "50%", "layer_errors": False},
    ).run()
    record = Record("0" * 64, "pruned_model", 1, {}, {}, result, {"date": "2026-01-01"})
    shown = provenance([record])
    assert ("covered" in result) == ("Not all of it." in shown) == (family == "Mixtral")
    if family == "Mixtral":
        assert 0.9 < result["covered"] < 1
        assert "mlp.gate.weight" in shown
