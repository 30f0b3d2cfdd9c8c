"""CMPQ on tiny models: which tokens count, which states are compared, what the released version does."""

import pytest
import torch
from sensing import MODELS, assert_untouched, model_and_batches, snapshot
from tiny import tiny_model, tiny_tokens

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import block_linears, blocks
from lmcompress.sensitivity import cca
from lmcompress.sensitivity.similarity import basis, correlations, mean_cca


def test_sample_rows_leave_out_padding_and_each_first_real_token():
    mask = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1]])
    batches = [{"input_ids": tiny_tokens(2, 4), "attention_mask": mask}, {"input_ids": tiny_tokens(1, 3)}]
    assert [rows.tolist() for rows in cca.sample_rows(batches, 100)] == [[1, 2, 7], [1, 2]]
    few = cca.sample_rows(batches, 3, seed=1)
    assert sum(map(len, few)) == 3
    assert [rows.tolist() for rows in few] == [rows.tolist() for rows in cca.sample_rows(batches, 3, seed=1)]


@pytest.mark.parametrize("family", MODELS)
def test_hidden_states_are_those_of_the_model(family):
    model, batches = model_and_batches(family)
    rows = cca.sample_rows(batches, 10**6)
    states = cca.hidden_states(model, batches, rows)
    with torch.no_grad():
        inputs = [{"input_ids": batch["input_ids"]} for batch in batches]
        theirs = [model(**batch, output_hidden_states=True).hidden_states for batch in inputs]
    for depth in range(3):  # the last of theirs is after the final norm in some families
        expected = torch.cat([states_[depth][:, 1:].flatten(0, 1) for states_ in theirs]).double()
        assert torch.allclose(states[depth], expected, atol=1e-5)
    assert len(states) == 4


def test_padding_does_not_change_the_score():
    model = tiny_model("llama")
    ids = tiny_tokens(12, 12)
    padded = torch.cat([ids, torch.zeros(12, 4, dtype=torch.long)], 1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros(12, 4, dtype=torch.long)], 1)
    plain = cca.cmpq(model, [{"input_ids": ids}]).per_layer
    masked = cca.cmpq(model, [{"input_ids": padded, "attention_mask": mask}]).per_layer
    assert masked == pytest.approx(plain, abs=1e-4)


@pytest.mark.parametrize("family", MODELS)
def test_scores_per_block_and_per_linear(family):
    model, batches = model_and_batches(family, windows=16)
    before = snapshot(model)
    by_block = cca.cmpq(model, batches, held_out=2, null_draws=3)
    by_linear = cca.cmpq(model, batches, per="linear")
    assert list(by_block.per_layer) == list(blocks(model))
    assert list(by_linear.per_layer) == list(block_linears(model))
    assert all(0 <= value <= 1 for value in (*by_block.per_layer.values(), *by_linear.per_layer.values()))
    similarity = by_block.detail["similarity"]
    third = 1 - (similarity[3][0] + similarity[3][1] + similarity[3][2]) / 3
    assert by_block.per_layer[list(blocks(model))[2]] == pytest.approx(third)
    assert set(by_block.detail["held_out"]) == set(by_block.detail["null"]) == set(blocks(model))
    assert_untouched(model, before)


def test_score_of_a_linear_compares_its_output_with_the_other_blocks():
    model, batches = model_and_batches("llama", windows=16)
    name = "model.layers.1.mlp.up_proj"
    rows = cca.sample_rows(batches, 10**6)
    kept = []
    handle = model.get_submodule(name).register_forward_hook(lambda _m, _i, output: kept.append(output))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    output = torch.cat([x.flatten(0, 1)[index] for x, index in zip(kept, rows, strict=True)])
    states = cca.hidden_states(model, batches, rows)
    similar = [mean_cca(basis(output), basis(states[depth]), 1e-3) for depth in (1, 3)]
    score = cca.cmpq(model, batches, per="linear", tokens=10**6).per_layer[name]
    assert score == pytest.approx(1 - sum(similar) / 2, abs=1e-5)


@pytest.mark.parametrize("measure", cca.MEASURES)
def test_a_block_that_does_nothing_is_like_its_neighbour(measure):
    model, batches = model_and_batches("opt", windows=16)
    with torch.no_grad():
        for part in ("self_attn.out_proj", "fc2"):
            layer = model.get_submodule(f"model.decoder.layers.1.{part}")
            layer.weight.zero_()
            layer.bias.zero_()
    similarity = cca.cmpq(model, batches, measure=measure, ridge=0.0).detail["similarity"]
    assert similarity[1][2] == pytest.approx(1)
    assert similarity[0][3] < 0.999


def test_bad_parameters_are_refused():
    model, batches = model_and_batches("llama")
    with pytest.raises(ParameterError, match="measure"):
        cca.cmpq(model, batches, measure="rsa")
    with pytest.raises(ParameterError, match="per:"):
        cca.cmpq(model, batches, per="head")
    with pytest.raises(ParameterError, match=r"tokens: 60 .* 64 features"):
        cca.cmpq(model, batches, tokens=60)
    with pytest.raises(ParameterError, match="batches"):
        cca.cmpq(model, [])


def test_one_block_has_no_others_to_compare_its_linears_with():
    model, batches = model_and_batches("llama", windows=16)
    del model.model.layers[1:]
    model.config.num_hidden_layers = 1
    with pytest.raises(ParameterError, match="at least two blocks"):
        cca.cmpq(model, batches, per="linear")


def test_a_non_finite_layer_is_named():
    model, batches = model_and_batches("opt", windows=16)
    with torch.no_grad():
        model.model.decoder.layers[1].fc2.bias[0] = float("nan")
    with pytest.raises(NumericError, match=r"model\.decoder\.layers\.1"):
        cca.cmpq(model, batches)


def test_as_released_saturates_with_fewer_texts_than_features():
    model, batches = model_and_batches("llama", windows=8)
    assert list(cca.cmpq_as_released(model, batches).per_layer.values()) == pytest.approx([0, 0, 0], abs=1e-6)


def test_as_released_scores_the_input_of_each_block():
    model, _ = model_and_batches("llama")
    batches = [{"input_ids": tiny_tokens(64, 6, seed)} for seed in range(2)]
    scores = cca.cmpq_as_released(model, batches)
    pooled = cca.hidden_states(model, batches, [torch.arange(384)] * 2)
    pooled = [basis(x.view(128, 6, -1).mean(1)) for x in pooled]
    first = [float(torch.linalg.svdvals(pooled[1].u.T @ pooled[j].u)[0]) for j in (0, 2, 3)]
    assert scores.per_layer["model.layers.1"] == pytest.approx(1 - sum(first) / 3)
    assert 0 < scores.per_layer["model.layers.1"] < 0.2


@pytest.mark.parametrize("features", [16, 64, 256])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_samples_that_follow_the_width_give_the_same_error_at_any_width(features, rho):
    generator = torch.Generator().manual_seed(features)
    samples = 4 * features
    shared, own = torch.randn(2, samples, features, generator=generator, dtype=torch.float64)
    x, y = basis(shared), basis(rho * shared + (1 - rho**2) ** 0.5 * own)  # every correlation is rho
    squared = float(correlations(x, y).square().mean())
    # of the variance of y that x does not explain, p of n directions are explained by chance
    assert squared == pytest.approx(rho**2 + (1 - rho**2) * features / samples, abs=0.06)


def test_tokens_follow_the_width():
    assert [cca.samples_for(width) for width in (32, 576, 1024, 2048, 8192)] == [
        4096,
        4096,
        4096,
        8192,
        32768,
    ]
    _, batches = model_and_batches("llama", windows=3)
    assert cca.samples_in(batches) == 2 * 3 * 15


def test_too_few_tokens_are_refused_before_any_forward_pass(monkeypatch):
    model, batches = model_and_batches("llama", windows=1)
    monkeypatch.setattr(type(model), "forward", lambda *_args, **_kwargs: pytest.fail("was run"))
    with pytest.raises(ParameterError, match=r"tokens: 30 .* more samples than the 64 features"):
        cca.cmpq(model, batches)
