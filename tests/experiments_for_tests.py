"""Experiments that cost nothing, for the tests of records and of the command line."""

import json
from pathlib import Path

from lmcompress.parameters import CorpusName
from lmcompress.records import Experiment, Study

FACTOR = 2


def doubled(value: int) -> int:
    """Twice the value."""
    return FACTOR * value


def unrelated() -> int:
    return 0


class Doubling(Experiment):
    """Doubles a number and notes in a file that it ran."""

    value: int = 1
    log: str = ""
    corpus: CorpusName | None = None

    def assets(self):
        return [(self.corpus, "data")] if self.corpus else []

    def run(self):
        if self.value < 0:
            raise RuntimeError("no negative numbers")
        if self.log:
            with Path(self.log).open("a") as file:
                file.write(json.dumps(self.value) + "\n")
        return {"doubled": doubled(self.value)}


class Study(Study):
    values: list[int] = [1, 2]
    log: str = ""

    def experiments(self):
        return [Doubling(value=value, log=self.log) for value in self.values]
