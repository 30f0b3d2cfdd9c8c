import pytest
import torch

from lmcompress.errors import NumericError, ParameterError
from lmcompress.prune.sparsegpt import DAMPING
from lmcompress.quantize import gptq, rtn
from lmcompress.quantize.formats import WIDTHS, Bits
from lmcompress.quantize.rtn import dequantize
from lmcompress.stats import relative_output_error


def correlated(rows, columns, seed=0, tokens=400, dtype=torch.float64):
    """A random weight [rows, columns] and the Gram matrix of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = 0.5 * torch.randn(columns, columns, generator=generator, dtype=torch.float64) + torch.eye(columns)
    x = torch.randn(tokens, columns, generator=generator, dtype=torch.float64) @ mix
    weight = 0.1 * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return weight.to(dtype), (x.T @ x / tokens).to(dtype)


def scale_of(values, bits, symmetric):
    """Scale and zero point of one group in plain numbers."""
    low, high = min(float(values.min()), 0), max(float(values.max()), 0)
    if symmetric:
        extreme = high if high > -low else low
        return float(torch.tensor(-extreme / 2 ** (bits - 1)).half()), 2 ** (bits - 1)
    scale = float(torch.tensor((high - low) / (2**bits - 1)).half())
    return scale, min(max(round(-low / scale), 0), 2**bits - 1)


def by_obq(weight, gram, format, order=None, kept=None, damping=DAMPING[0]):
    """OBQ (arXiv 2208.11580, eqs. 2 and 4) in a fixed order, row by row: an explicit inverse Hessian from
    which every finished weight is eliminated, ``H^-1 - H^-1[:, p] H^-1[p, :] / H^-1[p, p]``."""
    rows, columns = weight.shape
    identity = torch.eye(columns, dtype=torch.float64)
    static = order is not None or not isinstance(format.group, int)
    size = columns if isinstance(format.group, str) else format.group
    found = weight.clone()
    for row in range(rows):
        w = weight[row].clone()
        inverse = torch.linalg.inv(gram + damping * gram.diagonal().mean() * identity)
        for p in order if order is not None else range(columns):
            first = p // size * size
            if static:
                members = weight if format.group == "tensor" else weight[row, first : first + size]
                scale, zero = scale_of(members, format.bits, format.symmetric)
            elif p == first:
                scale, zero = scale_of(w[first : first + size], format.bits, format.symmetric)
            code = min(max(round(float(w[p]) / scale) + zero, 0), 2**format.bits - 1)
            value = (code - zero) * scale if kept is None or kept[row, p] else 0.0
            found[row, p] = value
            others = inverse[p] * ((w[p] - value) / inverse[p, p])
            w = w - others
            inverse = inverse - torch.outer(inverse[:, p], inverse[p]) / inverse[p, p]
    return found


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", ["row", "tensor", 5, 8])
@pytest.mark.parametrize("bits", [2, 4])
def test_equals_obq_in_a_fixed_order(bits, group, symmetric):
    weight, gram = correlated(6, 21)
    format = Bits(bits, group, symmetric)
    found = gptq.quantize(weight, gram, format)
    torch.testing.assert_close(
        dequantize(found.quantized), by_obq(weight, gram, format), rtol=1e-6, atol=1e-9
    )
    assert (found.damping, found.dead) == (DAMPING[0], 0)


@pytest.mark.parametrize("group", ["row", 8])
def test_act_order_equals_obq_from_the_largest_diagonal(group):
    weight, gram = correlated(6, 21)
    order = sorted(range(21), key=lambda j: -float(gram[j, j]))
    format = Bits(3, group)
    found = gptq.quantize(weight, gram, format, act_order=True)
    torch.testing.assert_close(
        dequantize(found.quantized), by_obq(weight, gram, format, order), rtol=1e-6, atol=1e-9
    )


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", ["row", 8])
def test_pruned_weights_stay_zero_and_are_made_up_for(group, act_order):
    weight, gram = correlated(6, 21)
    kept = torch.rand(6, 21, generator=torch.Generator().manual_seed(1)) < 0.5
    weight = weight * kept
    order = sorted(range(21), key=lambda j: -float(gram[j, j])) if act_order else None
    for format in (Bits(4, group), Bits(4, group, False)):
        found = dequantize(gptq.quantize(weight, gram, format, act_order=act_order, kept=kept).quantized)
        assert not found[~kept].any()
        torch.testing.assert_close(found, by_obq(weight, gram, format, order, kept), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("group", ["row", 48, 100, 200])
def test_blocks_change_nothing(group, monkeypatch):
    """Updates that wait for the end of a block are the same sums: blocks of any size give the same codes."""
    weight, gram = correlated(4, 300, tokens=600)
    format = Bits(4, group)
    whole = gptq.quantize(weight, gram, format).quantized
    monkeypatch.setattr(gptq, "BLOCK", 1)
    assert torch.equal(gptq.quantize(weight, gram, format).quantized.codes, whole.codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("group", ["row", 16])
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_less_output_error_than_rounding(bits, group, act_order, dtype):
    weight, gram = correlated(32, 64, dtype=dtype)
    format = Bits(bits, group)
    ours = dequantize(gptq.quantize(weight, gram, format, act_order=act_order).quantized)
    rounded = dequantize(rtn.quantize(weight, format))
    assert relative_output_error(weight, ours, gram) < 0.7 * relative_output_error(weight, rounded, gram)
    assert ours.dtype == dtype


def test_uncorrelated_inputs_leave_nothing_to_make_up_for():
    weight, _ = correlated(5, 12)
    gram = torch.diag(torch.rand(12, dtype=torch.float64) + 0.5)
    for format in (Bits(3), Bits(3, 5, False)):
        for act_order in (False, True):
            found = gptq.quantize(weight, gram, format, act_order=act_order).quantized
            assert torch.equal(found.codes, rtn.quantize(weight, format).codes)


def test_dead_inputs_are_rounded_to_nearest():
    weight, gram = correlated(5, 12)
    gram[3], gram[:, 3] = 0, 0
    found = gptq.quantize(weight, gram, Bits(4))
    assert found.dead == 1
    assert torch.equal(found.quantized.codes[:, 3], rtn.quantize(weight, Bits(4)).codes[:, 3])


def test_sixteen_bits_are_only_rounded():
    weight, gram = correlated(3, 7, dtype=torch.float32)
    found = gptq.quantize(weight, gram, Bits(16))
    assert torch.equal(found.quantized.codes, weight.half())
    assert found.damping is None


def test_refusals_name_the_layer():
    weight, gram = correlated(3, 7)
    with pytest.raises(NumericError, match="layer a"):
        gptq.quantize(weight, gram * float("nan"), Bits(4), layer="a")
    with pytest.raises(NumericError, match="layer a"):
        gptq.quantize(weight / 0, gram, Bits(4), layer="a")
    with pytest.raises(ParameterError, match="gram"):
        gptq.quantize(weight, gram[:3, :3], Bits(4))
    with pytest.raises(ParameterError, match="kept"):
        gptq.quantize(weight, gram, Bits(4), kept=torch.ones(3, 7))


def test_every_width_gives_codes_in_range():
    weight, gram = correlated(4, 9)
    for bits in WIDTHS[:-1]:
        codes = gptq.quantize(weight, gram, Bits(bits, 4, False)).quantized.codes
        assert int(codes.max()) <= 2**bits - 1
