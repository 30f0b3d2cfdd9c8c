"""The library's face: one short function for each thing that most work needs, settings as values.

Each calls the function that does the work, which has the same name or stands in the last line, and offers more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmcompress.allocate.predict import loss_table, relative_errors
from lmcompress.allocate.problem import Problem
from lmcompress.allocate.solve import budget_for, exact
from lmcompress.evaluate import Comparison, Perplexity, Reference, compare, perplexity
from lmcompress.models import block_linears
from lmcompress.prune import model as pruning
from lmcompress.prune.mask import Masks
from lmcompress.prune.pattern import Pattern
from lmcompress.quantize import model as quantizing
from lmcompress.quantize.formats import Bits, stored_bytes
from lmcompress.quantize.rtn import quantizer
from lmcompress.retrain import adapters, learning_rate, train
from lmcompress.retrain import reconstruct as reconstructing
from lmcompress.retrain.names import Subset
from lmcompress.sensitivity.agreement import Scores

Batches = list[dict[str, Tensor]]
AFFINE = Bits(4, 128, symmetric=False)


@dataclass(frozen=True)
class Walk:
    """How a model is walked, one block at a time.

    propagate: a block sees the outputs of the changed blocks before it; else those of the dense ones.
    store: device on which the activations rest.
    device: where a block is moved for its turn; default: where the model is.
    progress: show a bar.
    checkpoint: a folder for finished blocks, from which a later call goes on.
    """

    propagate: bool = True
    store: str | torch.device = "cpu"
    device: str | torch.device | None = None
    progress: bool = True
    checkpoint: str | Path | None = None


@dataclass(frozen=True)
class Training:
    """The numbers of a training by AdamW.

    steps: how many, of each block for a reconstruction.
    lr: the learning rate; None: the middle of the subset's grid.
    warmup: share of the steps in which the rate rises; it falls to 0 over the rest.
    batch_size: windows a batch (a reconstruction takes its batches as they are).
    accumulation: batches a step.
    clip: largest norm of the gradient, or None.
    checkpointing: recompute the activations of each block, for less memory; "auto": of as many as memory needs.
    seed: draws the order of the batches and the start of adapters.
    folder: where the state is saved, from which a later call goes on.
    """

    steps: int = 200
    lr: float | None = None
    warmup: float = 0.1
    batch_size: int = 8
    accumulation: int = 1
    clip: float | None = 1.0
    checkpointing: bool | str = False
    seed: int = 0
    folder: str | Path | None = None

    def rate(self, subset: str | Subset) -> float:
        """The learning rate for ``subset``."""
        return self.lr or learning_rate.middle(subset)


def prune_model(
    model: nn.Module,
    criterion: str,
    pattern: str | float | Pattern,
    batches: Batches | None = None,
    *,
    layers: str | None = None,
    seed: int = 0,
    walk: Walk = Walk(),
) -> pruning.PruneReport:
    """Prune the Linears in the blocks in place; the report holds the masks and the error of each layer.

    model: a causal language model, an encoder or a classifier of transformers.
    criterion: magnitude, magnitude-row, magnitude-global, random, wanda or sparsegpt.
    pattern: a share of zeros (0.5, "50%") or zeros among consecutive inputs ("2:4").
    batches: calibration inputs as model keyword arguments; wanda and sparsegpt need them.
    layers: a regular expression on full names; default: every Linear in the blocks.
    seed: of the criterion random.
    walk: how the blocks are walked.
    """
    return pruning.prune_model(model, criterion, pattern, batches, layers=layers, seed=seed, **asdict(walk))


def retrain(
    model: nn.Module,
    windows: Tensor | Batches,
    subset: str | Subset,
    masks: Masks | None = None,
    *,
    training: Training = Training(),
    progress: bool = True,
) -> train.TrainReport:
    """Train a subset of a pruned model in place and merge what was added; the zeros stay.

    model: as it was pruned.
    windows: tokens [N, T] (int64), or batches with labels.
    subset: names joined by "+", such as "norms", "biases+head", "masklora".
    masks: full Linear name -> bool [out, in], True = kept, of the pruning.
    training: steps, learning rate and the like.
    progress: show a bar.
    """
    settings = asdict(training) | {"lr": training.rate(subset)}
    report = train.train(model, windows, subset, dict(masks or {}), progress=progress, **settings)
    adapters.merge(model)
    return report


def reconstruct(
    model: nn.Module,
    masks: Masks,
    batches: Batches,
    subset: str | Subset = "masklora",
    *,
    weights: Mapping[str, Tensor] | None = None,
    granularity: str = "block",
    targets: str = "sparse",
    training: Training = Training(steps=100),
    walk: Walk = Walk(),
) -> list[reconstructing.BlockReport]:
    """Prune the dense model in place and train each block towards what the dense one gave; a report a block.

    model: the dense one.
    masks: full Linear name -> bool [out, in], True = kept.
    batches: calibration inputs as model keyword arguments.
    subset: what is trained, inside the blocks.
    weights: full Linear name -> [out, in], where the criterion changed the kept weights as well (SparseGPT).
    granularity: block, attention-and-mlp or linear.
    targets: the dense block's output on the inputs of the pruned stream (sparse), or on its own (dense).
    training: ``steps``, ``lr``, ``warmup`` and ``seed`` count.
    walk: how the blocks are walked.
    """
    numbers: dict[str, Any] = {
        "lr": training.rate(subset),
        "steps": training.steps,
        "warmup": training.warmup,
        "seed": training.seed,
    }
    options: dict[str, Any] = {"granularity": granularity, "targets": targets, "weights": weights}
    return reconstructing.reconstruct(model, masks, batches, subset, **options, **numbers, **asdict(walk))


def quantize_model(
    model: nn.Module,
    formats: str | Bits | Mapping[str, Bits | str],
    method: str = "rtn",
    batches: Batches | None = None,
    *,
    masks: Masks | None = None,
    walk: Walk = Walk(),
) -> quantizing.QuantizeReport:
    """Quantize in place: the model then holds the values read back; the report holds the codes and bytes.

    model: the rest of it is rounded to 16 bits, as it would be stored.
    formats: one for all Linears in the blocks, such as Bits(4, 128) or "4bit-g128", or full name -> format.
    method: rtn (round to nearest) or gptq.
    batches: calibration inputs as model keyword arguments; gptq needs them.
    masks: pruned weights stay exactly zero.
    walk: how the blocks are walked; ``propagate`` does not count.
    """
    chosen = formats if isinstance(formats, Mapping) else dict.fromkeys(block_linears(model), formats)
    options = asdict(walk)
    del options["propagate"]
    return quantizing.quantize_model(model, chosen, method, batches, masks=masks, **options)


def allocate(
    model: nn.Module,
    scores: Scores,
    average: float,
    *,
    widths: Sequence[int] = (2, 3, 4, 8),
    like: Bits = AFFINE,
) -> dict[str, Bits]:
    """A width for every Linear in the blocks, so that the predicted loss is least within a budget of bytes.

    model: dense.
    scores: sensitivity of every Linear (``per="linear"``), by any function of :mod:`lmcompress.sensitivity`.
    average: bits a weight on disk, scales and zero points counted.
    widths: what to choose among.
    like: groups and symmetry of the formats.

    Returns full name -> format, for :func:`quantize_model`.
    """
    layers = block_linears(model)
    cost = {
        name: {str(bits): stored_bytes(tuple(layer.weight.shape), like.at(bits)) for bits in widths}
        for name, layer in layers.items()
    }
    loss = loss_table(scores, widths, relative_errors(model, quantizer(like), widths))
    budget = budget_for(average, sum(layer.weight.numel() for layer in layers.values()))
    return {name: like.at(int(choice)) for name, choice in exact(Problem(cost, loss), budget).choice.items()}


def evaluate(
    model: nn.Module, windows: Tensor, dense: Reference | None = None, *, batch_size: int = 8
) -> Perplexity | Comparison:
    """Perplexity with its 95 % interval, or all that tells the model from its dense self.

    model: a causal language model.
    windows: tokens [N, T] (int64), N at least 2.
    dense: what the dense model says about the same windows (:func:`lmcompress.evaluate.reference`).
    batch_size: windows a forward pass.
    """
    if dense is None:
        return perplexity(model, windows, batch_size)
    return compare(model, dense, windows, batch_size)
