"""Activation checkpointing of no more blocks than memory needs.

A checkpointed block keeps its input alone and runs a second time in the backward pass, which costs a third more. With
``"auto"`` the first step checkpoints all blocks but the first, whose activations are measured; from the second step on
as many blocks as fit keep theirs. Of a model on several GPUs all stay checkpointed.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lmcompress.errors import ParameterError
from lmcompress.stream import replaced_forward

MODES = (False, True, "auto")
SPARED = 0.05  # share of the GPU's memory that stays free: what is freed leaves gaps


def require_mode(mode: bool | str) -> None:
    """Raise :class:`ParameterError` for anything but a mode of checkpointing."""
    if mode not in MODES:
        raise ParameterError("checkpointing", mode, MODES)


class Recomputed:
    """``modules`` checkpointed as ``mode`` says, until :meth:`end`. ``count``: how many of them are."""

    def __init__(self, modules: list[nn.Module], mode: bool | str):
        require_mode(mode)
        devices = {value.device for module in modules for value in module.parameters()}
        self.waiting = mode == "auto" and len(devices) == 1 and next(iter(devices)).type == "cuda"
        self._patched = [ExitStack() for _ in (modules[self.waiting :] if mode else ())]
        self._size = 0
        for patched, module in zip(self._patched, modules[self.waiting :], strict=False):
            patched.enter_context(replaced_forward([module], _checkpointed))
        if self.waiting:
            self._device = next(modules[0].parameters()).device
            self._hooks = [
                modules[0].register_forward_pre_hook(lambda *_: self._note(0)),
                modules[0].register_forward_hook(lambda *_: self._note(self._before)),
            ]
            torch.cuda.reset_peak_memory_stats(self._device)

    @property
    def count(self) -> int:
        return len(self._patched)

    def _note(self, before: int) -> None:
        self._before = torch.cuda.memory_allocated(self._device)
        self._size = self._before - before

    def stepped(self) -> None:
        """After a step: as many of the last blocks as the free memory holds are not checkpointed any more."""
        if not self.waiting:
            return
        self.waiting = False
        for hook in self._hooks:
            hook.remove()
        free, whole = torch.cuda.mem_get_info(self._device)
        usable = free + torch.cuda.memory_reserved(self._device) - SPARED * whole
        self.release(usable - torch.cuda.max_memory_allocated(self._device))

    def release(self, room: float) -> None:
        """Stop checkpointing the last blocks that ``room`` bytes hold."""
        keep = max(self.count - max(int(room / max(self._size, 1)), 0), 0)
        for patched in self._patched[keep:]:
            patched.close()
        del self._patched[keep:]

    def end(self) -> None:
        """Every block as it was."""
        self._size = 1
        self.release(float(self.count))


def _checkpointed(_index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
    return partial(checkpoint, forward, use_reentrant=False)
