"""HIGGS (arXiv 2411.17525): the loss grows in proportion to a layer's squared relative error; the factor, measured."""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lmcompress.errors import ParameterError
from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.losses import Loss, window_losses
from lmcompress.sensitivity.scores import check_batches, check_count
from lmcompress.sensitivity.trials import Change, try_each


def higgs(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    *,
    per: str = "linear",
    levels: Sequence[float] = (0.01, 0.05),
    draws: int = 1,
    seed: int = 0,
    loss: Loss = window_losses,
) -> list[Scores]:
    """The linearity coefficient of every layer: nats for each unit of ||W' - W||^2 / ||W||^2, one score a draw.

    Gaussian noise of squared relative size t^2 (each of ``levels``) is added to the layer alone; the coefficient is
    the slope through the origin, sum t^2 dL / sum t^4. The cost of any format is then the coefficient times the
    format's own squared relative error, which needs no further forward pass (``allocate.predict.width_free_loss``).
    """
    check_batches(batches)
    check_count("draws", draws)
    if not levels or not all(level > 0 for level in levels):
        raise ParameterError("levels", levels, "squared relative sizes above 0, at least one")
    return [_drawn(model, batches, per, levels, f"{seed}/{draw}", loss) for draw in range(draws)]


def _drawn(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    per: str,
    levels: Sequence[float],
    draw: str,
    loss: Loss,
) -> Scores:
    def noise(level: float) -> Change:
        def change(name: str, weight: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(zlib.crc32(f"{draw}/{name}/{level}".encode()))
            step = torch.randn(weight.shape, generator=generator, dtype=torch.float64).to(weight.device)
            return weight + (step * (weight.double().norm() / step.norm() * level**0.5)).to(weight.dtype)

        return change

    trials = try_each(model, batches, {str(level): noise(level) for level in levels}, per=per, loss=loss)
    rises = {level: trials.increase(str(level)) for level in levels}
    whole = sum(level**2 for level in levels)
    slopes = {layer: sum(level * rises[level][layer] for level in levels) / whole for layer in trials.losses}
    return Scores(slopes, trials.seconds, {"levels": list(levels)})
