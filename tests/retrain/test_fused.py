"""The GPU kernels of the adapters against the same formulas in float64.

They run on a GPU, or in Triton's interpreter (``TRITON_INTERPRET=1`` with the package triton installed);
skipped otherwise.
"""

import os
import types

import pytest
import torch

from lmcompress.prune.bits import pack
from lmcompress.retrain import adapters, fused

GPU, INTERPRETED = torch.cuda.is_available(), os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if GPU and not INTERPRETED else "cpu"
needs_kernels = pytest.mark.skipif(
    fused.triton is None or not (GPU or INTERPRETED), reason="needs Triton and a GPU, or Triton's interpreter"
)


def case(rows, columns, rank, dtype=torch.float16, scaling=False):
    """Weight, mask, a, b, scale and an upstream product of random values; edges that no tile divides."""
    torch.manual_seed(rows + columns + rank)
    weight = torch.randn(rows, columns).to(dtype)
    mask = torch.rand(rows, columns) < 0.5
    a, b = torch.randn(rank, columns), torch.randn(rows, rank)
    product = torch.randn(rows, columns).to(dtype)
    moved = (value.to(DEVICE) for value in (weight * mask, mask, a, b, product))
    return (*moved, None if scaling else 0.5)


def close(found, exact, dtype):
    """Within rounding of the inputs and of one result."""
    error = (found.double() - exact).norm() / exact.norm()
    return bool(error < (0.01 if dtype is torch.bfloat16 else 0.002))


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "columns", "rank"), [(64, 128, 16), (70, 1100, 5), (130, 40, 20)])
@pytest.mark.parametrize("kind", ["masked", "unmasked", "scaling"])
def test_kernels_equal_the_formulas(kind, rows, columns, rank, dtype):
    if INTERPRETED and dtype is torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bits of bf16 as whole numbers")
    weight, mask, a, b, product, scale = case(rows, columns, rank, dtype, kind == "scaling")
    kept = pack(mask) if kind == "masked" else None
    low = b.to(dtype).double() @ a.to(dtype).double()
    wide, share = weight.double(), 1.0 if kept is None else mask.double()
    exact = wide * low if scale is None else wide + scale * share * low
    found = fused.effective_weight(weight, a, b, kept, scale)
    assert found.dtype == dtype
    assert close(found, exact, dtype)
    h = product.double() * (wide if scale is None else scale * share)
    da, db = fused.gradients(product, weight, a, b, kept, scale)
    assert close(da, b.to(dtype).double().T @ h, dtype)
    assert close(db, h @ a.to(dtype).double().T, dtype)


@needs_kernels
def test_dropped_weights_stay_zero_and_every_value_is_written():
    weight, mask, a, b, *_ = case(70, 200, 8)
    found = fused.effective_weight(weight, a, b, mask, 0.5)
    assert (found[~mask] == 0).all()
    assert (found[mask] != weight[mask]).float().mean() > 0.9


@needs_kernels
def test_the_same_call_gives_the_same_bits():
    weight, mask, a, b, product, scale = case(130, 1100, 8)
    first, second = (fused.gradients(product, weight, a, b, mask, scale) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["masklora", "scalelora"])
def test_an_adapted_layer_uses_the_kernels_and_merges_exactly(kind):
    model = torch.nn.Sequential(torch.nn.Linear(256, 192)).cuda().bfloat16()
    mask = torch.rand(192, 256, device="cuda") < 0.5
    with torch.no_grad():
        model[0].weight.mul_(mask)
    adapters.attach(model, kind, rank=8, masks={"0": mask}, layers=["0"])
    assert fused.usable(model[0].weight, 8)
    with torch.no_grad():
        model[0].b.add_(0.1 * torch.randn_like(model[0].b))
    x = torch.randn(32, 256, device="cuda", dtype=torch.bfloat16)
    before = model(x)
    adapters.merge(model)
    assert torch.equal(model(x), before)
    assert (model[0].weight[~mask] == 0).all()


def test_plain_operations_take_packed_masks_too():
    weight, mask, a, b, product, scale = (
        value.cpu() if isinstance(value, torch.Tensor) else value for value in case(7, 21, 3, torch.float32)
    )
    for function, first in ((adapters.effective_weight, ()), (adapters.low_rank_gradients, (product,))):
        bools, bits = (
            function(*(value.clone() for value in first), weight, a, b, kept, scale)
            for kept in (mask, pack(mask))
        )
        for mine, other in zip(bools, bits, strict=True):
            assert torch.equal(mine, other)


def test_without_a_gpu_the_plain_operations_are_used():
    assert not fused.usable(torch.zeros(4, 4, dtype=torch.bfloat16), 2)


def test_kernels_are_launched_on_the_device_of_the_weight(monkeypatch):
    """Triton launches on the current device, whatever the arguments: here the calls are recorded, without a GPU."""
    told = []

    class Device:
        def __init__(self, tensor):
            self.tensor = tensor

        def __enter__(self):
            told.append(self.tensor)

        def __exit__(self, *_):
            told.append("left")

    class Kernel:
        def __getitem__(self, _grid):
            return lambda *_arguments, **_sizes: told.append("launched")

    triton = types.SimpleNamespace(cdiv=lambda a, b: -(-a // b), next_power_of_2=lambda a: a)
    monkeypatch.setattr(fused, "triton", triton)
    monkeypatch.setattr(fused, "_effective_weight", Kernel(), raising=False)
    monkeypatch.setattr(fused, "_gradients", Kernel(), raising=False)
    monkeypatch.setattr(torch.cuda, "device_of", Device)
    weight, a, b = torch.ones(8, 16), torch.ones(2, 16), torch.ones(8, 2)
    fused.effective_weight(weight, a, b, None, 1.0)
    fused.gradients(weight, weight, a, b, None, 1.0)
    assert [one if isinstance(one, str) else one.shape for one in told] == [
        weight.shape,
        "launched",
        "left",
    ] * 2
