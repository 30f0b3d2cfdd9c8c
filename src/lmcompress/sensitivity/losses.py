"""The loss of single windows, and measuring it again and again while only one block changes."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmcompress.errors import NumericError, ParameterError
from lmcompress.models import blocks
from lmcompress.sensitivity.scores import check_batches
from lmcompress.stream import Reached, replaced_forward

Loss = Callable[[nn.Module, dict[str, Tensor]], Tensor]
"""``loss(model, batch) -> [B]``: one loss (nats) for each window of the batch, differentiable."""


def predictions(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """``(logits [B, P, C], targets [B, P], weights [B, P])``: what the model predicts in a batch.

    With ``labels`` [B] in the batch: a classifier's one prediction a text. Without: next-token prediction at
    every position, where weight 0 marks a padding target. Logits are fp32 or wider. Raises
    :class:`ParameterError` for a model without such an output; a masked language model is refused, since its
    loss on unmasked text means nothing.
    """
    device = next(model.parameters()).device
    inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
    if "labels" in batch:
        logits, targets = model(**inputs).logits, batch["labels"].to(device)
        if logits.ndim != 2 or targets.ndim != 1:
            raise ParameterError(
                "labels", tuple(targets.shape), "class numbers [B] for a model with logits [B, classes]"
            )
        logits, targets = logits[:, None], targets[:, None]
        weights = torch.ones_like(targets)
    else:
        if not model.can_generate():
            raise ParameterError(
                "model", type(model).__name__, "a causal language model, or a classifier with labels"
            )
        logits, targets = model(**inputs, use_cache=False).logits[:, :-1], inputs["input_ids"][:, 1:]
        weights = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))[:, 1:]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)), targets, weights


def window_losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Mean cross-entropy (nats) over the predictions of each window, [B]; see :func:`predictions`."""
    return mean_losses(*predictions(model, batch))


def mean_losses(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Mean cross-entropy [B] of what :func:`predictions` gives."""
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return (each * weights).sum(1) / weights.sum(1).clamp(min=1)


def divergence_from(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Loss:
    """A :data:`Loss` of these very batches: how far the predictions are from those of the model as it is now.

    It gives the mean over a window's predictions of KL(as it is now || then) (nats), [B]. No cost is below 0, and none
    depends on whether the next token happened to be likely, so that it has less noise than a difference of losses. The
    log-probabilities of all batches are kept on the model's device: 4 bytes a prediction and token of the vocabulary.
    """
    with torch.no_grad():
        before = {id(batch): predictions(model, batch)[0].log_softmax(-1) for batch in batches}

    def loss(now: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits, _, weights = predictions(now, batch)
        each = F.kl_div(logits.log_softmax(-1), before[id(batch)], reduction="none", log_target=True).sum(-1)
        return (each * weights).sum(1) / weights.sum(1).clamp(min=1)

    return loss


class Replay:
    """Window losses of a model in which one block after another is changed for a while.

    ``base``: losses [N] of the model as it is. Blocks before the changed one would compute the same as
    before, so they hand over a stored activation instead (one hidden state per window is kept): over all
    blocks, half the work. Ask for blocks in ascending order; results are those of the whole model.
    """

    def __init__(self, model: nn.Module, batches: Sequence[dict[str, Tensor]], loss: Loss = window_losses):
        check_batches(batches)
        self.model, self.batches, self.loss = model, batches, loss
        self._modules = list(blocks(model).values())
        self._block = 0
        self._stored: list[Any] = [None] * len(batches)
        self.base = self._measure("the unchanged model")

    @torch.no_grad()
    def _measure(self, what: str) -> Tensor:
        parts = []
        for index, batch in enumerate(self.batches):
            with self._skipping(index):
                parts.append(self.loss(self.model, batch).double().cpu())
        losses = torch.cat(parts)
        if not torch.isfinite(losses).all():
            raise NumericError(what, "loss is not finite")
        return losses

    def _skipping(self, batch: int) -> Any:
        """Blocks before the current one do nothing; the last of them gives what it gave on this batch."""
        stored = self._stored[batch]
        return replaced_forward(self._modules[: self._block], lambda *_: lambda *_given, **_named: stored)

    @torch.no_grad()
    def _advance(self) -> None:
        """Store the output of the current block (which must be unchanged now) and go to the next."""
        kept = []

        def stop(_module: nn.Module, _inputs: tuple[Any, ...], output: object) -> None:
            kept.append(output)
            raise Reached

        handle = self._modules[self._block].register_forward_hook(stop)
        try:
            for index, batch in enumerate(self.batches):
                with self._skipping(index), suppress(Reached):
                    self.loss(self.model, batch)
        finally:
            handle.remove()
        self._stored = kept
        self._block += 1

    def losses(self, block: int, name: str) -> Tensor:
        """Losses [N] (fp64) of the model as it is now, of which only block number ``block`` may be changed.

        A non-finite loss raises :class:`NumericError` with ``name``.
        """
        if block != self._block:
            raise ParameterError(
                "block", block, f"{self._block}: call move_to({block}) while no weight is changed"
            )
        return self._measure(name)

    def move_to(self, block: int) -> None:
        """Go on to a later block, while no weight is changed."""
        if not self._block <= block < len(self._modules):
            raise ParameterError("block", block, f"{self._block} to {len(self._modules) - 1}")
        while self._block < block:
            self._advance()


def block_of(model: nn.Module) -> dict[str, int]:
    """Full name of every block and of every module in it -> number of the block."""
    return {
        f"{name}.{inner}" if inner else name: index
        for index, (name, block) in enumerate(blocks(model).items())
        for inner, _ in block.named_modules()
    }
