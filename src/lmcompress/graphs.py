"""A computation of fixed shapes recorded once as a CUDA graph and replayed without Python.

A step of a small model is thousands of kernels of a few microseconds each, and the processor needs longer to
launch one than the GPU to run it. A replayed graph launches all of them at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import masking_utils

from lmcompress.models import blocks

WARM_UP = 2  # calls before the recording: they compile, allocate and choose kernels
COMPILATIONS = 256  # of one piece of code in a process: one a shape, dtype and set of trained parameters


def recordable(model: nn.Module) -> bool:
    """Whether all parameters of ``model`` are on one GPU."""
    devices = {parameter.device for parameter in model.parameters()}
    return len(devices) == 1 and devices.pop().type == "cuda"


@contextmanager
def compiled(model: Any) -> Iterator[None]:
    """Blocks and loss of a transformers model compiled by ``torch.compile`` inside: equal blocks share a
    compilation, also with those of a later model.

    The compiled loss never holds the logits in fp32. What the compiler cannot do runs as it is.
    """
    modules = list(blocks(model).values())
    for module in modules:
        module.compile(dynamic=False)
    whole = "_loss_function" not in vars(model)
    loss: Any = getattr(model, "loss_function", None)
    if loss is not None:
        model.loss_function = torch.compile(loss, dynamic=False)
    try:
        with torch._dynamo.config.patch(
            recompile_limit=COMPILATIONS, accumulated_recompile_limit=COMPILATIONS, suppress_errors=True
        ):
            yield
    finally:
        for module in modules:
            module._compiled_call_impl = None
        if loss is not None and whole:
            del model._loss_function
        elif loss is not None:
            model.loss_function = loss


@contextmanager
def unread_masks() -> Iterator[None]:
    """transformers looks at the values of a mask and of the positions to leave a mask out where it does nothing.

    A recording cannot wait for them, nor may it find another answer than the calls before it. Inside, given
    masks are always used, and positions are taken to be those of one text a window.
    """
    with (
        patch.object(masking_utils, "is_tracing", lambda *_: True),
        patch.object(masking_utils, "find_packed_sequence_indices", lambda _positions: None),
    ):
        yield


class Recorded:
    """``function(batches)``, recorded for the shapes of ``batches`` (a list of dicts of tensors).

    Called with other batches of the same shapes it returns what ``function`` returns for them, in the same
    tensors every time: the next call overwrites them. ``function`` must not wait for the device, and what it
    changes (parameters, say) it must change in place. ``warm_up(batches)`` is called in its place before the
    recording (default: ``function``); torch's random state is put back after it. Blocks and loss of ``model``
    are compiled; None leaves everything as it is.
    """

    def __init__(
        self,
        function: Callable[[list[dict[str, Tensor]]], Tensor],
        batches: list[dict[str, Tensor]],
        device: torch.device,
        *,
        warm_up: Callable[[list[dict[str, Tensor]]], object] | None = None,
        model: nn.Module | None = None,
    ):
        self.batches = [{key: value.to(device, copy=True) for key, value in each.items()} for each in batches]
        fast = nullcontext() if model is None else compiled(model)
        with torch.cuda.device(device), fast, unread_masks():
            random, beside = torch.cuda.get_rng_state(), torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_UP):
                    (warm_up or function)(self.batches)
            torch.cuda.current_stream().wait_stream(beside)
            torch.cuda.set_rng_state(random)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = function(self.batches)

    def __call__(self, batches: list[dict[str, Tensor]]) -> Tensor:
        for own, given in zip(self.batches, batches, strict=True):
            for key, value in own.items():
                value.copy_(given[key], non_blocking=True)
        self.graph.replay()
        return self.result
