"""The divergence of a changed model from the one that it was, against its definition in float64."""

import torch
from tiny import tiny_model

from lmcompress.sensitivity.losses import divergence_from


def test_it_is_the_mean_kl_of_each_window_and_0_for_the_model_itself():
    model = tiny_model("llama").double()
    batch = {"input_ids": torch.randint(0, 50, (3, 8))}
    loss = divergence_from(model, [batch])
    assert torch.equal(loss(model, batch), torch.zeros(3))
    before = model(**batch).logits[:, :-1].softmax(-1)
    with torch.no_grad():
        model.lm_head.weight += 0.1 * torch.randn_like(model.lm_head.weight)
    after = model(**batch).logits[:, :-1].softmax(-1)
    expected = (before * (before / after).log()).sum(-1).mean(1)
    assert (expected > 1e-4).all()
    assert torch.allclose(loss(model, batch), expected, rtol=1e-6, atol=1e-9)


def test_padding_does_not_count():
    model = tiny_model("llama").double()
    ids = torch.randint(0, 50, (1, 6))
    short, long = {"input_ids": ids}, {"input_ids": torch.nn.functional.pad(ids, (0, 3))}
    long["attention_mask"] = (torch.arange(9) < 6).long()[None]
    whole, padded = divergence_from(model, [short]), divergence_from(model, [long])
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    assert torch.allclose(whole(model, short), padded(model, long), rtol=1e-6)
