"""Reconstruction: retrain the pruned blocks one at a time, each towards what the dense block gave (PERP,
arXiv 2312.15230).

No labels and no backward pass through the model are needed, and no more than one block has gradients. Three
granularities, from coarse to fine:

=================  ===========================================================================================
block              all of the block's trained parameters at once, towards the block's output
attention-and-mlp  first what the attention's output depends on, towards that output; then, with it frozen,
                   the rest towards the block's output (which lets the MLP make up for the attention)
linear             every Linear alone: the error ``||(W - W')X||^2`` is a quadratic form in the Gram matrix of
                   X, so that every step has the exact gradient over all tokens without replaying one
=================  ===========================================================================================

A block never gets worse: the state with the least error on the calibration data is kept, and where even that
is not better than the pruned block, the pruned block stays.
"""

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmcompress.errors import ParameterError
from lmcompress.loading import claim
from lmcompress.models import block_linears, linears
from lmcompress.prune import mask
from lmcompress.prune.mask import Masks
from lmcompress.retrain import adapters
from lmcompress.retrain.local import AffineGram, Outputs, Recipe, points, snapshot, train_linears, train_parts
from lmcompress.retrain.names import Subset, parse, require_inside
from lmcompress.retrain.subsets import add_biases, count, select_within
from lmcompress.retrain.train import evaluating
from lmcompress.stream import BlockVisit, stream

GRANULARITIES = ("block", "attention-and-mlp", "linear")
TARGETS = ("sparse", "dense")


@dataclass(frozen=True)
class BlockReport:
    """What happened to one block.

    ``before``, ``after``: ``||Y - T||^2 / ||T||^2`` of its output Y against the target T over all calibration
    tokens, as pruned and as left; ``trainable``: number of trained values; ``improved``: False where the
    pruned block was kept; ``seconds``: wall time in all, targets and error measurements included; ``coverage``: share
    of the weights in its matrices that have a mask.
    """

    name: str
    before: float
    after: float
    trainable: int
    improved: bool
    seconds: float
    coverage: float = 1.0


def reconstruct(
    model: nn.Module,
    masks: Masks,
    batches: list[dict[str, Tensor]],
    spec: str | Subset,
    *,
    lr: float,
    steps: int,
    granularity: str = "block",
    targets: str = "sparse",
    weights: Mapping[str, Tensor] | None = None,
    rank: int = 16,
    alpha: float = 32.0,
    warmup: float = 0.1,
    seed: int = 0,
    propagate: bool = True,
    store: str | torch.device = "cpu",
    device: str | torch.device | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> list[BlockReport]:
    """Prune the *dense* ``model`` in place with given ``masks`` and reconstruct it block by block.

    ``masks``: full Linear name -> bool [out, in], True = kept, by any criterion; Linears without one stay as
    they are. ``weights``: full Linear name -> [out, in] where a criterion also changed the kept weights
    (SparseGPT); default: the dense weights. ``batches``: calibration inputs as model keyword arguments; a
    step takes one of them (``linear``: all), and each block gets ``steps`` steps of AdamW with linear warm-up
    and decay. ``spec``: a subset inside the blocks; adapters are merged as soon as their block is done, but
    for plain ``lora``, which cannot be.

    With ``propagate`` a block's inputs come from the finished blocks before it, otherwise from the dense
    ones. ``targets``: the dense block's output on these same inputs (``sparse``, the official code's way), or
    on the inputs that the dense model gives it (``dense``: the block has to undo earlier errors, too).
    ``store``, ``device``, ``progress``, ``checkpoint``: see :func:`~lmcompress.stream.stream`; a resumed call
    takes the dense model again.

    Raises :class:`ParameterError` before the model is touched, and :class:`NumericError` naming the layer for
    a non-finite input of ``linear`` or a broken mask. Divergence is not raised: the pruned block stays.
    """
    subset = parse(spec)
    recipe = Recipe(lr, steps, warmup, seed)
    _refuse(model, masks, weights, subset, granularity, targets, rank, recipe)
    if checkpoint is not None:
        if subset.adapter == "lora":
            raise ParameterError(
                "checkpoint", str(checkpoint), "None: plain lora cannot be merged and restored"
            )
        about = [str(subset), granularity, targets, propagate, rank, alpha, *asdict(recipe).values()]
        _claim(Path(checkpoint), about, masks, weights)
    fresh = (
        add_biases({name: linear for name, linear in block_linears(model).items() if name in masks})
        if "new-biases" in subset.names
        else {}
    )

    def visit(block: BlockVisit) -> dict[str, Any]:
        started = time.perf_counter()
        layers = {name: full for name in linears(block.module) if (full := f"{block.name}.{name}") in masks}
        source = block.dense_inputs if targets == "dense" else block.inputs
        goal = Outputs(block, None, source, store)
        goals = {
            point: goal if point is None else Outputs(block, point, source, store)
            for point in points(block, granularity)
        }
        grams = (
            block.statistics(lambda layer: AffineGram(layer.in_features), list(layers))
            if granularity == "linear"
            else {}
        )
        inside = linears(block.module)
        dense = {name: inside[name].weight.clone() for name in grams}
        kept = {name: masks[full].to(block.device) for name, full in layers.items()}
        for name, full in layers.items():
            weight = inside[name].weight
            if weights is not None:
                weight.copy_(weights[full])
            weight.masked_fill_(~kept[name], 0)
        before, pruned = goal.error(), snapshot(block.module.state_dict())
        flags = {name: value.requires_grad for name, value in block.module.named_parameters()}

        chosen: dict[str, Any] = {name: inside[name] for name in layers}
        for name, full in layers.items():
            if f"{full}.bias" in fresh:
                chosen[name].bias = None  # so that select_within adds it, as in any other model
        trained = (
            select_within(block.module, chosen, subset, masks=kept, rank=rank, alpha=alpha, seed=seed)
            if chosen
            else {}
        )
        if granularity == "linear":
            trained = train_linears(block.module, trained, kept, grams, dense, recipe)
        else:
            train_parts(block, trained, kept, goals, recipe)
        adapters.merge(block.module)
        after = goal.error()
        improved = after < before
        if not improved:
            _revert(block.module, pruned)
        mask.check(block.module, kept)
        for name, value in block.module.named_parameters():
            value.requires_grad_(flags.get(name, True))
        size = sum(value.numel() for value in trained.values())
        seconds = time.perf_counter() - started
        after = after if improved else before
        matrices = sum(one.numel() for one in block.module.parameters() if one.ndim >= 2)
        share = sum(one.numel() for one in kept.values()) / matrices
        return asdict(BlockReport(block.name, before, after, size, improved, seconds, share))

    with evaluating(model):
        found = stream(
            model,
            batches,
            visit,
            propagate=propagate,
            keep_dense=targets == "dense",
            store=store,
            device=device,
            progress=progress,
            checkpoint=checkpoint,
        )
    return [BlockReport(**block) for block in found]


def _revert(module: nn.Module, pruned: dict[str, Tensor]) -> None:
    """Back to the block as it was pruned, without adapters."""
    for name, layer in adapters.adapted_layers(module).items():
        module.set_submodule(name, layer.bare())
    module.load_state_dict(pruned)


def _refuse(
    model: Any,
    masks: Any,
    weights: Any,
    subset: Subset,
    granularity: Any,
    targets: Any,
    rank: int,
    recipe: Recipe,
) -> None:
    """Refuse everything that no reconstruction can do, before anything is done."""
    if granularity not in GRANULARITIES:
        raise ParameterError("granularity", granularity, GRANULARITIES)
    if targets not in TARGETS:
        raise ParameterError("targets", targets, TARGETS)
    require_inside(subset, granularity, targets)
    count(model, subset, rank)
    if isinstance(recipe.steps, bool) or not isinstance(recipe.steps, int) or recipe.steps < 1:
        raise ParameterError("steps", recipe.steps, "a whole number of at least 1")
    if not 0 < recipe.lr < math.inf:
        raise ParameterError("lr", recipe.lr, "a positive number")
    if not 0 <= recipe.warmup < 1:
        raise ParameterError("warmup", recipe.warmup, "a share of the steps in [0, 1)")
    found = block_linears(model)
    for name, kept in masks.items():
        if name not in found or kept.dtype != torch.bool or kept.shape != found[name].weight.shape:
            valid = "the full name of a Linear in the blocks with a bool mask of its weight's shape"
            raise ParameterError("masks", f"{name}: {kept.dtype} {tuple(kept.shape)}", valid)
    if not masks:
        raise ParameterError("masks", masks, "the mask of at least one Linear")
    if weights is not None and (missing := masks.keys() - weights.keys()):
        raise ParameterError("weights", f"none for {min(missing)}", "the weights of every Linear with a mask")


def _claim(folder: Path, about: list[Any], masks: Masks, weights: Mapping[str, Tensor] | None) -> None:
    """Note in a checkpoint folder what is being done; refuse one that belongs to something else.

    Masks and weights on disk are not read for this: whoever opened them names their content.
    """
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, kept in {}.items() if isinstance(masks, mask.Saved) else masks.items():
        digest.update(name.encode() + kept.cpu().numpy().tobytes())
        if weights is not None:
            digest.update(weights[name].detach().float().cpu().numpy().tobytes())
    claim(
        folder / "reconstruct.json",
        {"reconstruction": digest.hexdigest()},
        "checkpoint",
        "a new folder: this one belongs to another reconstruction",
    )
