import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcompress.errors import ParameterError
from lmcompress.quantize.formats import WIDTHS, Bits, layout, packed_bytes, parse, stored_bytes

formats = st.builds(
    Bits,
    st.sampled_from(WIDTHS),
    st.sampled_from(["row", "tensor"]) | st.integers(1, 300),
    st.booleans(),
)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(formats)
def test_spelling_round_trip(format):
    assert parse(str(format)) == format
    assert parse(format) is format


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("4bit", Bits(4)),
        ("3bit-asym", Bits(3, symmetric=False)),
        ("8bit-tensor", Bits(8, "tensor")),
        ("4bit-g128-asym", Bits(4, 128, False)),
        (2, Bits(2)),
    ],
)
def test_spellings(text, format):
    assert parse(text) == format
    assert isinstance(text, int) or str(format) == text


def test_sixteen_bits_have_no_scales():
    assert Bits(16, 128, False) == Bits(16, "tensor") == parse("16bit")
    assert Bits(16, 128).scales_shape((4, 8)) == (0, 0)
    assert Bits(16).bytes_for((4, 8)) == 64


@pytest.mark.parametrize(
    "bad",
    ["", "4", "7bit", "4bit-row", "4bit-g0", "4bit-g", "4bit-asym-g8", "4bit-sym", 7, 1, True, 4.0, None],
)
def test_refuses_other_spellings(bad):
    with pytest.raises(ParameterError):
        parse(bad)


@pytest.mark.parametrize(
    "bad", [(7,), ("4",), (4, 0), (4, "column"), (4, 1.5), (4, None), (4, 8, 1), (4, True)]
)
def test_refuses_impossible_formats(bad):
    with pytest.raises(ParameterError):
        Bits(*bad)


def test_bytes_by_hand():
    """3 x 576 weights at 4 bits = 864 bytes; 5 groups of 128 a row: 15 scales = 30 bytes, zeros = 8."""
    assert Bits(4, 128).scales_shape((3, 576)) == (3, 5)
    assert Bits(4, 128).bytes_for((3, 576)) == 864 + 30
    assert Bits(4, 128, False).bytes_for((3, 576)) == 864 + 30 + 8
    assert Bits(4).bytes_for((3, 576)) == 864 + 6
    assert Bits(4, "tensor").bytes_for((3, 576)) == 864 + 2
    assert Bits(3, "tensor", False).bytes_for((1, 3)) == 2 + 2 + 1
    assert Bits(4, 1000).scales_shape((3, 576)) == (3, 1)


def test_sparse_layout_by_hand():
    """Half of 16 x 16 at 4 bits: 32 mask bytes + 64 code bytes < 128; at 2 bits 32 + 32 = 64: no gain."""
    assert layout((16, 16), Bits(4, "tensor"), 128) == ("sparse", 98)
    assert layout((16, 16), Bits(2, "tensor"), 128) == ("dense", 66)
    assert layout((16, 16), Bits(4, "tensor")) == ("dense", 130)
    assert stored_bytes((16, 16), Bits(16), 0) == 32
    for bad in (-1, 257, 1.0):
        with pytest.raises(ParameterError, match="kept"):
            layout((16, 16), Bits(4), bad)


@given(shapes, formats, st.data())
def test_fewer_kept_weights_never_cost_more(shape, format, data):
    kept = data.draw(st.integers(0, shape[0] * shape[1]))
    sizes = [stored_bytes(shape, format, count) for count in (0, kept, shape[0] * shape[1])]
    assert sizes == sorted(sizes)
    assert sizes[-1] == stored_bytes(shape, format) == format.bytes_for(shape)


@given(st.integers(0, 1000), st.sampled_from(WIDTHS))
def test_packing_has_no_gaps(count, bits):
    assert 8 * packed_bytes(count, bits) - count * bits in range(8)


@pytest.mark.parametrize("shape", [(3,), (3, 0), (1, 2, 3)])
def test_refuses_other_shapes(shape):
    with pytest.raises(ParameterError, match="shape"):
        Bits(4).bytes_for(shape)
