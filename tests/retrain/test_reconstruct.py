"""Reconstruction: the closed gradient against replayed tokens, errors that only fall, zeros that
stay, and resuming.
"""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, FAMILIES, tiny_model, tiny_tokens
from torch import nn

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears, blocks
from lmcompress.prune import mask
from lmcompress.prune.model import prune_model
from lmcompress.retrain.local import AffineGram, error_and_gradient
from lmcompress.retrain.reconstruct import GRANULARITIES, reconstruct

QUIET = {"progress": False}


def inputs(count=6, length=12, size=2):
    return [{"input_ids": part} for part in tiny_tokens(count, length).split(size)]


def random_masks(model, keep=0.5):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(layer.weight.shape, generator=generator) < keep
        for name, layer in block_linears(model).items()
    }


def run(family="llama", spec="masklora", dtype=torch.float32, **options):
    model = tiny_model(family).to(dtype)
    masks = random_masks(model)
    options = {"lr": 3e-3, "steps": 24, **QUIET} | options
    return model, masks, reconstruct(model, masks, inputs(), spec, **options)


def block_outputs(model, data):
    """Outputs of every block, by hooks on plain forward passes: [blocks][batches] -> [B, T, D]."""
    found = {name: [] for name in blocks(model)}
    handles = [
        block.register_forward_hook(
            lambda _m, _a, out, name=name: found[name].append(out[0] if isinstance(out, tuple) else out)
        )
        for name, block in blocks(model).items()
    ]
    with torch.no_grad():
        for batch in data:
            model(**batch)
    for handle in handles:
        handle.remove()
    return list(found.values())


def test_error_and_gradient_by_hand():
    """One output, inputs (1, 2) and (3, 0), difference (1, -1) of the weights and 2 of the bias: outputs off
    by 1 and 5, mean square 13; the gradient is the mean of 2 * off * (x, 1)."""
    gram = AffineGram(2, torch.float64)
    gram.update(torch.tensor([[1.0, 2.0], [3.0, 0.0]], dtype=torch.float64))
    error, gradient = error_and_gradient(torch.tensor([[1.0, -1.0, 2.0]], dtype=torch.float64), gram.result())
    assert error.item() == pytest.approx(13)
    assert gradient.tolist() == [[pytest.approx(1 * 1 + 5 * 3), pytest.approx(1 * 2 + 0), pytest.approx(6)]]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 20), st.integers(0, 99))
def test_the_closed_gradient_is_autograds_over_all_tokens(inputs, outputs, tokens, seed):
    generator = torch.Generator().manual_seed(seed)
    dense, other = (
        torch.randn(outputs, inputs + 1, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    x = torch.randn(tokens, inputs, generator=generator, dtype=torch.float64)
    leaf = other.clone().requires_grad_(True)
    plain = (x @ (leaf - dense)[:, :-1].T + (leaf - dense)[:, -1]).square().mean()
    plain.backward()
    gram = AffineGram(inputs, torch.float64)
    for part in x.split(3):
        gram.update(part)
    error, gradient = error_and_gradient(other - dense, gram.result())
    torch.testing.assert_close(error, plain.detach())
    torch.testing.assert_close(gradient, leaf.grad)


def test_one_linear_step_is_adam_on_the_exact_gradient():
    """The first update of Adam is the sign of the gradient: compared, for every weight of every Linear, with
    the gradient that autograd finds by replaying the tokens."""
    dense, (model, masks, _) = (
        tiny_model("opt"),
        run("opt", "full", steps=1, lr=1e-4, warmup=0.0, granularity="linear"),
    )
    first = next(iter(blocks(dense)))
    seen = {}
    handles = [
        layer.register_forward_pre_hook(lambda _m, a, name=name: seen.setdefault(name, []).append(a[0]))
        for name, layer in block_linears(dense).items()
        if name.startswith(first)
    ]
    with torch.no_grad():
        for batch in inputs():
            dense(**batch)
    for handle in handles:
        handle.remove()
    for name, parts in seen.items():
        layer = dense.get_submodule(name)
        x = torch.cat([part.reshape(-1, part.shape[-1]) for part in parts]).double()
        start = (layer.weight * masks[name]).double().detach().requires_grad_(True)
        (x @ (start - layer.weight.double()).T).square().mean().backward()
        sizeable = masks[name] & (start.grad.abs() > 1e-4 * start.grad.abs().max())
        moved = (model.get_submodule(name).weight - layer.weight * masks[name])[sizeable]
        assert torch.equal(moved.sign(), -start.grad.sign()[sizeable].float())


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_and_granularity_gets_closer_and_keeps_the_zeros(family, granularity):
    model, masks, report = run(family, "masklora", granularity=granularity, rank=4)
    assert [block.name for block in report] == list(blocks(model))
    assert all(block.after <= block.before for block in report)
    assert sum(block.improved for block in report) >= 2
    mask.check(model, masks)
    assert all(type(layer) is nn.Linear for layer in block_linears(model).values())
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("targets", ["sparse", "dense"])
def test_reported_errors_are_those_of_the_finished_model(targets):
    """Recomputed by hooks: the output of each finished block on the finished prefix, against the dense."""
    dense = tiny_model("llama")
    model, _, report = run(targets=targets, steps=8)
    data, finished = inputs(), block_outputs(model, inputs())
    for index, name in enumerate(blocks(dense)):
        if targets == "dense":
            wanted = block_outputs(dense, data)[index]
        else:  # a model with the finished blocks before this one and the dense one here
            mixed = copy.deepcopy(model)
            mixed.set_submodule(name, copy.deepcopy(dense.get_submodule(name)))
            wanted = block_outputs(mixed, data)[index]
        error = sum((y - t).square().sum() for y, t in zip(finished[index], wanted, strict=True))
        assert report[index].after == pytest.approx(
            float(error / sum(t.square().sum() for t in wanted)), rel=1e-4
        )


@pytest.mark.parametrize(
    "spec",
    [
        "biases",
        "norms",
        "biases+norms",
        "full",
        "lora",
        "lora-prune",
        "scalelora",
        "scalelora-free",
        "norms+masklora",
    ],
)
def test_every_subset_inside_the_blocks_trains_only_itself(spec):
    before = tiny_model("opt")
    model, masks, report = run("opt", spec, lr=1e-2)
    assert sum(block.improved for block in report) >= 2
    mask.check(model, masks)
    mask.apply(before, masks)
    old, new = dict(before.named_parameters()), dict(model.named_parameters())
    changed = {name for name, value in old.items() if not torch.equal(value, new[name])}
    wanted = {"biases": lambda n: n.endswith("bias"), "norms": lambda n: "norm" in n}
    if spec in wanted:
        assert changed
        assert all(wanted[spec](name) for name in changed)
    assert all(name.startswith("model.decoder.layers.") for name in changed)


def test_new_biases_are_added_and_resumed(tmp_path):
    def attempt(kill_after=None):
        model = tiny_model("llama")
        masks, seen = random_masks(model), []

        def killed(module, _arguments, output, name=None):
            if kill_after is not None and not seen:
                seen.append(0)
                raise KeyboardInterrupt

        handle = None
        if kill_after is not None:  # the attention of the third block runs only once the first two are done
            handle = list(blocks(model).values())[kill_after].mlp.register_forward_hook(killed)
        try:
            return model, reconstruct(
                model,
                masks,
                inputs(),
                "new-biases",
                lr=1e-2,
                steps=12,
                checkpoint=tmp_path if folder else None,
                **QUIET,
            )
        finally:
            if handle:
                handle.remove()

    folder = False
    whole, expected = attempt()
    folder = True
    with pytest.raises(KeyboardInterrupt):
        attempt(kill_after=2)
    assert (tmp_path / "001.json").is_file()
    assert not (tmp_path / "002.json").exists()
    resumed, found = attempt()
    assert [block.after for block in found] == [block.after for block in expected]
    old, new = whole.state_dict(), resumed.state_dict()
    assert old.keys() == new.keys()
    assert all(torch.equal(value, new[name]) for name, value in old.items())
    assert any(value.abs().sum() > 0 for name, value in new.items() if name.endswith("q_proj.bias"))
    model = tiny_model("llama")
    with pytest.raises(ParameterError, match="another reconstruction"):
        reconstruct(
            model, random_masks(model), inputs(), "norms", lr=1e-2, steps=12, checkpoint=tmp_path, **QUIET
        )


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("spec", ["masklora", "lora", "full"])
def test_a_rate_that_diverges_leaves_the_pruned_model(spec, granularity):
    model, masks, report = run(spec=spec, lr=1e4, steps=8, warmup=0.0, granularity=granularity)
    pruned = tiny_model("llama")
    mask.apply(pruned, masks)
    for block, (name, module) in zip(report, blocks(model).items(), strict=True):
        same = all(
            torch.equal(value, pruned.get_submodule(name).state_dict()[key])
            for key, value in module.state_dict().items()
        )
        assert same is not block.improved
        assert block.after <= block.before


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_masks_and_weights_of_every_criterion(criterion):
    sparse = tiny_model("mistral")
    masks = prune_model(sparse, criterion, "2:4", inputs(), progress=False).masks
    weights = {name: layer.weight.clone() for name, layer in block_linears(sparse).items()}
    model = tiny_model("mistral")
    report = reconstruct(model, masks, inputs(), "masklora", lr=3e-3, steps=20, weights=weights, **QUIET)
    assert any(block.improved for block in report)
    mask.check(model, masks)
    kept = next(iter(masks))
    untouched = tiny_model("mistral")
    stay = reconstruct(untouched, masks, inputs(), "masklora", lr=1e-12, steps=1, weights=weights, **QUIET)
    assert stay[0].before == report[0].before
    torch.testing.assert_close(untouched.get_submodule(kept).weight, weights[kept])


def test_without_propagation_the_blocks_are_independent():
    """Each block then sees dense inputs, so leaving the others dense changes nothing for it."""
    _, masks, together = run(propagate=False, steps=6)
    model = tiny_model("llama")
    last = {name: kept for name, kept in masks.items() if ".layers.2." in name}
    alone = reconstruct(model, last, inputs(), "masklora", lr=3e-3, steps=6, propagate=False, **QUIET)
    assert [block.trainable for block in alone[:2]] == [0, 0]
    assert alone[0].before == alone[0].after == 0
    assert alone[2].after == together[2].after


def test_half_precision_and_padding():
    model, _masks, report = run("qwen2", "norms+masklora", torch.bfloat16, rank=4)
    assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
    assert all(block.after <= block.before for block in report)
    bert = tiny_model("bert")
    tokens, real = tiny_tokens(2, 8), torch.ones(2, 8, dtype=torch.long)
    real[1, 5:] = 0
    errors = []
    for filler in (0, 7):  # what stands in the padding does not matter
        other = copy.deepcopy(bert)
        batch = {"input_ids": tokens * real + filler * (1 - real), "attention_mask": real}
        errors.append(
            reconstruct(other, random_masks(other), [batch], "norms", lr=1e-3, steps=4, **QUIET)[0].after
        )
    assert errors[0] == pytest.approx(errors[1], rel=1e-5)


@pytest.mark.parametrize("family", CAUSAL)
def test_attention_and_mlp_train_in_turn(family):
    """With norms and adapters, both parts have something to train; the count is that of the whole block."""
    sizes = {
        granularity: run(family, "norms+masklora", granularity=granularity, steps=4)[2][0].trainable
        for granularity in ("block", "attention-and-mlp")
    }
    assert sizes["block"] == sizes["attention-and-mlp"] > 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"granularity": "layer"}, "attention-and-mlp"),
        ({"targets": "both"}, "sparse"),
        ({"granularity": "linear", "targets": "dense"}, "one Gram matrix"),
        ({"granularity": "linear", "spec": "norms"}, "inside a linear"),
        ({"spec": "head"}, "inside a block"),
        ({"spec": "biases"}, "norms"),
        ({"spec": "bias"}, "biases"),
        ({"lr": 0.0}, "positive"),
        ({"steps": 0}, "at least 1"),
        ({"warmup": 1.0}, "share"),
        ({"masks": {}}, "at least one"),
        ({"masks": {"lm_head": torch.ones(128, 32, dtype=torch.bool)}}, "Linear in the blocks"),
        ({"weights": {}}, "every Linear"),
        ({"batches": []}, "at least one batch"),
        ({"spec": "lora", "checkpoint": "anywhere"}, "cannot be merged"),
    ],
)
def test_bad_parameters_are_refused_and_leave_the_model_dense(change, named):
    model, dense = tiny_model("llama"), tiny_model("llama")
    good = {
        "model": model,
        "masks": random_masks(model),
        "batches": inputs(),
        "spec": "masklora",
        "lr": 1e-3,
        "steps": 2,
    }
    with pytest.raises(ParameterError, match=named):
        reconstruct(**(good | change), **QUIET)
    assert all(torch.equal(value, dense.state_dict()[name]) for name, value in model.state_dict().items())
