"""Publish records: merge what was computed here into the files of ``results/``, which are committed."""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from lmcompress.errors import ParameterError
from lmcompress.files import atomic_path, project_root
from lmcompress.records import (
    Record,
    experiment_class,
    published_files,
    published_records,
    results_folder,
    worth,
)

LARGEST = 1_900_000  # bytes of a file: what code hosts still show, and what a change can still be read in


def publish(records: Iterable[Record]) -> tuple[list[Path], list[Record]]:
    """Merge records into ``results/KIND.jsonl``, one line each, sorted; where that grows beyond :data:`LARGEST`, the
    rest goes to ``KIND.2.jsonl`` and so on.

    Returns the files, and the records that were left out because they are of an older version of their kind. Raises
    :class:`ParameterError` without a checkout.

    Of two records of the same run (parameters, and device of a timing) one is kept: the newer version, else the later.
    """
    if results_folder().parent != project_root():
        raise ParameterError("publish", str(project_root()), "a checkout, which has a folder results")
    by_kind: dict[str, list[Record]] = {}
    left_out = []
    for record in records:
        if record.older:
            left_out.append(record)
        else:
            by_kind.setdefault(record.kind, []).append(record)
    written = []
    for kind, new in by_kind.items():
        known = sorted([*published_records(kind), *new], key=worth)
        merged = {_run_of(record): record for record in known}
        lines = [json.dumps(asdict(merged[name]), sort_keys=True, allow_nan=False) for name in sorted(merged)]
        written += _write(kind, lines)
    return written, left_out


def _write(kind: str, lines: list[str]) -> list[Path]:
    """The files that hold ``lines`` now. Whoever reads meanwhile may see a record twice, but misses none: files are
    written from the last to the first, and what is no longer needed goes at the end.
    """
    parts: list[list[str]] = [[]]
    for line in lines:
        if parts[-1] and sum(len(one) + 1 for one in parts[-1]) + len(line) >= LARGEST:
            parts.append([])
        parts[-1].append(line)
    names = [f"{kind}.jsonl", *(f"{kind}.{number}.jsonl" for number in range(2, len(parts) + 1))]
    paths = [results_folder() / name for name in names]
    for path, part in reversed(list(zip(paths, parts, strict=True))):
        with atomic_path(path) as temporary:
            temporary.write_text("\n".join(part) + "\n", encoding="utf-8")
    for path in published_files(kind):
        if path not in paths:
            path.unlink()
    return paths


def _run_of(record: Record) -> str:
    device = record.provenance["device"] if experiment_class(record.kind).timed else ""
    return json.dumps(record.parameters, sort_keys=True) + device
