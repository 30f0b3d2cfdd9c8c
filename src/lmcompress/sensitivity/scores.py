"""What every sensitivity returns, and what they share: layers, quantization steps, sums over layers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import blocks, linears
from lmcompress.sensitivity.agreement import Scores

GRANULARITIES = ("linear", "block")
Quantizer = Callable[[Tensor, int], Tensor]
"""``quantizer(weight [out, in], bits) -> [out, in]``: the weight as it reads after quantization."""


def layer_groups(model: nn.Module, per: str) -> dict[str, dict[str, nn.Linear]]:
    """Scored layer -> the Linears (by full name) that are compressed together when it is measured."""
    if per not in GRANULARITIES:
        raise ParameterError("per", per, GRANULARITIES)
    whole = {name: linears(block, name) for name, block in blocks(model).items()}
    if per == "block":
        return whole
    return {name: {name: linear} for inside in whole.values() for name, linear in inside.items()}


def check_widths(widths: Sequence[int]) -> None:
    """Refuse anything but a non-empty sequence of distinct bit-widths from 1 to 16."""
    good = all(isinstance(bits, int) and 1 <= bits <= 16 for bits in widths)
    if not widths or not good or len(set(widths)) != len(widths):
        raise ParameterError("widths", widths, "distinct bit-widths from 1 to 16, at least one")


def check_count(name: str, value: int) -> None:
    """Refuse a count below one."""
    if value < 1:
        raise ParameterError(name, value, "an integer of at least 1")


def check_batches(batches: Sequence[dict[str, Tensor]]) -> None:
    """Refuse an empty list of batches."""
    if not batches:
        raise ParameterError("batches", batches, "at least one batch")


def windows_of(batches: Iterable[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The same windows as batches of one: gradients of single windows are what a Fisher matrix is made of."""
    return [
        {key: value[row : row + 1] for key, value in batch.items()}
        for batch in batches
        for row in range(next(iter(batch.values())).shape[0])
    ]


def quantized(name: str, weight: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
    """``quantizer(weight, bits)`` with the weight's shape, or an error that names the layer."""
    result = quantizer(weight.detach(), bits)
    if result.shape != weight.shape:
        raise ParameterError(
            "quantizer", tuple(result.shape), f"a result of shape {tuple(weight.shape)} for {name}"
        )
    if not torch.isfinite(result).all():
        raise NumericError(name, f"not finite after quantization to {bits} bits")
    return result


def quantization_step(name: str, weight: Tensor, quantizer: Quantizer, bits: int) -> Tensor:
    """``Q_bits(W) - W`` [out, in] in fp32 (fp64 for fp64 weights): the move whose cost scores foresee."""
    precise = torch.promote_types(weight.dtype, torch.float32)
    return quantized(name, weight, quantizer, bits).to(precise) - weight.detach().to(precise)


def add_up(model: nn.Module, per: str, values: dict[str, float]) -> dict[str, float]:
    """Sum of the Linears' ``values`` over each scored layer."""
    return {layer: sum(values[name] for name in inside) for layer, inside in layer_groups(model, per).items()}


def per_width(
    model: nn.Module, per: str, table: dict[int, dict[str, float]], seconds: float, **detail: Any
) -> Scores:
    """Scores from ``table`` (bits -> Linear -> value): sizes of sums over layers, for every width."""
    summed = {str(bits): add_up(model, per, values) for bits, values in table.items()}
    sizes = {bits: {name: abs(value) for name, value in values.items()} for bits, values in summed.items()}
    return Scores(next(iter(sizes.values())), seconds, {"per_width": sizes, **detail})


@contextmanager
def changed(weights: dict[nn.Parameter, Tensor]) -> Iterator[None]:
    """Give parameters other values for a while; afterwards they are what they were, bit for bit."""
    kept = {parameter: parameter.detach().clone() for parameter in weights}
    try:
        with torch.no_grad():
            for parameter, value in weights.items():
                parameter.copy_(value)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in kept.items():
                parameter.copy_(value)


@contextmanager
def only_gradients_of(model: nn.Module, parameters: Iterable[Tensor]) -> Iterator[None]:
    """Gradients flow to ``parameters`` alone for a while; afterwards every flag is what it was."""
    before = {parameter: parameter.requires_grad for parameter in model.parameters()}
    wanted = set(parameters)
    try:
        for parameter in before:
            parameter.requires_grad_(parameter in wanted)
        yield
    finally:
        for parameter, flag in before.items():
            parameter.requires_grad_(flag)
