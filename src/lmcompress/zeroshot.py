"""Zero-shot accuracy through lm-eval, on the model in memory: no fork, no saved copy, official prompts.

Tasks come from the hub by lm-eval's own names, PIQA and RTE also from a local folder without a network.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lmcompress.errors import AssetError, ParameterError

HUB = ("hellaswag", "piqa", "winogrande", "arc_easy", "arc_challenge", "boolq", "rte", "openbookqa")


@dataclass(frozen=True)
class TaskResult:
    """``accuracy`` and its standard ``error``: the choice of the highest log-likelihood is the right one.

    ``normalised``, ``normalised_error``: the same with log-likelihoods divided by the choices' lengths in
    bytes (None where the task does not define it); ``questions``: how many were asked.
    """

    accuracy: float
    error: float
    normalised: float | None
    normalised_error: float | None
    questions: int


def evaluate(
    model: nn.Module,
    tokenizer,
    tasks: dict[str, str | Path | None],
    *,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, TaskResult]:
    """Ask a causal language model the questions of ``tasks``, without examples in the prompt.

    ``tasks``: lm-eval's name of a task -> a local folder, or None for the hub. Folders: ``piqa`` holds
    ``valid.jsonl`` and ``valid-labels.lst``, ``rte`` holds ``dev.tsv`` (as the tasks' authors publish them).
    ``limit``: only the first so many questions. Raises :class:`ParameterError` for an unknown task or limit,
    :class:`AssetError` for files that are missing or not of that form. The model must give logits [B, T,
    vocabulary]; it is run in eval mode, on its device, in its dtype.
    """
    if limit is not None and (isinstance(limit, bool) or limit < 2):
        raise ParameterError("limit", limit, "at least 2 questions, or None for all")
    for name, folder in tasks.items():
        known = HUB if folder is None else LOCAL
        if name not in known:
            raise ParameterError("tasks", name, known)
    if not tasks:
        raise ParameterError("tasks", tasks, HUB)
    configs = {name: LOCAL[name](Path(folder)) for name, folder in tasks.items() if folder is not None}

    import lm_eval  # here only: it takes seconds to import
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=_longest(model))
    training = model.training
    model.eval()
    try:
        found = lm_eval.simple_evaluate(
            wrapped,
            tasks=[configs.get(name, name) for name in tasks],
            num_fewshot=0,
            limit=limit,
            log_samples=False,
            task_manager=TaskManager(include_defaults=len(configs) < len(tasks)),
        )
    finally:
        model.train(training)
    return {name: _result(found["results"][name], found["n-samples"][name]) for name in tasks}


def _result(values: dict, samples: dict) -> TaskResult:
    return TaskResult(
        values["acc,none"],
        values["acc_stderr,none"],
        values.get("acc_norm,none"),
        values.get("acc_norm_stderr,none"),
        int(samples["effective"]),
    )


def _longest(model: nn.Module) -> int:
    return int(getattr(model.config, "max_position_embeddings", None) or 2048)


def _piqa(folder: Path) -> dict:
    """Goals with two solutions each (Bisk et al. 2020)."""
    labels = _lines(folder / "valid-labels.lst")
    lines = _lines(folder / "valid.jsonl")
    if len(labels) != len(lines):
        raise AssetError(f"{folder}: {len(lines)} questions but {len(labels)} labels")
    rows = []
    for number, (line, label) in enumerate(zip(lines, labels, strict=True), 1):
        try:
            row = json.loads(line)
            rows.append({key: str(row[key]) for key in ("goal", "sol1", "sol2")} | {"label": _binary(label)})
        except (ValueError, KeyError, TypeError) as error:
            raise AssetError(
                f"{folder / 'valid.jsonl'}, line {number}: not a PIQA question ({error})"
            ) from error
    return _config("piqa", rows, "Question: {{goal}}\nAnswer:", "{{[sol1, sol2]}}", ("acc", "acc_norm"))


def _rte(folder: Path) -> dict:
    """Does the second sentence follow from the first? Label 0: it does (GLUE; Wang et al. 2018)."""
    path, rows = folder / "dev.tsv", []
    reader = csv.DictReader(_lines(path), delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, row in enumerate(reader, 2):
        try:
            texts = {key: row[key].strip() for key in ("sentence1", "sentence2")}
            rows.append(texts | {"label": _binary(row["label"])})
        except (ValueError, KeyError, AttributeError) as error:
            raise AssetError(
                f"{path}, line {number}: not a pair of sentences with a label ({error})"
            ) from error
    prompt = "{{sentence1}}\nQuestion: {{sentence2}} True or False?\nAnswer:"
    return _config("rte", rows, prompt, ["True", "False"], ("acc",))


LOCAL: dict[str, Callable[[Path], dict]] = {"piqa": _piqa, "rte": _rte}


def _config(
    name: str, rows: list[dict], prompt: str, choices: str | list[str], metrics: tuple[str, ...]
) -> dict:
    """A multiple-choice task of lm-eval on rows in memory, with the prompt of its task of the same name."""
    from datasets import Dataset

    if not rows:
        raise AssetError(f"{name}: no questions in its file")
    return {
        "task": name,
        "custom_dataset": lambda **_: {"validation": Dataset.from_list(rows)},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": prompt,
        "doc_to_target": "label",
        "doc_to_choice": choices,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics
        ],
        "metadata": {"version": 1.0},
    }


def _binary(text: str) -> int:
    if text.strip() not in ("0", "1"):
        raise ValueError(f"label {text!r}")
    return int(text)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise AssetError(f"{path}: no such file")
    return path.read_text(encoding="utf-8").splitlines()
