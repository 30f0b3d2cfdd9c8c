"""One block alone: targets for it, its error against them, and training that ends in the best state seen.

Used by :mod:`lmcompress.retrain.reconstruct`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import linears
from lmcompress.prune.mask import Masks
from lmcompress.retrain import adapters
from lmcompress.retrain.optimizer import MaskedAdamW
from lmcompress.stats import Gram
from lmcompress.stream import BlockVisit, Reached

CHECKS = 4  # how often in a training the error over all calibration data is measured


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training."""

    lr: float
    steps: int
    warmup: float
    seed: int


class AffineGram(Gram):
    """Mean outer product of the inputs with a 1 appended, [in + 1, in + 1]: it also holds their mean, which a
    bias needs.
    """

    def __init__(self, in_features: int, dtype: torch.dtype = torch.float32):
        super().__init__(in_features + 1, dtype)

    def update(self, x: Tensor) -> None:
        """Add the rows of ``x`` [..., in]."""
        super().update(torch.cat([x, torch.ones_like(x[..., :1])], dim=-1))


def error_and_gradient(difference: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error of a Linear's output over all tokens and outputs, and its gradient [out, in + 1].

    ``difference``: [W' - W, b' - b], [out, in + 1]; ``gram``: result of :class:`AffineGram`. With x a token
    and a 1, the error is mean ``|D x|^2 / out = tr(D G D^T) / out``, its gradient ``2 D G / out``.
    """
    product = difference @ gram
    return (product * difference).sum() / len(difference), product * (2 / len(difference))


class Outputs:
    """Targets of a block at one point, and the error of the block as it is now against them.

    ``point``: a module inside the block whose output counts, or None for the block's own. Created while the
    block is still dense.
    """

    def __init__(
        self,
        block: BlockVisit,
        point: nn.Module | None,
        source: list[Tensor] | None,
        store: str | torch.device,
    ) -> None:
        self.block, self.point = block, point
        self.targets = [self._output(batch, hidden).to(store) for batch, hidden in enumerate(source or ())]

    def _output(self, batch: int, hidden: Tensor) -> Tensor:
        if self.point is None:
            return self.block(batch, hidden)

        def stop(_module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
            raise Reached(output[0] if isinstance(output, tuple) else output)

        handle = self.point.register_forward_hook(stop)
        try:
            self.block(batch, hidden)
        except Reached as reached:
            return reached.output
        finally:
            handle.remove()
        raise NumericError(self.block.name, "the block did not run its attention")

    def squares(self, batch: int) -> tuple[Tensor, Tensor, int]:
        """Sum of squared differences and of squared targets over the real tokens, and how many values."""
        output, target = self._output(batch, self.block.inputs[batch]), self.targets[batch]
        wide = torch.promote_types(output.dtype, torch.float32)
        output, target = output.to(wide), target.to(output.device, wide)
        if self.block.token_masks is not None:
            real = self.block.token_masks[batch].to(output.device)
            output, target = output[real], target[real]
        return (output - target).square().sum(), target.square().sum(), target.numel()

    def error(self) -> float:
        """``||Y - T||^2 / ||T||^2`` over all batches."""
        with torch.no_grad():
            sums = [self.squares(batch)[:2] for batch in range(len(self.targets))]
        error, size = (float(sum(part)) for part in zip(*sums, strict=True))
        return error / size if size else math.inf


def points(block: BlockVisit, granularity: str) -> list[nn.Module | None]:
    """Where the outputs are compared, in order of training. The attention is the child of the block that
    holds Linears and finishes first: it precedes the MLP in every family, also where the two are parallel.
    """
    if granularity != "attention-and-mlp":
        return [None]
    children = [child for child in block.module.children() if linears(child)]
    return [_executed(block, children)[-1], None]


def _executed(block: BlockVisit, until: list[nn.Module]) -> list[nn.Module]:
    """Modules of the block in order of finishing, up to and with the first of ``until``."""
    seen: list[nn.Module] = []

    def note(module: nn.Module, _arguments: tuple[Any, ...], output: Any) -> None:
        seen.append(module)
        if any(module is last for last in until):
            raise Reached(output)

    handles = [
        module.register_forward_hook(note) for module in block.module.modules() if module is not block.module
    ]
    try:
        block(0, block.inputs[0])
    except Reached:
        return seen
    finally:
        for handle in handles:
            handle.remove()
    raise ParameterError(
        "granularity", "attention-and-mlp", "'block' or 'linear' for blocks without an attention"
    )


def train_parts(
    block: BlockVisit,
    trained: dict[str, Any],
    kept: Masks,
    goals: dict[nn.Module | None, Outputs],
    recipe: Recipe,
) -> None:
    """Train the parameters that each point's output depends on, those of earlier points left as they are."""
    remaining = dict(trained)
    for point, goal in goals.items():
        part = remaining
        if point is not None:
            early = {id(value) for module in _executed(block, [point]) for value in module.parameters()}
            part = {name: value for name, value in remaining.items() if id(value) in early}
        remaining = {name: value for name, value in remaining.items() if name not in part}

        def backward(batch: int, goal: Outputs = goal) -> None:
            error, _, values = goal.squares(batch)
            (error / values).backward()

        if part:
            for name, value in trained.items():
                value.requires_grad_(name in part)
            _descend(part, kept, recipe, _order(len(block.inputs), recipe), backward, goal.error)


def train_linears(
    module: nn.Module,
    trained: dict[str, Any],
    kept: Masks,
    grams: dict[str, AffineGram],
    dense: dict[str, Any],
    recipe: Recipe,
) -> dict[str, nn.Parameter]:
    """Train every Linear alone from its Gram matrix; returns the parameters that belong to a Linear."""
    used: dict[str, Any] = {}
    for name, gram in grams.items():
        layer: Any = module.get_submodule(name)
        matrix = gram.result()
        own = {key: value for key, value in trained.items() if key.rpartition(".")[0] == name}
        if not own:
            continue
        matrix = matrix.to(torch.promote_types(layer.weight.dtype, torch.float32))
        start = None if layer.bias is None else layer.bias.detach().clone()

        def difference(
            layer: nn.Linear = layer,
            matrix: Tensor = matrix,
            start: Tensor | None = start,
            weight: Tensor = dense[name],
        ) -> tuple[list[Any], Tensor]:
            parts = [_weight(layer)] + ([] if start is None else [layer.bias])
            shift = torch.zeros_like(parts[0][:, 0]) if start is None else layer.bias - start
            joined = torch.cat([parts[0].to(matrix) - weight.to(matrix), shift.to(matrix)[:, None]], dim=1)
            return parts, joined.detach()

        def error(
            difference: Callable[[], tuple[list[Any], Tensor]] = difference, matrix: Tensor = matrix
        ) -> float:
            with torch.no_grad():
                return float(error_and_gradient(difference()[1], matrix)[0])

        def backward(
            _batch: int,
            difference: Callable[[], tuple[list[Any], Tensor]] = difference,
            matrix: Tensor = matrix,
        ) -> None:
            parts, delta = difference()
            gradient = error_and_gradient(delta, matrix)[1]
            pairs = zip(parts, (gradient[:, :-1], gradient[:, -1]), strict=False)
            live = [(part, value.to(part.dtype)) for part, value in pairs if part.requires_grad]
            torch.autograd.backward([part for part, _ in live], [value for _, value in live])

        _descend(own, kept, recipe, [0] * recipe.steps, backward, error)
        used |= own
    return used


def _weight(layer: nn.Linear) -> Tensor:
    """The weight in effect [out, in], differentiable with respect to what is trained in it."""
    return layer.trained_weight() if isinstance(layer, adapters.AdaptedLinear) else layer.weight


def _descend(
    parameters: dict[str, nn.Parameter],
    kept: Masks,
    recipe: Recipe,
    order: list[int],
    backward: Callable[[int], None],
    error: Callable[[], float],
) -> None:
    """``steps`` of AdamW; afterwards the parameters are those of the least error seen at the checks."""
    optimizer = MaskedAdamW(
        parameters, kept, lr=recipe.lr, steps=recipe.steps, warmup=recipe.warmup, clip=None
    )
    every = max(recipe.steps // CHECKS, 1)
    best, state = error(), snapshot(parameters)
    for step, batch in enumerate(order):
        with torch.enable_grad():
            backward(batch)
        optimizer.collect()
        if not math.isfinite(optimizer.step(step)):
            break
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            current = error()
            if current < best:
                best, state = current, snapshot(parameters)
    for name, value in parameters.items():
        value.detach().copy_(state[name])


def _order(batches: int, recipe: Recipe) -> list[int]:
    """The batch of every step: all of them in each pass, in a seeded order of its own."""
    generator = torch.Generator().manual_seed(recipe.seed)
    passes = -(-recipe.steps // batches)
    return torch.cat([torch.randperm(batches, generator=generator) for _ in range(passes)]).tolist()[
        : recipe.steps
    ]


def snapshot(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in values.items()}
