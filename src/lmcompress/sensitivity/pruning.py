"""PMPQ (CPTQuant, arXiv 2412.03599): a layer is sensitive when pruning it, and it alone, costs much."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lmcompress.errors import ParameterError
from lmcompress.models import blocks
from lmcompress.prune.criteria import CRITERIA, ONE_LAYER
from lmcompress.prune.mask import require_divisible
from lmcompress.prune.pattern import Pattern, parse
from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.losses import Loss, predictions, window_losses
from lmcompress.sensitivity.scores import changed, check_batches, layer_groups
from lmcompress.sensitivity.trials import Change, paired_interval, try_each
from lmcompress.stats import ColumnNorms
from lmcompress.stream import BlockVisit, stream


def pmpq(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    *,
    patterns: Sequence[float | str | Pattern] = (0.3, 0.5, 0.7),
    criterion: str = "magnitude",
    per: str = "linear",
    loss: Loss = window_losses,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Scores:
    """Loss increase (nats) when one layer's Linears are pruned, mean over ``patterns`` (sparsities or N:M).

    ``criterion``: one of :data:`~lmcompress.prune.criteria.ONE_LAYER`; its inputs are those of the
    same batches. Norms, biases and all other layers stay. Give windows of the
    calibration split: scores taken on the test set leak into what is reported there. ``detail``:
    ``per_pattern``[pattern][layer], its 95 % ``intervals`` over the windows, ``base`` and ``losses`` per
    window. ``checkpoint`` as in ``trials.try_each``.
    """
    started = time.perf_counter()
    check_batches(batches)
    if criterion not in ONE_LAYER:
        raise ParameterError("criterion", criterion, ONE_LAYER)
    if not patterns:
        raise ParameterError("patterns", patterns, "at least one sparsity or N:M pattern")
    parsed = [parse(pattern) for pattern in patterns]
    for inside in layer_groups(model, per).values():
        for name, linear in inside.items():
            for pattern in parsed:
                require_divisible(linear.in_features, pattern, name)
    norms = input_norms(model, batches) if CRITERIA[criterion].by_data else {}
    preparation = time.perf_counter() - started

    def prune(pattern: Pattern) -> Change:
        def change(name: str, weight: Tensor) -> Tensor:
            return weight * CRITERIA[criterion].of_layer(name, weight, norms.get(name), pattern)

        return change

    variants = {str(pattern): prune(pattern) for pattern in parsed}
    trials = try_each(model, batches, variants, per=per, loss=loss, checkpoint=checkpoint, progress=progress)
    tables = {key: trials.increase(key) for key in variants}
    mean = {layer: sum(table[layer] for table in tables.values()) / len(tables) for layer in trials.losses}
    intervals = {
        key: {layer: paired_interval(trials.base, tried[key]) for layer, tried in trials.losses.items()}
        for key in variants
    }
    scores = trials.scores(mean, tables, "per_pattern")
    detail = {**scores.detail, "intervals": intervals, "criterion": criterion}
    return Scores(mean, trials.seconds + preparation, detail)


def input_norms(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Norm of every input feature over the real tokens of the unchanged model, full Linear name -> [in]."""
    found = {}

    def visit(block: BlockVisit) -> dict[str, Any]:
        for name, norms in block.statistics(lambda linear: ColumnNorms(linear.in_features)).items():
            found[f"{block.name}.{name}"] = norms.result()
        return {}

    stream(model, list(batches), visit, progress=False)
    return found


def pmpq_as_released(
    model: nn.Module, batches: Sequence[dict[str, Tensor]], *, sparsity: float = 0.3
) -> Scores:
    """PMPQ as the authors' released code computes it, per block; kept to show what it does, not to be used.

    In each block every parameter tensor loses its entries with |w| up to the ``sparsity`` quantile. With
    ``labels`` in the batches the score is accuracy before minus after; else perplexity before minus after.
    Flaws, all kept:

    * for language models the sign is the wrong way round: the more a block matters, the *lower* its score;
    * biases and norms are pruned like weights, though quantization leaves most of them alone;
    * one sparsity, never shown to stand for the error of any bit-width;
    * the authors score on the test set that they report, and classifiers with a randomly initialised head,
      whose accuracy moves by chance alone. (What is passed here is up to the caller.)
    """
    started = time.perf_counter()
    check_batches(batches)
    if not 0 < sparsity < 1:
        raise ParameterError("sparsity", sparsity, "a number between 0 and 1")
    base, scores = _quality(model, batches), {}
    for name, block in blocks(model).items():
        pruned = {}
        for parameter in block.parameters():
            size = parameter.detach().abs()
            limit = float(np.quantile(size.double().cpu().numpy(), sparsity))
            pruned[parameter] = parameter.detach() * (size > limit)
        with changed(pruned):
            scores[name] = base - _quality(model, batches)
    kind = "accuracy" if "labels" in batches[0] else "perplexity"
    return Scores(scores, time.perf_counter() - started, {"base": base, "quality": kind})


@torch.no_grad()
def _quality(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> float:
    """Accuracy of a classifier, perplexity of a language model."""
    if "labels" in batches[0]:
        right = [
            logits.argmax(-1) == targets for logits, targets, _ in (predictions(model, b) for b in batches)
        ]
        return float(torch.cat(right).double().mean())
    return math.exp(float(torch.cat([window_losses(model, batch) for batch in batches]).double().mean()))
