"""The drawings of the concept pages show what the library computes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, OPTConfig

from lmcompress.prune import magnitude, wanda
from lmcompress.prune.pattern import Unstructured
from lmcompress.quantize import rtn
from lmcompress.quantize.formats import Bits
from lmcompress.report import bit_drawings, drawings

CONCEPTS = Path(__file__).parents[2] / "book" / "concepts"
PAGES = sorted(path.stem for path in CONCEPTS.glob("*.md"))


def made(name: str):
    return (getattr(drawings, name, None) or getattr(bit_drawings, name))()


@pytest.mark.parametrize("page", PAGES)
def test_each_concept_page_has_its_own_drawing(page):
    assert f"```{{drawing}} {page}\n```" in (CONCEPTS / f"{page}.md").read_text(encoding="utf-8")
    figure = made(page)
    assert len(figure.alt) > 60
    assert re.search(r"\d", figure.alt), "the alternative text names the numbers that the drawing shows"
    assert figure.svg == made(page).svg


def test_no_two_drawings_share_an_id():
    ids = [found for page in PAGES for found in re.findall(r'\bid="([^"]+)"', made(page).svg)]
    assert len(ids) == len(set(ids))


def test_pruning_keeps_what_the_library_keeps():
    table = drawings.pruning().table
    weight = torch.tensor(table["weight"].to_numpy().reshape(2, 4), dtype=torch.float32)
    half, norms = Unstructured(0.5), torch.tensor([1.0, 10.0, 1.0, 1.0])
    kept = {
        "magnitude": magnitude.per_row({"w": weight}, half)["w"],
        "Wanda": wanda.prune(weight, norms, half),
    }
    for name, mask in kept.items():
        assert table[f"kept by {name}"].tolist() == mask.flatten().tolist()


def test_quantization_rounds_as_the_library_does():
    table = bit_drawings.quantization().table
    weight = torch.tensor(table["weight"].to_numpy()[None], dtype=torch.float32)
    for name, format in (("one group of 8", Bits(3)), ("two groups of 4", Bits(3, group=4))):
        theirs = rtn.dequantize(rtn.quantize(weight, format))[0].numpy()
        assert np.allclose(table[name], theirs, atol=2e-3)  # their scale is stored in fp16


def test_shares_are_those_of_the_model():
    shape = drawings.OPT
    config = OPTConfig(
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["blocks"],
        ffn_dim=shape["mlp"],
        vocab_size=shape["tokens"],
        max_position_embeddings=shape["positions"] - 2,
        num_attention_heads=32,
        word_embed_proj_dim=shape["hidden"],
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    sizes = {name: one.numel() for name, one in model.named_parameters()}
    counted = drawings.subset_counts(**shape)
    assert counted["everything"] == sum(sizes.values())
    assert counted["norms"] == sum(size for name, size in sizes.items() if "layer_norm" in name)
    assert counted["biases"] == sum(size for name, size in sizes.items() if name.endswith(".bias"))


def test_help_of_the_other_weight_costs_least_on_the_line():
    rows = drawings.sparsegpt().table.set_index("")
    assert rows.loc["removed alone", "error"] == pytest.approx(0.25)
    assert rows.loc["removed, the other helps", "error"] == pytest.approx(0.09)


def test_second_order_is_closer_than_first():
    truth, first, second = bit_drawings.sensitivity().table["rise of the loss"]
    assert abs(second - truth) < abs(first - truth)
