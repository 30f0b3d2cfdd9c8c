"""The loss in chunks against torch's own and transformers' own."""

import pytest
import torch
from tiny import tiny_model
from torch.nn import functional
from transformers.loss.loss_utils import ForCausalLMLoss

from lmcompress.retrain import loss


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_value_and_gradient_are_those_of_cross_entropy_in_fp64(chunk, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(10, 17, generator=generator)
    targets = torch.randint(17, (10,), generator=generator)
    targets[[2, 9]] = loss.IGNORED
    ours, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    value = loss.ChunkedCrossEntropy.apply(ours, targets)
    expected = functional.cross_entropy(exact, targets, reduction="sum")
    (2 * value).backward()
    (2 * expected).backward()
    assert value.item() == pytest.approx(float(expected), rel=1e-6)
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-5, atol=1e-6)
    assert not ours.grad[2].any()


@pytest.mark.parametrize("items", [None, 7, torch.tensor(7)])
def test_the_models_loss_is_transformers_loss(items):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 6, 11, generator=generator)
    labels = torch.randint(11, (2, 6), generator=generator)
    labels[1, 4:] = -100
    expected = ForCausalLMLoss(logits, labels, 11, num_items_in_batch=items)
    torch.testing.assert_close(loss.causal_loss(logits, labels, 11, num_items_in_batch=items), expected)


def test_a_model_has_it_inside_and_its_own_after():
    model = tiny_model("opt")
    tokens = torch.arange(3, 11)[None]
    before = model(input_ids=tokens, labels=tokens).loss
    with loss.chunked(model):
        assert model.loss_function is loss.causal_loss
        inside = model(input_ids=tokens, labels=tokens).loss
    assert model.loss_function is ForCausalLMLoss
    torch.testing.assert_close(inside, before)
