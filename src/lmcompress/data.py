"""Corpora and classification sets: documents, four disjoint splits, packed token windows, padded batches.

A document belongs to one split by the hash of its text, so that the splits are the same on every machine, whatever
order a source lists its documents in, and a document that occurs twice is never on both sides. Sources with files
of their own for training, validation and test keep these; calibration and retraining then share the training files.

Text for language models is documents joined by a blank line, tokenised once, cut into windows without overlap or
padding; the incomplete tail is dropped. Each window begins with the model's BOS where its tokenizer sets one.
"""

import hashlib
from bisect import bisect
from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lmcompress import readers
from lmcompress.assets import Asset, resolve
from lmcompress.errors import AssetError, ParameterError

SPLITS = ("calibration", "retraining", "validation", "test")
_SHARES = {"calibration": 10, "retraining": 60, "validation": 10, "test": 20}  # percent of the documents


def check_split(split: str) -> None:
    """Refuse anything but one of :data:`SPLITS` (:class:`ParameterError`)."""
    if split not in SPLITS:
        raise ParameterError("split", split, SPLITS)


def documents(corpus: str, split: str) -> tuple[str, ...]:
    """Texts of one split of a corpus, in the order of their source.

    Raises :class:`ParameterError` for an unknown split or corpus and
    :class:`~lmcompress.errors.AssetError` for one that has no readable text, or nothing for this split.
    """
    check_split(split)
    found = _documents(resolve(corpus, "data"))
    if not found[split]:
        raise _nothing(corpus, found, split, "documents")
    return tuple(text for (text,) in found[split])


@lru_cache(maxsize=4)
def _documents(asset: Asset) -> dict[str, tuple[tuple[str], ...]]:
    whole = readers.documents(asset.path)
    return _by_split(one for one in whole if not one[0].startswith(asset.without))


def windows(
    corpus: str,
    tokenizer: PreTrainedTokenizerBase,
    split: str,
    length: int,
    count: int | None = None,
    seed: int = 0,
    bos: Literal["window", "text", "none"] = "window",
) -> Tensor:
    """Token windows [N, length] (int64), N = ``count`` or all.

    ``validation`` and ``test``: windows evenly spaced over the whole split, whatever the seed, so that results
    compare. ``calibration`` and ``retraining``: documents in an order drawn from ``seed``, as many as are needed.

    ``bos``: where the tokenizer puts a beginning-of-sequence token before a text (Gemma, Llama and OPT do, SmolLM2
    and Qwen do not), each window begins with one; with ``text`` only the first, as in the GPTQ and SparseGPT codes.
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
    first = [] if bos == "none" else begin(tokenizer)
    each = first if bos == "window" else []
    room = length - len(each)
    enough = len(texts) if fixed or count is None else _documents_for(texts, tokenizer, count * length)
    text = _tokens("\n\n".join(texts[:enough]), tokenizer)
    tokens = torch.tensor(text if each else first + text)
    there = len(tokens) // room
    if count is not None and count > there:
        raise ParameterError(
            "count", count, f"at most the {there} windows of {length} tokens in the {split} split"
        )
    packed = tokens[: there * room].view(there, room)
    if each:
        packed = torch.cat([torch.tensor(each).expand(there, len(each)), packed], 1)
    if count is None or not fixed:
        return packed[:count].clone()
    return packed[torch.arange(count) * there // count]


def begin(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """``[BOS]`` where the tokenizer puts one before a text of its own accord, else nothing."""
    return [token for token in tokenizer("")["input_ids"][:1] if token == tokenizer.bos_token_id]


def _documents_for(texts: tuple[str, ...], tokenizer: PreTrainedTokenizerBase, tokens: int) -> int:
    """How many of the first texts hold ``tokens`` tokens (or all); counts generously by parts of 64 texts."""
    found = 0
    for start in range(0, len(texts), 64):
        found += len(_tokens("\n\n".join(texts[start : start + 64]), tokenizer))
        if found >= tokens + 64:
            return start + 64
    return len(texts)


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def batches(token_windows: Tensor, size: int) -> list[dict[str, Tensor]]:
    """Windows [N, T] as model keyword arguments, ``size`` a batch, the last perhaps smaller."""
    return [{"input_ids": part} for part in token_windows.split(size)]


def examples(name: str, split: str) -> tuple[tuple[str, str], ...]:
    """``(text, class)`` pairs of one split of a classification set: a folder a class with a text a file, lines
    ``class<TAB>text``, or tables with the columns ``text`` and ``label``.

    Raises as :func:`documents` does, and :class:`~lmcompress.errors.AssetError` for a row without a class.
    """
    check_split(split)
    found = _examples(resolve(name, "data"))
    if not found[split]:
        raise _nothing(name, found, split, "labelled texts")
    return found[split]


@lru_cache(maxsize=4)
def _examples(asset: Asset) -> dict[str, tuple[tuple[str, str], ...]]:
    return _by_split(readers.labelled(asset.path))


def classes(name: str) -> list[str]:
    """Sorted names of the classes of a classification set; a label is the index into them.

    Raises :class:`~lmcompress.errors.AssetError` where there are fewer than 2.
    """
    found = _examples(resolve(name, "data"))
    names = sorted({label for part in found.values() for _, label in part})
    if len(names) < 2:
        raise AssetError(f"{name}: at least 2 classes are needed; there is {', '.join(names) or 'none'}")
    return names


def classification(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    split: str,
    length: int,
    size: int,
    count: int | None = None,
    seed: int = 0,
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


def _by_split(rows: Iterable[tuple[Any, ...]]) -> dict[str, tuple[tuple[Any, ...], ...]]:
    """Rows ``(text, ..., split of its file or None)`` by split, without the last column."""
    rows = list(rows)
    taken = {row[-1] for row in rows} - {None, "train"}
    shares = {split: share for split, share in _SHARES.items() if split not in taken}
    found: dict[str, list[tuple[Any, ...]]] = {split: [] for split in SPLITS}
    for *row, native in rows:
        found[native if native in taken else _drawn(row[0], shares)].append(tuple(row))
    return {split: tuple(part) for split, part in found.items()}


def _drawn(text: str, shares: dict[str, int]) -> str:
    """The split of a text by its hash, in which each has its share of 100 places, or of those that are not taken."""
    place = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 100
    ends = list(accumulate(shares.values()))
    return list(shares)[bisect(ends, place * ends[-1] / 100)]


def _nothing(name: str, found: dict[str, tuple[Any, ...]], split: str, what: str) -> AssetError:
    there = ", ".join(f"{len(part)} for {other}" for other, part in found.items())
    return AssetError(f"{name}: nothing for the split {split}; its {what} are {there}")
