"""Corpora and classification sets: documents, four disjoint splits, packed token windows, padded batches.

A document belongs to one split by the hash of its text, so that the splits are the same on every machine, whatever
order a source lists its documents in, and a document that occurs twice is never on both sides. Sources with files
of their own for training, validation and test keep these; calibration and retraining then share the training files.

Text for language models is documents joined by a blank line, tokenised once, cut into windows without overlap or
padding; the incomplete tail is dropped. What the tokenizer puts before a text (BOS of OPT, Llama) is once at the
very start.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from lmcompress.assets import resolve
from lmcompress.errors import AssetError, ParameterError

SPLITS = ("calibration", "retraining", "validation", "test")
_SHARES = {"calibration": 10, "retraining": 60, "validation": 10, "test": 20}  # percent of the documents
_NATIVE = {"train": "train", "valid": "validation", "dev": "validation", "test": "test"}
_TEXT_FILES = (".txt", ".raw", ".utf8", ".md")
_TABLES = (".jsonl", ".json", ".parquet", ".gz", ".csv", ".tsv")
_HEADING = re.compile(r"^ = [^=].*[^=] = \s*$", re.MULTILINE)


def check_split(split: str) -> None:
    """Refuse anything but one of :data:`SPLITS` (:class:`ParameterError`)."""
    if split not in SPLITS:
        raise ParameterError("split", split, SPLITS)


@lru_cache(maxsize=8)
def documents(corpus: str, split: str) -> tuple[str, ...]:
    """Texts of one split of a corpus, in the order of their source.

    Raises :class:`ParameterError` for an unknown split or corpus and
    :class:`~lmcompress.errors.AssetError` for one that has no readable text, or nothing for this split.
    """
    check_split(split)
    path = resolve(corpus, "data").path
    found = tuple(
        text for text, native in _read(path) if text.strip() and _split_of(text, native, path) == split
    )
    if not found:
        raise AssetError(f"{corpus}: nothing for the split {split} among the files of {path.name}")
    return found


def windows(
    corpus: str, tokenizer, split: str, length: int, count: int | None = None, seed: int = 0
) -> Tensor:
    """Token windows [N, length] (int64), N = ``count`` or all.

    ``validation`` and ``test``: windows evenly spaced over the whole split, whatever the seed, so that results
    compare. ``calibration`` and ``retraining``: documents in an order drawn from ``seed``, as many as are needed.
    Raises :class:`ParameterError` when there are not so many, and as :func:`documents` does.
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        raise ParameterError("length", length, "a whole number of at least 2 tokens")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ParameterError("count", count, "a whole number of at least 1, or None for all")
    texts = documents(corpus, split)
    fixed = split in ("validation", "test")
    if not fixed:
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
        texts = tuple(texts[index] for index in order)
    enough = len(texts) if fixed or count is None else _documents_for(texts, tokenizer, count * length)
    tokens = torch.tensor(_tokens("\n\n".join(texts[:enough]), tokenizer))
    there = len(tokens) // length
    if count is not None and count > there:
        raise ParameterError(
            "count", count, f"at most the {there} windows of {length} tokens in the {split} split"
        )
    packed = tokens[: there * length].view(there, length)
    if count is None or not fixed:
        return packed[:count].clone()
    return packed[torch.arange(count) * there // count]


def _documents_for(texts: tuple[str, ...], tokenizer, tokens: int) -> int:
    """How many of the first texts hold ``tokens`` tokens (or all); counts generously by parts of 64 texts."""
    found = 0
    for start in range(0, len(texts), 64):
        found += len(_tokens("\n\n".join(texts[start : start + 64]), tokenizer))
        if found >= tokens + 64:
            return start + 64
    return len(texts)


def _tokens(text: str, tokenizer) -> list[int]:
    return tokenizer(text, verbose=False)["input_ids"]


def batches(token_windows: Tensor, size: int) -> list[dict[str, Tensor]]:
    """Windows [N, T] as model keyword arguments, ``size`` a batch, the last perhaps smaller."""
    return [{"input_ids": part} for part in token_windows.split(size)]


@lru_cache(maxsize=8)
def examples(name: str, split: str) -> tuple[tuple[str, str], ...]:
    """``(text, class)`` pairs of one split of a classification set: a folder a class with a text a file, lines
    ``class<TAB>text``, or tables with the columns ``text`` and ``label``.
    """
    check_split(split)
    path = resolve(name, "data").path
    found = tuple(
        (text, label)
        for text, label, native in _read_labelled(path)
        if _split_of(text, native, path) == split
    )
    if not found:
        raise AssetError(f"{name}: no labelled text for the split {split} among the files of {path.name}")
    return found


def classes(name: str) -> list[str]:
    """Sorted names of the classes of a classification set; a label is the index into them."""
    return sorted({label for split in SPLITS for _, label in _examples_or_none(name, split)})


def _examples_or_none(name: str, split: str) -> tuple[tuple[str, str], ...]:
    try:
        return examples(name, split)
    except AssetError:
        return ()


def classification(
    name: str, tokenizer, split: str, length: int, size: int, count: int | None = None, seed: int = 0
) -> list[dict[str, Tensor]]:
    """Batches of ``size`` texts: ``input_ids``, ``attention_mask`` [B, T] (padded to the longest of the batch, cut
    at ``length`` tokens) and ``labels`` [B]. The order is drawn from ``seed``; ``count``: only the first so many.
    """
    found, labels = examples(name, split), {label: index for index, label in enumerate(classes(name))}
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:count].tolist()
    if count is not None and count > len(found):
        raise ParameterError("count", count, f"at most the {len(found)} texts of the {split} split")
    made = []
    for start in range(0, len(order), size):
        chosen = [found[index] for index in order[start : start + size]]
        texts = [text for text, _ in chosen]
        encoded = tokenizer(texts, truncation=True, max_length=length, padding=True, return_tensors="pt")
        made.append(
            {
                "input_ids": encoded["input_ids"],
                "attention_mask": encoded["attention_mask"],
                "labels": torch.tensor([labels[label] for _, label in chosen]),
            }
        )
    return made


def _split_of(text: str, native: str | None, path: Path) -> str:
    """The split of a document: that of its file where it is one for validation or test, else by hash."""
    if native in ("validation", "test"):
        return native
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    taken = _native_splits(path) - {"train"}
    shares = {split: share for split, share in _SHARES.items() if split not in taken}
    place = place * sum(shares.values()) / 100
    for split, share in shares.items():
        place -= share
        if place < 0:
            return split
    return split


@lru_cache(maxsize=8)
def _native_splits(path: Path) -> set[str]:
    return {native for file in _files(path) if (native := _native(file, path))}


def _native(file: Path, root: Path) -> str | None:
    """What the name of a file (not of the folders above the source) says that it is for."""
    name = (file.relative_to(root).as_posix() if file != root else file.name).lower()
    return next((split for word, split in _NATIVE.items() if re.search(rf"(?<![a-z]){word}", name)), None)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in _TEXT_FILES + _TABLES and file.is_file())


def _read(path: Path) -> Iterator[tuple[str, str | None]]:
    """``(document, native split or None)`` of every file."""
    for file in _files(path):
        native = _native(file, path)
        if file.suffix in _TEXT_FILES:
            texts = _documents(file.read_text(encoding="utf-8", errors="replace"))
        else:
            texts = (_text_of(row, file) for row in _rows(file))
        for text in texts:
            yield text, native


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


def _rows(file: Path) -> Iterator[dict]:
    if file.suffix == ".parquet":
        import pyarrow.parquet as parquet

        yield from parquet.read_table(file).to_pylist()
    elif file.suffix == ".jsonl" or file.name.endswith((".json.gz", ".jsonl.gz")):
        import gzip

        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)
    elif file.suffix == ".json":
        content = json.loads(file.read_text(encoding="utf-8"))
        yield from content.values() if isinstance(content, dict) else content
    else:
        raise AssetError(
            f"{file.name}: a text corpus is read from {', '.join(_TEXT_FILES)}, json, jsonl or parquet"
        )


def _text_of(row: dict, file: Path) -> str:
    for column in ("text", "extract"):
        if isinstance(row, dict) and isinstance(row.get(column), str):
            return row[column]
    found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
    raise AssetError(f"{file.name}: rows need a column text; they have {found}")


def _read_labelled(path: Path) -> Iterator[tuple[str, str, str | None]]:
    for file in _files(path):
        native = _native(file, path)
        if file.suffix in (".tsv", ".csv"):
            for line in file.read_text(encoding="utf-8").splitlines():
                label, tab, text = line.partition("\t")
                if not tab:
                    raise AssetError(f"{file.name}: a line without the tab of class<TAB>text: {line[:60]!r}")
                yield text, label, native
        elif file.suffix in _TEXT_FILES:  # a folder a class
            yield file.read_text(encoding="utf-8", errors="replace"), file.parent.name, None
        else:
            for row in _rows(file):
                if "label" not in row:
                    raise AssetError(
                        f"{file.name}: rows need the columns text and label; they have {', '.join(row)}"
                    )
                yield _text_of(row, file), str(row["label"]), native
