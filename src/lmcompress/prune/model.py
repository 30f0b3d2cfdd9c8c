"""Prune a whole model: every Linear in its blocks, each to the same pattern, by a criterion of the registry."""

import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmcompress.errors import ParameterError
from lmcompress.loading import claim
from lmcompress.models import block_linears, coverage, linears
from lmcompress.prune import magnitude, mask, sparsegpt
from lmcompress.prune.bits import Packed
from lmcompress.prune.criteria import CRITERIA, Criterion
from lmcompress.prune.mask import Masks
from lmcompress.prune.pattern import Pattern, parse
from lmcompress.shards import is_streamed
from lmcompress.stats import ColumnNorms, Gram, relative_output_error, require_finite
from lmcompress.stream import BlockVisit, stream
from lmcompress.unbundle import as_linears


@dataclass(frozen=True)
class LayerReport:
    """What happened to one Linear.

    ``sparsity``: share of dropped weights. ``relative_error``: ``||(W - W')X||^2 / ||W X||^2`` on the inputs
    that the layer sees in the model as pruned so far; ``dead_columns``: inputs that were zero at every token;
    both None without calibration. ``damping``: share of the mean diagonal that SparseGPT needed (0.01 unless
    the Hessian was near singular), else None. ``unseen``: no calibration token reached it (an expert that the
    router never chose), so that it was pruned by magnitude. ``seconds``: wall time of the decision and the update,
    without forward passes.
    """

    sparsity: float
    relative_error: float | None
    damping: float | None
    dead_columns: int | None
    seconds: float
    unseen: bool = False


@dataclass(frozen=True)
class PruneReport:
    """``masks`` by full Linear name (True = kept, held as bits), ``layers`` by the same names; ``seconds`` of wall time
    in all. ``coverage``: share of the weights in the blocks' matrices that the layers hold; ``left``: the others.
    """

    criterion: str
    pattern: Pattern
    masks: Masks
    layers: dict[str, LayerReport]
    seconds: float
    coverage: float = 1.0
    left: dict[str, int] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Share of dropped weights among those of the pruned layers."""
        return mask.sparsity(self.masks)


@torch.no_grad()
def prune_model(
    model: nn.Module,
    criterion: str,
    pattern: str | float | Pattern,
    batches: list[dict[str, Tensor]] | None = None,
    *,
    layers: str | None = None,
    propagate: bool = True,
    seed: int = 0,
    output_errors: bool = True,
    store: str | torch.device = "cpu",
    device: str | torch.device | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> PruneReport:
    """Prune ``model`` in place and return the masks with a report of each layer.

    ``criterion``: one of :data:`~lmcompress.prune.criteria.CRITERIA`. ``pattern``: see
    :func:`~lmcompress.prune.pattern.parse`. ``batches``: calibration inputs as model keyword arguments; Wanda and
    SparseGPT need them, the others use them only to measure output errors. ``layers``: regular expression on full
    Linear names (default: every Linear in the blocks; embeddings, head and norms always stay). ``seed`` is that of
    ``random``.
    ``output_errors=False`` leaves out the Gram matrices where only the report needs them: Wanda then costs
    little more than its forward passes. ``propagate``, ``store``, ``device``, ``progress``, ``checkpoint``:
    see :func:`~lmcompress.stream.stream`; a resumed call takes the dense model again. The masks of a model whose
    blocks are on disk stay there too, in the ``checkpoint``.

    Raises, before the model is touched, :class:`ParameterError` for an unknown criterion, pattern or layer,
    an m that does not divide a layer's inputs, missing batches or a checkpoint of another run, and
    :class:`~lmcompress.errors.NumericError` naming the layer for a non-finite weight; later, for its inputs.
    """
    started = time.perf_counter()
    if criterion not in CRITERIA:
        raise ParameterError("criterion", criterion, CRITERIA)
    chosen_by, pattern = CRITERIA[criterion], parse(pattern)
    if not is_streamed(model):
        as_linears(model)
    targets = block_linears(model, layers)
    reached = coverage(model, targets)
    for name, linear in targets.items():
        mask.require_divisible(linear.in_features, pattern, name)
        if not is_streamed(model):
            require_finite(linear.weight, name, "weight")
    if chosen_by.by_data and not batches:
        raise ParameterError("batches", batches, f"at least one batch of calibration inputs for {criterion}")

    if is_streamed(model) and chosen_by.whole:
        raise ParameterError("criterion", criterion, "one that decides block by block, for a model on disk")

    batches = [] if not chosen_by.by_data and not output_errors else batches or []
    chosen = Packed()
    if not chosen_by.by_data and not is_streamed(model):
        weights = {name: linear.weight for name, linear in targets.items()}
        parts = [weights] if chosen_by.whole else [{one: weights[one]} for one in weights]
        for part in parts:
            chosen.update(chosen_by.of_weights(part, pattern, seed))
    if not batches and not is_streamed(model):
        found = {name: _decided(linear, chosen[name]) for name, linear in targets.items()}
        return PruneReport(criterion, pattern, chosen, found, time.perf_counter() - started, *reached)

    folder: Any = None if checkpoint is None else Path(checkpoint)
    if folder is not None:
        given = {"layers": layers, "propagate": propagate, "seed": seed, "output_errors": output_errors}
        about = {"criterion": criterion, "pattern": str(pattern), **given}
        claim(folder / "prune.json", about, "checkpoint", "a new folder: this one belongs to another pruning")
    home = {name: "cpu" if is_streamed(model) else linear.weight.device for name, linear in targets.items()}

    def visit(block: BlockVisit) -> dict[str, Any]:
        inside = {f"{block.name}.{name}": linear for name, linear in linears(block.module).items()}
        inside = {name: linear for name, linear in inside.items() if name in targets}
        names = [name.removeprefix(f"{block.name}.") for name in inside]
        with_gram = output_errors or chosen_by.needs == "gram"
        seen = {}
        if block.inputs:
            seen = block.statistics(lambda linear: _Inputs(linear.in_features, with_gram), names)
        results, masks = {}, {}
        for name, (full, linear) in zip(names, inside.items(), strict=True):
            require_finite(linear.weight, full, "weight")
            kept: Any = chosen.get(full)
            if kept is None and not chosen_by.by_data:
                kept = chosen_by.of_weights({full: linear.weight}, pattern, seed)[full]
            inputs = seen.pop(name, None)
            unseen = inputs is not None and not inputs.norms.tokens
            if unseen and kept is None:
                kept = magnitude.per_matrix({full: linear.weight}, pattern)[full]
            if inputs is not None and not unseen:
                kept, result = _prune_layer(full, linear, chosen_by, pattern, inputs, kept, output_errors)
            else:
                result = replace(_decided(linear, kept), unseen=unseen)
            masks[full], results[full] = kept.to(home[full]), asdict(result)
        if folder is not None:
            mask.save(masks, _mask_path(folder, block.index))
        if not is_streamed(model):
            chosen.update(masks)
        return results

    done: list[dict[str, Any]] = stream(
        model,
        batches,
        visit,
        propagate=propagate,
        store=store,
        device=device,
        progress=progress,
        checkpoint=checkpoint,
    )
    for index, block in enumerate(done if not is_streamed(model) else ()):
        if not chosen.keys() >= block.keys():  # a block that an earlier call has finished
            saved = mask.load(_mask_path(folder, index))
            chosen.update({name: kept.to(home[name]) for name, kept in saved.items()})
    results = {name: result for block in done for name, result in block.items()}
    reports = {name: LayerReport(**results[name]) for name in targets}
    if is_streamed(model):
        masks: Masks = mask.Saved(_mask_path(folder, index) for index in range(len(done)))
    else:
        masks = chosen.in_order(targets)
    return PruneReport(criterion, pattern, masks, reports, time.perf_counter() - started, *reached)


class _Inputs:
    """Column norms and, where wanted, the Gram matrix of one layer's inputs."""

    def __init__(self, in_features: int, with_gram: bool):
        self.norms = ColumnNorms(in_features)
        self.gram: Any = Gram(in_features) if with_gram else None
        self._factor: tuple[Tensor, float, Tensor] | None = None

    def update(self, x: Tensor) -> None:
        self.norms.update(x)
        if self.gram is not None:
            self.gram.update(x)

    def factor(self, layer: str, overwrite: bool) -> tuple[Tensor, float, Tensor]:
        """:func:`sparsegpt.inverse_factor`, once for all Linears with these inputs, perhaps over the Gram matrix."""
        if self._factor is None:
            gram = self.gram.result()
            require_finite(gram, layer, "Gram matrix of the inputs")
            self._factor = sparsegpt.inverse_factor(gram, layer, overwrite=overwrite)
        return self._factor


def _decided(linear: nn.Linear, kept: Tensor) -> LayerReport:
    """Apply a mask that needed no data."""
    started = time.perf_counter()
    mask.drop(linear.weight, kept)
    return LayerReport(mask.sparsity({"": kept}), None, None, None, time.perf_counter() - started)


def _prune_layer(
    name: str,
    linear: nn.Linear,
    criterion: Criterion,
    pattern: Pattern,
    inputs: _Inputs,
    kept: Any,
    output_error: bool,
) -> tuple[Tensor, LayerReport]:
    """Mask and report of one Linear, pruned in place; ``kept`` is the mask where it needed no data."""
    norms, damping, error = inputs.norms.result(), None, None
    require_finite(norms, name, "norms of the inputs")
    dense = linear.weight.clone()
    started = time.perf_counter()
    if criterion.needs == "gram":
        factor = inputs.factor(name, overwrite=not output_error)
        weight, kept, damping, _ = criterion(dense, factor[0], pattern, layer=name, factor=factor)
        linear.weight.copy_(weight)
    elif criterion.needs == "norms":
        kept = criterion(dense, norms, pattern)
    kept = kept.to(dense.device)
    mask.drop(linear.weight, kept)
    share = mask.sparsity({name: kept})  # waits for the device, so that the clock below is right on a GPU
    seconds = time.perf_counter() - started
    if output_error:
        error = relative_output_error(dense, linear.weight, inputs.gram.result())
    return kept, LayerReport(share, error, damping, int((norms == 0).sum()), seconds)


def _mask_path(folder: Path, index: int) -> Path:
    return folder / f"{index:03d}.masks.safetensors"
