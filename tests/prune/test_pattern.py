import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcompress.errors import ParameterError
from lmcompress.prune.pattern import NofM, Unstructured, parse


@pytest.mark.parametrize(
    ("given_as", "pattern", "text"),
    [
        (0.5, Unstructured(0.5), "50%"),
        ("0.5", Unstructured(0.5), "50%"),
        (" 50 % ", Unstructured(0.5), "50%"),
        ("33.3%", Unstructured(0.333), "33.3%"),
        (0, Unstructured(0.0), "0%"),
        ("2:4", NofM(2, 4), "2:4"),
        (NofM(1, 4), NofM(1, 4), "1:4"),
    ],
)
def test_parse_and_str(given_as, pattern, text):
    assert parse(given_as) == pattern
    assert str(parse(given_as)) == text


def test_n_counts_zeros():
    assert NofM(1, 4).sparsity == 0.25
    assert Unstructured(0.3).sparsity == 0.3


@given(st.floats(0, 1, exclude_max=True) | st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_str_round_trips(value):
    pattern = NofM(value[0], sum(value)) if isinstance(value, tuple) else Unstructured(value)
    assert parse(str(pattern)) == pattern


@pytest.mark.parametrize(
    "bad",
    [1, 1.0, -0.1, float("nan"), True, None, "50", "100%", "half", "", "nan", "0:4", "4:4", "2:", "5:4"],
)
def test_refused(bad):
    with pytest.raises(ParameterError, match="2:4"):
        parse(bad)


def test_values_of_wrong_type_are_refused():
    with pytest.raises(ParameterError):
        NofM(2.0, 4)
    with pytest.raises(ParameterError):
        Unstructured("0.5")
