"""Pieces of HTML for the pages: tables, the run behind a number, what was not run, verdicts on claims.

All text is escaped. Pieces bring their style and inherit their colours, so that a piece looks right in the book (light
and dark), in JupyterLab and on Colab alike.
"""

import math
import numbers
import re
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any

import pandas as pd

from lmcompress.errors import ParameterError
from lmcompress.plans import coverage as coverage_of
from lmcompress.records import Record

SHOWN = 10  # rows of a table; of a longer one the others are folded away
HOLDS, PART, FAILS = "holds", "holds in part", "does not hold here"
OPEN, NOT_RUN = "cannot be told here", "not run here"
VERDICTS = {HOLDS: "✓", PART: "◐", FAILS: "✗", OPEN: "?", NOT_RUN: "–"}
STYLE = """<style>
.lm-table { overflow: auto; max-width: 100%; font-size: .9em; scrollbar-width: thin }
.lm-table::-webkit-scrollbar { height: .6rem; width: .6rem }
.lm-table::-webkit-scrollbar-thumb { background: rgba(128, 128, 128, .7); border-radius: .3rem }
.lm-long { max-height: 28rem }
.lm-table table { border-collapse: collapse; width: auto; margin: .3rem 0 }
.lm-table caption { text-align: left; caption-side: top }
.lm-table caption span { display: inline-block; max-width: 85vw }
.lm-table :is(td, th) { padding: .2rem .5rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid rgba(128, 128, 128, .35) }
.lm-table th { vertical-align: bottom; line-height: 1.25 }
.lm-table .n { text-align: right }
.lm-table td.n { white-space: nowrap }
.lm-run dt { float: left; clear: left; width: 6.2rem }
.lm-run dd { margin: 0 0 .2rem 6.4rem; overflow-wrap: anywhere }
</style>"""


class Html(str):
    """A string of HTML that a notebook shows as such."""

    def _repr_html_(self) -> str:
        return str(self)


def number(value: object) -> str:
    """How tables write a value: four significant digits, thousands set apart, a dash for the unknown."""
    if value is None or value is pd.NA or (isinstance(value, numbers.Real) and math.isnan(value)):
        return "–"
    if isinstance(value, bool) or type(value).__name__ == "bool":  # also numpy's
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        return f"{value:,.0f}" if 1e4 <= abs(float(value)) < 1e9 else f"{value:,.4g}"
    return str(value)


def table(frame: pd.DataFrame, caption: str) -> Html:
    """A table that scrolls sideways on a phone. Column names are the heads; the index is not shown. Of more than
    ``SHOWN`` rows the first are shown and all are folded away below.

    The ends of an interval, columns ``low`` and ``high`` (or ``NAME low`` and ``NAME high``) beside each other,
    are shown as one column ``interval`` (``NAME interval``).
    """
    require_text("caption", caption)
    if len(frame) <= SHOWN + 2:
        return whole(frame, caption)
    first = whole(frame.iloc[:SHOWN], f"{caption.rstrip('.')}. The first {SHOWN} of {len(frame)} rows.")
    return Html(first + details(f"All {len(frame)} rows", whole(frame, caption)))


def whole(frame: pd.DataFrame, caption: str) -> Html:
    """:func:`table` with all its rows."""
    frame = _with_intervals(frame.reset_index(drop=True))
    columns = [frame.iloc[:, i] for i in range(frame.shape[1])]
    marks = [" class=n" if all(map(_is_number, column)) else "" for column in columns]
    heads = [(str(name), mark) for name, mark in zip(frame.columns, marks, strict=True)]
    rows = [
        [(inline(number(value)), mark) for value, mark in zip(row, marks, strict=True)]
        for row in frame.astype(object).itertuples(index=False)
    ]
    return grid(heads, rows, caption, caption)


def tabled(
    frame: Callable[..., pd.DataFrame], caption: str, missing: str = "", show: Callable[..., Html] = table
) -> Callable[..., Html]:
    """What makes a page's table of runs: ``frame(runs)`` below ``caption``, by :func:`table` or what ``show`` says.
    Where that has no rows it raises ``LookupError(missing)``, if something is said to be missing.
    """

    def made(records: Sequence[Record], *about: object) -> Html:
        found = frame(records, *about)
        if missing and found.empty:
            raise LookupError(missing)
        return show(found, caption.format(*about))

    return made


def tables(frames: dict[str, pd.DataFrame]) -> list[Html]:
    """A table for each caption whose frame has rows."""
    return [table(frame, caption) for caption, frame in frames.items() if len(frame)]


def varied(frame: pd.DataFrame, caption: str) -> Html:
    """:func:`table` of the columns that vary; what is the same in every row is said once, in the caption."""
    frame = frame[[name for name in frame if not frame[name].isna().all()]]
    same = [name for name in frame if len(frame) > 1 and frame[name].nunique(dropna=False) == 1]
    said = ", ".join(f"{name} {number(frame[name].iloc[0])}" for name in same)
    return table(
        frame.drop(columns=same),
        f"{caption.rstrip('.')}. The same in every row: {said}." if said else caption,
    )


class _Interval(str):
    """From one number to another, set like a number."""


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    names, at = [str(name) for name in frame.columns], 0
    columns: dict[int, pd.Series] = {}
    while at < len(names):
        name, values = names[at], frame.iloc[:, at]
        if re.search(r"\blow$", name) and names[at + 1 : at + 2] == [name.removesuffix("low") + "high"]:
            at += 1
            ends = zip(map(number, values), map(number, frame.iloc[:, at]), strict=True)
            values = [_Interval("–" if low == high == "–" else f"{low} to {high}") for low, high in ends]
            name = name.removesuffix("low") + "interval"
        columns[len(columns)] = pd.Series(values, dtype=object, name=name)
        at += 1
    return pd.concat(columns.values(), axis=1) if columns else frame


def _is_number(value: object) -> bool:
    return value is None or isinstance(value, (numbers.Real, _Interval))


def grid(
    heads: list[tuple[str, str]], rows: list[list[tuple[str, str]]], label: str, caption: str = ""
) -> Html:
    """A table that scrolls: ``heads`` (texts) and ``rows`` (HTML), each with the attributes of its cells."""
    top = "".join(f'<th scope="col"{mark}>{escape(name)}</th>' for name, mark in heads)
    body = "".join(f"<tr>{''.join(f'<td{mark}>{cell}</td>' for cell, mark in row)}</tr>" for row in rows)
    above = f"<caption><span>{inline(caption)}</span></caption>" if caption else ""
    kind = "lm-table lm-long" if len(rows) > SHOWN + 2 else "lm-table"
    return Html(
        f'{STYLE}<div class="{kind}" tabindex="0" role="region" aria-label="{escape(label)}"><table>{above}'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def details(summary: str, content: str) -> Html:
    """``content`` (HTML) folded away under a line of text."""
    return Html(
        f'<details class="lm-details"><summary style="cursor:pointer">{escape(summary)}</summary>'
        f"{content}</details>"
    )


def folded(summary: str, pieces: Iterable[Any]) -> Html:
    """Pieces of a page, folded away under a line of text."""
    return details(summary, "".join(piece._repr_html_() for piece in pieces))


def coverage(notebook: str, profile: str = "full") -> Html:
    """Which of a notebook's planned runs are published; empty when all are (or none: the page says that itself)."""
    counts = coverage_of(notebook, profile)
    done, planned = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    if done in (0, planned):
        return Html("")
    missing = ", ".join(
        f"{all_of_them - found} of {all_of_them} `{kind}`"
        for kind, (found, all_of_them) in counts.items()
        if found < all_of_them
    )
    return not_run(
        f"{planned - done} of the {planned} runs planned here ({missing}). What follows rests on the others.",
        f"a GPU, and `lmcompress compute {notebook} --profile {profile}`, which computes just these",
    )


def not_run(what: str, needs: str) -> Html:
    """The honest unrun state: ``what`` was not computed here and ``needs`` what. Never an old number."""
    require_text("what", what)
    require_text("needs", needs)
    return Html(note("Not run here:", f"{inline(what)}<br><strong>Needs:</strong> {inline(needs)}"))


def not_computed(what: str = "") -> Html:
    """The place of a cell that needs records of this machine where nothing is computed (:mod:`lmcompress.absent`)."""
    return Html(note("Not computed on this machine" + (":" if what else "."), inline(what)))


def note(head: str, content: str) -> str:
    return (
        '<div class="lm-not-run" role="note" style="border-left:.25rem solid #9a7b00;padding:.4rem .8rem;'
        f'margin:1rem 0"><strong>{head}</strong> {content}</div>'
    )


def verdicts(
    claims: Iterable[tuple[str, str, str]], caption: str = "Claims and what became of them here"
) -> Html:
    """Table of ``(claim, verdict, evidence)``, each verdict one of ``VERDICTS``.

    ``[text](address)`` becomes a link and `` `code` `` code, as in all tables here.
    """
    rows = []
    for claim, verdict, evidence in claims:
        if verdict not in VERDICTS:
            raise ParameterError("verdict", verdict, VERDICTS)
        require_text("claim", claim)
        require_text("evidence", evidence)
        rows.append((claim, f"{VERDICTS[verdict]} {verdict}", evidence))
    if not rows:
        raise ParameterError("claims", rows, "at least one claim")
    frame = pd.DataFrame(rows, columns=["Claim", "Verdict", "Evidence"])
    return table(frame, caption)


def verdict_on(good: Iterable[bool]) -> str:
    """Of a claim on several cases, at least one: it holds in all of them, in part, or in none."""
    cases = list(good)
    return HOLDS if all(cases) else PART if any(cases) else FAILS


def require_text(field: str, value: object) -> None:
    """Refuse (:class:`ParameterError`) anything but a text with something in it."""
    if not isinstance(value, str) or not value.strip():
        raise ParameterError(field, value, "a text that says something")


# Only to the web and within the book: names come from users, and an address such as javascript:... runs code.
_LINK = re.compile(r"\[([^\]]+)\]\((https?://[^)\s]+|(?!//)[\w./#-]+)\)")


def inline(text: str) -> str:
    linked = re.sub(_LINK, r'<a href="\2">\1</a>', escape(text))
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", linked)


def _code(text: str) -> str:
    return f'<code style="white-space:pre-wrap">{escape(text)}</code>'
