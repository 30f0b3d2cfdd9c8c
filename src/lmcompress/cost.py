"""What a computation costs: wall time, peak memory, tokens per second, operations, share of what the
machine can do.

Device work is asynchronous, so that every clock here waits for the device before it is read. The ceilings
of the machine are measured, not read off a datasheet: a large copy for bytes, a large matrix product for
operations.
"""

import copy
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PretrainedConfig

from lmcompress.errors import ParameterError
from lmcompress.graphs import unread_masks

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """``seconds`` of wall time, ``peak_bytes`` of memory, ``tokens`` worked on (0 where there are none).

    On a GPU ``peak_bytes`` is the most that tensors took of it; on a CPU the largest resident set of the
    whole process, interpreter included.
    """

    seconds: float
    peak_bytes: int
    tokens: int = 0

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Times:
    """``seconds`` of each repetition, in order; ``median`` and the spread ``low`` to ``high`` over them."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        return min(self.seconds)

    @property
    def high(self) -> float:
        return max(self.seconds)


@dataclass(frozen=True)
class Ceilings:
    """What one device reaches: bytes per second of a copy (read plus written), operations per second of a
    product.
    """

    copy_bytes_per_s: float
    matmul_flops_per_s: float


@dataclass(frozen=True)
class Flops:
    """Operations (a multiply-add is two) of one forward and one backward pass over a batch."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        return self.forward + self.backward


def synchronize(device: str | torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def measured(device: str | torch.device, tokens: int = 0) -> Iterator[list[Cost]]:
    """Measure the body of a ``with``: the list that it gives holds the :class:`Cost` afterwards.

    The body must free what it does not want counted, and be run once before: a first call compiles and
    allocates.
    """
    cost: list[Cost] = []
    synchronize(device)
    _reset_peak(device)
    start = time.perf_counter()
    yield cost
    synchronize(device)
    cost.append(Cost(time.perf_counter() - start, peak_bytes(device), tokens))


def times(
    function: Callable[[], object], device: str | torch.device, repeats: int = 10, warmup: int = 2
) -> Times:
    """Wall seconds of ``function()``, each repetition by itself, after ``warmup`` calls that do not count.

    Raises :class:`ParameterError` for fewer than one repetition.
    """
    return paired({"": function}, device, repeats, warmup)[""]


def paired(
    functions: dict[str, Callable[[], object]], device: str | torch.device, repeats: int = 10, warmup: int = 2
) -> dict[str, Times]:
    """:func:`times` of several versions of one thing, taking turns, so that a drifting clock meets all
    alike.
    """
    if repeats < 1:
        raise ParameterError("repeats", repeats, "at least 1")
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if turn >= warmup:
                taken[name].append(time.perf_counter() - start)
    return {name: Times(tuple(seconds)) for name, seconds in taken.items()}


def peak_bytes(device: str | torch.device) -> int:
    """Most memory since the last reset: of the GPU's tensors, or of the process where ``device`` is the CPU.

    Where the system has no resettable counter (anything but Linux) the CPU's figure is that of the whole
    run so far.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())):
        return int(found[1]) * 1024
    import resource  # not on Windows
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _reset_peak(device: str | torch.device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        _RESET.write_text("5")  # proc(5): sets the peak resident set to the present one
    except OSError:
        return


def flops(config: PretrainedConfig, batch: int, length: int, trained: str | None = None) -> Flops:
    """Operations of a causal language model of this ``config`` on ``batch`` windows of ``length`` tokens.

    Counted by running the model on the meta device, where nothing is allocated or computed: matrix products
    and attention, not elementwise work, and attention without the saving of a causal kernel. ``trained``:
    regular expression on parameter names; the others are frozen, which saves up to half of the backward
    pass (default: all are trained). Raises :class:`ParameterError` when it matches none.
    """
    with torch.device("meta"):
        # The plain kernel: others look at the values of the mask, which the meta device does not have. It is chosen
        # in a copy: a living model whose config this is would change its kernel, too.
        model: Any = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
        tokens = torch.zeros(batch, length, dtype=torch.long)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained is None or re.search(trained, name) is not None)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ParameterError("trained", trained, "a regular expression that matches some parameter")
    model.config.use_cache = False
    with unread_masks(), FlopCounterMode(display=False) as forward:
        loss = model(input_ids=tokens, labels=tokens).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return Flops(forward.get_total_flops(), backward.get_total_flops())


def ceilings(
    device: str | torch.device, dtype: torch.dtype = torch.bfloat16, size: int | None = None
) -> Ceilings:
    """Measure what ``device`` reaches: a copy of ``16 size^2`` and a product of two ``size x size`` matrices.

    ``size``: by default 8192 on a GPU, 1024 on a CPU. On random data: products of zeros run faster than
    real ones.
    """
    device = torch.device(device)
    size = size or (8192 if device.type == "cuda" else 1024)
    source = torch.randn(16, size, size, dtype=dtype, device=device)
    target = torch.empty_like(source)
    a, b = source[0], source[1]
    out = target[0]
    copy = times(lambda: target.copy_(source), device)
    product = times(lambda: torch.mm(a, b, out=out), device)
    moved = 2 * source.numel() * source.element_size()
    return Ceilings(moved / copy.median, 2 * size**3 / product.median)


def share_of_peak(operations: float, seconds: float, limit: Ceilings) -> float:
    """Share of the machine's measured rate of matrix products that a computation reaches (1 = all of it)."""
    return operations / seconds / limit.matmul_flops_per_s
