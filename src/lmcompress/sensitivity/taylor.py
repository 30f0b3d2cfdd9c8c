"""TDMPQ (CPTQuant, arXiv 2412.03599): what a Taylor expansion of the loss says that quantizing a layer costs.

L(W + D) - L(W) = <g, D> + 1/2 D' H D + ..., D = Q_b(W) - W. The gradient g is the same for all layers and
widths, so one backward pass per window gives every score. First order as in LLM-MQ (|<g, D>|); second order
with the diagonal of the empirical Fisher matrix in H's place, 1/2 sum F D^2, as in SqueezeLLM; ``hessian``
has the exact curvature.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import block_linears, blocks
from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.losses import Loss, predictions, window_losses
from lmcompress.sensitivity.scores import (
    Quantizer,
    changed,
    check_batches,
    check_count,
    check_widths,
    layer_groups,
    only_gradients_of,
    per_width,
    quantization_step,
    windows_of,
)


@dataclass(frozen=True)
class GradientMoments:
    """Mean and mean square of the window losses' gradients, Linear name -> [out, in], fp32 or wider."""

    mean: dict[str, Tensor]
    square: dict[str, Tensor]
    windows: int
    seconds: float


def gradient_moments(
    model: nn.Module, batches: Sequence[dict[str, Tensor]], loss: Loss = window_losses
) -> GradientMoments:
    """One backward pass per window; weights, flags and ``.grad`` of the model stay as they are.

    Needs room for three times the Linears' weights. Raises :class:`NumericError` naming a layer with a
    non-finite gradient.
    """
    started = time.perf_counter()
    check_batches(batches)
    layers, windows = block_linears(model), windows_of(batches)
    weights = [layer.weight for layer in layers.values()]
    wide = [torch.promote_types(weight.dtype, torch.float32) for weight in weights]
    mean = [torch.zeros_like(weight, dtype=dtype) for weight, dtype in zip(weights, wide, strict=True)]
    square = [torch.zeros_like(total) for total in mean]
    with only_gradients_of(model, weights):
        for window in windows:
            gradients = torch.autograd.grad(loss(model, window).sum(), weights, materialize_grads=True)
            for first, second, gradient in zip(mean, square, gradients, strict=True):
                gradient = gradient.to(first.dtype)
                first.add_(gradient, alpha=1 / len(windows))
                second.addcmul_(gradient, gradient, value=1 / len(windows))
    for name, total in zip(layers, square, strict=True):
        if not torch.isfinite(total).all():
            raise NumericError(name, "gradient is not finite")
    seconds = time.perf_counter() - started
    return GradientMoments(
        dict(zip(layers, mean, strict=True)), dict(zip(layers, square, strict=True)), len(windows), seconds
    )


def _products(
    model: nn.Module, quantizer: Quantizer, widths: Sequence[int], value: Any
) -> dict[int, dict[str, float]]:
    """``value(name, step)`` for every width and Linear, one layer's step in memory at a time."""
    return {
        bits: {
            name: float(value(name, quantization_step(name, layer.weight, quantizer, bits)))
            for name, layer in block_linears(model).items()
        }
        for bits in widths
    }


def first_order(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    quantizer: Quantizer,
    widths: Sequence[int],
    *,
    per: str = "linear",
    loss: Loss = window_losses,
    moments: GradientMoments | None = None,
) -> Scores:
    """|<g, Q(W) - W>| in nats, for every width; over a block the signed products are added first.

    ``moments`` (from :func:`gradient_moments` on the same batches) saves the backward passes; their time
    still counts.
    """
    check_widths(widths)
    layer_groups(model, per)
    moments = moments or gradient_moments(model, batches, loss)
    started = time.perf_counter()
    table = _products(model, quantizer, widths, lambda name, step: (moments.mean[name] * step).sum())
    return per_width(
        model, per, table, moments.seconds + time.perf_counter() - started, windows=moments.windows
    )


def fisher(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    quantizer: Quantizer,
    widths: Sequence[int],
    *,
    per: str = "linear",
    loss: Loss = window_losses,
    moments: GradientMoments | None = None,
) -> Scores:
    """1/2 sum E[g^2] (Q(W) - W)^2 in nats: second order with the empirical Fisher diagonal of single windows.

    Parameters as in :func:`first_order`. The factor T of a window's mean loss over T tokens is not put back:
    it is the same for all layers and does not change the ranking (``hessian.gauss_newton`` has it).
    """
    check_widths(widths)
    layer_groups(model, per)
    moments = moments or gradient_moments(model, batches, loss)
    started = time.perf_counter()
    table = _products(model, quantizer, widths, lambda name, step: (moments.square[name] * step**2).sum() / 2)
    return per_width(
        model, per, table, moments.seconds + time.perf_counter() - started, windows=moments.windows
    )


def input_perturbation(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    *,
    per: str = "linear",
    relative: float = 0.01,
    loss: Loss = window_losses,
) -> Scores:
    """First-order loss change (nats) when a layer's input gets noise of ``relative`` times its own rms.

    Independent Gaussian noise of deviation ``relative`` x rms(x_t) on every token t moves the loss by a
    normal variable of deviation relative x sqrt(sum_t rms(x_t)^2 ||dL/dx_t||^2): that, averaged over the
    windows, from one backward pass each. A Linear's input is perturbed for this Linear alone, a block's for
    the block and the residual stream.
    """
    started = time.perf_counter()
    check_batches(batches)
    if relative <= 0:
        raise ParameterError("relative", relative, "a number above 0")
    names = layer_groups(model, per)
    modules = {name: model.get_submodule(name) for name in names}
    windows, total = windows_of(batches), dict.fromkeys(names, 0.0)
    parts: dict[str, float] = {}

    def perturb(name: str) -> Any:
        def hook(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            x = arguments[0] if arguments else keywords["hidden_states"]
            x = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            power = x.detach().to(torch.float64).square().mean(-1)

            def collect(gradient: Tensor) -> None:
                part = float((power * gradient.to(torch.float64).square().sum(-1)).sum())
                parts[name] = parts.get(name, 0.0) + part

            x.register_hook(collect)
            return (
                ((x, *arguments[1:]), keywords)
                if arguments
                else (arguments, {**keywords, "hidden_states": x})
            )

        return hook

    handles = [
        module.register_forward_pre_hook(perturb(name), with_kwargs=True) for name, module in modules.items()
    ]
    try:
        with only_gradients_of(model, ()):
            for window in windows:
                parts.clear()
                value = loss(model, window).sum()
                value.backward()
                for name in names:
                    total[name] += relative * parts.get(name, 0.0) ** 0.5 / len(windows)
    finally:
        for handle in handles:
            handle.remove()
    return Scores(total, time.perf_counter() - started, {"relative": relative, "windows": len(windows)})


def tdmpq_as_released(
    model: nn.Module, batches: Sequence[dict[str, Tensor]], *, seed: int = 0, draws: int = 1
) -> list[Scores]:
    """TDMPQ as the authors' released code computes it, per block: a control. One :class:`Scores` a draw.

    For each block, N(0, 1) noise is added to its *first* parameter and the score is the sum of all logits
    over the calibration set, divided by the number of texts. Flaws, all kept:

    * no gradient and no Taylor term; the undisturbed value is not subtracted and no size is taken, so the
      score is dominated by a constant (the sum of the model's logits) and its sign means nothing;
    * the noise is absolute: many times the size of a typical weight, and unrelated to any quantization;
    * the first parameter is whatever comes first in the block's definition; the rest of the block is never
      moved;
    * labels never reach the model, so the sum of logits stands in for the loss; padding counts;
    * one draw without a seed. (Here seeded, with ``draws`` of them, so that the spread can be shown.)
    """
    check_batches(batches)
    check_count("draws", draws)
    found = []
    for draw in range(draws):
        started = time.perf_counter()
        generator = torch.Generator().manual_seed(seed + draw)
        scores, texts = {}, 0
        for name, block in blocks(model).items():
            first = next(block.parameters())
            noise = torch.randn(first.shape, generator=generator).to(first)
            with changed({first: first.detach() + noise}), torch.no_grad():
                total, texts = 0.0, 0
                for batch in batches:
                    logits, _, _ = predictions(model, batch)
                    total += float(logits.double().sum())
                    texts += logits.shape[0]
            scores[name] = total / texts
        found.append(Scores(scores, time.perf_counter() - started, {"seed": seed + draw, "draw": draw}))
    return found
