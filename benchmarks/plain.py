"""A training step of transformers alone, for at_size.py: biases and norms with its own loss, its own checkpointing of
all blocks, and no optimizer.
"""

import time
from contextlib import contextmanager

import torch
from torch import nn

from lmcompress.cost import measured
from lmcompress.models import blocks
from lmcompress.retrain.subsets import existing


def step(model: nn.Module, windows, options) -> tuple[float, int, int]:
    """Seconds of a step (the first two left out), peak bytes, and how many blocks were checkpointed: all.

    ``options``: the device, the windows a ``batch`` and the ``train_steps`` that are timed.
    """
    model.requires_grad_(False)
    for name in ("biases", "norms"):
        for value in existing(model, name).values():
            value.requires_grad_(True)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    times = []
    with measured(options.device) as cost:
        for start in range(2 + options.train_steps):
            with measured_step(options.device, times):
                batch = windows[start % 8 * options.batch :][: options.batch].to(options.device)
                model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
                model.zero_grad()
    model.gradient_checkpointing_disable()
    model.eval()
    return sum(times[2:]) / options.train_steps, cost[0].peak_bytes, len(blocks(model))


@contextmanager
def measured_step(device: str, times: list[float]):
    start = time.perf_counter()
    yield
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    times.append(time.perf_counter() - start)
