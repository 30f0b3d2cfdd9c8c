"""What all scores share: finite, named, every width kept; weights that are changed and put back."""

import pytest
import torch
from sensing import assert_untouched, model_and_batches, rounding, snapshot
from tiny import FAMILIES, tiny_model, tiny_tokens

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import block_linears
from lmcompress.sensitivity import scores


def test_a_score_that_is_not_finite_is_refused_by_name():
    with pytest.raises(NumericError, match=r"b: sensitivity is nan"):
        scores.Scores({"a": 1.0, "b": float("nan")}, 0.0)
    with pytest.raises(NumericError, match="a"):
        scores.Scores({"a": 1.0}, 0.0, {"per_width": {"4": {"a": float("inf")}}})


def test_scores_at_a_width():
    with_widths = scores.Scores({"a": 1.0}, 0.0, {"per_width": {"4": {"a": 1.0}, "8": {"a": 0.1}}})
    assert with_widths.at(8) == {"a": 0.1}
    assert scores.Scores({"a": 1.0}, 0.0).at(8) == {"a": 1.0}
    with pytest.raises(ParameterError, match=r"bits: 3 .* one of 4, 8"):
        with_widths.at(3)


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_cover_every_linear_once(family):
    model = tiny_model(family)
    by_block = scores.layer_groups(model, "block")
    assert [name for inside in by_block.values() for name in inside] == list(block_linears(model))
    assert scores.layer_groups(model, "linear") == {
        name: {name: x} for name, x in block_linears(model).items()
    }


@pytest.mark.parametrize("widths", [[], [4, 4], [0], [17], ["4"], [4.0]])
def test_bad_widths_are_refused(widths):
    with pytest.raises(ParameterError, match="widths"):
        scores.check_widths(widths)


def test_windows_of_splits_every_entry():
    batch = {"input_ids": tiny_tokens(3, 5), "labels": torch.arange(3)}
    windows = scores.windows_of([batch, batch])
    assert len(windows) == 6
    assert torch.equal(windows[4]["input_ids"], batch["input_ids"][1:2])
    assert windows[4]["labels"].tolist() == [1]


def test_a_bad_quantizer_is_named():
    weight = torch.ones(2, 3)
    with pytest.raises(ParameterError, match="quantizer"):
        scores.quantized("layer", weight, lambda w, bits: w.T, 4)
    with pytest.raises(NumericError, match="layer layer: not finite after quantization to 4 bits"):
        scores.quantized("layer", weight, lambda w, bits: w / 0, 4)


def test_the_step_is_taken_in_single_precision():
    weight = torch.tensor([[1.0, 0.3, -0.5]]).bfloat16()
    step = scores.quantization_step("layer", weight, rounding, 2)
    assert step.dtype == torch.float32
    assert torch.equal(step, rounding(weight, 2).float() - weight.float())


def test_changes_and_flags_are_undone_after_a_failure():
    model, _ = model_and_batches("llama")
    weight = next(iter(block_linears(model).values())).weight
    model.model.norm.weight.requires_grad_(False)
    before = snapshot(model)

    def fail():
        with scores.only_gradients_of(model, [weight]), scores.changed({weight: weight * 3 + 1}):
            assert [p for p in model.parameters() if p.requires_grad] == [weight]
            assert not torch.equal(weight, before[0]["model.layers.0.self_attn.q_proj.weight"])
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        fail()
    assert_untouched(model, before)
