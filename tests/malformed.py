"""Malformed files without end: every file here is a whole one with one thing wrong, the same ones in every run."""

import random
import re
from collections.abc import Callable, Iterator

from lmcompress.errors import LmcompressError
from lmcompress.files import project_root

TOKENS = (
    b"\0",
    b"\xff",
    *(bytes([code]) for code in b"'[]{}:,\t\n" + b'"'),
    b"&a ",
    b"*a",
    b"!!binary ",
    b"- ",
)
VALUES = (
    b"null",
    b"-1",
    b"1e999",
    b"NaN",
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"9" * 5000,
    b"2024-13-45",
    b"[" * 3000,
)


def spoiled(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """``count`` copies of ``content``, each cut, or with a part gone, doubled, turned round or replaced."""
    draw = random.Random(seed)
    for _ in range(count):
        start, size = draw.randrange(len(content)), draw.choice((1, 2, 8, 64))
        before, part, after = content[:start], content[start : start + size], content[start + size :]
        yield draw.choice(
            (
                before,
                after,
                before + after,
                before + part * 3 + after,
                before + part[::-1] + after,
                before + bytes(byte ^ 0x55 for byte in part) + after,
                before + draw.choice(TOKENS) + part + after,
                before + draw.choice(VALUES) + after,
                before + draw.choice(VALUES) + part + after,
            )
        )


COUNTS = {
    "parameter sets": 300,
    "files of parameters, recipes and profiles": 600,
    "sweep files": 400,
    "asset manifests": 200,
    "records": 400,
    "command lines": 200,
    "texts and tables": 350,
    "files of a model folder": 120,
    "masks": 60,
    "checkpoints of a walk over the blocks": 120,
    "checkpoints of a training": 60,
    "packed models": 60,
}
"""What is tried -> how often, as the table in ``book/reproduce.md`` says."""


def refused(act: Callable[[], object], named: str) -> bool:
    """Whether ``act`` ends in an error of ours that names ``named``. Any other error is raised as it is."""
    try:
        act()
    except LmcompressError as error:
        if named not in str(error):
            raise AssertionError(f"{named} is not named") from error
        return True
    return False


def told(what: str) -> int:
    """How often ``what`` was tried by the table of ``book/reproduce.md``."""
    text = (project_root() / "book" / "reproduce.md").read_text(encoding="utf-8")
    return int(
        re.search(rf"^\| {re.escape(what)} \|.*\| ([\d,]+) \|$", text, re.MULTILINE)[1].replace(",", "")
    )
