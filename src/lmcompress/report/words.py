"""How the pages put numbers into words."""

import math
import re
from collections.abc import Callable, Sequence
from functools import wraps
from html import escape
from typing import Any

import pandas as pd

from lmcompress.numbers import exp
from lmcompress.records import Record
from lmcompress.report.html import Html, not_run
from lmcompress.report.run_card import provenance
from lmcompress.tasks import TASKS


def readable(task: str) -> str:
    """How a task is called in figures."""
    return TASKS[task].words


def perplexity(loss: float | None) -> float | None:
    """exp of a loss in nats; None stays None."""
    return None if loss is None else exp(loss)


def by_depth(table: dict[str, Any]) -> dict[str, Any]:
    """A table of layers in their order in the model: block 2 before block 10.

    Records are written with sorted names, in which ``layers.10`` stands before ``layers.2``. Linears of one
    block stay in alphabetical order.
    """
    return dict(sorted(table.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])]))


def started(text: str) -> str:
    """As the beginning of a sentence; names inside keep their capitals."""
    return text[0].upper() + text[1:]


def estimate(value: float, low: float, high: float, to: str = " to ") -> str:
    """A correlation with its interval, in a sentence or a cell; a dash for the unknown. ``to``: between the ends."""
    return "–" if math.isnan(value) else f"{value:.2f} ({low:.2f}{to}{high:.2f})"


def of_kind(records: Sequence[Record], *kinds: str) -> list[Record]:
    """Records of one kind of experiment, or of several."""
    return [record for record in records if record.kind in kinds]


def on_task(frame: pd.DataFrame, task: str) -> pd.DataFrame:
    """The rows of one task, by its name in figures. Raises ``LookupError`` where it was not run."""
    rows = frame[frame["task"] == task]
    if rows.empty:
        raise LookupError(task)
    return rows


def main_task(tasks: Sequence[str]) -> str:
    """The task that a page's answer is about: language modelling where it was run, else the first."""
    return readable("language") if readable("language") in list(tasks) else next(iter(tasks))


def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
    """``make(records, ...)``, which takes seconds, computed once for the same record objects and arguments."""
    known: dict[tuple[Any, ...], tuple[Any, ...]] = {}

    @wraps(make)
    def found(records: Sequence[Record], *arguments: object, **options: object) -> object:
        if not records:
            return make(records, *arguments, **options)
        asked = (tuple(map(id, records)), arguments, tuple(options.items()))
        if asked not in known:  # the records are kept with it: an identity stays theirs
            known[asked] = list(records), make(records, *arguments, **options)
        value = known[asked][1]
        return value.copy() if hasattr(value, "copy") else value

    return found


def says(sentences: Sequence[str]) -> Html:
    """Sentences that were made of records, as paragraphs of the page."""
    return Html("".join(f"<p>{escape(sentence)}</p>" for sentence in sentences))


def page(
    records: Sequence[Record],
    make: Callable[[Sequence[Record]], list[Any]],
    what: str,
    needs: str = "one GPU for some minutes: `make full`, or the profile `full` of this notebook",
) -> list[Any]:
    """What a notebook shows of ``records``: the pieces that ``make`` returns and the run block; or ``what`` was
    not run, and what that ``needs``.
    """
    if not records:
        return [not_run(what, needs)]
    return [*make(records), provenance(records)]
