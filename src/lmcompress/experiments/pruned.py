"""The runs that the PERP notebooks share: prune, retrain a subset, merge, check the zeros, evaluate on the
test split.

Every run begins from the same dense model and changes a copy; models, pruned weights and what the dense model
says about the test texts are kept for the next run of the same process.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, model_validator

from lmcompress.errors import ParameterError
from lmcompress.lazily import lazy
from lmcompress.parameters import CorpusName, Count, Length, ModelName, PatternText, Sample, Seed, Some, Whole
from lmcompress.prune.criteria import CRITERIA, CriterionName
from lmcompress.records import Experiment
from lmcompress.retrain.names import parse as parse_subset
from lmcompress.tasks import TASKS, TaskName

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lmcompress.prune import mask

data = lazy("lmcompress.data")
mask = lazy("lmcompress.prune.mask")
models = lazy("lmcompress.models")
nn = lazy("torch.nn")
prune_model = lazy("lmcompress.prune.model")
torch = lazy("torch")

SubsetText = Annotated[str, BeforeValidator(lambda text: str(parse_subset(text)))]
"""What is retrained, in its plain spelling (see :mod:`lmcompress.retrain.subsets`)."""


class OnPruned(Experiment):
    """What all runs here have in common: a model, its texts, and how it is pruned.

    ``task`` classification: the encoder ``model`` is first fine-tuned for ``fine_tune_steps`` on the texts of
    ``data``. A language model with ``fine_tune_steps`` is given biases and trained with them for so many (see
    :mod:`lmcompress.experiments.biased`). ``length``: tokens a window (or at most, a text); ``batch``: windows a
    step; ``calibration``, ``retraining``, ``validation``, ``test``: numbers of windows or texts of these splits.
    ``seed`` draws calibration and retraining texts, their order, and the start of adapters.
    """

    # One process prunes once for all of them.
    shares: ClassVar[tuple[str, ...]] = (
        *("model", "data", "task", "dtype", "length", "fine_tune_steps"),
        *("criterion", "pattern", "calibration", "seed"),
    )

    model: ModelName
    data: CorpusName
    task: TaskName = "language"
    dtype: Literal["fp32", "bf16"] = "bf16"
    length: Length
    batch: Count
    fine_tune_steps: Whole = 0
    criterion: CriterionName
    pattern: PatternText
    calibration: Count
    retraining: Count
    validation: Count
    seed: Seed

    @model_validator(mode="after")
    def _tuned_where_it_classifies(self) -> Self:
        if TASKS[self.task].tuned and not self.fine_tune_steps:
            raise ParameterError("fine_tune_steps", self.fine_tune_steps, f"at least 1 for {self.task}")
        return self

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model"), (self.data, "data")]

    def dense(self) -> tuple[nn.Module, object]:
        """The dense model and its tokenizer, shared by all runs of this process: to be copied, not
        changed.
        """
        return _dense(*self._dense_about())

    def _dense_about(self) -> tuple[Any, ...]:
        """What the dense model depends on: on texts only where it is trained on them."""
        trained = (self.data, self.length, self.fine_tune_steps, self.dtype, self.batch)
        return self.task, self.model, *(trained if self.fine_tune_steps else ("", 0, 0, self.dtype, 0))

    def texts(self, split: str, number: int, corpus: str | None = None) -> Any:
        """Windows [N, T] of a language corpus, or batches of labelled texts."""
        tokenizer, name = self.dense()[1], corpus or self.data
        seed = self.seed if split in ("calibration", "retraining") else 0  # all runs are judged on the same
        return _texts(self.task, name, tokenizer, split, self.length, self.batch, number, seed)

    def calibration_batches(self) -> list[dict[str, torch.Tensor]]:
        """Inputs for criteria and reconstruction, without labels."""
        found = self.texts("calibration", self.calibration)
        found = data.batches(found, self.batch) if isinstance(found, torch.Tensor) else found
        return [{key: value for key, value in batch.items() if key != "labels"} for batch in found]

    def pruned(self) -> tuple[nn.Module, mask.Masks]:
        """A fresh copy of the model, pruned, and its masks."""
        masks, weights = self.pruned_weights()
        model = copy.deepcopy(self.dense()[0])
        with torch.no_grad():
            for name, layer in models.block_linears(model).items():
                layer.weight.copy_(weights[name])
        mask.check(model, masks)
        return model, masks

    def pruned_weights(self) -> tuple[mask.Masks, dict[str, torch.Tensor]]:
        """Masks and pruned weights by full Linear name, to be copied, not changed."""
        return _pruned(OnPruned(**self.model_dump(include=set(OnPruned.model_fields))))


@lru_cache(maxsize=1)
def _dense(task: str, *about: Any) -> tuple[nn.Module, object]:
    return TASKS[task].functions.load(*about)


@lru_cache(maxsize=8)  # tokenising a corpus takes as long as many training steps
def _texts(task: str, *about: Any) -> Any:
    return TASKS[task].functions.texts(*about)


@lru_cache(maxsize=1)
def _pruned(of: OnPruned) -> tuple[mask.Masks, dict[str, torch.Tensor]]:
    model = copy.deepcopy(of.dense()[0])
    batches = of.calibration_batches() if CRITERIA[of.criterion].by_data else None
    device = next(model.parameters()).device
    report = prune_model.prune_model(
        model,
        of.criterion,
        of.pattern,
        batches,
        seed=of.seed,
        output_errors=False,
        store=device,
        progress=False,
    )
    return report.masks, {name: layer.weight.detach() for name, layer in models.block_linears(model).items()}


class Evaluated(OnPruned):
    """A run that ends with an evaluation on the test split of ``tests`` (corpora), ``test`` windows each."""

    covers: ClassVar[bool] = True

    tests: Some[CorpusName]
    test: Sample

    def assets(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys([*super().assets(), *((name, "data") for name in self.tests)]))

    def evaluate(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        """Per corpus what the task judges by (see :mod:`lmcompress.tasks`), beside the dense model."""
        return {name: self._judged(model, name) for name in self.tests}

    def _judged(self, model: nn.Module, corpus: str) -> dict[str, Any]:
        dense = _reference(self._dense_about(), corpus, self.length, self.test, self.batch)
        texts = self.texts("test", self.test, corpus)
        return TASKS[self.task].functions.judge(model, dense, texts, self.batch)


@lru_cache(maxsize=2)
def _reference(about: tuple[Any, ...], corpus: str, length: int, number: int, batch: int) -> Any:
    """What the dense model says about the test texts of ``corpus`` (they do not depend on a seed)."""
    model, tokenizer = _dense(*about)
    texts = _texts(about[0], corpus, tokenizer, "test", length, batch, number, 0)
    return TASKS[about[0]].functions.reference(model, texts, batch)
