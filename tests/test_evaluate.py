import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import CAUSAL, VOCABULARY, tiny_model, tiny_tokens
from transformers import CohereConfig, CohereForCausalLM
from transformers.modeling_outputs import SequenceClassifierOutput

from lmcompress import evaluate, models
from lmcompress.errors import NumericError, ParameterError
from lmcompress.evaluate import accuracy, compare, gptq_perplexity, perplexity, reference
from lmcompress.intervals import bootstrap


def log_probabilities(model, windows):
    """fp64 numpy [N, T - 1, vocabulary] from the model's logits, one window at a time."""
    with torch.no_grad():
        logits = np.concatenate([model(window[None]).logits.double().numpy() for window in windows])[:, :-1]
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def expected_nll(model, windows):
    logs, targets = log_probabilities(model, windows), windows[:, 1:].numpy()
    return -np.take_along_axis(logs, targets[..., None], -1)[..., 0].mean(1)


def damaged(family="llama", factor=0.5):
    """The same model with half of its weights scaled, so that it is near but not equal."""
    model = tiny_model(family)
    with torch.no_grad():
        for linear in models.block_linears(model).values():
            linear.weight[::2] *= factor
    return model


@pytest.mark.parametrize("family", CAUSAL)
def test_perplexity_is_the_float64_formula_whatever_the_batch(family, monkeypatch):
    monkeypatch.setitem(evaluate.ROWS, "cpu", 7)
    model, windows = tiny_model(family), tiny_tokens(5, 16)
    nll = expected_nll(model, windows)
    for size in (1, 2, 8):
        found = perplexity(model, windows, batch_size=size)
        np.testing.assert_allclose(found.nll, nll, rtol=1e-5)
        assert found.value == pytest.approx(math.exp(nll.mean()), rel=1e-5)
        assert found.low < found.value < found.high
        assert found.tokens == 5 * 15
    assert "5 non-overlapping windows of 16 tokens, no BOS added" in found.convention


def test_a_uniform_model_is_as_perplexed_as_its_vocabulary_is_large():
    model = tiny_model("gpt_neox")
    torch.nn.init.zeros_(model.embed_out.weight if hasattr(model, "embed_out") else models.head(model).weight)
    found = perplexity(model, tiny_tokens(3, 8))
    assert [found.value, found.low, found.high] == pytest.approx([VOCABULARY] * 3, rel=1e-6)


def test_gptq_convention_cancels_on_the_same_windows_and_says_its_name():
    model, windows = tiny_model("opt"), tiny_tokens(4, 16)
    losses = [model(input_ids=window[None], labels=window[None]).loss.item() for window in windows]
    official = math.exp(sum(loss * 16 for loss in losses) / (4 * 16))
    found = gptq_perplexity(model, windows, batch_size=3)
    assert found.value == pytest.approx(official, rel=1e-5)
    assert found.value == pytest.approx(perplexity(model, windows).value, rel=1e-6)
    assert "GPTQ" in found.convention
    assert found.tokens == 64


def test_convention_names_the_token_that_begins_every_window():
    windows = tiny_tokens(3, 8)
    windows[:, 0] = 1
    assert "each begins with token 1" in perplexity(tiny_model("llama"), windows).convention


@pytest.mark.parametrize("family", CAUSAL)
def test_comparison_is_the_float64_formula(family, monkeypatch):
    monkeypatch.setitem(evaluate.ROWS, "cpu", 5)
    dense, compressed, windows = tiny_model(family), damaged(family), tiny_tokens(5, 16)
    found = compare(compressed, reference(dense, windows, batch_size=2), windows, batch_size=3)
    p, q = log_probabilities(dense, windows), log_probabilities(compressed, windows)
    kl = (np.exp(p) * (p - q)).sum(-1).mean(1)
    np.testing.assert_allclose(found.kl.windows, kl, rtol=1e-3)
    assert found.kl.low < found.kl.value < found.kl.high
    assert found.agreement.value == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean())
    ratio = math.exp((expected_nll(compressed, windows) - expected_nll(dense, windows)).mean())
    assert found.ratio.value == pytest.approx(ratio, rel=1e-5)
    assert found.perplexity.value == pytest.approx(perplexity(compressed, windows).value, rel=1e-6)


def test_a_model_does_not_differ_from_itself_even_after_it_was_changed():
    model, windows = tiny_model("llama"), tiny_tokens(4, 16)
    dense = reference(model, windows)
    same = compare(model, dense, windows)
    assert same.kl.value == pytest.approx(0, abs=1e-6)
    assert (same.agreement.value, same.ratio.value) == (1, pytest.approx(1))
    with torch.no_grad():
        models.head(model).weight.mul_(3)  # tied: the embedding too; the reference has its own copy
    assert compare(model, dense, windows).kl.value > 0.01


def test_the_paired_interval_is_narrower():
    windows = tiny_tokens(8, 16)
    found = compare(damaged(factor=0.95), reference(tiny_model("llama"), windows), windows)
    alone = found.perplexity.high / found.perplexity.low
    assert found.ratio.high / found.ratio.low < alone


def test_reference_keeps_states_or_logits_of_a_model_that_scales_them():
    windows = tiny_tokens(3, 8)
    assert reference(tiny_model("llama"), windows).states.shape == (3, 8, 32)
    torch.manual_seed(0)
    config = CohereConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        logit_scale=0.1,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    scaled = CohereForCausalLM(config).eval()
    dense = reference(scaled, windows, batch_size=2)
    assert dense.weight is None
    assert dense.states.shape == (3, 8, VOCABULARY)
    assert compare(scaled, dense, windows).kl.value == pytest.approx(0, abs=1e-6)


def test_bf16_is_near_fp32_and_training_mode_is_left_as_it_was():
    model, windows = tiny_model("opt").train(), tiny_tokens(4, 16)
    exact = perplexity(model, windows).value
    assert perplexity(model.bfloat16(), windows).value == pytest.approx(exact, rel=0.05)
    assert reference(model, windows).states.dtype == torch.bfloat16
    assert model.training


def test_bad_input_is_refused():
    llama, windows = tiny_model("llama"), tiny_tokens(3, 8)
    with pytest.raises(ParameterError, match="causal language model"):
        perplexity(tiny_model("bert"), windows)
    for bad in (windows[0], windows[:1], windows[:, :1], windows.float()):
        with pytest.raises(ParameterError, match="int64 token ids"):
            perplexity(llama, bad)
    with pytest.raises(ParameterError, match="at most 64 tokens"):
        perplexity(llama, tiny_tokens(2, 65))
    with pytest.raises(ParameterError, match="from 0 to 127"):
        perplexity(llama, windows + VOCABULARY)
    with pytest.raises(ParameterError, match="reference was made from"):
        compare(llama, reference(llama, windows), windows.flip(0))
    llama.model.norm.weight.data[0] = float("nan")
    with pytest.raises(NumericError, match="loss of window 0"):
        perplexity(llama, windows)


class FirstToken(torch.nn.Module):
    """Classifies a text by its first token: the choice is known without a model."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids):
        drop = torch.nn.functional.dropout(torch.ones(4), 0.9, self.training)
        return SequenceClassifierOutput(logits=torch.eye(4)[input_ids[:, 0]] * drop)


def test_accuracy_counts_first_choices():
    batches = [
        {"input_ids": torch.tensor([[0, 1], [1, 1], [2, 1]]), "labels": torch.tensor([0, 1, 3])},
        {"input_ids": torch.tensor([[3, 1]]), "labels": torch.tensor([3])},
    ]
    model = FirstToken().train()
    found = accuracy(model, batches)
    assert model.training, "dropout is off meanwhile, and back after"
    assert found.correct.tolist() == [True, True, False, True]
    assert found.value == 0.75
    assert found.low < 0.75 < found.high <= 1
    with pytest.raises(ParameterError, match="labels"):
        accuracy(FirstToken(), [{"input_ids": torch.tensor([[0]])}])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=30), st.integers(0, 100))
def test_bootstrap_is_inside_the_values_and_repeats(values, seed):
    tensor = torch.tensor(values, dtype=torch.float64)
    low, high = bootstrap(tensor, draws=50, seed=seed)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == bootstrap(tensor, draws=50, seed=seed)
    shifted = bootstrap(tensor + 7, draws=50, seed=seed)
    assert shifted == pytest.approx((low + 7, high + 7))


def test_bootstrap_is_the_normal_interval_for_many_values():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = bootstrap(values)
    half = 1.96 * float(values.std()) / math.sqrt(2000)
    assert (high - low) / 2 == pytest.approx(half, rel=0.1)
    assert (high + low) / 2 == pytest.approx(float(values.mean()), abs=half / 5)
    with pytest.raises(ParameterError, match="at least 2 values"):
        bootstrap(values[:1])
