"""The code that pages show is true: examples run, solutions pass their checks, and a wrong answer gets a hint."""

import ast
import re
import shlex
import sys
from pathlib import Path

import nbformat
import pytest

from lmcompress import cli
from lmcompress.errors import ParameterError
from lmcompress.prune.pattern import parse

sys.path.insert(0, str(Path(__file__).parents[2] / "workflow" / "scripts"))
import handouts
from handouts import BOOK, blocks

PAGES = sorted(page for page in BOOK.rglob("*.md") if page.name != "extend.md")  # which test_extend.py runs
KINDS = ("example", "start", "check", "solution")


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
def test_the_solution_passes_and_a_wrong_answer_gets_a_hint(name, parts):
    kinds = [kind for kind, _ in parts]
    assert kinds == ["start", "check", "solution"], (
        f"{name}: start, check, solution in this order, found {kinds}"
    )
    start, check, solution = (code for _, code in parts)
    execute([start, solution, check], name)
    with pytest.raises(AssertionError, match=r"^Hint: .{20}"):
        execute([start, check], name)
    silent = [
        node for node in ast.walk(ast.parse(check)) if isinstance(node, ast.Assert) and node.msg is None
    ]
    assert not silent, f"{name}: the check has an assertion without a hint"


def test_each_page_of_exercises_says_what_for_what_first_and_how_long():
    for page in handouts.pages("exercises") + handouts.pages("concepts"):
        head = page.read_text(encoding="utf-8").partition("\n## ")[0]
        for words in ("**Afterwards you can**", "**You need**", "**Time**"):
            assert words in head, f"{page.name} lacks {words}"


@pytest.mark.parametrize("page", handouts.pages("exercises"), ids=lambda page: page.stem)
def test_a_handout_holds_the_exercises_and_no_solution(page):
    with_them, without = handouts.notebook(page, solutions=True), handouts.notebook(page)
    nbformat.validate(without)
    tags = [cell.metadata.tags[0] for cell in without.cells if cell.cell_type == "code"]
    assert tags == ["start", "check"] * (len(tags) // 2)
    prose = "\n".join(cell.source for cell in without.cells if cell.cell_type == "markdown")
    assert "Solution" not in prose
    assert "**You need**" in prose
    assert not re.search(r"\{\w+\}`|^:::|\)=$|\]\((?!http)", prose, re.MULTILINE), (
        "MyST that Jupyter does not know"
    )
    solved = [cell for cell in with_them.cells if cell.cell_type == "code"]
    assert [cell.metadata.tags[0] for cell in solved] == ["start", "solution", "check"] * (len(tags) // 2)
    execute([cell.source for cell in solved], page.name)  # all of a page in one namespace, as in a notebook


def test_a_concept_page_becomes_a_notebook_whose_cells_run():
    page = BOOK / "concepts" / "pruning.md"
    execute([cell.source for cell in handouts.notebook(page).cells if cell.cell_type == "code"], page.name)


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


def test_there_are_42_exercises():
    assert len(EXERCISES) == 42
