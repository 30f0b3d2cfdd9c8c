import json

import pytest
import torch
from tiny import CAUSAL, FAMILIES, tiny_model, tiny_tokens

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import blocks, linears
from lmcompress.stats import Gram
from lmcompress.stream import stream


def batches(count=4, length=16, size=2):
    return [{"input_ids": part} for part in tiny_tokens(count, length).split(size)]


def block_outputs(model, batch):
    """Outputs of every block in one plain forward pass of the model, by hooks: an independent reference."""
    seen = []

    def collect(_module, _arguments, output):
        seen.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(collect) for block in blocks(model).values()]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
def test_untouched_blocks_give_the_models_own_hidden_states(family):
    model, data = tiny_model(family), batches()
    outputs = []
    stream(model, data, lambda block: outputs.append([y.clone() for y in block.run()]) or {}, progress=False)
    for index, batch in enumerate(data):
        for ours, reference in zip(outputs, block_outputs(model, batch), strict=True):
            torch.testing.assert_close(ours[index], reference)


def test_padding_is_replayed_to_encoders_and_left_out_of_statistics():
    model = tiny_model("bert")
    tokens = tiny_tokens(2, 8)
    mask = torch.ones_like(tokens)
    mask[1, 5:] = 0
    batch = {"input_ids": tokens * mask, "attention_mask": mask}

    class Rows:
        def __init__(self):
            self.count = 0

        def update(self, x):
            self.count += x.reshape(-1, x.shape[-1]).shape[0]

    counts, outputs = [], []

    def visit(block):
        counts.append({name: rows.count for name, rows in block.statistics(lambda _: Rows()).items()})
        outputs.append(next(iter(block.run())))
        return {}

    stream(model, [batch], visit, progress=False)
    assert all(count == 13 for found in counts for count in found.values())
    for ours, reference in zip(outputs, block_outputs(model, batch), strict=True):
        torch.testing.assert_close(ours, reference)


def halve(block):
    for layer in linears(block.module).values():
        layer.weight.mul_(0.5)
    return {"name": block.name}


@pytest.mark.parametrize("family", CAUSAL)
def test_propagate_shows_a_block_the_compressed_stream_and_keep_dense_both(family):
    reference, data = tiny_model(family), batches(2)
    dense = block_outputs(reference, data[0])
    model, seen = tiny_model(family), []

    def visit(block):
        seen.append((block.inputs[0].clone(), block.dense_inputs[0].clone(), block.dense_outputs[0].clone()))
        return halve(block)

    stream(model, data, visit, keep_dense=True, progress=False)
    compressed = block_outputs(model, data[0])
    for index in range(1, 3):
        torch.testing.assert_close(seen[index][0], compressed[index - 1])
        torch.testing.assert_close(seen[index][1], dense[index - 1])
    for index in range(3):
        torch.testing.assert_close(seen[index][2], dense[index])
    assert not torch.allclose(dense[0], compressed[0])


def test_without_propagation_every_block_sees_dense_inputs():
    dense = block_outputs(tiny_model("llama"), batches(2)[0])
    model, seen = tiny_model("llama"), []
    stream(
        model,
        batches(2),
        lambda block: seen.append(block.inputs[0].clone()) or halve(block),
        propagate=False,
        progress=False,
    )
    torch.testing.assert_close(seen[2], dense[1])


def test_a_killed_run_resumes_with_the_same_result(tmp_path):
    whole = tiny_model("llama")
    expected = stream(whole, batches(), halve, progress=False)

    visits = []

    def killed(block):
        if block.index == 2 and len(visits) == 2:
            raise KeyboardInterrupt
        visits.append(block.index)
        return halve(block)

    with pytest.raises(KeyboardInterrupt):
        stream(tiny_model("llama"), batches(), killed, checkpoint=tmp_path, progress=False)
    model = tiny_model("llama")
    visits.append("resumed")
    assert stream(model, batches(), killed, checkpoint=tmp_path, progress=False) == expected
    assert visits == [0, 1, "resumed", 2]
    for ours, reference in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, reference)
    with pytest.raises(ParameterError, match="another model, other inputs or other settings"):
        stream(tiny_model("llama", seed=1), batches(), halve, checkpoint=tmp_path, progress=False)
    assert json.loads((tmp_path / "000.json").read_text())["name"] == "model.layers.0"


def test_non_finite_input_names_the_layer():
    model = tiny_model("opt")
    blocks(model)["model.decoder.layers.1"].self_attn_layer_norm.weight.data[0] = float("nan")

    class Nothing:
        def update(self, x):
            pass

    with pytest.raises(NumericError, match=r"model\.decoder\.layers\.1\.self_attn\.\w+: non-finite"):
        stream(model, batches(), lambda block: block.statistics(lambda _: Nothing()) and {}, progress=False)


def test_no_batches_is_refused_and_the_model_is_left_as_it_was():
    model = tiny_model("llama")
    with pytest.raises(ParameterError, match="at least one batch"):
        stream(model, [], halve)
    before = model(tiny_tokens()).logits
    stream(model, batches(), lambda block: {}, progress=False)
    assert model.config.use_cache is True
    torch.testing.assert_close(model(tiny_tokens()).logits, before)


def test_linears_that_are_given_the_same_tensor_share_a_statistic():
    model, found = tiny_model("llama"), []

    def visit(block):
        found.append(block.statistics(lambda linear: Gram(linear.in_features)))
        return {}

    stream(
        model, [{"input_ids": tiny_tokens(2)}, {"input_ids": tiny_tokens(3, seed=1)}], visit, progress=False
    )
    for seen in found:
        q, k, v, o, gate, up, down = seen.values()
        assert q is k is v
        assert gate is up
        assert len({id(one) for one in (q, o, gate, down)}) == 4
        assert {one.tokens for one in seen.values()} == {5 * 16}


@pytest.mark.parametrize("twice", [False, True])
def test_a_block_ends_at_the_input_of_its_last_linear_but_where_one_is_called_twice(twice):
    model, products = tiny_model("llama"), []
    block = model.model.layers[0]
    block.mlp.down_proj.register_forward_hook(lambda *_: products.append(1))
    if twice:
        block.mlp.register_forward_hook(lambda mlp, given, out: mlp.down_proj(torch.ones(1, 64)) + out)

    def visit(seen):
        before, found = len(products), seen.statistics(lambda linear: Gram(linear.in_features))
        if seen.index == 0:
            assert len(products) - before == (6 if twice else 1)  # one batch of three, or all of them
            assert found["mlp.down_proj"].tokens == (51 if twice else 48)
        assert found["mlp.up_proj"].tokens == 48
        return {}

    stream(model, [{"input_ids": tiny_tokens(1, seed=seed)} for seed in range(3)], visit, progress=False)


def test_a_checkpoint_of_another_walk_is_refused(tmp_path):
    stream(tiny_model("llama"), batches(), halve, checkpoint=tmp_path, progress=False)
    with pytest.raises(ParameterError, match="checkpoint"):
        stream(tiny_model("llama"), batches(), halve, propagate=False, checkpoint=tmp_path, progress=False)
    with pytest.raises(ParameterError, match="checkpoint"):
        stream(tiny_model("llama"), batches(), halve, settings=[1], checkpoint=tmp_path, progress=False)
