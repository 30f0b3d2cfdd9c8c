"""The loop: it learns, keeps the zeros, resumes identically, reports divergence, and refuses bad
parameters.
"""

import pytest
import torch
from pruned_tiny import pruned_model
from tiny import tiny_tokens
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import block_linears
from lmcompress.prune import mask
from lmcompress.retrain import adapters, subsets
from lmcompress.retrain.train import mean_loss, train

SPECS = ["norms", "full", "head", "embeddings", "head-lora", "new-biases+norms", *adapters.KINDS]
QUIET = {"progress": False}


def state(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", SPECS)
def test_every_subset_lowers_the_loss_keeps_the_zeros_and_leaves_the_rest(spec, dtype):
    model, masks = pruned_model(dtype=dtype)
    windows = tiny_tokens(8, 16)
    before = mean_loss(model, windows)
    trained = subsets.select(model, spec, masks=masks, rank=4)
    start = state(model)
    report = train(model, windows, trained, masks, lr=1e-2, steps=25, batch_size=4, check_masks=True, **QUIET)
    assert not report.diverged
    assert len(report.losses) == report.steps == 25
    assert report.trainable == sum(value.numel() for value in trained.values())
    assert report.tokens == 25 * 4 * 16
    assert mean_loss(model, windows) < before - 0.005
    after = state(model)
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert changed <= set(trained)
    assert {p.dtype for name, p in model.named_parameters() if not name.endswith((".a", ".b"))} == {dtype}
    adapters.merge(model)
    mask.check(model, masks)
    if spec != "lora":
        for name, layer in block_linears(model).items():
            assert (layer.weight[~masks[name]] == 0).all()


def test_opt_biases_train_with_dropout_off_or_on():
    model, masks = pruned_model("opt")
    report = train(model, tiny_tokens(8), "biases", masks, lr=1e-2, steps=15, batch_size=4, **QUIET)
    assert report.losses[-1] < report.losses[0]
    assert not model.training


def test_nothing_trains_nothing():
    model, masks = pruned_model()
    before = state(model)
    report = train(
        model, tiny_tokens(), "nothing", masks, lr=1.0, steps=5, batch_size=2, evaluate=lambda m: 1.5, **QUIET
    )
    assert (report.steps, report.losses, report.trainable, report.tokens_per_s) == (0, [], 0, 0)
    assert report.evaluations == [(0, 1.5)]
    assert all(torch.equal(before[name], value) for name, value in state(model).items())


def test_one_step_is_adamw_on_the_mean_next_token_loss():
    """Against a step written out in float64: mean cross-entropy of the shifted tokens, clipped, Adam's first
    update.
    """
    model, masks = pruned_model(dtype=torch.float64)
    twin, _ = pruned_model(dtype=torch.float64)
    windows = tiny_tokens(2, 12)
    name = "model.norm.weight"
    weight = twin.get_parameter(name)
    logits = twin(windows).logits
    loss = F.cross_entropy(logits[:, :-1].reshape(-1, 128), windows[:, 1:].reshape(-1))
    gradients = torch.autograd.grad(loss, list(subsets.existing(twin, "norms").values()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    gradient = torch.autograd.grad(
        F.cross_entropy(twin(windows).logits[:, :-1].reshape(-1, 128), windows[:, 1:].reshape(-1)), weight
    )[0]
    gradient = gradient * min(1.0, 0.01 / norm)
    expected = weight.detach() - 1e-2 * gradient / (gradient.abs() + 1e-8)
    report = train(
        model, windows, "norms", masks, lr=1e-2, steps=1, batch_size=2, warmup=0.0, clip=0.01, **QUIET
    )
    assert report.losses == pytest.approx([loss.item()], rel=1e-6)
    torch.testing.assert_close(model.get_parameter(name).detach(), expected, rtol=1e-4, atol=1e-6)


def test_accumulation_equals_the_larger_batch():
    results = []
    for size, accumulation in ((4, 1), (2, 2)):
        model, masks = pruned_model(dtype=torch.float64)
        options = {"lr": 1e-3, "steps": 1, "batch_size": size, "accumulation": accumulation, "warmup": 0.0}
        report = train(model, tiny_tokens(4), "norms", masks, **options, **QUIET)
        results.append((report.losses[0], model.model.norm.weight.detach()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("spec", ["norms", "masklora", "scalelora"])
def test_recomputed_activations_give_the_same_training(spec):
    losses = []
    for checkpointing in (False, True):
        model, masks = pruned_model()
        options = {"lr": 1e-2, "steps": 4, "batch_size": 2, "checkpointing": checkpointing}
        losses.append(train(model, tiny_tokens(), spec, masks, **options, **QUIET).losses)
        assert "forward" not in vars(model.model.layers[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class Killed(Exception):
    """Stands for a kill between two steps."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", ["biases+norms", "masklora", "full"])
def test_a_killed_run_continues_to_the_identical_result(tmp_path, spec, dtype):
    def run(folder=None, kill_at=None):
        model, masks = pruned_model("opt", dtype)
        model.model.decoder.dropout = 0.1
        for layer in model.model.decoder.layers:
            layer.dropout = 0.1  # so that the random state matters

        def evaluate(current):
            seen.append(0)
            if len(seen) == kill_at:
                raise Killed
            return mean_loss(current, tiny_tokens())

        seen = []
        options = {
            "lr": 1e-2,
            "steps": 9,
            "batch_size": 2,
            "save_every": 2,
            "evaluate": evaluate,
            "evaluate_every": 3,
        }
        return train(model, tiny_tokens(6), spec, masks, **options, folder=folder, **QUIET), state(model)

    whole, expected = run()
    with pytest.raises(Killed):
        run(tmp_path, kill_at=2)
    resumed, found = run(tmp_path)
    assert resumed.losses == whole.losses
    assert resumed.evaluations == whole.evaluations
    assert len(resumed.evaluations) == 3
    assert all(torch.equal(expected[name], value) for name, value in found.items())
    again, found = run(tmp_path)  # finished: nothing is trained again
    assert again == resumed
    assert all(torch.equal(expected[name], value) for name, value in found.items())


def test_a_folder_of_another_run_is_refused(tmp_path):
    model, masks = pruned_model()
    options = {"steps": 2, "batch_size": 2, "folder": tmp_path, **QUIET}
    train(model, tiny_tokens(), "norms", masks, lr=1e-3, **options)
    model, masks = pruned_model()
    with pytest.raises(ParameterError, match="another model, other data or other settings"):
        train(model, tiny_tokens(), "norms", masks, lr=2e-3, **options)
    model, masks = pruned_model(keep=0.4)
    with pytest.raises(ParameterError, match="folder"):
        train(model, tiny_tokens(), "norms", masks, lr=1e-3, **options)


def test_the_random_state_of_the_caller_is_untouched():
    model, masks = pruned_model()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    train(model, tiny_tokens(), "norms", masks, lr=1e-3, steps=1, batch_size=2, **QUIET)
    assert torch.equal(torch.get_rng_state(), before)


def test_divergence_is_reported_and_ends_the_run():
    model, masks = pruned_model()
    report = train(model, tiny_tokens(), "full", masks, lr=50.0, steps=200, batch_size=2, warmup=0.0, **QUIET)
    assert report.diverged
    assert len(report.losses) < 50
    model, masks = pruned_model()
    with torch.no_grad():
        model.model.norm.weight[0] = float("inf")
    report = train(model, tiny_tokens(), "norms", masks, lr=1e-3, steps=9, batch_size=2, **QUIET)
    assert report.diverged
    assert len(report.losses) == 1


def test_a_broken_mask_is_noticed_at_the_next_step():
    model, masks = pruned_model()
    name = next(iter(masks))
    layer = model.get_submodule(name)

    def spoil(*_):
        with torch.no_grad():
            layer.weight[~masks[name]] = 1.0

    handle = layer.register_forward_pre_hook(spoil)
    with pytest.raises(NumericError, match=name):
        train(model, tiny_tokens(), "norms", masks, lr=1e-3, steps=3, batch_size=2, check_masks=True, **QUIET)
    handle.remove()
    with pytest.raises(NumericError, match=name):
        train(model, tiny_tokens(), "norms", masks, lr=1e-3, steps=3, batch_size=2, **QUIET)


def test_a_classifier_trains_on_padded_batches_and_counts_real_tokens():
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(**small, vocab_size=128, num_labels=3))
    masks = {name: torch.rand(layer.weight.shape) < 0.5 for name, layer in block_linears(model).items()}
    mask.apply(model, masks)
    attention = torch.ones(4, 16, dtype=torch.long)
    attention[0, 10:] = 0
    batches = [
        {
            "input_ids": tiny_tokens(4, seed=k),
            "attention_mask": attention,
            "labels": torch.tensor([0, 1, 2, k]),
        }
        for k in range(3)
    ]
    before = mean_loss(model, batches)
    report = train(model, batches, "biases+head", masks, lr=1e-2, steps=30, check_masks=True, **QUIET)
    assert mean_loss(model, batches) < before - 0.05
    assert report.tokens == 30 * (4 * 16 - 6)


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.0},
        {"lr": float("nan")},
        {"steps": 0},
        {"steps": 2.5},
        {"accumulation": 0},
        {"warmup": 1.0},
        {"batch_size": 99},
        {"save_every": 0},
        {"evaluate_every": 2},
        {"evaluate": float, "evaluate_every": 0},
        {"what": "bias"},
    ],
)
def test_bad_parameters_are_refused_before_anything_changes(change):
    model, masks = pruned_model()
    before = state(model)
    with pytest.raises(ParameterError):
        train(
            **(
                {
                    "model": model,
                    "windows": tiny_tokens(),
                    "what": "norms",
                    "masks": masks,
                    "lr": 1e-3,
                    "steps": 2,
                }
                | change
            )
        )
    assert all(torch.equal(before[name], value) for name, value in state(model).items())
    assert all(p.requires_grad for p in model.parameters())
