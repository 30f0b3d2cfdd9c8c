"""Whether a recipe fits a model, before any work: widths, subsets, formats, and the room on the disk."""

import re
from typing import Any

from torch import nn

from lmcompress import model_folder
from lmcompress.errors import ParameterError
from lmcompress.models import block_linears, blocks
from lmcompress.prune import mask
from lmcompress.prune.pattern import parse as parse_pattern
from lmcompress.quantize import compressed_tensors
from lmcompress.quantize.formats import Bits, parse
from lmcompress.recipe import Recipe
from lmcompress.retrain.names import parse as parse_subset
from lmcompress.retrain.subsets import count
from lmcompress.unbundle import origins


def formats(model: nn.Module, recipe: Recipe) -> dict[str, Bits]:
    """The format of every Linear in the blocks by full name; empty without quantization.

    Bundled experts and Conv1D have none: the storage packs the Linears of the model's own layout.
    Raises :class:`ParameterError` for a regular expression of the recipe that matches no layer, and without a Linear.
    """
    if (chosen := recipe.quantize) is None:
        return {}
    made = origins(model)
    layers = [name for name in block_linears(model) if f"{name}.weight" not in made]
    if not layers:
        raise ParameterError(
            "quantize", type(model).__name__, "a model with Linears of its own in its blocks: they are packed"
        )
    for pattern in chosen.layers:
        block_linears(model, pattern)
    return {
        name: parse(
            next((one for pattern, one in chosen.layers.items() if re.search(pattern, name)), chosen.format)
        )
        for name in layers
    }


def refuse_misfits(model: nn.Module, recipe: Recipe, chosen: dict[str, Bits], masked: bool) -> None:
    """Raise :class:`ParameterError` for a recipe that the model cannot have.

    Parameters
    ----------
    model: with or without weights; only its shapes count.
    recipe: what is to be done.
    chosen: of :func:`formats`.
    masked: whether the model comes with masks.
    """
    layers = block_linears(model)
    if recipe.prune:
        pattern = parse_pattern(recipe.prune.pattern)
        for name, layer in block_linears(model, recipe.prune.layers).items():
            mask.require_divisible(layer.in_features, pattern, name)
    for name, format in chosen.items():
        compressed_tensors.check(format, tuple(layers[name].weight.shape), name)
    for step in (recipe.reconstruct, recipe.retrain):
        if step:
            count(model, step.subset)
            if parse_subset(step.subset).adapter and not (recipe.prune or masked):
                raise ParameterError("retrain", step.subset, "a subset without adapters, or a pruned model")
    longest = getattr(model.config, "max_position_embeddings", None) or recipe.length
    if recipe.length > longest:
        raise ParameterError("length", recipe.length, f"at most the {longest} tokens that the model can read")


def room_needed(model: Any, recipe: Recipe, chosen: dict[str, Bits]) -> int:
    """Bytes on the disk that the work needs at most: the blocks of two steps at a time, twice what is outside of them,
    and the state of a training.
    """
    numbers = sum(value.numel() for block in blocks(model).values() for value in block.parameters())
    others = sum(value.numel() for value in model_folder.outside(model).values())
    layers, size = block_linears(model), model.dtype.itemsize
    dense, packed = numbers * size + numbers // 8, 2 * numbers
    for name, format in chosen.items():
        shape = tuple(layers[name].weight.shape)
        packed += compressed_tensors.stored_bytes(format, shape) - 2 * layers[name].weight.numel()
    steps = [packed if step == "quantize" else dense for step in recipe.steps]
    trained = 12 * count(model, recipe.retrain.subset).trainable if recipe.retrain else 0
    return max(a + b for a, b in zip([0, *steps], [*steps, 0], strict=True)) + 2 * others * size + trained
