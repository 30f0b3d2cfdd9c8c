"""The commands that README, pages and notebooks print are taken as they stand."""

import re
import shlex
from pathlib import Path

import click
import pytest

from lmcompress import cli
from lmcompress.files import project_root

ROOT = project_root()
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "book").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.md")),
]
NAMES = "|".join(cli.app.commands)
PRINTED = re.compile(rf"(?:^\s*|`)(?:\.venv/bin/)?(lmcompress (?:{NAMES}) [^`\n]+)", re.M)
PLANNED = re.compile(r"lmcompress (run|compute) ")
OURS = "12_last_token"  # the page that a reader of book/extend.md writes; tests/book/test_extend.py runs it
PARTS = {"lmcompress compress --quantize", "lmcompress compress --prune ria:2:4"}  # named within a sentence


def printed() -> list[str]:
    """The command lines of all pages, without comments: lines of their own, and those within a sentence."""
    found = {line for page in PAGES for line in PRINTED.findall(page.read_text(encoding="utf-8"))}
    return sorted({shlex.join(shlex.split(line, comments=True)) for line in found} - PARTS)


COMMANDS = printed()


def parse(words: list[str]) -> None:
    """Read a command line as the program does, and do nothing. Raises ``click.UsageError``."""
    context, rest = click.Context(cli.app, info_name="lmcompress"), words
    while isinstance(context.command, click.Group):
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        rest = [*context._protected_args, *context.args]


def test_there_are_commands_of_every_kind():
    assert len(COMMANDS) > 60
    assert {command.split()[1] for command in COMMANDS} == {*cli.app.commands}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_has_arguments_and_options_that_there_are(command):
    parse(shlex.split(command)[1:])


@pytest.mark.parametrize("command", ["redo", "run 10 --cheek", "records shw KEY", "export KEY"])
def test_one_that_has_not_is_noticed(command):
    with pytest.raises(click.UsageError):
        parse(command.split())


@pytest.mark.parametrize("command", [one for one in COMMANDS if PLANNED.match(one) and OURS not in one])
def test_a_printed_run_is_accepted(command, tmp_path):
    words = shlex.split(command)[1:]
    for index, word in enumerate(words):
        if word.startswith(("./", "~/")):  # the reader's own folder
            (tmp_path / Path(word).name).mkdir(exist_ok=True)
            words[index] = str(tmp_path / Path(word).name)
    assert cli.main([*words, *(["--check"] if "--check" not in words else [])]) == 0


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("lmcompress redo ")])
def test_a_printed_redo_finds_published_runs(command, capsys):
    assert cli.main([*shlex.split(command)[1:], "--estimate"]) == 0
    assert re.match(r"[1-9]\d* runs; they took ", capsys.readouterr().out)
