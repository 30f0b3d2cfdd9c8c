"""Experiments that cost nothing, for the tests of records and of the command line."""

import errno
import json
import os
import signal
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


class Faulty(Experiment):
    """Notes in a file that it ran, and then goes wrong: its process is killed (``kill``, or only the first time,
    ``kill-once``), or there is no room on the disk (``full disk``).
    """

    fault: str
    log: str = ""

    def assets(self):
        return []

    def run(self):
        if self.fault == "full disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seen = Path(self.log).read_text().split() if Path(self.log).exists() else []
        again = self.fault == "kill-once" and self.fault in seen
        with Path(self.log).open("a") as file:
            file.write(("again" if again else self.fault) + "\n")
        if not again:
            os.kill(os.getpid(), signal.SIGKILL)
        return {}


class Study(Study):
    values: list[int] = [1, 2]
    log: str = ""

    def experiments(self):
        return [Doubling(value=value, log=self.log) for value in self.values]
