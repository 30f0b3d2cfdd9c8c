"""What figures are drawn on: the style, panels, axes and legend, and the SVG that comes out.

Ink takes the colour of the page's text and the background is transparent. The series' colours keep a contrast
of 3:1 or more on the book's light and dark backgrounds and differ under the common colour blindnesses (both
tested); markers repeat what colours say. The same input gives the same bytes. Only this module and
:mod:`lmcompress.report.figures` know of matplotlib.
"""

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from lmcompress.errors import ParameterError
from lmcompress.report.html import number

PALETTE = ("#5895cd", "#e67400", "#a9388d", "#769e5f", "#673cff", "#cc0629", "#bb8490", "#a976fe")
MARKERS = "osD^vPX*"
# The place of a method in the palette, the same in every figure; families that never meet in one share places.
FAMILIES = (
    ("magnitude", "wanda", "sparsegpt", "magnitude-row", "random", "magnitude-global"),
    (
        *("nothing", "full", "norms", "new-biases", "masklora", "biases", "lora", "biases+norms", "head"),
        *("head-lora", "embeddings", "lora-prune", "norms+masklora", "norms+new-biases", "scalelora"),
    ),
    (
        *(
            "measured truth",
            "CMPQ",
            "PMPQ",
            "TDMPQ",
            "HAWQ-V2",
            "TDMPQ, Fisher",
            "output error",
            "weight error",
        ),
        *("ends high", "middle high", "uniform", "random draws", "CMPQ as released", "PMPQ as released"),
    ),
)
ALLOCATORS = (
    *(
        "uniform, groups",
        "random allocations",
        "measured truth, shrunk",
        "measured divergence",
        "uniform, rows",
    ),
    "uniform, GPTQ",
)  # beside scores, from the tenth place on; never beside scores as released
METHODS = {name: place for family in FAMILIES for place, name in enumerate(family)}
METHODS |= {name: 10 + place for place, name in enumerate(ALLOCATORS)}
GREY = "#7b7f86"  # can be read on white and on black
INK = "#010203"  # drawn in this, written out as currentColor
WIDTH, HEIGHT = 5.6, 2.7  # inches; narrow, so that text is still readable at the width of a phone
WIDE = 7.2  # of several panels side by side, which scroll there
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}

PLAIN = FuncFormatter(lambda value, _: f"{value:,.6g}")  # 1,000 and not 10^3
Draw = Callable[[Axes, pd.DataFrame, list[Any]], None]  # draws some rows; the list names all series


@dataclass(frozen=True)
class Layout:
    """Labels of the axes; columns that give series and panels; which axes are logarithmic.

    ``rows`` is the column whose values stand below each other, each ``row`` inches high for every series.
    ``own_axes``: the panels do not share their numbers, as those of different models, whose sizes differ.
    """

    labels: tuple[str, str]
    series: str | None = None
    panels: str | None = None
    logs: tuple[bool, bool] = (False, False)
    rows: str | None = None
    row: float = 0.0
    own_axes: bool = False


def draw_panels(data: pd.DataFrame, draw: Draw, layout: Layout, title: str, alt: str) -> str:
    """Have ``draw`` fill one panel for each value of ``layout.panels``, and return the SVG."""
    names = levels(data[layout.series]) if layout.series else [None]
    if len(names) > 2 * len(PALETTE):
        raise ParameterError(
            str(layout.series), f"{len(names)} series", f"at most {2 * len(PALETTE)}; use panels"
        )
    shown = levels(data[layout.panels]) if layout.panels else [None]
    across = len(shown) if len(shown) < 4 else 2
    down = -(-len(shown) // across)
    height, width = HEIGHT, WIDTH if across == 1 else WIDE
    if layout.rows:
        height = max(1.7, 1.0 + layout.row * len(levels(data[layout.rows])) * len(names))
    salt = hashlib.sha256(f"{title}\n{alt}\n{data.to_csv()}".encode()).hexdigest()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": salt}):
        canvas = Canvas(figsize=(width, height if down == 1 else 0.85 * height * down), layout="constrained")
        share = not layout.own_axes
        grid = list(canvas.subplots(down, across, squeeze=False, sharex=share, sharey=share).flat)
        for axes, level in zip(grid, shown, strict=False):
            scales = ["log" if log else "linear" for log in layout.logs]
            axes.set(xscale=scales[0], yscale=scales[1])
            draw(axes, data if level is None else data[data[layout.panels] == level], names)
            for axis in (axes.xaxis, axes.yaxis):
                _write_numbers(axis, across)
            if level is not None:
                name = level if isinstance(level, str) else f"{layout.panels} {number(level)}"
                axes.set_title(name, fontsize=9.5, loc="left")
        for axes in grid[len(shown) :]:
            axes.remove()
        for axes in grid[len(shown) - across : len(shown)]:
            axes.tick_params(labelbottom=True)  # also of the one that stands above a gap
        canvas.supxlabel(layout.labels[0], fontsize=9.5)
        if layout.labels[1]:
            canvas.supylabel(layout.labels[1], fontsize=9.5)
        if layout.series != layout.panels or not layout.series:
            _legend(canvas)
        return _svg(canvas, title, alt)


def drawing(draw: Callable[[Canvas], None], height: float, title: str, alt: str, width: float = WIDTH) -> str:
    """Have ``draw`` fill an empty canvas of ``height`` inches in the style of all figures, and return the SVG."""
    salt = hashlib.sha256(f"{title}\n{alt}".encode()).hexdigest()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": salt}):
        canvas = Canvas(figsize=(width, height), layout="constrained")
        draw(canvas)
        return _svg(canvas, title, alt)


def levels(column: pd.Series) -> list[Any]:
    """The values of a column in order: a categorical's categories, numbers by size, others as they come."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.categories)
    found = list(column.dropna().unique())
    return sorted(found) if pd.api.types.is_numeric_dtype(column) else found


def slot(names: list[Any], index: int) -> int:
    """The place in the palette of the series at this index: its method's own, else the first that none of them has."""
    own = [METHODS.get(name) if isinstance(name, str) else None for name in names]
    own = [one if own.index(one) == at else None for at, one in enumerate(own)]  # two families in one figure
    free = (one for one in range(len(names) + len(own)) if one not in own)
    return [next(free) if one is None else one for one in own][index]


def style(index: int) -> dict[str, Any]:
    """How the series at this place in the palette is drawn: the second eight dashed, with hollow markers."""
    again, place = divmod(index, len(PALETTE))
    line = {"linestyle": "--", "fillstyle": "none"} if again else {"linestyle": "-"}
    return line | {"color": PALETTE[place], "marker": MARKERS[place], "capsize": 2.5}


def bar_style(index: int) -> dict[str, Any]:
    """The same for bars: the second eight are hollow."""
    again, place = divmod(index, len(PALETTE))
    return {"color": "none" if again else PALETTE[place], "edgecolor": PALETTE[place]}


def method_colour(name: str) -> str:
    """The colour of a method in all figures; grey where it has none of its own."""
    return PALETTE[METHODS[name] % len(PALETTE)] if name in METHODS else GREY


def split(
    rows: pd.DataFrame, series: str | None, names: list[Any]
) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """``(index, label, rows)`` of each series that has rows."""
    for index, name in enumerate(names):
        part = rows if name is None else rows[rows[series] == name]
        if len(part):
            yield index, "_nolegend_" if name is None else number(name), part


def spread(part: pd.DataFrame, y: str, ends: tuple[str, ...]) -> np.ndarray | None:
    """Lengths [2, n] of the error bars between the columns ``ends``; None where the table has none."""
    if not ends or ends[0] not in part:
        return None
    return np.stack([part[y] - part[ends[0]], part[ends[1]] - part[y]]).astype(float).clip(min=0)


def positions(part: pd.Series, whole: pd.Series, always: bool = False) -> pd.Series:
    """Where values stand on an axis: numbers at themselves, others (or ``always``) by their order."""
    if pd.api.types.is_numeric_dtype(whole) and not always:
        return part
    place = {level: index for index, level in enumerate(levels(whole))}
    return part.map(place).astype(float)


def name_positions(axis: Axis, whole: pd.Series, always: bool = False) -> None:
    """Write the values at their places, where :func:`positions` put them by order."""
    if always or not pd.api.types.is_numeric_dtype(whole):
        found = levels(whole)
        axis.set_ticks(range(len(found)), [number(level) for level in found])


def _write_numbers(axis: Any, across: int) -> None:
    """Plain numbers; on a logarithmic axis with few powers of ten also those between them."""
    if axis.get_scale() == "log":
        low, high = sorted(axis.get_view_interval())
        long = low < 1e-4 or high > 2e4  # numbers such as 1e-09 or 100,000 side by side
        room = (5 if across == 1 or not long else 3) if axis.axis_name == "x" else 8
        decades = LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,), numticks=room)
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]) if high < 5 * low else decades)
        axis.set_minor_formatter(NullFormatter())
    elif isinstance(axis.get_major_formatter(), ScalarFormatter):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    else:
        return  # names, not numbers
    axis.set_major_formatter(PLAIN)


def _legend(canvas: Canvas) -> None:
    handles: dict[str, Any] = {}
    for axes in canvas.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        order = sorted(handles, key=lambda label: isinstance(handles[label], matplotlib.lines.Line2D))
        columns = max(1, min(len(handles), int(canvas.get_figwidth() * 13 / (max(map(len, handles)) + 5))))
        options: dict[str, Any] = {"loc": "outside upper left", "ncols": columns, "fontsize": 9}
        canvas.legend([handles[label] for label in order], order, **options)
        canvas.set_figheight(canvas.get_figheight() + 0.19 * -(-len(order) // columns))


def _svg(canvas: Canvas, title: str, alt: str) -> str:
    """The canvas as an ``<svg>`` that scales with the page and tells a screen reader ``alt``."""
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL
    )  # would rule the whole page
    body = re.sub(r'<g id="[^"]*">', "<g>", body)  # the same in every figure, hence not unique in a page
    body = body.replace(INK, "currentColor").replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")
    box = re.findall(r'viewBox="[^"]*"', text)[0]
    wide = canvas.get_figwidth()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box} role="img"'
        f' aria-label="{escape(alt)}" class="{"lm-wide" if wide == WIDE else "lm-plain"}" style="width:100%;'
        f'max-width:{6.6 * wide:.0f}rem;height:auto;stroke-linejoin:round"><title>{escape(title)}</title>{body}'
    )
