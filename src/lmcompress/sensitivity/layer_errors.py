"""Errors of a layer by itself, without the loss: of its weight, and of its output."""

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lmcompress.models import block_linears, linears
from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.scores import (
    Quantizer,
    check_widths,
    layer_groups,
    per_width,
    quantization_step,
)
from lmcompress.stats import Gram
from lmcompress.stream import BlockVisit, stream


def weight_error(
    model: nn.Module, batches: object, quantizer: Quantizer, widths: Sequence[int], *, per: str = "linear"
) -> Scores:
    """||Q(W) - W||^2 for every width. Looks at no data: ``batches`` is there for the common interface."""
    started = time.perf_counter()
    check_widths(widths)
    layer_groups(model, per)
    table = {
        bits: {
            name: float(quantization_step(name, layer.weight, quantizer, bits).square().sum())
            for name, layer in block_linears(model).items()
        }
        for bits in widths
    }
    return per_width(model, per, table, time.perf_counter() - started)


def activation_weighted(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    quantizer: Quantizer,
    widths: Sequence[int],
    *,
    per: str = "linear",
) -> Scores:
    """tr(D G D') with G = X'X / tokens: squared error of a Linear's output, mean over tokens.

    Half the quadratic form that GPTQ and SparseGPT minimise. Block by block, so one block's Gram matrices in
    memory. Padding is left out.
    """
    started = time.perf_counter()
    check_widths(widths)
    layer_groups(model, per)
    table: dict[int, dict[str, float]] = {bits: {} for bits in widths}

    def visit(block: BlockVisit) -> dict[str, Any]:
        inside = linears(block.module)
        for short, gram in block.statistics(lambda linear: Gram(linear.in_features)).items():
            name, weight, curvature = f"{block.name}.{short}", inside[short].weight, gram.result()
            for bits in widths:
                step = quantization_step(name, weight, quantizer, bits).to(curvature)
                table[bits][name] = float(((step @ curvature) * step).sum())
        return {}

    stream(model, list(batches), visit, progress=False)
    return per_width(model, per, table, time.perf_counter() - started)
