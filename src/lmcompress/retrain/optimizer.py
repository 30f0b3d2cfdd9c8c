"""AdamW without decay on fp32 copies, linear schedule with warm-up, clipping, and pruned weights held at
zero.
"""

import torch
from torch import Tensor, nn

HALF = (torch.bfloat16, torch.float16)


def schedule(step: int, steps: int, warmup: float) -> float:
    """Factor on the learning rate at ``step`` (from 0): up to 1 over the warm-up, then linearly down.

    Neither the first nor the last step is of rate zero, so none of the budget is wasted.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (steps - step) / (steps - rising)


class MaskedAdamW:
    """Optimizer of named parameters; half-precision ones are updated through fp32 copies ("masters").

    Gradients are accumulated in fp32 as well (:meth:`collect` after every backward pass). A parameter called
    ``<layer>.weight`` with a mask under ``<layer>`` has its gradient masked, so that dropped weights take no
    part in the clipping norm, and the mask is applied again after the update.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        masks: dict[str, Tensor],
        *,
        lr: float,
        steps: int,
        warmup: float = 0.1,
        clip: float | None = 1.0,
    ):
        self.parameters, self.lr, self.steps, self.warmup, self.clip = parameters, lr, steps, warmup, clip
        self.masks = {
            f"{name}.weight": kept.to(parameters[f"{name}.weight"].device)
            for name, kept in masks.items()
            if f"{name}.weight" in parameters
        }
        self.masters = {
            name: nn.Parameter(value.detach().float()) if value.dtype in HALF else value
            for name, value in parameters.items()
        }
        self.adam = torch.optim.AdamW(self.masters.values(), lr=lr, weight_decay=0.0)

    def collect(self) -> None:
        """Move the gradients of half-precision parameters to their fp32 copies, adding to what is there."""
        for name, parameter in self.parameters.items():
            master = self.masters[name]
            if master is not parameter and parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad.add_(gradient)
                parameter.grad = None

    @torch.no_grad()
    def step(self, step: int) -> float:
        """One update with the collected gradients at ``step`` of ``steps``; returns their norm before
        clipping.

        With a norm that is not finite nothing is changed. The gradients are cleared either way.
        """
        for name, kept in self.masks.items():
            if self.masters[name].grad is not None:
                self.masters[name].grad.mul_(kept)
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if torch.isfinite(norm):
            if self.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.masters.values(), self.clip, norm)
            for group in self.adam.param_groups:
                group["lr"] = self.lr * schedule(step, self.steps, self.warmup)
            self.adam.step()
            for name, kept in self.masks.items():
                self.masters[name].masked_fill_(~kept, 0)
            self.publish()
        self.adam.zero_grad(set_to_none=True)
        return float(norm)

    @torch.no_grad()
    def publish(self) -> None:
        """Write the fp32 copies, rounded, into the parameters of the model."""
        for name, parameter in self.parameters.items():
            if self.masters[name] is not parameter:
                parameter.copy_(self.masters[name])

    def state(self) -> dict:
        """Everything that a later :meth:`restore` needs, as tensors and plain values."""
        return {
            "masters": {name: master.detach() for name, master in self.masters.items()},
            "adam": self.adam.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict) -> None:
        """Continue from what :meth:`state` returned."""
        for name, value in state["masters"].items():
            self.masters[name].copy_(value)
        self.adam.load_state_dict(state["adam"])
        self.publish()
