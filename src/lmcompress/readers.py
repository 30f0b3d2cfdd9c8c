"""What the files of a corpus say: documents, and texts with a class. Damaged files are refused by name and place."""

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from lmcompress.contents import files
from lmcompress.errors import AssetError

TEXT_FILES = (".txt", ".raw", ".utf8", ".md")
TABLES = (".jsonl", ".json", ".parquet", ".gz", ".csv", ".tsv")
TEXT_COLUMNS = ("text", "extract", "sentence")
LABEL_COLUMNS = ("label", "class")
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_HEADING = re.compile(r"^ = [^=].*[^=] = \s*$", re.MULTILINE)
_BAD_BYTES = (
    1000  # one character of so many may be no UTF-8: a stray byte of another encoding, kept as U+FFFD
)


def documents(path: Path) -> Iterator[tuple[str, str | None]]:
    """``(document, split or None)`` of every file, empty documents left out.

    The split is what the name of the file, or of a folder above it, says as a whole word: ``train``, ``validation``
    or ``test``. Raises :class:`AssetError` with file and place for what is no text.
    """
    for file in _chosen(path):
        native = split_of(_name(file, path))
        if file.suffix.lower() in TEXT_FILES:
            texts: Iterable[Any] = _documents(_text(file))
        else:
            texts = (_column(row, TEXT_COLUMNS, place) for row, place in _rows(file))
        yield from ((text, native) for text in texts if text.strip())


def labelled(path: Path) -> Iterator[tuple[str, str, str | None]]:
    """``(text, class, split or None)`` of a folder a class with a text a file, of lines ``class<TAB>text``, or of
    tables with a header. Raises :class:`AssetError` with file and place for a row without a class or text.
    """
    for file in _chosen(path):
        if file.suffix.lower() in TEXT_FILES:
            if file.parent == path or file == path:
                raise AssetError(
                    f"{file}: a text outside of the folders that stand for the classes; no class is known for it"
                )
            yield (
                _some(_text(file), str(file)),
                file.parent.name,
                split_of("/".join(file.relative_to(path).parts[:-2])),
            )
            continue
        native = split_of(_name(file, path))
        for row, place in _rows(file):
            text = _some(_column(row, TEXT_COLUMNS, place), place)
            yield text, _class(_column(row, LABEL_COLUMNS, place, object), place), native


def _chosen(path: Path) -> list[Path]:
    found = [
        file for file in files(path, "data") if file == path or file.suffix.lower() in (*TEXT_FILES, *TABLES)
    ]
    if not found:
        raise AssetError(f"{path}: no file that ends in {', '.join((*TEXT_FILES, *TABLES))}")
    return found


def _name(file: Path, root: Path) -> str:
    return file.name if file == root else file.relative_to(root).as_posix()


def split_of(name: str) -> str | None:
    """``train``, ``validation`` or ``test``, where that is a word of a file's name; of several, the last."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), None)


def _text(file: Path) -> str:
    content = _bytes(file)
    if b"\0" in content:
        raise AssetError(
            f"{file}: no text: byte {content.index(0)} is a NUL (UTF-16 and binary files are not read)"
        )
    text = content.decode("utf-8-sig", errors="replace")
    if text.count("\ufffd") - content.count("\ufffd".encode()) > len(text) / _BAD_BYTES + 1:
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise AssetError(
                f"{file}: not UTF-8: byte {error.start} is {content[error.start]:#04x}"
            ) from error
    return io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True)


def _bytes(file: Path) -> bytes:
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb") as source:
            return source.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise AssetError(f"{file}: damaged: {error}") from error
    except OSError as error:
        raise AssetError(f"{file}: {error.strerror or error}") from error


def _documents(text: str) -> list[str]:
    """Documents of a plain text: articles under WikiText headings, else blocks between blank lines, else lines.

    WikiText lines are rejoined as the usual evaluation does: each keeps its line end, empty ones are kept empty, and
    all are joined by a blank line.
    """
    starts = [match.start() for match in _HEADING.finditer(text)]
    if starts:
        articles = (text[a:b] for a, b in pairwise([0, *starts[1:], len(text)]))
        return [
            "\n\n".join(line if line.strip() else "" for line in part.splitlines(True)) for part in articles
        ]
    if re.search(r"\n\s*\n", text):
        return re.split(r"\n\s*\n", text)
    return text.splitlines()


def _rows(file: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """``(row, its place in words)`` of a table; a file with another form than its name says is refused."""
    name = file.name.lower().removesuffix(".gz")
    kind = name.rpartition(".")[2]
    if kind == "parquet":
        rows = _parquet(file)
    elif kind == "jsonl" or name != file.name.lower():
        lines = (line for line in enumerate(_text(file).split("\n"), 1) if line[1].strip())
        rows = ((_json(line, f"{file}, line {number}"), number) for number, line in lines)
    elif kind == "json":
        content = _json(_text(file), str(file))
        content = [*content.values()] if isinstance(content, dict) else content
        if not isinstance(content, list):
            raise AssetError(f"{file}: {type(content).__name__} where a list of rows is needed")
        rows = ((row, number) for number, row in enumerate(content, 1))
    elif kind in ("tsv", "csv"):
        rows = _separated(file, "\t" if kind == "tsv" else ",")
    else:
        raise AssetError(f"{file}: a corpus is read from {', '.join((*TEXT_FILES, *TABLES))}")
    for row, number in rows:
        place = f"{file}, row {number}"
        if not isinstance(row, dict):
            raise AssetError(f"{place}: a {type(row).__name__} where named columns are needed")
        yield row, place


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AssetError(f"{place}: not JSON: {error}") from error


def _parquet(file: Path) -> Iterator[tuple[dict[str, Any], int]]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise AssetError(f"{file}: not Parquet: {error}") from error
    yield from ((row, number) for number, row in enumerate(table.to_pylist(), 1))


def _separated(file: Path, separator: str) -> Iterator[tuple[dict[str, Any], int]]:
    """Rows under the names of a header; without one, two columns: class and text. Tabs know no quoting."""
    quoting: Any = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    lines = csv.reader(
        io.StringIO(_text(file), newline=""), delimiter=separator, quoting=quoting, strict=True
    )
    names = None
    try:
        for fields in lines:
            if not fields:
                continue
            lower = [field.strip().lower() for field in fields]
            if names is None and {*lower} & {*TEXT_COLUMNS} and len({*lower}) == len(lower) > 1:
                names = lower
                continue
            names = names or ["label", "text"]
            if len(fields) != len(names):
                raise AssetError(
                    f"{file}, row {lines.line_num}: {len(fields)} fields where {' and '.join(names)} are needed"
                    + (", with a tab between" if separator == "\t" else "")
                )
            yield dict(zip(names, fields, strict=True)), lines.line_num
    except csv.Error as error:
        raise AssetError(f"{file}, row {lines.line_num}: {error}") from error


def _column(row: dict[str, Any], names: tuple[str, ...], place: str, kind: type = str) -> Any:
    name = next((name for name in names if name in row), None)
    if name is None:
        raise AssetError(f"{place}: rows need a column {names[0]}; they have {', '.join(map(str, row))}")
    if not isinstance(row[name], kind):
        raise AssetError(f"{place}: the {name} is {type(row[name]).__name__}, not text")
    if isinstance(row[name], str) and re.search("[\0\ud800-\udfff]", row[name]):
        raise AssetError(f"{place}: the {name} holds a NUL or half a character (a lone surrogate)")
    return row[name]


def _some(text: str, place: str) -> str:
    if not text.strip():
        raise AssetError(f"{place}: the text is empty")
    return text


def _class(label: object, place: str) -> str:
    """The class as text. What stands for no class is refused, and what can be none."""
    if label is None or (isinstance(label, float) and math.isnan(label)) or not str(label).strip():
        raise AssetError(f"{place}: no class is given ({label!r})")
    if not isinstance(label, str | int | float):
        raise AssetError(f"{place}: the class is {type(label).__name__}, not a name or number")
    return str(label)
