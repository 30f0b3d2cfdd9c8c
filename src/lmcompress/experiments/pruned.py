"""The runs that the PERP notebooks share: prune, retrain a subset, merge, check the zeros, evaluate on the
test split.

Every run begins from the same dense model and changes a copy; models, pruned weights and what the dense model
says about the test texts are kept for the next run of the same process.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, model_validator

from lmcompress.errors import NumericError, ParameterError
from lmcompress.experiments.biased import with_biases
from lmcompress.experiments.fine_tune import classifier
from lmcompress.lazily import lazy
from lmcompress.parameters import CorpusName, Count, Length, ModelName, PatternText, Sample, Seed, Some, Whole
from lmcompress.records import Experiment
from lmcompress.retrain.names import parse as parse_subset

data = lazy("lmcompress.data")
evaluate = lazy("lmcompress.evaluate")
mask = lazy("lmcompress.prune.mask")
models = lazy("lmcompress.models")
nn = lazy("torch.nn")
prune_model = lazy("lmcompress.prune.model")
torch = lazy("torch")

Criterion = Literal["magnitude", "magnitude-row", "magnitude-global", "random", "wanda", "sparsegpt"]


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
    task: Literal["language", "classification"] = "language"
    dtype: Literal["fp32", "bf16"] = "bf16"
    length: Length
    batch: Count
    fine_tune_steps: Whole = 0
    criterion: Criterion
    pattern: PatternText
    calibration: Count
    retraining: Count
    validation: Count
    seed: Seed

    @model_validator(mode="after")
    def _tuned_where_it_classifies(self) -> Self:
        if self.task == "classification" and not self.fine_tune_steps:
            raise ParameterError("fine_tune_steps", self.fine_tune_steps, "at least 1 for classification")
        return self

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model"), (self.data, "data")]

    def dense(self) -> tuple[nn.Module, object]:
        """The dense model and its tokenizer, shared by all runs of this process: to be copied, not
        changed.
        """
        if self.task == "classification":
            return _classifier(self.model, self.data, self.length, self.fine_tune_steps)
        if self.fine_tune_steps:
            return with_biases(
                self.model, self.dtype, self.data, self.length, self.batch, self.fine_tune_steps
            )
        return _language(self.model, self.dtype)

    def texts(self, split: str, number: int, corpus: str | None = None):
        """Windows [N, T] of a language corpus, or batches of labelled texts."""
        tokenizer, name = self.dense()[1], corpus or self.data
        seed = self.seed if split in ("calibration", "retraining") else 0  # all runs are judged on the same
        if self.task == "language":
            return _windows(name, tokenizer, split, self.length, number, seed)
        return data.classification(name, tokenizer, split, self.length, self.batch, number, seed)

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
def _language(name: str, dtype: str) -> tuple[nn.Module, object]:
    return models.load(name, dtype)


@lru_cache(maxsize=8)  # tokenising a corpus takes as long as many training steps
def _windows(corpus: str, tokenizer, split: str, length: int, number: int, seed: int) -> torch.Tensor:
    return data.windows(corpus, tokenizer, split, length, number, seed)


_classifier = lru_cache(maxsize=1)(classifier)


@lru_cache(maxsize=1)
def _pruned(of: OnPruned) -> tuple[mask.Masks, dict[str, torch.Tensor]]:
    model = copy.deepcopy(of.dense()[0])
    needs_data = of.criterion in ("wanda", "sparsegpt")
    batches = of.calibration_batches() if needs_data else None
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

    tests: Some[CorpusName]
    test: Sample

    def assets(self) -> list[tuple[str, str]]:
        return list(dict.fromkeys([*super().assets(), *((name, "data") for name in self.tests)]))

    def evaluate(self, model: nn.Module) -> dict[str, dict]:
        """Per corpus: perplexity, KL and agreement with the dense model, each with its 95 % interval, and the
        loss of every window; for a classifier the accuracy. None where the loss is not finite.
        """
        return {name: self._evaluate(model, name) for name in self.tests}

    def _evaluate(self, model: nn.Module, corpus: str) -> dict:
        texts = self.texts("test", self.test, corpus)
        if self.task == "classification":
            dense, found = evaluate.accuracy(self.dense()[0], texts), evaluate.accuracy(model, texts)
            return {
                "accuracy": found.value,
                "low": found.low,
                "high": found.high,
                "correct": found.correct.int().tolist(),
                "dense": dense.value,
            }
        dense = OnPruned(**self.model_dump(include=set(OnPruned.model_fields)) | NO_PRUNING)
        before = _reference(dense, corpus, self.test)
        about = {"dense": math.exp(float(before.nll.mean()))}
        try:
            found = evaluate.compare(model, before, texts, self.batch)
        except NumericError:
            return about | dict.fromkeys(
                ("perplexity", "low", "high", "kl", "kl_low", "kl_high", "agreement", "nll")
            )
        return about | {
            "perplexity": found.perplexity.value,
            "low": found.perplexity.low,
            "high": found.perplexity.high,
            "kl": found.kl.value,
            "kl_low": found.kl.low,
            "kl_high": found.kl.high,
            "agreement": found.agreement.value,
            "nll": [round(value, 4) for value in found.perplexity.nll.tolist()],
            "convention": found.perplexity.convention,
        }


NO_PRUNING = {
    "criterion": "magnitude",
    "pattern": "0%",
    "seed": 0,
}  # of a run that only names its dense model


@lru_cache(maxsize=2)
def _reference(of: OnPruned, corpus: str, number: int) -> evaluate.Reference:
    """What the dense language model of a run says about ``number`` test windows of ``corpus`` (they do not depend on
    a seed).
    """
    return evaluate.reference(of.dense()[0], of.texts("test", number, corpus), of.batch)
