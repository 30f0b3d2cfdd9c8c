"""Measured costs that do not promise what they cannot keep. No torch."""

import numpy as np

from lmcompress.sensitivity.agreement import Scores


def shrunk(truth: Scores) -> Scores:
    """The measured loss increases of every layer and width without the luck in them.

    The lowest of many noisy numbers are low by luck, and a solver picks just these (winner's curse). At each width the
    increases are drawn towards their mean over the layers, by the share of their variance that is noise between windows
    (James and Stein); a cost below 0 counts as 0, and more bits never cost more than fewer.

    truth: of ``measured.measure``, with ``detail["losses"][layer][bits]`` and ``detail["base"]`` per window.
    """
    layers, base = list(truth.per_layer), np.array(truth.detail["base"])
    tables, least = {}, np.full(len(layers), np.inf)
    for bits in sorted(truth.detail["per_width"], key=int):
        increase = (
            np.array([truth.detail["losses"][layer][bits] for layer in layers]) - base
        )  # [layers, windows]
        mean, windows = increase.mean(1), increase.shape[1]
        noise = (increase.var(1, ddof=1) / windows).mean() if windows > 1 else 0.0
        spread = mean.var(ddof=1) if len(layers) > 1 else 0.0
        kept = max(0.0, 1 - noise / spread) if spread > 0 else 1.0
        least = np.minimum(least, np.maximum(mean.mean() + kept * (mean - mean.mean()), 0.0))
        tables[bits] = dict(zip(layers, least.tolist(), strict=True))
    return Scores(next(iter(tables.values())), truth.seconds, {"per_width": tables})
