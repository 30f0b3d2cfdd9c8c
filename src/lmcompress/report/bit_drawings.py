"""Drawings of the concept pages on quantization, sensitivity and allocation; see :mod:`lmcompress.report.drawings`."""

from itertools import product

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Canvas

from lmcompress.allocate.problem import Problem
from lmcompress.allocate.solve import exact
from lmcompress.report.canvas import INK
from lmcompress.report.drawings import HELP, KEEP, LOSE, figure
from lmcompress.report.figures import Figure
from lmcompress.sensitivity.depth import depth_null


def round_symmetric(w: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """``w`` rounded to 2^bits multiples of one step, and these values; the extreme weight gets the outermost one."""
    middle = 2 ** (bits - 1)
    extreme = w.max() if w.max() > -w.min() else w.min()
    scale = -extreme / middle
    codes = np.clip(np.round(w / scale) + middle, 0, 2 * middle - 1)
    return (codes - middle) * scale, np.sort((np.arange(2 * middle) - middle) * scale)


def quantization() -> Figure:
    """One outlier makes the grid coarse for all weights of its group."""
    w = np.array([0.5, -0.5, 0.25, 0.0, 8.0, -2.0, 1.0, 0.0])
    together, coarse = round_symmetric(w, 3)
    halves = [round_symmetric(part, 3) for part in (w[:4], w[4:])]
    apart, fine = np.concatenate([rounded for rounded, _ in halves]), halves[0][1]
    rows = [
        ("one group of 8", w[:4], together[:4], coarse),
        ("two groups of 4", w[:4], apart[:4], fine),
    ]

    def draw(canvas: Canvas) -> None:
        for axes, (name, before, after, grid) in zip(canvas.subplots(2, 1, sharex=True), rows, strict=True):
            axes.vlines(grid[np.abs(grid) < 3.2], 0, 1, color=INK, linewidth=1.4)
            axes.plot(before, np.full(4, 0.75), "o", color=KEEP, markersize=7)
            axes.plot(after, np.full(4, 0.25), "D", color=LOSE, markersize=7)
            for a, b in zip(before, after, strict=True):
                axes.annotate(
                    "", (b, 0.3), (a, 0.7), arrowprops={"arrowstyle": "->", "color": INK, "alpha": 0.6}
                )
            axes.set_title(f"{name}: step {grid[1] - grid[0]:.3g}", fontsize=9, loc="left")
            axes.set(xlim=(-3, 3), ylim=(0, 1), yticks=[])
            axes.grid(visible=False)
        axes.set_xlabel("circle: weight, diamond: rounded, lines: the grid")

    table = pd.DataFrame({"weight": w, "one group of 8": together, "two groups of 4": apart})
    return figure(
        draw,
        2.6,
        "One outlier makes the grid coarse for its whole group",
        "The first four of eight weights, rounded to three bits. The other four hold an 8, which sets the step where "
        "all share it.",
        f"With one scale for all eight weights the step is {coarse[1] - coarse[0]:g} and the four small weights all "
        f"become 0; with a scale of their own it is {fine[1] - fine[0]:g} and each moves by at most "
        f"{np.abs(apart - w)[:4].max():.3f}.",
        table,
    )


def sensitivity() -> Figure:
    """A loss along one weight, and what first and second order foresee of rounding it."""
    w, rounded = 0.66, 0.5

    def loss(x: np.ndarray | float) -> np.ndarray | float:
        return np.log(np.cosh(4 * (x - 0.7)))

    slope, bend = 4 * np.tanh(4 * (w - 0.7)), 16 / np.cosh(4 * (w - 0.7)) ** 2
    step = rounded - w
    truth = loss(rounded) - loss(w)
    first, second = slope * step, slope * step + 0.5 * bend * step**2

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        x = np.linspace(0.38, 0.98, 121)
        axes.plot(x, loss(x), color=INK, label="loss")
        near = np.linspace(rounded - 0.04, w + 0.1, 41)
        axes.plot(near, loss(w) + slope * (near - w), "--", color=LOSE, label=f"first order: {first:+.3f}")
        curve = loss(w) + slope * (near - w) + 0.5 * bend * (near - w) ** 2
        axes.plot(near, curve, "-.", color=HELP, label=f"second order: {second:+.3f}")
        axes.plot(w, loss(w), "o", color=KEEP, markersize=8)
        axes.plot(rounded, loss(rounded), "D", color=KEEP, markersize=7)
        axes.text(w, float(loss(w)) - 0.05, "trained", ha="center", fontsize=9)
        axes.text(
            rounded - 0.012, float(loss(rounded)) - 0.06, f"rounded:\n{truth:+.3f}", ha="right", fontsize=9
        )
        axes.set(xlabel="one weight", ylabel="loss", ylim=(-0.1, 0.5))
        axes.legend(loc="upper center", fontsize=9)

    table = pd.DataFrame(
        {"": ["measured", "first order", "second order"], "rise of the loss": [truth, first, second]}
    )
    return figure(
        draw,
        2.9,
        "What a slope and a curvature foresee of rounding",
        "A loss along one weight. Near its minimum the slope is small, so most of what rounding costs is curvature.",
        f"Rounding the weight raises the loss by {truth:.3f}; the slope alone foresees {first:.3f}, slope and "
        f"curvature {second:.3f}.",
        table,
    )


def depth() -> Figure:
    """Similarity that knows nothing but distance, and the U-shape that it gives."""
    layers = 13
    similarity = 0.9 ** np.abs(np.subtract.outer(np.arange(layers), np.arange(layers)))
    null = depth_null(similarity.tolist(), targets=range(layers))

    def draw(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2, width_ratios=(1, 1.4))
        left.imshow(similarity, cmap="cividis", vmin=0, vmax=1)
        left.set(xlabel="layer", ylabel="layer", title="similarity")
        left.title.set_fontsize(9)
        left.grid(visible=False)
        for axis in (left.xaxis, left.yaxis, right.xaxis):
            axis.set_ticks(range(0, layers, 4))
        places = range(layers)
        right.plot(places, null.scores, "o-", color=LOSE, label="score")
        right.plot(places, null.residual, "s-", color=KEEP, label="less what distance explains")
        right.set(xlabel="layer", ylim=(-0.03, 0.62))
        right.legend(fontsize=8.5, loc="upper center")

    table = pd.DataFrame({"layer": range(layers), "score": null.scores, "rest": null.residual})
    return figure(
        draw,
        2.4,
        "A U-shape from distance alone",
        "Thirteen layers whose similarity is 0.9 to the power of their distance. The score is one minus the mean "
        "similarity to the others.",
        f"The score is {null.scores[0]:.2f} at both ends and {min(null.scores):.2f} in the middle although no layer is "
        "special; less what distance explains, it is zero everywhere.",
        table,
    )


def allocation() -> Figure:
    """All eight ways to give three layers two or four bits, and the best within ten."""
    loss = {"a": {"2": 9.0, "4": 1.0}, "b": {"2": 5.0, "4": 2.0}, "c": {"2": 4.0, "4": 3.0}}
    price = {layer: {"2": 2, "4": 4} for layer in loss}
    budget = 10
    rows = []
    for widths in product("24", repeat=3):
        chosen = dict(zip(loss, widths, strict=True))
        total = sum(loss[layer][width] for layer, width in chosen.items())
        rows.append({"a, b, c": " ".join(widths), "bits": sum(map(int, widths)), "loss": total})
    table = pd.DataFrame(rows)
    best = exact(Problem(price, loss), budget=budget)
    name = " ".join(best.choice[layer] for layer in loss)

    def draw(canvas: Canvas) -> None:
        axes = canvas.subplots()
        for _, row in table.iterrows():
            chosen = row["a, b, c"] == name
            colour = HELP if chosen else KEEP if row["bits"] <= budget else LOSE
            axes.plot(
                row["bits"], row["loss"], "D" if chosen else "o", color=colour, markersize=10 if chosen else 7
            )
            axes.text(row["bits"] + 0.2, row["loss"], row["a, b, c"], fontsize=9, va="center")
        axes.axvline(budget + 0.9, color=INK, linestyle="--", linewidth=1.1)
        axes.text(budget + 1, 16.5, f"over {budget} bits", fontsize=9)
        axes.set(
            xlabel="bits in all", ylabel="sum of predicted losses", xlim=(5.5, 13), xticks=(6, 8, 10, 12)
        )

    return figure(
        draw,
        2.8,
        "Every way to spend the bits",
        "Three layers a, b, c with 2 or 4 bits each, by the losses in the table of this page. The diamond is the best "
        "within ten bits.",
        f"Of eight allocations seven cost at most {budget} bits; the best of these gives a, b and c {name} bits, with "
        f"loss {best.objective:g}.",
        table,
    )
