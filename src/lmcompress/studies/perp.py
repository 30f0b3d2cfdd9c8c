"""The runs that the PERP notebooks share: prune, retrain a subset, merge, check the zeros, evaluate on the
test split.

Every run begins from the same dense model and changes a copy; models, pruned weights and what the dense model
says about the test texts are kept for the next run of the same process.
"""

import copy
import math
from dataclasses import asdict
from functools import lru_cache
from typing import Annotated, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

from lmcompress import data, models, zeroshot
from lmcompress.assets import resolve
from lmcompress.errors import LmcompressError, NumericError
from lmcompress.evaluate import Reference, accuracy, compare, reference
from lmcompress.models import block_linears
from lmcompress.parameters import PatternText
from lmcompress.prune import mask
from lmcompress.prune.mask import Masks
from lmcompress.prune.model import prune_model
from lmcompress.prune.pattern import parse as parse_pattern
from lmcompress.records import Experiment, obtain
from lmcompress.retrain import adapters
from lmcompress.retrain.iterative import ladder, prune_and_retrain
from lmcompress.retrain.learning_rate import choose_lr, grid
from lmcompress.retrain.reconstruct import reconstruct
from lmcompress.retrain.subsets import count, parse
from lmcompress.retrain.train import TrainReport, mean_loss, train
from lmcompress.studies.fine_tune import classifier

Criterion = Literal["magnitude", "magnitude-row", "magnitude-global", "random", "wanda", "sparsegpt"]
SubsetText = Annotated[str, BeforeValidator(lambda text: str(parse(text)))]
"""What is retrained, in its plain spelling (see :mod:`lmcompress.retrain.subsets`)."""
MOST_RATES = 7  # a grid whose best rate lies at its edge is extended up to so many rates
POINTS = 50  # a record keeps at most so many points of a training curve


class OnPruned(Experiment):
    """What all runs here have in common: a model, its texts, and how it is pruned.

    ``task`` classification: the encoder ``model`` is first fine-tuned for ``fine_tune_steps`` on the texts of
    ``data``. ``length``: tokens a window (or at most, a text); ``batch``: windows a step; ``calibration``,
    ``retraining``, ``validation``, ``test``: numbers of windows or texts of these splits. ``seed`` draws
    calibration and retraining texts, their order, and the start of adapters.
    """

    model: str
    data: str
    task: Literal["language", "classification"] = "language"
    dtype: Literal["fp32", "bf16"] = "bf16"
    length: int
    batch: int
    fine_tune_steps: int = 0
    criterion: Criterion
    pattern: PatternText
    calibration: int
    retraining: int
    validation: int
    seed: int

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model"), (self.data, "data")]

    def dense(self) -> tuple[nn.Module, object]:
        """The dense model and its tokenizer, shared by all runs of this process: to be copied, not
        changed.
        """
        if self.task == "language":
            return _language(self.model, self.dtype)
        return _classifier(self.model, self.data, self.length, self.fine_tune_steps)

    def texts(self, split: str, number: int, corpus: str | None = None):
        """Windows [N, T] of a language corpus, or batches of labelled texts."""
        tokenizer, name = self.dense()[1], corpus or self.data
        seed = self.seed if split in ("calibration", "retraining") else 0  # all runs are judged on the same
        if self.task == "language":
            return _windows(name, tokenizer, split, self.length, number, seed)
        return data.classification(name, tokenizer, split, self.length, self.batch, number, seed)

    def calibration_batches(self) -> list[dict[str, Tensor]]:
        """Inputs for criteria and reconstruction, without labels."""
        found = self.texts("calibration", self.calibration)
        found = data.batches(found, self.batch) if isinstance(found, Tensor) else found
        return [{key: value for key, value in batch.items() if key != "labels"} for batch in found]

    def pruned(self) -> tuple[nn.Module, Masks]:
        """A fresh copy of the model, pruned, and its masks."""
        masks, weights = self.pruned_weights()
        model = copy.deepcopy(self.dense()[0])
        with torch.no_grad():
            for name, layer in block_linears(model).items():
                layer.weight.copy_(weights[name])
        mask.check(model, masks)
        return model, masks

    def pruned_weights(self) -> tuple[Masks, dict[str, Tensor]]:
        """Masks and pruned weights by full Linear name, to be copied, not changed."""
        return _pruned(OnPruned(**self.model_dump(include=set(OnPruned.model_fields))))


_language = lru_cache(maxsize=1)(models.load)
_windows = lru_cache(maxsize=8)(data.windows)  # tokenising a corpus takes as long as many training steps
_classifier = lru_cache(maxsize=1)(classifier)


@lru_cache(maxsize=1)
def _pruned(of: OnPruned) -> tuple[Masks, dict[str, Tensor]]:
    model = copy.deepcopy(of.dense()[0])
    needs_data = of.criterion in ("wanda", "sparsegpt")
    batches = of.calibration_batches() if needs_data else None
    device = next(model.parameters()).device
    report = prune_model(
        model,
        of.criterion,
        of.pattern,
        batches,
        seed=of.seed,
        output_errors=False,
        store=device,
        progress=False,
    )
    return report.masks, {name: layer.weight.detach() for name, layer in block_linears(model).items()}


class ChooseRate(OnPruned):
    """The learning rate of a subset: the one of least validation loss after ``steps`` steps.

    Tried is the grid of :mod:`lmcompress.retrain.learning_rate`, extended by factors of three as long as the
    best rate lies at an end of it.
    """

    subset: SubsetText
    steps: int

    def run(self) -> dict:
        windows, validation = (
            self.texts("retraining", self.retraining),
            self.texts("validation", self.validation),
        )
        options = {"steps": self.steps, "batch_size": self.batch, "seed": self.seed, "progress": False}

        def tried(rates) -> list[dict]:
            return list(
                choose_lr(self.pruned, self.subset, windows, validation, rates=rates, **options).trials
            )

        return chosen(tried, grid(self.subset))


def chosen(tried, rates: tuple[float, ...]) -> dict:
    """``lr`` of least loss among ``tried(rates)``, extended at the ends, and all ``trials`` by rate.

    ``tried``: rates -> list of ``{"lr", "loss", "diverged"}``.
    """
    trials = tried(rates)
    while True:
        order = sorted(trial["lr"] for trial in trials)
        finished = [trial for trial in trials if trial["loss"] is not None]
        best = min(finished, key=lambda trial: trial["loss"])["lr"] if finished else order[0]
        beyond = best * 3 if best == order[-1] and finished else best / 3 if best == order[0] else None
        if beyond is None or len(trials) >= MOST_RATES:
            trials = sorted(trials, key=lambda trial: trial["lr"])
            return {"lr": best if finished else None, "trials": trials, "at_edge": beyond is not None}
        trials += tried((beyond,))


class Evaluated(OnPruned):
    """A run that ends with an evaluation on the test split of ``tests`` (corpora), ``test`` windows each."""

    tests: tuple[str, ...]
    test: int

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
            dense, found = accuracy(self.dense()[0], texts), accuracy(model, texts)
            return {
                "accuracy": found.value,
                "low": found.low,
                "high": found.high,
                "correct": found.correct.int().tolist(),
                "dense": dense.value,
            }
        before = _reference(self.model, self.dtype, corpus, self.length, self.test, self.batch)
        about = {"dense": math.exp(float(before.nll.mean()))}
        try:
            found = compare(model, before, texts, self.batch)
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


@lru_cache(maxsize=2)
def _reference(name: str, dtype: str, corpus: str, length: int, number: int, batch: int) -> Reference:
    """What the dense language model says about the test windows of ``corpus`` (they do not depend on a
    seed).
    """
    model, tokenizer = _language(name, dtype)
    return reference(model, _windows(corpus, tokenizer, "test", length, number, 0), batch)


class Retrain(Evaluated):
    """Prune, retrain ``subset`` for ``steps`` steps, merge, check the masks, evaluate.

    ``rounds`` above 1: prune a little, retrain, and so on, with ``steps`` in all. ``lr``: the learning rate;
    None: that of :class:`ChooseRate` after magnitude pruning to ``rate_pattern`` with ``rate_steps`` steps,
    or, without ``rate_steps``, the middle of the subset's grid.
    """

    subset: SubsetText
    steps: int
    rounds: int = 1
    lr: float | None = None
    rate_pattern: PatternText = "50%"
    rate_steps: int = 0

    def rate_run(self) -> ChooseRate | None:
        """The run that chooses the learning rate, or None where it is given."""
        if self.lr is not None or self.subset == "nothing" or not self.rate_steps:
            return None
        same = self.model_dump(include=set(OnPruned.model_fields))
        about = {"criterion": "magnitude", "pattern": self.rate_pattern, "seed": 0}
        return ChooseRate(**same | about, subset=self.subset, steps=self.rate_steps)

    def rate(self) -> float:
        """The learning rate; where it is to be chosen, that run is made first if it has not been."""
        return self.lr or _rate(self.subset, self.rate_run())

    def run(self) -> dict:
        lr, windows = self.rate(), self.texts("retraining", self.retraining)
        model, masks, reports = self._trained(lr, windows)
        mask.check(model, masks)
        about = count(self.dense()[0], self.subset)
        return {
            "lr": lr,
            "trainable": about.trainable,
            "percent": about.percent,
            "sparsity": mask.sparsity(masks),
            "merged": not adapters.adapted_layers(model),
            "diverged": any(report.diverged for report in reports),
            "losses": _thinned([loss for report in reports for loss in report.losses]),
            "train_seconds": sum(report.seconds for report in reports),
            "tokens": sum(report.tokens for report in reports),
            "tests": self.evaluate(model),
        }

    def _trained(self, lr: float, windows) -> tuple[nn.Module, Masks, list[TrainReport]]:
        options = {
            "lr": lr,
            "steps": self.steps,
            "batch_size": self.batch,
            "seed": self.seed,
            "progress": False,
        }
        if self.rounds == 1:
            model, masks = self.pruned()
            reports = [train(model, windows, self.subset, masks, **options)]
            adapters.merge(model)
            return model, masks, reports
        model = copy.deepcopy(self.dense()[0])
        batches = self.calibration_batches() if self.criterion in ("wanda", "sparsegpt") else None

        def prune(current: nn.Module, sparsity: float) -> Masks:
            return prune_model(
                current,
                self.criterion,
                sparsity,
                batches,
                seed=self.seed,
                output_errors=False,
                progress=False,
            ).masks

        targets = ladder(parse_pattern(self.pattern).sparsity, self.rounds)
        masks, reports = prune_and_retrain(model, windows, self.subset, prune, targets, **options)
        return model, masks, reports


class ZeroShot(Retrain):
    """:class:`Retrain`, evaluated by zero-shot accuracy instead of test texts (``tests`` is empty).

    ``tasks``: lm-eval's name of a task -> an asset with its local files, or "" for the hub; ``questions``: only
    the first so many of each, None for all. Pruning to 0 % without retraining is the dense model.
    """

    tasks: dict[str, str]
    questions: int | None = None

    def assets(self) -> list[tuple[str, str]]:
        return [*super().assets(), *((name, "data") for name in self.tasks.values() if name)]

    def run(self) -> dict:
        lr, windows = self.rate(), self.texts("retraining", self.retraining)
        model, masks, _ = self._trained(lr, windows)
        folders = {task: resolve(name, "data").path if name else None for task, name in self.tasks.items()}
        found = zeroshot.evaluate(
            model, self.dense()[1], folders, limit=self.questions, batch_size=self.batch
        )
        sparsity = mask.sparsity(masks)
        return {"lr": lr, "sparsity": sparsity, "tasks": {task: asdict(one) for task, one in found.items()}}


class Reconstruct(Evaluated):
    """Prune, reconstruct block by block, evaluate; see :func:`lmcompress.retrain.reconstruct.reconstruct`.

    ``steps``: of each block. ``lr`` None: the rate of least validation loss after magnitude pruning to
    ``rate_pattern``, or with an empty one the middle of the subset's grid.
    """

    subset: SubsetText
    granularity: Literal["block", "attention-and-mlp", "linear"]
    targets: Literal["sparse", "dense"] = "sparse"
    steps: int
    lr: float | None = None
    rate_pattern: PatternText | Literal[""] = ""

    def rate_run(self) -> "ChooseReconstructionRate | None":
        """As in :class:`Retrain`."""
        if self.lr is not None or not self.rate_pattern:
            return None
        same = self.model_dump(include=set(OnPruned.model_fields))
        about = {"criterion": "magnitude", "pattern": self.rate_pattern, "seed": 0}
        about |= {"subset": self.subset, "granularity": self.granularity, "steps": self.steps}
        return ChooseReconstructionRate(**same | about)

    def run(self) -> dict:
        lr = self.lr or _rate(self.subset, self.rate_run())
        model, report = reconstructed(self, self.subset, self.granularity, self.targets, self.steps, lr)
        return {
            "lr": lr,
            "trainable": sum(block.trainable for block in report),
            "blocks": [
                {"before": block.before, "after": block.after, "improved": block.improved} for block in report
            ],
            "reconstruct_seconds": sum(block.seconds for block in report),
            "tokens": self.calibration * self.length,
            "tests": self.evaluate(model),
        }


class ChooseReconstructionRate(OnPruned):
    """The learning rate of a reconstruction, by validation loss (see :class:`ChooseRate`)."""

    subset: SubsetText
    granularity: Literal["block", "attention-and-mlp", "linear"]
    steps: int

    def run(self) -> dict:
        validation = self.texts("validation", self.validation)

        def tried(rates) -> list[dict]:
            trials = []
            for lr in rates:
                model, report = reconstructed(self, self.subset, self.granularity, "sparse", self.steps, lr)
                improved = any(block.improved for block in report)
                loss = _finite(mean_loss(model, validation, self.batch)) if improved else None
                trials.append({"lr": lr, "loss": loss, "diverged": not improved})
            return trials

        return chosen(tried, grid(self.subset))


def reconstructed(of: OnPruned, subset: str, granularity: str, targets: str, steps: int, lr: float):
    """``(model, reports per block)`` of a fresh reconstruction, masks checked."""
    masks, weights = of.pruned_weights()
    model = copy.deepcopy(of.dense()[0])
    report = reconstruct(
        model,
        masks,
        of.calibration_batches(),
        subset,
        lr=lr,
        steps=steps,
        granularity=granularity,
        targets=targets,
        weights=weights,
        seed=of.seed,
        store=next(model.parameters()).device,
        progress=False,
    )
    mask.check(model, masks)
    return model, report


def _rate(subset: str, run: Experiment | None) -> float:
    """The rate that ``run`` chooses, or without one the middle of the subset's grid."""
    if run is None:
        rates = grid(subset)
        return rates[len(rates) // 2]
    lr = obtain([run], progress=False)[0].result["lr"]
    if lr is None:
        raise LmcompressError(f"{subset}: every learning rate of its grid diverged")
    return lr


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _thinned(values: list[float]) -> list[float]:
    """At most :data:`POINTS` means of consecutive values, None for what is not finite."""
    size = -(-len(values) // POINTS) if values else 1
    means = [sum(values[at : at + size]) / len(values[at : at + size]) for at in range(0, len(values), size)]
    return [_finite(round(mean, 4)) for mean in means]
