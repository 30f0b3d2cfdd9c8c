"""The truth about sensitivity: quantize one layer at a time and measure. Every score is ranked against it."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.losses import Loss, window_losses
from lmcompress.sensitivity.scores import (
    Quantizer,
    check_batches,
    check_widths,
    quantized,
)
from lmcompress.sensitivity.trials import Change, try_each


def measure(
    model: nn.Module,
    batches: Sequence[dict[str, Tensor]],
    quantizer: Quantizer,
    widths: Sequence[int],
    *,
    per: str = "linear",
    loss: Loss = window_losses,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> Scores:
    """Mean loss increase (nats) over the windows when one layer, and nothing else, is quantized.

    ``detail``: ``per_width``[bits][layer], ``base`` [N] and ``losses``[layer][bits] [N] per window, so that
    intervals can be had (``trials.paired_interval``). The weights are put back bit for bit. ``checkpoint``: a
    JSON-lines file from which an interrupted call goes on.
    """
    check_widths(widths)
    check_batches(batches)

    def change(bits: int) -> Change:
        return lambda name, weight: quantized(name, weight, quantizer, bits)

    variants = {str(bits): change(bits) for bits in widths}
    trials = try_each(model, batches, variants, per=per, loss=loss, checkpoint=checkpoint, progress=progress)
    tables = {key: trials.increase(key) for key in variants}
    return trials.scores(next(iter(tables.values())), tables, "per_width")
