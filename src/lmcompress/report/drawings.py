"""Drawings of the concept pages on measuring, pruning and retraining.

Every number in one is computed here, by the formulas of its page, with NumPy alone. Each function returns a
:class:`~lmcompress.report.figures.Figure` whose table holds the numbers that were drawn.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from lmcompress.report.canvas import INK, PALETTE, drawing, method_colour
from lmcompress.report.figures import Figure

KEEP, LOSE, HELP = PALETTE[0], PALETTE[1], PALETTE[3]  # what stays, what is lost, what makes up for it


def figure(
    draw: Callable[[Canvas], None], height: float, title: str, caption: str, alt: str, table: pd.DataFrame
) -> Figure:
    return Figure(drawing(draw, height, title, alt), title, caption, alt, table)


def bare(axes: Axes, title: str = "") -> None:
    """Axes without numbers and lines around them."""
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_axis_off()


def cells(
    axes: Axes, values: np.ndarray, filled: np.ndarray, title: str, colour: str = KEEP, text: str = "g"
) -> None:
    """A matrix as a grid of cells; ``text``: format of their numbers, "" for none. What is not filled is hollow."""
    rows, columns = values.shape
    for i, j in product(range(rows), range(columns)):
        look: dict[str, Any] = (
            {"facecolor": colour, "alpha": 0.45} if filled[i, j] else {"facecolor": "none", "alpha": 0.5}
        )
        axes.add_patch(Rectangle((j + 0.04, i + 0.04), 0.92, 0.92, edgecolor=INK, linewidth=0.8, **look))
        if text:
            axes.text(j + 0.5, i + 0.5, format(values[i, j], text), ha="center", va="center", fontsize=9)
    axes.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal")
    bare(axes, title)


def perplexity() -> Figure:
    """Surprise of three tokens, and how a text is cut into windows."""
    chance = np.array([1 / 4, 1 / 2, 1 / 8])
    bits = -np.log2(chance)
    tokens, length = 18, 5

    def draw(canvas: Canvas) -> None:
        above, below = canvas.subplots(2, 1, height_ratios=(3, 1))
        above.bar(range(3), bits, color=KEEP, width=0.55)
        above.axhline(bits.mean(), color=LOSE, linestyle="--")
        words = f"mean {bits.mean():g} bits:\nperplexity {2 ** bits.mean():g}"
        above.text(1, bits.mean() + 0.1, words, ha="center", fontsize=9)
        above.set_xticks(range(3), [f"token {i + 1}\nprobability 1/{1 / p:g}" for i, p in enumerate(chance)])
        above.set(ylabel="surprise (bits)", yticks=range(4))
        above.grid(visible=False, axis="x")
        kept = tokens // length * length
        for at in range(tokens):
            first, tail = at % length == 0, at >= kept
            look: dict[str, Any] = {
                "facecolor": "none" if first or tail else KEEP,
                "linestyle": ":" if tail else "-",
            }
            x = at + 0.35 * (at // length)
            below.add_patch(Rectangle((x, 0), 0.9, 0.9, edgecolor=INK, linewidth=0.9, **look))
        below.set(xlim=(-0.2, tokens + 1.2), ylim=(-0.1, 1), aspect="equal")
        bare(below, f"windows of {length}: filled predicted, hollow context only, dotted dropped")
        below.title.set_fontsize(8)

    table = pd.DataFrame({"token": [1, 2, 3], "probability": chance, "surprise (bits)": bits})
    return figure(
        draw,
        3.3,
        "Perplexity is two to the mean surprise",
        "Surprise is minus the logarithm of the probability that the model gave to the token that came.",
        f"Tokens of probability 1/4, 1/2 and 1/8 surprise by 2, 1 and 3 bits; their mean of {bits.mean():g} bits is a "
        f"perplexity of {2 ** bits.mean():g}. Below: the first token of a window is not predicted.",
        table,
    )


def pruning() -> Figure:
    """The same matrix pruned by size and by size times input."""
    weight = np.array([[0.9, -0.1, 0.4, -0.6], [0.2, 0.8, -0.3, 0.5]])
    norms = np.array([1.0, 10.0, 1.0, 1.0])
    scores = {"magnitude": np.abs(weight), "Wanda": np.abs(weight) * norms}
    kept = {name: score >= np.sort(score, axis=1)[:, [2]] for name, score in scores.items()}
    lost = {name: ((scores["Wanda"] * ~mask) ** 2).sum(axis=1) for name, mask in kept.items()}

    def draw(canvas: Canvas) -> None:
        grid = canvas.subplots(2, 2)
        for row, (name, score) in zip(grid, scores.items(), strict=True):
            colour = method_colour(name.lower())
            cells(row[0], score, kept[name], f"score: {name}", colour)
            cells(
                row[1],
                np.where(kept[name], weight, 0),
                kept[name],
                f"kept; error of output 1: {lost[name][0]:.2f}",
                colour,
            )

    rows = [
        {"output": i + 1, "input": j + 1, "weight": weight[i, j]}
        | {f"kept by {name}": bool(mask[i, j]) for name, mask in kept.items()}
        for i, j in product(range(2), range(4))
    ]
    return figure(
        draw,
        2.7,
        "Which half of the weights goes",
        "The second input is ten times as large as the others. Filled cells are kept, two in each row.",
        f"Magnitude keeps 0.9 and -0.6 of the first row, Wanda 0.9 and -0.1, which meets the large input; the error of "
        f"the first output is {lost['magnitude'][0]:.2f} with magnitude and {lost['Wanda'][0]:.2f} with Wanda.",
        pd.DataFrame(rows),
    )


def sparsegpt() -> Figure:
    """Removing one of two correlated weights, with and without help of the other."""
    hessian, w = np.array([[1.0, 0.8], [0.8, 1.0]]), np.array([0.5, 1.0])
    inverse = np.linalg.inv(hessian)
    alone = np.array([0.0, w[1]])
    helped = w - w[0] / inverse[0, 0] * inverse[:, 0]

    def error(point: np.ndarray) -> float:
        return float((point - w) @ hessian @ (point - w))

    def draw(canvas: Canvas) -> None:
        axes, solver = canvas.subplots(), method_colour("sparsegpt")
        x, y = np.meshgrid(np.linspace(-0.25, 1.1, 121), np.linspace(0.4, 1.7, 121))
        offset = np.stack([x - w[0], y - w[1]])
        height = np.einsum("iab,ij,jab->ab", offset, hessian, offset)
        levels = (0.02, error(helped), error(alone), 0.5)
        lines: Any = axes.contour(x, y, height, levels, colors=INK, alpha=0.55, linewidths=0.9)
        axes.clabel(lines, lines.levels[1:], fmt=lambda value: f"{value:.2f}", fontsize=8)
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.annotate(
            "", tuple(alone), tuple(w), arrowprops={"arrowstyle": "->", "color": LOSE, "linewidth": 1.8}
        )
        axes.annotate(
            "", tuple(helped), tuple(w), arrowprops={"arrowstyle": "->", "color": solver, "linewidth": 1.8}
        )
        for point, colour, words in (
            (w, KEEP, "dense"),
            (alone, LOSE, f"removed alone: error {error(alone):.2f}"),
            (helped, solver, f"the other helps: error {error(helped):.2f}"),
        ):
            axes.plot(*point, "o", color=colour, markersize=8)
            place = {"va": "top", "y": 0.93} if colour == LOSE else {"va": "bottom", "y": point[1] + 0.03}
            axes.text(point[0] + 0.04, s=words, fontsize=9, backgroundcolor="none", **place)
        axes.set(
            xlabel="first weight (0 = removed)", ylabel="second weight", xlim=(-0.25, 1.1), ylim=(0.4, 1.7)
        )
        axes.grid(visible=False)

    points = {"dense": w, "removed alone": alone, "removed, the other helps": helped}
    rows = [{"": name, "first": p[0], "second": p[1], "error": error(p)} for name, p in points.items()]
    return figure(
        draw,
        3.3,
        "The other weight makes up for the lost one",
        "Lines of equal output error for two inputs of correlation 0.8. Removing the first weight means reaching the "
        "vertical line; the cheapest place on it is not straight to the left.",
        f"Setting the first weight to zero costs {error(alone):.2f}; raising the second from 1 to {helped[1]:.1f} "
        f"at the same time costs {error(helped):.2f}.",
        pd.DataFrame(rows),
    )


OPT = {
    "hidden": 2560,
    "blocks": 32,
    "mlp": 10240,
    "tokens": 50272,
    "positions": 2050,
}  # OPT-2.7B's configuration


def subset_counts(
    hidden: int, blocks: int, mlp: int, tokens: int, positions: int, rank: int = 16
) -> dict[str, int]:
    """Parameters of each subset of an OPT model; the head shares the matrix of the embeddings."""
    linears = [(hidden, hidden)] * 4 + [(hidden, mlp), (mlp, hidden)]
    biases = (
        blocks * (sum(outputs for _, outputs in linears) + 2 * hidden) + hidden
    )  # those of the norms, too
    matrices = blocks * sum(inputs * outputs for inputs, outputs in linears)
    norms = 2 * hidden * (2 * blocks + 1)
    adapters = blocks * rank * sum(inputs + outputs for inputs, outputs in linears)
    head = tokens * hidden
    return {
        "norms": norms,
        "biases": biases,
        "adapters": adapters,
        "head": head,
        "everything": matrices + biases + norms // 2 + head + positions * hidden,
    }


def perp() -> Figure:
    """Where the parts of a block are, and which share of the model they hold."""
    counts = subset_counts(**OPT)
    share = {name: 100 * count / counts["everything"] for name, count in counts.items()}
    methods = ("norms", "biases", "masklora", "head", "full")
    colours = dict(zip(counts, map(method_colour, methods), strict=True))
    boxes = [("norm", "norms"), ("Q K V", ""), ("O", ""), ("norm", "norms"), ("MLP up", ""), ("MLP down", "")]

    def draw(canvas: Canvas) -> None:
        left, right = canvas.subplots(1, 2, width_ratios=(1, 1.5))
        for at, (name, subset) in enumerate(boxes):
            y = -at
            tall = 0.4 if subset else 0.75
            look: dict[str, Any] = {
                "facecolor": colours[subset or "everything"],
                "alpha": 0.55,
                "edgecolor": INK,
            }
            left.add_patch(Rectangle((0, y - tall / 2), 1.6, tall, **look))
            left.text(0.8, y, name, ha="center", va="center", fontsize=8.5)
            if not subset:
                left.add_patch(Rectangle((1.7, y - tall / 2), 0.14, tall, color=colours["biases"]))
                for x in (1.96, 2.2):
                    left.add_patch(Rectangle((x, y - tall / 2), 0.1, tall, color=colours["adapters"]))
        left.set(xlim=(-0.1, 2.5), ylim=(-5.6, 0.6))
        bare(left, "one block")
        names = list(share)
        right.barh(range(5), list(share.values()), color=[colours[name] for name in names])
        for at, name in enumerate(names):
            right.text(share[name] * 1.3, at, f"{share[name]:.3g} %", va="center", fontsize=9)
        right.set(xscale="log", xlim=(0.005, 1500), xlabel="share of the parameters (%)", ylim=(4.6, -0.6))
        right.set_xticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
        right.set_yticks(range(5), names)
        right.grid(visible=False, axis="y")

    table = pd.DataFrame(
        {"part": list(counts), "parameters": list(counts.values()), "percent": list(share.values())}
    )
    return figure(
        draw,
        2.7,
        "What can be retrained, and how little it is",
        "A block of OPT-2.7B: each matrix has a strip of biases and, if one adds them, two thin adapters (here of "
        "rank 16). The axis of the shares is logarithmic. The biases of the norms count in both of the first rows.",
        f"Of OPT-2.7B's parameters the norms are {share['norms']:.3g} %, the biases {share['biases']:.3g} %, adapters "
        f"of rank 16 would be {share['adapters']:.2g} %, the head is {share['head']:.2g} %.",
        table,
    )


def adapters() -> Figure:
    """Zeros of a pruned matrix after three kinds of adapters were merged."""
    source = np.random.default_rng(0)
    mask = source.random((6, 8)) > 0.5
    weight = source.standard_normal((6, 8)) * mask
    product_ba = source.standard_normal((6, 2)) @ source.standard_normal((2, 8))
    merged = {
        "pruned": weight,
        "LoRA": weight + product_ba,
        "MaskLoRA": weight + mask * product_ba,
        "ScaleLoRA": weight * product_ba,
    }
    zeros = {name: int((matrix[~mask] == 0).sum()) for name, matrix in merged.items()}
    total = zeros["pruned"]

    def draw(canvas: Canvas) -> None:
        for axes, (name, matrix) in zip(canvas.subplots(1, 4), merged.items(), strict=True):
            colour = KEEP if zeros[name] == total else LOSE
            cells(axes, matrix, matrix != 0, f"{name}\n{zeros[name]} of {total} zeros", colour, text="")

    return figure(
        draw,
        1.5,
        "Only a masked or multiplied correction keeps the zeros",
        "A pruned 6 x 8 matrix, and what it is after an adapter of rank two was merged into it. Hollow cells are zero.",
        f"Of the {total} zeros of the pruned matrix {zeros['LoRA']} are left after merging LoRA, and all of them after "
        "merging MaskLoRA or ScaleLoRA.",
        pd.DataFrame({"matrix": list(zeros), "zeros kept": list(zeros.values())}),
    )
