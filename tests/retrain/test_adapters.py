"""Adapters: gradients, exact merges that keep the pattern, rank of ScaleLoRA, and what attach refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model, tiny_tokens
from torch import nn

from lmcompress.errors import ParameterError
from lmcompress.models import block_linears, linears
from lmcompress.retrain import adapters

MERGEABLE = [kind for kind in adapters.KINDS if kind != "lora"]


def pruned(weight, keep=0.5, seed=0):
    """A random mask of ``weight``'s shape, applied to it in place."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(weight.shape, generator=generator) < keep
    with torch.no_grad():
        weight.mul_(mask)
    return mask


def n_of_m(weight, n=2, m=4):
    """Keep the n largest of each m consecutive inputs, in place."""
    groups = weight.detach().abs().reshape(weight.shape[0], -1, m)
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, groups.topk(n, dim=-1).indices, True)
    mask = mask.reshape(weight.shape)
    with torch.no_grad():
        weight.mul_(mask)
    return mask


def shake(model, scale=0.05, seed=1):
    """Random adapters instead of their start, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for layer in adapters.adapted_layers(model).values():
        with torch.no_grad():
            layer.a.add_(scale * torch.randn(layer.a.shape, generator=generator))
            layer.b.add_(scale * torch.randn(layer.b.shape, generator=generator))


def one_layer(kind, dtype=torch.float64, bias=True):
    """A masked Linear 6 -> 4 with an adapter of rank 2 inside a Sequential."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 4, bias=bias)).to(dtype)
    mask = pruned(model[0].weight)
    adapters.attach(model, kind, rank=2, alpha=3.0, masks={"0": mask}, layers=["0"])
    shake(model, 0.3)
    return model, mask


def written_out(layer, mask, x):
    """Output by the paper's formula, in plain torch operations that autograd differentiates itself."""
    product = layer.b @ layer.a
    weight = {
        "lora": lambda: layer.weight + 1.5 * product,
        "lora-prune": lambda: layer.weight + 1.5 * product,
        "masklora": lambda: layer.weight + 1.5 * mask * product,
        "scalelora": lambda: layer.weight * product,
        "scalelora-free": lambda: layer.weight * product,
    }[layer.kind]()
    return x @ weight.T + layer.bias


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_output_and_all_gradients_equal_the_formula_left_to_autograd(kind):
    model, mask = one_layer(kind)
    layer = model[0]
    layer.bias.requires_grad_(True)
    x = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=True)
    wanted = [x, layer.a, layer.b, layer.bias]
    ours, plain = model(x), written_out(layer, mask, x)
    upstream = torch.randn_like(ours)
    torch.testing.assert_close(ours, plain)
    for mine, other in zip(
        torch.autograd.grad(ours, wanted, upstream), torch.autograd.grad(plain, wanted, upstream), strict=True
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("kind", adapters.MASKED + adapters.SCALING)
def test_the_trained_weight_has_the_gradients_of_the_formula(kind):
    model, mask = one_layer(kind)
    layer = model[0]
    upstream = torch.randn(4, 6, dtype=torch.float64)
    product = layer.b @ layer.a
    plain = layer.weight + 1.5 * mask * product if kind == "masklora" else layer.weight * product
    ours = layer.trained_weight()
    torch.testing.assert_close(ours, plain)
    wanted = [layer.a, layer.b]
    for mine, other in zip(
        torch.autograd.grad(ours, wanted, upstream), torch.autograd.grad(plain, wanted, upstream), strict=True
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("scale", [1.5, None])
def test_the_autograd_function_against_finite_differences(scale):
    torch.manual_seed(0)
    weight = torch.randn(4, 6, dtype=torch.float64)
    mask = pruned(weight)
    shapes = {"x": (2, 3, 6), "bias": (4,), "a": (2, 6), "b": (4, 2)}
    x, bias, a, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes.values())
    assert torch.autograd.gradcheck(
        lambda x, bias, a, b: adapters.RebuiltLinear.apply(x, weight, bias, a, b, mask, scale),
        (x, bias, a, b),
    )


@pytest.mark.parametrize("kind", ["masklora", "scalelora"])
def test_the_effective_weight_is_not_kept_for_the_backward_pass(kind):
    model = nn.Sequential(nn.Linear(64, 64, bias=False))
    mask = pruned(model[0].weight)
    adapters.attach(model, kind, rank=2, masks={"0": mask}, layers=["0"])
    owned = {t.data_ptr() for t in (*model[0].parameters(), *model[0].buffers())}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        x = torch.randn(3, 64)
        model(x)
    new = [t for t in kept if t.data_ptr() not in owned | {x.data_ptr()}]
    assert kept
    assert new == []


@pytest.mark.parametrize("pattern", [pruned, n_of_m])
@pytest.mark.parametrize("kind", MERGEABLE)
def test_merge_keeps_the_pattern_bit_for_bit_and_the_output(kind, pattern):
    model, tokens = tiny_model("llama"), tiny_tokens()
    masks = {name: pattern(layer.weight) for name, layer in block_linears(model).items()}
    names = list(linears(model))
    zeros = {name: layer.weight == 0 for name, layer in block_linears(model).items()}
    adapters.attach(model, kind, rank=4, masks=masks)
    assert list(linears(model)) == names
    shake(model, 0.02)
    if kind == "lora-prune":  # its mask comes only now: compare with the formula of the merged weight
        first, layer = next(iter(adapters.adapted_layers(model).items()))
        expected = layer.weight + layer.scale * masks[first] * (layer.b @ layer.a)
    else:
        before = model(tokens).logits
    assert adapters.merge(model) == []
    assert not adapters.adapted_layers(model)
    for name, layer in block_linears(model).items():
        assert type(layer) is nn.Linear
        assert torch.equal(layer.weight == 0, zeros[name])
        assert not torch.signbit(layer.weight[~masks[name]]).any()
    if kind == "lora-prune":
        torch.testing.assert_close(model.get_submodule(first).weight, expected)
    else:
        torch.testing.assert_close(model(tokens).logits, before, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["masklora", "scalelora", "scalelora-free"]),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 99),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_merged_weight_is_the_trained_weight_exactly(kind, rank, inputs, outputs, seed, dtype):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, outputs)).to(dtype)
    mask = pruned(model[0].weight, seed=seed)
    adapters.attach(model, kind, rank=rank, masks={"0": mask}, layers=["0"], seed=seed)
    shake(model, 0.2, seed)
    x = torch.randn(7, inputs, dtype=dtype)
    before = model(x)
    adapters.merge(model)
    assert torch.equal(model(x), before)
    assert (model[0].weight[~mask] == 0).all()


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_fp32_adapters_train_on_a_bf16_weight(kind):
    model, mask = one_layer(kind, torch.bfloat16)
    layer = model[0]
    assert layer.a.dtype == layer.b.dtype == torch.float32
    x = torch.randn(8, 6)
    model(x.bfloat16()).float().square().mean().backward()
    assert layer.a.grad.dtype == layer.b.grad.dtype == torch.float32
    double = nn.Sequential(nn.Linear(6, 4)).double()
    with torch.no_grad():
        double[0].weight.copy_(layer.weight)
        double[0].bias.copy_(layer.bias)
    reference = adapters.AdaptedLinear(double[0], kind, 2, 3.0, mask, torch.Generator())
    with torch.no_grad():
        reference.a.copy_(layer.a)
        reference.b.copy_(layer.b)
    reference(x.bfloat16().double()).square().mean().backward()
    for mine, exact in ((layer.a.grad, reference.a.grad), (layer.b.grad, reference.b.grad)):
        assert (mine.double() - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("kind", adapters.KINDS)
def test_at_the_start_the_adapter_changes_nothing(kind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16))
    mask = pruned(model[0].weight)
    x = torch.randn(5, 32)
    before = model(x)
    adapters.attach(model, kind, rank=4, masks={"0": mask}, layers=["0"])
    torch.testing.assert_close(model(x), before)


def trained_scale(kind):
    """B A after 200 Adam steps of a least-squares fit to another weight."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 16, bias=False)).double()
    parameters = adapters.attach(model, kind, rank=8, layers=["0"])
    x, target = torch.randn(64, 24).double(), torch.randn(64, 16).double()
    optimizer = torch.optim.Adam(parameters.values(), lr=0.05)
    losses = []
    for _ in range(200):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    layer = model[0]
    return torch.linalg.svdvals((layer.b @ layer.a).detach()), losses[-1]


def test_the_official_start_of_scalelora_stays_of_rank_one_and_ours_does_not():
    official, loss_official = trained_scale("scalelora")
    free, loss_free = trained_scale("scalelora-free")
    assert official[1] < 1e-9 * official[0]
    assert free[7] > 1e-2 * free[0]
    assert loss_free < 0.9 * loss_official


def test_plain_lora_stays_on_masked_layers_and_merges_on_dense_ones():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    mask = pruned(model[0].weight)
    adapters.attach(model, "lora", rank=2, masks={"0": mask}, layers=["0", "1"])
    shake(model)
    x = torch.randn(3, 6)
    before = model(x)
    assert adapters.merge(model) == ["0"]
    assert (model[0].weight[~mask] == 0).all()
    torch.testing.assert_close(model(x), before)


def test_starting_values_depend_on_the_seed_alone():
    def start(seed):
        model = tiny_model("opt")
        return torch.cat([p.flatten() for p in adapters.attach(model, "lora", rank=2, seed=seed).values()])

    assert torch.equal(start(1), start(1))
    assert not torch.equal(start(1), start(2))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"kind": "dora"}, "masklora"),
        ({"rank": 0}, "at least 1"),
        ({"rank": True}, "at least 1"),
        ({"masks": {}}, "mask for every layer"),
        ({"masks": {"0": torch.ones(4, 5, dtype=torch.bool)}}, "shape"),
        ({"masks": {"0": torch.ones(4, 6)}}, "bool"),
        ({"masks": {"0": torch.zeros(4, 6, dtype=torch.bool)}}, "applied"),
    ],
)
def test_bad_input_is_refused_and_leaves_the_model_alone(change, named):
    model = nn.Sequential(nn.Linear(6, 4))
    good = {
        "kind": "masklora",
        "rank": 2,
        "masks": {"0": torch.ones(4, 6, dtype=torch.bool)},
        "layers": ["0"],
    }
    with pytest.raises(ParameterError, match=named):
        adapters.attach(model, **(good | change))
    assert type(model[0]) is nn.Linear


def test_a_second_adapter_on_a_layer_is_refused():
    model, _ = one_layer("scalelora")
    with pytest.raises(ParameterError, match="merge"):
        adapters.attach(model, "scalelora", layers=["0"])
    assert "kind=scalelora" in repr(model)
