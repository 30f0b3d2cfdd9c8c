"""The page of the library is made of its source: nothing is left out, and arguments become a list."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import lmcompress

sys.path.insert(0, str(Path(__file__).parents[2] / "book" / "_ext"))
import lmcompress_api

SOURCE = '''
def shrink(model: int, by: float = 0.5, *, seed: int = 0) -> int:
    """Make it smaller, as :func:`~lmcompress.models.load` does not.

    model: what
        there is.
    by: how much.

    Raises :class:`ParameterError` for nonsense.
    """


class Size:
    """How large. ``width``: in bits."""

    width: int = 4

    def hidden(self):
        """Not on the page."""
'''


def test_a_function_by_hand():
    assert lmcompress_api.described(SOURCE, "shrink") == [
        "```python\nshrink(model: int, by: float=0.5, *, seed: int=0) -> int\n```",
        "Make it smaller, as ``models.load`` does not.",
        "* **model**: what\n  there is.\n* **by**: how much.",
        "Raises ``ParameterError`` for nonsense.",
    ]


def test_a_class_is_shown_with_its_fields():
    head, text = lmcompress_api.described(SOURCE, "Size")
    assert head == "```python\nSize(width: int = 4)\n```"
    assert text == "How large. ``width``: in bits."


@pytest.mark.parametrize("name", lmcompress.FACE)
def test_every_name_of_the_face_is_found_and_described(name):
    source = Path(find_spec(lmcompress.FACE[name]).origin).read_text(encoding="utf-8")
    head, *text = lmcompress_api.described(source, name)
    assert head.startswith(f"```python\n{name}(")
    assert text


def test_an_unknown_name_is_no_silence():
    with pytest.raises(LookupError):
        lmcompress_api.described(SOURCE, "hidden")
