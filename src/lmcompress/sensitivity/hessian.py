"""Curvature of the loss: HAWQ-V2, Hessian along the step, Gauss-Newton.

All of them put a number on 1/2 D' H D, D = Q_b(W) - W, from the crudest (tr H times the identity) to the
exact one.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lmcompress.models import block_linears
from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.losses import Loss, predictions, window_losses
from lmcompress.sensitivity.scores import (
    Quantizer,
    check_batches,
    check_count,
    check_widths,
    layer_groups,
    only_gradients_of,
    per_width,
    quantization_step,
    windows_of,
)


def hessian_products(
    model: nn.Module,
    batch: dict[str, Tensor],
    weights: Sequence[Tensor],
    directions: list[list[Tensor]],
    loss: Loss,
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Gradient g (one tensor a weight) and H v for each of several directions v, of the batch's mean loss.

    Attention runs on its plain kernel: the fused ones have no second derivative.
    """
    with sdpa_kernel(SDPBackend.MATH):
        value = loss(model, batch).mean()
        gradients = torch.autograd.grad(value, weights, create_graph=True, materialize_grads=True)
        products = []
        for direction in directions:
            along: Any = sum((g * v.to(g.dtype)).sum() for g, v in zip(gradients, direction, strict=True))
            if not along.requires_grad:  # a loss linear in the weights
                products.append([torch.zeros_like(weight) for weight in weights])
                continue
            products.append(
                list(torch.autograd.grad(along, weights, retain_graph=True, materialize_grads=True))
            )
    return [g.detach() for g in gradients], products


def _shares(batches: Sequence[dict[str, Tensor]]) -> list[float]:
    """Share of all windows that is in each batch."""
    counts = [len(next(iter(batch.values()))) for batch in batches]
    return [count / sum(counts) for count in counts]


def _signs(weight: Tensor, generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1).to(weight)


def hutchinson_traces(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    *,
    draws: int = 8,
    seed: int = 0,
    loss: Loss = window_losses,
) -> dict[str, tuple[float, float]]:
    """Hutchinson's estimate of the trace of each Linear's block of the Hessian, and its standard error.

    E[v' H v] = tr H for independent signs v. All layers share a draw: products across layers average to 0, so
    v_l . (Hv)_l is unbiased for each (at the price of some noise). One double backward pass per draw and
    batch: the Hessian of a mean is the mean of Hessians.
    """
    check_batches(batches)
    check_count("draws", draws)
    layers, shares = block_linears(model), _shares(batches)
    weights = [layer.weight for layer in layers.values()]
    generator = torch.Generator().manual_seed(seed)
    directions = [[_signs(weight, generator) for weight in weights] for _ in range(draws)]
    traces = torch.zeros(draws, len(weights), dtype=torch.float64)
    with only_gradients_of(model, weights):
        for batch, share in zip(batches, shares, strict=True):
            _, products = hessian_products(model, batch, weights, directions, loss)
            for draw, (direction, product) in enumerate(zip(directions, products, strict=True)):
                pairs = zip(direction, product, strict=True)
                found = torch.tensor([float((v.float() * p.float()).sum()) for v, p in pairs])
                traces[draw] += share * found
    errors = traces.std(0) / draws**0.5 if draws > 1 else torch.zeros(len(weights))
    return {name: (float(t), float(e)) for name, t, e in zip(layers, traces.mean(0), errors, strict=True)}


def hawq(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    quantizer: Quantizer,
    widths: Sequence[int],
    *,
    per: str = "linear",
    draws: int = 8,
    seed: int = 0,
    loss: Loss = window_losses,
) -> Scores:
    """HAWQ-V2 (Dong et al. 2020): mean Hessian eigenvalue tr(H) / n times ||Q(W) - W||^2, for every width.

    ``detail["trace"]``: Linear -> [trace, standard error]. A negative trace (far from a minimum) counts by
    its size.
    """
    started = time.perf_counter()
    check_widths(widths)
    layer_groups(model, per)
    traces = hutchinson_traces(model, batches, draws=draws, seed=seed, loss=loss)
    table = {
        bits: {
            name: abs(traces[name][0])
            / layer.weight.numel()
            * float(quantization_step(name, layer.weight, quantizer, bits).square().sum())
            for name, layer in block_linears(model).items()
        }
        for bits in widths
    }
    return per_width(
        model, per, table, time.perf_counter() - started, trace={k: list(v) for k, v in traces.items()}
    )


def expansion(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    quantizer: Quantizer,
    widths: Sequence[int],
    *,
    per: str = "linear",
    draws: int = 4,
    seed: int = 0,
    loss: Loss = window_losses,
) -> Scores:
    """|<g, D> + 1/2 D' H D| in nats: the loss to second order, with the true Hessian along the step itself.

    For all layers at once: with independent signs e_l, e_l D_l . (H sum_m e_m D_m)_l has the mean D_l' H_ll
    D_l. Exact for one layer, unbiased with noise that falls with ``draws`` for several; ``per="block"`` gives
    the Linears of a block one sign, so that what they do together counts. One double backward pass per draw,
    width and batch.
    """
    started = time.perf_counter()
    check_widths(widths)
    check_batches(batches)
    check_count("draws", draws)
    groups, layers, shares = layer_groups(model, per), block_linears(model), _shares(batches)
    weights = [layer.weight for layer in layers.values()]
    owner = {name: number for number, inside in enumerate(groups.values()) for name in inside}
    generator = torch.Generator().manual_seed(seed)
    table = {}
    with only_gradients_of(model, weights):
        for bits in widths:
            steps = [quantization_step(name, layer.weight, quantizer, bits) for name, layer in layers.items()]
            signs = torch.randint(0, 2, (draws, len(groups)), generator=generator).double() * 2 - 1
            flips = [[float(signs[draw, owner[name]]) for name in layers] for draw in range(draws)]
            directions = [[f * step for f, step in zip(flip, steps, strict=True)] for flip in flips]
            change = torch.zeros(len(layers), dtype=torch.float64)
            for batch, share in zip(batches, shares, strict=True):
                gradient, products = hessian_products(model, batch, weights, directions, loss)
                change += share * _dots(steps, gradient)
                for direction, product in zip(directions, products, strict=True):
                    change += share * _dots(direction, product) / (2 * draws)
            table[bits] = dict(zip(layers, change.tolist(), strict=True))
    return per_width(model, per, table, time.perf_counter() - started, draws=draws)


def _dots(left: list[Tensor], right: Sequence[Tensor]) -> Tensor:
    """Inner product of each pair of tensors, float64."""
    values = [float((a * b.to(a.dtype)).sum()) for a, b in zip(left, right, strict=True)]
    return torch.tensor(values, dtype=torch.float64)


def gauss_newton(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    quantizer: Quantizer,
    widths: Sequence[int],
    *,
    per: str = "linear",
    draws: int = 1,
    seed: int = 0,
) -> Scores:
    """1/2 D' G D in nats, G the Gauss-Newton matrix of the cross-entropy (never negative), for every width.

    For cross-entropy G is the Fisher matrix of the model's own predictions, so with targets y drawn from the
    model D' G D = T E[<g_y, D>^2], g_y the gradient of a window's mean loss over its T predictions. One
    backward pass per draw and window serves all layers and widths; needs room for the steps of all widths.
    """
    started = time.perf_counter()
    check_widths(widths)
    check_batches(batches)
    check_count("draws", draws)
    groups, layers, windows = layer_groups(model, per), block_linears(model), windows_of(batches)
    weights = [layer.weight for layer in layers.values()]
    steps = {
        bits: [quantization_step(name, layer.weight, quantizer, bits) for name, layer in layers.items()]
        for bits in widths
    }
    owner = torch.tensor([number for number, inside in enumerate(groups.values()) for _ in inside])
    totals = {bits: torch.zeros(len(groups), dtype=torch.float64) for bits in widths}
    generator = torch.Generator().manual_seed(seed)
    with only_gradients_of(model, weights):
        for window in windows:
            logits, _, mask = predictions(model, window)
            count = int(mask.sum())
            chances = logits.detach().flatten(0, 1).softmax(-1).cpu()
            logs = logits.flatten(0, 1).log_softmax(-1)
            for draw in range(draws):
                drawn = torch.multinomial(chances, 1, generator=generator).to(logs.device)
                value = -(logs.gather(1, drawn)[:, 0] * mask.flatten()).sum() / max(count, 1)
                gradients = torch.autograd.grad(
                    value, weights, retain_graph=draw + 1 < draws, materialize_grads=True
                )
                for bits in widths:
                    along = torch.zeros(len(groups), dtype=torch.float64)
                    along.index_add_(0, owner, _dots(steps[bits], gradients))
                    totals[bits] += count * along**2 / (2 * draws * len(windows))
    table = {str(bits): dict(zip(groups, total.tolist(), strict=True)) for bits, total in totals.items()}
    return Scores(
        next(iter(table.values())), time.perf_counter() - started, {"per_width": table, "draws": draws}
    )
