"""The run behind a number: computed by what, where, when, and how to redo it; and figures that can be cited."""

import base64
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from lmcompress import covered
from lmcompress.errors import ParameterError
from lmcompress.plan import duration
from lmcompress.records import Record
from lmcompress.report.html import Html, details, grid, note, number

ATTACHED = 40  # records that are attached to a page one by one: a few kilobytes each


@dataclass(frozen=True)
class Cited:
    """A figure or table with its number and the records that it was made of."""

    number: str
    text: str
    records: tuple[Record, ...]

    def _repr_html_(self) -> str:
        return self.text


def cited(number: str, piece: Any, records: Sequence[Record]) -> Cited:
    """A figure or table as ``Figure NUMBER`` (or ``Table NUMBER``), with an address of its own and its run below it.

    number: page and place, such as ``20.1``: what ``lmcompress redo`` takes.
    piece: a :class:`~lmcompress.report.figures.Figure` or what :func:`~lmcompress.report.figures.table` returns.
    records: those that it was made of, at least one.
    """
    anchor = f"fig-{number.replace('.', '-')}"
    kind = "Table" if isinstance(piece, Html) else "Figure"
    label = f'<a class="lm-number" href="#{anchor}">{kind} {escape(number)}</a>. '
    if isinstance(piece, Html):
        body = piece.replace("<caption><span>", f"<caption><span>{label}", 1)
    else:
        body = piece.html(label)
    card = provenance(records, f"lmcompress redo {number}")
    return Cited(number, f'<div class="lm-cited" id="{anchor}">{body}{card}</div>', tuple(records))


def provenance(records: Sequence[Record], command: str = "") -> Html:
    """The "[run]" block of ``records``: computed by what, where, when, and how to redo it.

    They are attached to the page: each as a JSON file, or all of more than ``ATTACHED`` as one file of compressed JSON
    lines; where ``command`` redoes them all, only that is said. Parameters that all share stand above.
    Raises :class:`ParameterError` when there is none: a page without records says ``not_run``.
    """
    if not records:
        raise ParameterError("records", records, "at least one record; use not_run for what was not computed")
    plain = [vars(record) for record in records]
    runs = [record["provenance"] for record in plain]
    shared = dict(plain[0]["parameters"].items())
    for record in plain:
        shared = {
            k: v for k, v in shared.items() if k in record["parameters"] and record["parameters"][k] == v
        }
    facts = {
        "redo": [command] if command else _distinct(_command(record, len(plain)) for record in plain),
        "commit": _distinct(run.get("commit") for run in runs),
        "device": _distinct(run.get("device") for run in runs),
        "versions": _distinct(_pairs(run.get("versions")) for run in runs),
        "assets": _distinct(
            f"{name} sha256 {digest[:12]}" for record in plain for name, digest in record["assets"].items()
        ),
        "parameters": [_pairs(shared)],
        "covered": _distinct(map(covered.recorded, records)),
    }
    kinds = Counter(record["kind"] for record in plain)
    if command or len(plain) > ATTACHED:
        facts["records"] = [f"{count} {kind}" for kind, count in kinds.items()]
    lines = "".join(
        f"<dt>{name}</dt><dd>{'<br>'.join(map(_code, values))}</dd>"
        for name, values in facts.items()
        if any(values)
    )
    rows = "" if command else _attachments(plain, shared)
    seconds = sum(float(run.get("seconds") or 0) for run in runs)
    dates = sorted({str(run["date"])[:10] for run in runs if run.get("date")})
    count = f"{number(len(plain))} record{'s' * (len(plain) > 1)}"
    summary = f"[run] {count} · {', '.join(facts['device'][:2])} · {duration(seconds)} · {_span(dates)}"
    run = details(summary, f'<dl class="lm-run" style="margin:.4rem 0;font-size:.85em">{lines}</dl>{rows}')
    older = Counter(record.kind for record in records if record.older)
    counts = ", ".join(f"{count} of kind {escape(kind)}" for kind, count in older.items())
    words = f"These records were computed with an older version of their kind: {counts}."
    told = covered.sentences(one.result for one in records)
    partial = [note("Not all of it.", f"The method {sentence}.") for sentence in told]
    return Html("".join(partial) + (note("Older version.", words) if older and not command else "") + run)


def _attachments(plain: list[dict[str, Any]], shared: dict[str, Any]) -> str:
    """The records to take along: a table of links, or one file."""
    if len(plain) > ATTACHED:
        content = "".join(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n" for record in plain)
        packed = gzip.compress(content.encode(), mtime=0)
        return f"<p>All records: {_attached('records.jsonl.gz', 'gzip', packed)}</p>"
    heads = [("record", ""), ("parameters", ""), ("seconds", " class=n")]
    return grid(heads, [_record_row(record, shared) for record in plain], "records of this run")


def _code(text: str) -> str:
    return f'<code style="white-space:pre-wrap">{escape(text)}</code>'


def _command(record: dict[str, Any], count: int) -> str:
    """The command that computes the record again; of several records one line stands for all."""
    command = str(record["provenance"].get("command") or "")
    return command if count == 1 else command.replace(record["key"][:12], "RECORD")


def _attached(name: str, kind: str, content: bytes, words: str | None = None) -> str:
    """A link that downloads ``content``, which the page itself holds."""
    address = f"data:application/{kind};base64,{base64.b64encode(content).decode()}"
    return f'<a download="{escape(name)}" href="{address}">{escape(words or name)}</a>'


def _record_row(record: dict[str, Any], shared: dict[str, Any]) -> list[tuple[str, str]]:
    short = record["key"][:12]
    text = json.dumps(record, indent=1, ensure_ascii=False, sort_keys=True)
    name = _attached(f"{record['kind']}-{short}.json", "json", text.encode(), short)
    own = {k: v for k, v in record["parameters"].items() if k not in shared}
    seconds = number(record["provenance"].get("seconds"))
    return [(f"{escape(record['kind'])}<br>{name}", ""), (escape(_pairs(own)), ""), (seconds, " class=n")]


def _pairs(mapping: dict[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (mapping or {}).items())


def _distinct(values: Iterable[object]) -> list[str]:
    return list(dict.fromkeys(str(value) for value in values if value))


def _span(dates: list[str]) -> str:
    return "date unknown" if not dates else dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
