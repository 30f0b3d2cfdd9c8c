"""What a model is asked: every task by name, and how it is loaded, read, judged and called. (No torch on import.)"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Literal

from lmcompress.numbers import exp
from lmcompress.parameters import one_of


@dataclass(frozen=True)
class Task:
    """One task; ``module`` of :mod:`lmcompress.tasks` holds three functions.

        ``load(model, data, length, steps, dtype, batch) -> (model, tokenizer)``;
        ``texts(data, tokenizer, split, length, batch, number, seed)`` -> windows [N, T], or batches with labels;
        ``judge(model, dense, texts, batch) -> dict`` of a model beside what ``reference(dense, texts, batch)`` said.

    words: how it is called in figures.
    measure: name of the number that says how good a model is.
    better: whether more or less of it is better.
    batch: windows or texts a batch, where a page does not set it.
    tuned: whether a model is fine-tuned for it first, for at least one step.
    result: which number of a result it is made of: ``loss`` (its exp) or ``right``.
    """

    module: str
    words: str
    measure: str
    better: Literal["higher", "lower"]
    batch: int
    tuned: bool
    result: str

    def level(self, result: dict[str, Any]) -> float | None:
        """``measure`` in a result that has the mean loss (nats) and the share of right predictions."""
        value = result[self.result]
        return exp(value) if self.result == "loss" and value is not None else value

    @property
    def functions(self) -> ModuleType:
        """The module."""
        return importlib.import_module(f"lmcompress.tasks.{self.module}")


TASKS: dict[str, Task] = {
    "language": Task("language", "language modelling", "perplexity", "lower", 4, tuned=False, result="loss"),
    "classification": Task(
        "classification", "classification", "accuracy", "higher", 32, tuned=True, result="right"
    ),
}
"""Every task by name: a new one is a module here and a line."""

TaskName = Annotated[str, one_of(TASKS)]
"""One of :data:`TASKS`."""
