"""The commands that README, pages and notebooks print are taken as they stand."""

import re
import shlex
from pathlib import Path

import pytest

from lmcompress import cli
from lmcompress.files import project_root

ROOT = project_root()
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "book").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.md")),
]
COMMANDS = sorted(
    {
        line.strip().removeprefix(".venv/bin/")
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.match(r"(\.venv/bin/)?lmcompress (run|compute) ", line.strip())
    }
)


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_is_accepted(command, tmp_path):
    words = shlex.split(command)[1:]
    for index, word in enumerate(words):
        if word.startswith(("./", "~/")):  # the reader's own folder
            (tmp_path / Path(word).name).mkdir(exist_ok=True)
            words[index] = str(tmp_path / Path(word).name)
    assert cli.main([*words, "--check"]) == 0
