import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmcompress.errors import NumericError, ParameterError
from lmcompress.quantize.codebooks import CODEBOOKS
from lmcompress.quantize.formats import WIDTHS, Bits, parse
from lmcompress.quantize.rtn import as_released, dequantize, quantize, quantizer

NARROW = [bits for bits in WIDTHS if bits < 16]
GROUPS = ["row", "tensor", 1, 4, 5, 100]


def random(rows, columns, seed=0, scale=1.0, dtype=torch.float32):
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_symmetric_by_hand():
    """2 bits, extreme -4: scale -(-4)/2 = 2, values -4 -2 0 2, so 3 is clamped to 2; 0.9 goes to 0."""
    found = quantize(torch.tensor([[-4.0, 3.0, 0.9, -1.2]]), Bits(2))
    assert found.scales.tolist() == [[2.0]]
    assert found.zeros is None
    assert found.codes.tolist() == [[0, 3, 2, 1]]
    assert dequantize(found).tolist() == [[-4, 2, 0, -2]]


def test_symmetric_scale_takes_the_side_of_the_extreme():
    found = quantize(torch.tensor([[4.0, -3.0, 0.9, 1.2]]), Bits(2))
    assert found.scales.tolist() == [[-2.0]]
    assert dequantize(found).tolist() == [[4, -2, 0, 2]]


def test_affine_by_hand():
    """2 bits over -1 .. 5: scale 2, zero point round(0.5) = 0 (half to even), values 0 2 4 6."""
    found = quantize(torch.tensor([[-1.0, 5.0, 2.2, 0.0]]), Bits(2, symmetric=False))
    assert (found.scales.tolist(), found.zeros.tolist()) == ([[2.0]], [[0]])
    assert dequantize(found).tolist() == [[0, 4, 2, 0]]


def test_affine_range_holds_zero():
    found = quantize(torch.tensor([[3.0, 6.0, 4.4]]), Bits(2, symmetric=False))
    assert dequantize(found).tolist() == [[4, 6, 4]]


def grids_by_hand(weight, format):
    """All values of every weight's group in float64, from the definition: [out, in, 2^bits]."""
    rows, columns = weight.shape
    size = {"row": columns, "tensor": columns}.get(format.group, format.group)
    values = np.empty((rows, columns, 2**format.bits))
    for row in range(rows):
        for start in range(0, columns, size):
            members = weight if format.group == "tensor" else weight[row : row + 1, start : start + size]
            members = members.double().numpy()
            low, high = min(members.min(), 0), max(members.max(), 0)
            if format.symmetric:
                extreme = high if high > -low else low
                scale, zero = (
                    np.float64(np.float16(-extreme / 2 ** (format.bits - 1))),
                    2 ** (format.bits - 1),
                )
            else:
                scale = np.float64(np.float16((high - low) / (2**format.bits - 1)))
                zero = min(max(np.rint(-low / scale), 0), 2**format.bits - 1) if scale else 0
            values[row, start : start + size] = (np.arange(2**format.bits) - zero) * scale
    return values


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", NARROW)
def test_every_weight_takes_the_nearest_value_of_its_group(bits, group, symmetric):
    weight = random(6, 13, scale=0.02, dtype=torch.float64)
    format = Bits(bits, group, symmetric)
    found = dequantize(quantize(weight, format)).numpy()
    distance = np.abs(grids_by_hand(weight, format) - weight.numpy()[..., None])
    np.testing.assert_allclose(np.abs(found - weight.numpy()), distance.min(-1), rtol=1e-9, atol=1e-15)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(NARROW),
    st.sampled_from(GROUPS),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 10**6),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_properties(bits, group, symmetric, rows, columns, seed, dtype):
    weight = random(rows, columns, seed).to(dtype)
    weight[0, 0] = 0
    format = Bits(bits, group, symmetric)
    found = quantize(weight, format)
    read = dequantize(found)
    assert (read.dtype, found.shape, found.scales.dtype) == (dtype, weight.shape, torch.float16)
    assert tuple(found.scales.shape) == format.scales_shape(weight.shape)
    assert read[0, 0] == 0
    assert int(found.codes.max()) < 2**bits
    mirrored = dequantize(quantize(-weight, Bits(bits, group)))
    assert torch.equal(mirrored, -dequantize(quantize(weight, Bits(bits, group)))) or (
        weight.abs().flatten().sort().values.diff().eq(0).any()  # two extremes of equal size: either may win
    )


@pytest.mark.parametrize("group", ["row", "tensor", 4, 5, 100])
def test_more_bits_less_error(group):
    weight = random(16, 40, dtype=torch.float64)
    errors = [float((dequantize(quantize(weight, Bits(bits, group))) - weight).norm()) for bits in WIDTHS]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-2


def test_zero_groups_read_zero():
    for symmetric in (True, False):
        assert dequantize(quantize(torch.zeros(2, 6), Bits(4, 4, symmetric))).tolist() == [[0] * 6] * 2


def test_sixteen_bits_keep_half_precision():
    weight = random(3, 5)
    assert torch.equal(dequantize(quantize(weight, Bits(16))), weight.half().float())
    assert torch.equal(dequantize(quantize(weight.bfloat16(), Bits(16))), weight.bfloat16())
    assert quantize(weight.bfloat16() * 1e6, Bits(16)).codes.dtype == torch.bfloat16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("format", [Bits(4), Bits(4, symmetric=False), Bits(16)])
def test_refuses_what_cannot_be_stored(value, format):
    weight = torch.ones(2, 3)
    weight[1, 1] = value
    with pytest.raises(NumericError, match=r"layer h\.0"):
        quantize(weight, format, layer="h.0")


def test_quantizer_is_quantize_and_dequantize():
    weight = random(4, 20)
    assert torch.equal(
        quantizer(Bits(8, 8, False))(weight, 3), dequantize(quantize(weight, Bits(3, 8, False)))
    )
    with pytest.raises(ParameterError):
        quantizer(Bits(8, 0))
    with pytest.raises(ParameterError):
        quantizer()(weight, 7)
    with pytest.raises(ParameterError):
        quantize(torch.ones(3), Bits(4))


def test_as_released():
    """-1 .. 2 at 2 bits: scale 1, all integers. -1 .. 1: scale 2/3, values -1 -1/3 1/3 1: zero is lost."""
    assert as_released(torch.tensor([[-1.0, 2.0, 0.4, 0.6]]), 2).tolist() == [[-1, 2, 0, 1]]
    found = as_released(torch.tensor([[-1.0, 1.0, 0.0, 0.9]], dtype=torch.float64), 2)
    assert found[0, 2].abs() == pytest.approx(1 / 3)
    assert found[0, [0, 1, 3]].tolist() == pytest.approx([-1, 1, 1])
    weight = random(5, 7, dtype=torch.float64)
    assert float((as_released(weight, 16) - weight).abs().max()) < 1e-4
    assert torch.equal(as_released(torch.ones(2, 2), 4), torch.ones(2, 2))


def test_a_codebook_by_hand():
    weight = torch.tensor([[2.0, -2.0, 0.0, 1.4459136724472046, 0.04, 0.079]])
    whole = quantize(weight, Bits(4, codebook="nf4"))
    assert whole.codes.tolist() == [[15, 0, 7, 14, 7, 7]]
    assert whole.scales.item() == 2
    groups = quantize(weight, parse("4bit-g3-nf4"))  # the second group has a scale of its own, 1.446 in fp16
    assert groups.codes.tolist() == [[15, 0, 7, 15, 7, 8]]
    assert dequantize(whole).tolist()[0] == pytest.approx([2, -2, 0, 1.4459136724472046, 0, 0.0])
    assert str(parse("4bit-g64-nf4")) == "4bit-g64-nf4"


def test_every_value_of_a_codebook_reads_as_itself_and_a_midpoint_as_the_lower():
    for name, values in CODEBOOKS.items():
        assert list(values) == sorted(values)
        weight = 0.5 * torch.tensor([values])
        format = Bits((len(values) - 1).bit_length(), codebook=name)
        assert torch.equal(dequantize(quantize(weight, format)), weight)
        assert quantize(weight, format).codes.tolist() == [list(range(len(values)))]


@pytest.mark.parametrize("bad", ["3bit-nf4", "4bit-asym-nf4", "16bit-nf4", "4bit-nf5"])
def test_a_codebook_has_one_width_and_no_zero_points(bad):
    with pytest.raises(ParameterError):
        parse(bad)
