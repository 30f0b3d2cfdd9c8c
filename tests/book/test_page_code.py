"""The code that pages show is true: examples run, solutions pass their checks, and unsolved exercises fail them."""

import re
import shlex
from pathlib import Path

import pytest

from lmcompress import cli
from lmcompress.errors import ParameterError
from lmcompress.prune.pattern import parse

BOOK = Path(__file__).parents[2] / "book"
PAGES = sorted(BOOK.rglob("*.md"))
BLOCK = re.compile(r"^```\{code-block\} python\n:class: (\w+)\n+(.*?)^```$", re.MULTILINE | re.DOTALL)
KINDS = ("example", "start", "check", "solution")


def blocks(text: str) -> list[tuple[str, str]]:
    """``(kind, code)`` of the marked code blocks, in order."""
    return [(match[1], match[2]) for match in BLOCK.finditer(text)]


def exercises() -> list[tuple[str, list[tuple[str, str]]]]:
    """``(page: title, blocks)`` of every exercise: a section of level two of a page in exercises/ with code."""
    found = []
    for page in sorted((BOOK / "exercises").glob("*.md")):
        for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            if blocks(section):
                found.append((f"{page.stem}: {section.splitlines()[0]}", blocks(section)))
    return found


EXERCISES = exercises()
WITH_EXAMPLES = [
    p for p in PAGES if any(kind == "example" for kind, _ in blocks(p.read_text(encoding="utf-8")))
]


def execute(codes: list[str], name: str) -> None:
    """Run the codes one after the other in one namespace."""
    namespace: dict = {}
    for code in codes:
        exec(compile(code, name, "exec"), namespace)


def test_every_code_block_is_marked_so_that_nothing_goes_unchecked():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert all(kind in KINDS for kind, _ in blocks(text)), page
        fences = len(re.findall(r"^```\{code-block\} python|^```python|^```py\b", text, re.MULTILINE))
        assert fences == len(blocks(text)), (
            f"{page.name}: a block of Python without :class: {' or '.join(KINDS)}"
        )


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.stem)
def test_examples_run(page):
    execute([c for kind, c in blocks(page.read_text(encoding="utf-8")) if kind == "example"], page.name)


@pytest.mark.parametrize(("name", "parts"), EXERCISES, ids=[name for name, _ in EXERCISES])
def test_solution_passes_and_the_start_does_not(name, parts):
    kinds = [kind for kind, _ in parts]
    assert kinds == ["start", "check", "solution"], (
        f"{name}: start, check, solution in this order, found {kinds}"
    )
    start, check, solution = (code for _, code in parts)
    execute([start, solution, check], name)
    with pytest.raises((AssertionError, NotImplementedError)):
        execute([start, check], name)


@pytest.mark.parametrize(
    "line",
    [
        line
        for page in PAGES
        for block in re.findall(
            r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        for line in block.splitlines()
        if line.startswith("lmcompress ")
    ],
)
def test_commands_are_ones_that_the_program_knows(line):
    command, words = cli.app, shlex.split(line)[1:]
    while words and hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(line, words)  # raises for a word that it does not know


def test_the_message_that_reproduce_shows_is_the_real_one():
    page = (BOOK / "reproduce.md").read_text(encoding="utf-8")
    shown = " ".join(re.search(r"```text\nsparsities\.0: (.*?)```", page, re.DOTALL)[1].split())
    with pytest.raises(ParameterError) as refused:
        parse(1.5)
    assert str(refused.value) == f"sparsity: {shown}"


def test_there_are_exercises_for_all_three_parts():
    pages = {name.split(":")[0] for name, _ in EXERCISES}
    assert {"pruning", "retraining", "quantization"} <= pages
