"""Pruning without retraining: what a criterion costs, and what the inputs of the layers say about why."""

from __future__ import annotations

import copy
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import model_validator

from lmcompress import covered
from lmcompress.errors import NumericError, ParameterError
from lmcompress.lazily import lazy
from lmcompress.parameters import CorpusName, Count, Flag, Length, ModelName, PatternText, Sample, Seed, Share
from lmcompress.prune.criteria import CRITERIA, CriterionName
from lmcompress.prune.pattern import Unstructured, parse
from lmcompress.records import Experiment

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lmcompress import evaluate, stream

data = lazy("lmcompress.data")
evaluate = lazy("lmcompress.evaluate")
mask = lazy("lmcompress.prune.mask")
models = lazy("lmcompress.models")
nn = lazy("torch.nn")
prune_model = lazy("lmcompress.prune.model")
stats = lazy("lmcompress.stats")
stream = lazy("lmcompress.stream")
torch = lazy("torch")
wanda = lazy("lmcompress.prune.wanda")

BATCH = 8  # windows a forward pass


class OnDense(Experiment):
    """A model and its texts: ``test`` windows to judge on, ``calibration`` windows drawn by ``seed`` to look at."""

    shares: ClassVar[tuple[str, ...]] = (
        "model",
        "data",
        "dtype",
        "length",
        "test",
    )  # what the dense model says

    model: ModelName
    data: CorpusName
    dtype: Literal["fp32", "bf16"]
    length: Length
    test: Sample | None
    calibration: Count
    seed: Seed

    def assets(self) -> list[tuple[str, str]]:
        return [(self.model, "model"), (self.data, "data")]

    def fresh(self) -> nn.Module:
        """A copy of the dense model, to be changed."""
        return copy.deepcopy(_dense(self.model, self.dtype)[0])

    def batches(self) -> list[dict[str, torch.Tensor]]:
        tokenizer = _dense(self.model, self.dtype)[1]
        found = data.windows(self.data, tokenizer, "calibration", self.length, self.calibration, self.seed)
        return data.batches(found, BATCH)

    def judged(self, model: nn.Module) -> dict[str, Any]:
        """Perplexity, its ratio to the dense one, KL and agreement with intervals, and the loss of every window."""
        dense = _reference(self.model, self.data, self.dtype, self.length, self.test)
        return _plain(evaluate.compare(model, dense, dense.windows, BATCH), dense)


@lru_cache(maxsize=1)
def _dense(model: str, dtype: str) -> Any:
    return models.load(model, dtype)


@lru_cache(maxsize=1)
def _reference(model: str, corpus: str, dtype: str, length: int, test: int | None) -> evaluate.Reference:
    dense, tokenizer = _dense(model, dtype)
    return evaluate.reference(dense, data.windows(corpus, tokenizer, "test", length, test), BATCH)


def _plain(found: evaluate.Comparison, dense: evaluate.Reference) -> dict[str, Any]:
    estimates: dict[str, Any] = {
        "perplexity": found.perplexity,
        "ratio": found.ratio,
        "kl": found.kl,
        "agreement": found.agreement,
        "dense": evaluate.Estimate.of(dense.nll, lambda nll: float(torch.tensor(nll).exp())),
    }
    plain = {name: {"value": one.value, "low": one.low, "high": one.high} for name, one in estimates.items()}
    return {**plain, "nll": _rounded(found.perplexity.nll), "dense_nll": _rounded(dense.nll)}


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 5) for value in values.tolist()]


class PrunedModel(OnDense):
    """Prune by one criterion to one pattern and judge. ``layer_errors``: measure those on the calibration windows."""

    covers: ClassVar[bool] = True

    criterion: CriterionName
    pattern: PatternText
    layer_errors: Flag

    def run(self) -> dict[str, Any]:
        model = self.fresh()
        looks = self.layer_errors or CRITERIA[self.criterion].by_data
        try:
            report = prune_model.prune_model(
                model,
                self.criterion,
                self.pattern,
                self.batches() if looks else None,
                seed=self.seed,
                output_errors=self.layer_errors,
                store=next(model.parameters()).device,
                progress=False,
            )
            judged = self.judged(model)
        except NumericError as error:  # a result too: this criterion cannot do it here
            return {"failed": str(error)}
        return {
            **judged,
            "sparsity": report.sparsity,
            "errors": _by_kind({name: layer.relative_error for name, layer in report.layers.items()}),
            "damping": max((layer.damping or 0 for layer in report.layers.values()), default=0),
            "dead_columns": sum(layer.dead_columns or 0 for layer in report.layers.values()),
            "seconds": report.seconds,
            "deciding": sum(layer.seconds for layer in report.layers.values()),
            **covered.field(model, report.layers),
        }


def _by_kind(values: dict[str, float | None]) -> dict[str, list[float]]:
    """Full Linear name -> value as: kind of Linear (its name within a block) -> one value for each block. Values that
    are None (not measured) are left out.
    """
    found: dict[str, list[float]] = {}
    for name, value in values.items():
        if value is not None:
            kind = re.sub(r"^.*?\.\d+\.", "", name)
            found.setdefault(kind, []).append(float(f"{value:.5g}"))
    return found


class InputNorms(OnDense):
    """How uneven the inputs of the Linears are, block by block and for each kind of Linear.

    ``peak``: largest norm of an input feature over the median one. ``energy``: share of the squared norm in the
    largest ``share`` of the features. ``score``: their share of the sum of Wanda's scores. ``kept``: share of the
    weights on these features that Wanda keeps at 50 %.
    """

    share: Share

    def run(self) -> dict[str, Any]:
        norms = _norms(self)
        found: dict[str, dict[str, float | None]] = {"peak": {}, "energy": {}, "score": {}, "kept": {}}
        for name, linear in models.block_linears(_dense(self.model, self.dtype)[0]).items():
            top = _largest(norms[name], self.share)
            squares, scores = norms[name].square(), wanda.scores(linear.weight, norms[name])
            kept = wanda.prune(linear.weight, norms[name], Unstructured(0.5))
            found["peak"][name] = float(norms[name].max() / norms[name].median().clamp_min(1e-30))
            found["energy"][name] = float(squares[top].sum() / squares.sum())
            found["score"][name] = float(scores[:, top].sum() / scores.sum())
            found["kept"][name] = float(kept[:, top].float().mean())
        return {name: _by_kind(values) for name, values in found.items()}


class FewColumns(OnDense):
    """Treat a ``share`` of each Linear's inputs apart: the ``largest`` by norm, or as many at ``random``.

    ``spare``: magnitude pruning to ``pattern`` that may not touch the weights on them (as many weights go in all).
    ``drop``: only the weights on them go, all others stay.
    """

    action: Literal["spare", "drop"]
    columns: Literal["largest", "random"]
    share: Share
    pattern: PatternText | None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.action == "spare") != bool(self.pattern):
            raise ParameterError("pattern", self.pattern, "one for the action 'spare', and none for 'drop'")
        return self

    def run(self) -> dict[str, Any]:
        model, norms = self.fresh(), _norms(self)
        generator = torch.Generator().manual_seed(self.seed)
        masks = {}
        for name, linear in models.block_linears(model).items():
            order = torch.rand(norms[name].shape, generator=generator)
            chosen = _largest(norms[name] if self.columns == "largest" else order, self.share)
            masks[name] = self._mask(linear.weight, chosen.to(linear.weight.device))
        mask.apply(model, masks)
        return {**self.judged(model), "sparsity": mask.sparsity(masks)}

    def _mask(self, weight: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        if self.action == "drop":
            kept = torch.ones_like(weight, dtype=torch.bool)
            kept[:, chosen] = False
            return kept
        scores = weight.detach().abs().float()
        scores[:, chosen] += scores.max()
        return mask.mask(scores, parse(str(self.pattern)))


def _largest(values: torch.Tensor, share: float) -> torch.Tensor:
    return values.topk(max(1, round(share * len(values)))).indices


def _norms(on: OnDense) -> dict[str, torch.Tensor]:
    return _dense_norms(OnDense(**on.model_dump(include=set(OnDense.model_fields))))


@lru_cache(maxsize=1)
def _dense_norms(on: OnDense) -> dict[str, torch.Tensor]:
    """Norms of the input features of every Linear of the dense model, by full name."""
    found: dict[str, torch.Tensor] = {}

    def visit(block: stream.BlockVisit) -> dict[str, Any]:
        seen = block.statistics(lambda linear: stats.ColumnNorms(linear.in_features))
        found.update({f"{block.name}.{name}": one.result() for name, one in seen.items()})
        return {}

    model = _dense(on.model, on.dtype)[0]
    stream.stream(model, on.batches(), visit, store=next(model.parameters()).device, progress=False)
    return found
