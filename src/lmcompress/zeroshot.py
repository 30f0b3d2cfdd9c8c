"""Zero-shot accuracy through lm-eval, on the model in memory: no fork, no saved copy, its own prompts and scores.

Tasks come from the hub, or without a network from a local folder with the files as their authors publish them.
"""

import csv
import json
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from lmcompress.errors import AssetError, ParameterError
from lmcompress.readers import split_of

TASKS = {  # lm-eval's name -> questions of the split that is asked, and the folder of its prompt in lm-eval
    "boolq": (3270, "super_glue/boolq"),
    "rte": (277, "glue/rte"),
    "hellaswag": (10042, "hellaswag"),
    "winogrande": (1267, "winogrande"),
    "arc_easy": (2376, "arc"),
    "arc_challenge": (1172, "arc"),
    "openbookqa": (500, "openbookqa"),
    "piqa": (1838, "piqa"),
}


@dataclass(frozen=True)
class TaskResult:
    """``accuracy`` and its standard ``error``: the choice of the highest log-likelihood is the right one.

    ``normalised``, ``normalised_error``: the same with log-likelihoods divided by the choices' lengths in
    bytes (None where the task does not define it); ``questions``: how many were asked, of ``official`` in the split
    that published accuracies are of. ``hits``, ``normalised_hits``: for each question 1 where it was answered right.
    """

    accuracy: float
    error: float
    normalised: float | None
    normalised_error: float | None
    questions: int
    official: int
    hits: list[int]
    normalised_hits: list[int] | None


def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tasks: dict[str, str | Path | None],
    *,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, TaskResult]:
    """Ask a causal language model the questions of ``tasks``, without examples in the prompt.

    ``tasks``: lm-eval's name of a task (see :data:`TASKS`) -> None for the hub, or a local folder. ``piqa`` holds
    ``valid.jsonl`` and ``valid-labels.lst``, ``rte`` holds ``dev.tsv``, the others one ``.jsonl`` whose name says
    ``val``, ``dev`` or ``test``; questions with choices may be nested as in the ARC files, or flat with ``question``,
    ``choices`` and a ``label`` that counts from 0. A folder may hold a part of a split: see ``official``.
    ``limit``: only the first so many questions. Raises :class:`ParameterError` for an unknown task or limit,
    :class:`AssetError` for files that are missing or not of that form. The model must give logits [B, T,
    vocabulary]; it is run in eval mode, on its device, in its dtype.
    """
    if limit is not None and (isinstance(limit, bool) or limit < 2):
        raise ParameterError("limit", limit, "at least 2 questions, or None for all")
    if not tasks or not tasks.keys() <= TASKS.keys():
        raise ParameterError("tasks", ", ".join(tasks.keys() - TASKS.keys()), TASKS)
    rows = {name: _questions(name, Path(folder)) for name, folder in tasks.items() if folder is not None}

    import lm_eval  # here only: it takes seconds to import
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    prompts = [Path(lm_eval.__file__).parent / "tasks" / TASKS[name][1] for name in tasks]
    asked = [{"task": name, **(_in_memory(rows[name]) if name in rows else {})} for name in tasks]
    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=_longest(model))
    training = model.training
    model.eval()
    try:
        found = lm_eval.simple_evaluate(
            wrapped,
            tasks=[{"group": "zero-shot", "task": asked}],
            num_fewshot=0,
            limit=limit,
            task_manager=TaskManager(include_path=sorted({*prompts}), include_defaults=False),
        )
    finally:
        model.train(training)
    return {name: _result(name, found["results"][name], found["samples"][name]) for name in tasks}


def _in_memory(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What lm-eval's own task is given in place of a data set of the hub."""
    from datasets import Dataset

    return {
        "custom_dataset": lambda **_: {"validation": Dataset.from_list(rows)},
        "training_split": None,
        "validation_split": "validation",
        "test_split": None,
    }


def _result(name: str, values: dict[str, Any], samples: list[dict[str, Any]]) -> TaskResult:
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    normalised = "acc_norm,none" in values
    return TaskResult(
        values["acc,none"],
        values["acc_stderr,none"],
        values.get("acc_norm,none"),
        values.get("acc_norm_stderr,none"),
        len(samples),
        TASKS[name][0],
        [int(sample["acc"]) for sample in samples],
        [int(sample["acc_norm"]) for sample in samples] if normalised else None,
    )


def _longest(model: nn.Module) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 2048)


def _questions(name: str, folder: Path) -> list[dict[str, Any]]:
    """Rows as the hub's copy has them, from the files of a folder."""
    rows = list(READERS[name](folder))
    if not rows:
        raise AssetError(f"{folder}: no questions of {name}")
    return rows


def _piqa(folder: Path) -> Iterator[dict[str, Any]]:
    """Goals with two solutions each (Bisk et al. 2020)."""
    file = folder / "valid.jsonl"
    labels, lines = _lines(folder / "valid-labels.lst"), _lines(file)
    if len(labels) != len(lines):
        raise AssetError(f"{folder}: {len(lines)} questions but {len(labels)} labels")
    for number, (line, label) in enumerate(zip(lines, labels, strict=True), 1):
        with _row(file, number, "a PIQA question"):
            row = json.loads(line)
            yield {key: str(row[key]) for key in ("goal", "sol1", "sol2")} | {"label": _among(label, "01")}


def _rte(folder: Path) -> Iterator[dict[str, Any]]:
    """Does the second sentence follow from the first? Label 0: it does (GLUE; Wang et al. 2018)."""
    file = folder / "dev.tsv"
    reader = csv.DictReader(_lines(file), delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, row in enumerate(reader, 2):
        with _row(file, number, "a pair of sentences with a label"):
            texts = {key: row[key].strip() for key in ("sentence1", "sentence2")}
            yield texts | {"label": _among(row["label"], "01")}


def _boolq(row: dict[str, Any]) -> dict[str, Any]:
    """Yes or no, by a passage (Clark et al. 2019)."""
    if not isinstance(row["answer"], bool):
        raise ValueError(f"answer {row['answer']!r}")
    return {"passage": _text(row["passage"]), "question": _text(row["question"]), "label": int(row["answer"])}


def _hellaswag(row: dict[str, Any]) -> dict[str, Any]:
    """How a scene goes on, four endings (Zellers et al. 2019)."""
    texts = {key: _text(row[key]) for key in ("activity_label", "ctx_a")} | {"ctx_b": str(row["ctx_b"])}
    endings = [_text(ending) for ending in row["endings"]]
    return texts | {"endings": endings, "label": str(_index(row["label"], endings))}


def _winogrande(row: dict[str, Any]) -> dict[str, Any]:
    """Which of two fills the gap (Sakaguchi et al. 2019)."""
    if row["sentence"].count("_") != 1:
        raise ValueError(f"{row['sentence']!r} has not one gap")
    _among(row["answer"], "12")
    return {key: _text(row[key]) for key in ("sentence", "option1", "option2", "answer")}


def _choices(row: dict[str, Any], question: str) -> dict[str, Any]:
    """A question with 3 to 5 choices (ARC, Clark et al. 2018; OpenBookQA, Mihaylov et al. 2018)."""
    if isinstance(row["question"], dict):  # as their authors publish them
        stem, listed = row["question"]["stem"], row["question"]["choices"]
        texts = [_text(choice["text"]) for choice in listed]
        right = [choice["label"] for choice in listed].index(row["answerKey"].strip())
    else:
        stem, texts = row["question"], [_text(choice) for choice in row["choices"]]
        right = _index(row["label"], texts)
    letters = list(string.ascii_uppercase[: len(texts)])
    return {question: _text(stem), "choices": {"text": texts, "label": letters}, "answerKey": letters[right]}


def _each(question: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], Iterator[dict[str, Any]]]:
    """A reader of the one ``.jsonl`` file of a folder that is for validation or test."""

    def read(folder: Path) -> Iterator[dict[str, Any]]:
        found = sorted(
            file for file in folder.glob("*.jsonl") if split_of(file.name) in ("validation", "test")
        )
        if len(found) != 1:
            there = ", ".join(file.name for file in found) or "none"
            raise AssetError(
                f"{folder}: one .jsonl file with val, dev or test in its name is needed, not {there}"
            )
        for number, line in enumerate(_lines(found[0]), 1):
            with _row(found[0], number, "a question of this task"):
                yield question(json.loads(line))

    return read


READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "boolq": _each(_boolq),
    "rte": _rte,
    "hellaswag": _each(_hellaswag),
    "winogrande": _each(_winogrande),
    "arc_easy": _each(lambda row: _choices(row, "question")),
    "arc_challenge": _each(lambda row: _choices(row, "question")),
    "openbookqa": _each(lambda row: _choices(row, "question_stem")),
    "piqa": _piqa,
}


@contextmanager
def _row(file: Path, number: int, what: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AssetError(f"{file}, line {number}: not {what} ({type(error).__name__}: {error})") from error


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text")
    return value


def _index(label: Any, choices: list[str]) -> int:
    if len(choices) < 2 or isinstance(label, bool) or int(label) not in range(len(choices)):
        raise ValueError(f"label {label!r} of {len(choices)} choices")
    return int(label)


def _among(label: str, valid: str) -> int:
    if label.strip() not in tuple(valid):
        raise ValueError(f"label {label!r}")
    return int(label)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise AssetError(f"{path}: no such file")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise AssetError(f"{path}: {error}") from error
