"""Ten readings of this book and what each took, of ``results/benchmarks/readings.json``."""

import json
from textwrap import shorten
from typing import Any

import pandas as pd

from lmcompress.records import results_folder
from lmcompress.report.html import Html, whole


def rows() -> list[dict[str, Any]]:
    """What ``benchmarks/readings.py`` wrote, a reading each. Raises ``LookupError`` where the record is missing."""
    path = results_folder() / "benchmarks" / "readings.json"
    if not path.is_file():
        raise LookupError(
            "`python benchmarks/readings.py build/book/_build/html results/benchmarks/readings.json`"
        )
    found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return found


def table() -> Html:
    """A row a reading: words, clicks, screens and seconds to the answer, and where it was found."""
    found = [
        {
            "what": row["reading"],
            "words": row["words"],
            "clicks": row["clicks"],
            "screens scrolled": row["screens"],
            "seconds": round(row["seconds"]),
            "found on": row["pages"][-1].removeprefix("book/").replace(".html", ""),
        }
        for row in rows()
    ]
    return whole(pd.DataFrame(found), "From the front page to the answer")


def answers() -> Html:
    """A row a reading: the answer as it stood there."""
    found = [{"what": row["reading"], "answer": row["answer"]} for row in rows()]
    return whole(pd.DataFrame(found), "What was found there, its first 300 letters")


def commands() -> Html:
    """A row a command that a reading ends in: real seconds, processor seconds, and its last line."""
    found = [
        {
            "command": f"`{one['command']}`",
            "seconds": one["seconds"],
            "of which computing": one["processor"],
            "last line": shorten(one["last line"], 120, placeholder=" …"),
        }
        for row in rows()
        for one in row["commands"]
    ]
    return whole(pd.DataFrame(found), "Commands, run on the machine of this record")
