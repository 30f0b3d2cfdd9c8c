"""AdamW without decay on fp32 copies, linear schedule with warm-up, clipping, and pruned weights held at
zero.
"""

from collections.abc import Mapping
from typing import Any

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
    ``<layer>.weight`` with a mask under ``<layer>`` has its gradient masked: dropped weights, zero at the
    start, take no part in the clipping norm and stay zero.

    On one GPU :meth:`update` never waits for the device, so that it can be captured in a CUDA graph: learning
    rate, gradient norm and the flag to change nothing more are tensors there. Parameters may be on several devices.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        masks: Mapping[str, Tensor],
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
        device, *others = dict.fromkeys(master.device for master in self.masters.values())
        self.capturable = device.type == "cuda" and not others  # a tensor of a rate is on one device
        self.rate = torch.tensor(float(lr), device=device) if self.capturable else lr
        self.stopped = torch.zeros((), device=device)  # 1 as soon as a norm was not finite
        fast: dict[str, Any] = {"fused": True, "capturable": True} if self.capturable else {}
        self.adam: Any = torch.optim.AdamW(self.masters.values(), lr=self.rate, weight_decay=0.0, **fast)

    @torch.no_grad()
    def collect(self) -> None:
        """Mask the gradients, and move those of half-precision parameters to their fp32 copies, adding to
        what is there.
        """
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            master, gradient, kept = self.masters[name], parameter.grad, self.masks.get(name)
            if master is parameter:
                if kept is not None:
                    gradient.mul_(kept)
                continue
            wide = torch.empty_like(gradient, dtype=torch.float32)
            torch.mul(gradient, kept, out=wide) if kept is not None else wide.copy_(gradient)
            master.grad = wide if master.grad is None else master.grad.add_(wide)
            parameter.grad = None

    def step(self, step: int) -> float:
        """One update with the collected gradients at ``step`` of ``steps``; returns their norm before
        clipping.

        With a norm that is not finite nothing is changed, now or later. The gradients are cleared either way.
        """
        self.at(step)
        return float(self.update())

    def at(self, step: int) -> None:
        """Set the learning rate to that of ``step``."""
        rate = self.lr * schedule(step, self.steps, self.warmup)
        for group in self.adam.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    @torch.no_grad()
    def update(self) -> Tensor:
        """:meth:`step` at the rate that is set; the norm stays on the device."""
        gradients = [master.grad for master in self.masters.values() if master.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        torch.maximum(self.stopped, (~torch.isfinite(norm)).to(self.stopped), out=self.stopped)
        if self.capturable or not self.stopped:
            if self.clip is not None:
                torch.nn.utils.clip_grads_with_norm_(self.masters.values(), self.clip, norm)
            if self.capturable:
                self.adam.found_inf = self.stopped  # torch's own switch: the kernel then changes nothing
            self.adam.step()  # without weight decay a gradient that was always zero leaves a zero alone
            self.publish()
        self.adam.zero_grad(set_to_none=True)
        return norm

    @torch.no_grad()
    def prepare(self) -> None:
        """Allocate the state of AdamW, which a captured step must find; a state that is there stays."""
        if self.adam.state:
            return
        for master in self.masters.values():
            master.grad = torch.zeros_like(master)
        self.adam.step()  # gradients of zero move nothing
        self.adam.zero_grad(set_to_none=True)
        for state in self.adam.state.values():
            state["step"].zero_()

    @torch.no_grad()
    def publish(self) -> None:
        """Write the fp32 copies, rounded, into the parameters of the model."""
        pairs = [(value, self.masters[name]) for name, value in self.parameters.items()]
        pairs = [(value, master) for value, master in pairs if master is not value]
        if pairs:
            torch._foreach_copy_([value for value, _ in pairs], [master for _, master in pairs])

    def state(self) -> dict[str, Any]:
        """Everything that a later :meth:`restore` needs, as tensors and plain values."""
        return {
            "masters": {name: master.detach() for name, master in self.masters.items()},
            "adam": self.adam.state_dict(),
        }

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""
        for name, value in state["masters"].items():
            if value.shape != self.masters[name].shape:
                raise ValueError(f"{name} is {list(value.shape)}, not {list(self.masters[name].shape)}")
            self.masters[name].copy_(value)
        self.adam.load_state_dict(state["adam"])
        for group in self.adam.param_groups:
            group["lr"] = self.rate
        self.publish()
