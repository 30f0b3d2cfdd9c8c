from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from lmcompress.errors import ParameterError
from lmcompress.parameters import CorpusName, ModelName, Parameters, PatternText


class Sweep(Parameters):
    model: ModelName = "smollm2-135m"
    corpus: CorpusName = "wikipedia-vital"
    patterns: list[PatternText] = ["50%"]
    windows: int = Field(3, ge=1)
    rate: float | None = None
    dtype: Literal["fp32", "bf16"] = "fp32"


def test_text_from_a_command_line_gives_the_same_run_as_python():
    typed = Sweep(patterns=[0.5, "2:4"], windows=5, rate=0.1)
    assert Sweep(patterns="[0.5, '2:4']", windows="5", rate="0.1") == typed
    assert Sweep(patterns=["50%", "2:4"], windows=5, rate=1e-1) == typed
    assert Sweep(rate="null").rate is None
    assert typed.patterns == ["50%", "2:4"]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("patterns", "[1.5]", r"patterns\.0: 1\.5 .*sparsity in \[0, 1\)"),
        ("patterns", ["4:2"], r"patterns\.0: '4:2' "),
        ("windows", "many", r"windows: 'many' .*integer"),
        ("windows", 0, r"windows: 0 .*greater than or equal to 1"),
        ("windows", 2.5, r"windows: 2\.5 "),
        ("dtype", "fp8", r"dtype: 'fp8' .*'fp32' or 'bf16'"),
        ("model", "smollm", r"model: 'smollm' .*smollm2-135m, minilm-l6, .*; a local folder"),
        ("corpus", "wiki", r"corpus: 'wiki' .*wikipedia-vital"),
        ("pattern", 0.5, r"pattern: 0\.5 .*no such parameter; they are model, corpus, patterns"),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_name_value_and_choices(field, value, expected):
    with pytest.raises(ParameterError, match=expected):
        Sweep(**{field: value})


def test_a_notebooks_variables_are_taken_and_what_ipython_adds_is_not():
    variables = {"windows": 4, "In": ["code"], "Out": {}, "_": 3, "__name__": "x", "pytest": pytest, "f": len}
    assert Sweep.of(variables).windows == 4
    with pytest.raises(ParameterError, match=r"window: 4 .*no such parameter"):
        Sweep.of({"window": 4})


def test_parameters_cannot_be_changed_afterwards():
    with pytest.raises(Exception, match="frozen"):
        Sweep().windows = 4


@given(st.integers(1, 10**6), st.floats(0, 0.99), st.sampled_from(["fp32", "bf16"]))
def test_what_json_keeps_of_parameters_gives_them_back(windows, sparsity, dtype):
    made = Sweep(windows=windows, patterns=[sparsity], dtype=dtype)
    assert Sweep(**made.model_dump(mode="json")) == made
