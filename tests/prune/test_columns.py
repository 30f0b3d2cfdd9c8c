"""The kernel of the column loops against the plain loops of SparseGPT and GPTQ.

They run on a GPU, or in Triton's interpreter (``TRITON_INTERPRET=1`` with the package triton installed);
skipped otherwise.
"""

import os

import pytest
import torch

from lmcompress.prune import columns, sparsegpt
from lmcompress.prune.pattern import NofM, Unstructured
from lmcompress.quantize import gptq
from lmcompress.quantize.formats import Bits
from lmcompress.quantize.rtn import dequantize
from lmcompress.stats import relative_output_error

GPU, INTERPRETED = torch.cuda.is_available(), os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if GPU and not INTERPRETED else "cpu"
needs_kernel = pytest.mark.skipif(
    columns.triton is None or not (GPU or INTERPRETED), reason="needs Triton and a GPU, or its interpreter"
)
SHAPES = [(7, 40), (37, 200), (16, 256)] + ([(600, 1536)] if GPU else [])


def correlated(rows, inputs, seed=0):
    """A random weight and the Gram matrix of strongly correlated inputs, fp32, two inputs dead."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=generator) / inputs**0.5 + torch.eye(inputs)
    x = torch.randn(4 * inputs, inputs, generator=generator) @ mix
    x[:, [3, inputs - 1]] = 0
    return torch.randn(rows, inputs, generator=generator), x.T @ x / len(x)


def both(monkeypatch, function):
    """What ``function(device)`` gives with the kernel and without, on the CPU."""
    monkeypatch.setattr(columns, "usable", lambda given: given.dtype == torch.float32)
    ours = function(DEVICE)
    monkeypatch.setattr(columns, "usable", lambda given: False)
    return ours, function("cpu")


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "pattern", [Unstructured(0.5), Unstructured(0.8), NofM(2, 4), NofM(4, 8), NofM(1, 5)]
)
def test_masks_and_errors_are_those_of_the_plain_loop(monkeypatch, pattern, shape):
    weight, gram = correlated(*shape)
    if isinstance(pattern, NofM) and shape[1] % pattern.m:
        pytest.skip("m does not divide the inputs")
    ours, plain = both(
        monkeypatch, lambda device: sparsegpt.prune(weight.to(device), gram.to(device), pattern)
    )
    kept = ours.mask.cpu()
    assert int((kept != plain.mask).sum()) <= 0.002 * kept.numel()  # near ties, in another order of the sums
    assert int((~kept).sum()) == int((~plain.mask).sum())
    assert not ours.weight.cpu()[~kept].any()
    errors = [relative_output_error(weight, one.weight.cpu(), gram) for one in (ours, plain)]
    assert errors[0] == pytest.approx(errors[1], rel=2e-3)
    rows = (kept == plain.mask).all(1)  # of which no weight was decided otherwise
    torch.testing.assert_close(ours.weight.cpu()[rows], plain.weight[rows], rtol=1e-3, atol=1e-4)


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize(
    "format", [Bits(4), Bits(3, 32, False), Bits(2, 150), Bits(8, "tensor"), Bits(4, 48)]
)
def test_codes_are_those_of_the_plain_loop(monkeypatch, format, pruned, act_order, shape):
    weight, gram = correlated(*shape)
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6 if pruned else None
    if pruned:
        weight = weight * kept

    def quantized(device):
        mask = None if kept is None else kept.to(device)
        return gptq.quantize(
            weight.to(device), gram.to(device), format, act_order=act_order, kept=mask
        ).quantized

    ours, plain = both(monkeypatch, quantized)
    codes = ours.codes.cpu()
    assert int((codes != plain.codes).sum()) <= 0.01 * codes.numel()  # a value near the middle of two
    values = dequantize(ours).cpu()
    if pruned:
        assert not values[~kept].any()
    errors = [relative_output_error(weight, one, gram) for one in (values, dequantize(plain))]
    assert errors[0] == pytest.approx(errors[1], rel=2e-2)


def test_a_cpu_takes_the_plain_loop():
    assert not columns.usable(torch.zeros(4, 4))
