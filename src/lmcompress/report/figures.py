"""All figures of the pages. A figure is a tidy table drawn as SVG, with a caption, a text for those who do
not see it, and the table itself folded away below it.

The arguments that are not texts of the figure name columns of the table, and these names label the axes:
rename columns to what a reader should see. A column that is categorical fixes order and colours, whatever is
absent; numbers are sorted; the rest stays in its order. Unknown and infinite values are gaps. Every function
raises :class:`~lmcompress.errors.ParameterError` for an unknown column, nothing to draw, and a missing text.

The pages' other pieces (tables, the run behind a figure, what was not run, verdicts) are in
:mod:`lmcompress.report.html` and can be had from here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from html import escape
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from lmcompress.errors import ParameterError
from lmcompress.files import atomic_path
from lmcompress.report import findings
from lmcompress.report.canvas import (
    INK,
    METHODS,
    PLAIN,
    Draw,
    Layout,
    bar_style,
    draw_panels,
    levels,
    method_colour,
    name_positions,
    positions,
    slot,
    split,
    spread,
    style,
)
from lmcompress.report.html import (
    coverage,
    details,
    folded,
    not_run,
    number,
    require_text,
    table,
    varied,
    verdicts,
    whole,
)
from lmcompress.report.run_card import cited, provenance

__all__ = [
    "Figure",
    "bars",
    "cited",
    "coverage",
    "folded",
    "heatmap",
    "lines",
    "not_run",
    "provenance",
    "scatter",
    "table",
    "unbeaten",
    "varied",
    "verdicts",
    "whole",
]


DASHES = (4, 3), (1, 2)  # of reference lines, so that two can be told apart


@dataclass(frozen=True)
class Figure:
    """What a figure function returns. A notebook shows it as HTML, :meth:`save` writes the bare SVG."""

    svg: str = field(repr=False)
    title: str
    caption: str
    alt: str
    table: pd.DataFrame = field(repr=False)

    def _repr_html_(self) -> str:
        return self.html()

    def html(self, label: str = "") -> str:
        """The drawing, its caption (after ``label``, which is HTML) and its data, folded away."""
        data = details("Data of this figure", whole(self.table, self.title))
        return (
            f'<figure class="lm-figure" style="margin:1rem 0 .2rem;overflow-x:auto" tabindex="0">{self.svg}<figcaption>'
            f"{label}<strong>{escape(self.title)}.</strong> {escape(self.caption)}</figcaption></figure>{data}"
        )

    def save(self, path: str | Path) -> None:
        """Write the SVG alone, in ink that can be read on white and on black, atomically."""
        with atomic_path(path) as temporary:
            temporary.write_text(self.svg.replace("currentColor", "#7b7f86"), encoding="utf-8")


def lines(
    data: pd.DataFrame,
    x: str,
    y: str,
    series: str | None = None,
    *,
    low: str | None = None,
    high: str | None = None,
    panels: str | None = None,
    own_axes: bool = False,
    reference: dict[str, float] | None = None,
    log_x: bool = False,
    log_y: bool = False,
    title: str,
    caption: str,
    alt: str,
) -> Figure:
    """``y`` against ``x``, one line for each value of ``series``, error bars from ``low`` to ``high``.

    ``panels``: one panel for each value of that column, with ``own_axes`` if their sizes differ much.
    ``reference``: label -> height of a dashed horizontal line, for the dense model, say.
    ``x`` may be text (in its order) or numbers.
    """

    def draw(axes: Axes, rows: pd.DataFrame, names: list) -> None:
        for index, name, part in split(rows, series, names):
            at, error = positions(part[x], data[x]), spread(part, y, low, high)
            axes.errorbar(at, part[y], yerr=error, label=name, **style(slot(names, index)))
        for (label, height), dashes in zip((reference or {}).items(), cycle(DASHES)):
            axes.axhline(height, color=INK, linewidth=1.1, linestyle=(0, dashes), label=label, zorder=1)
        name_positions(axes.xaxis, data[x])

    columns = (x, y, series, low, high)
    layout = Layout((x, y), series, panels, logs=(log_x, log_y), own_axes=own_axes)
    told = partial(findings.of_lines, x=x, y=y, series=series, panels=panels)
    return _figure(data, draw, columns, y, layout, title, caption, alt, told)


def scatter(
    data: pd.DataFrame,
    x: str,
    y: str,
    series: str | None = None,
    *,
    low: str | None = None,
    high: str | None = None,
    panels: str | None = None,
    own_axes: bool = False,
    labels: str | None = None,
    frontier: bool = False,
    diagonal: str = "",
    log_x: bool = False,
    log_y: bool = False,
    title: str,
    caption: str,
    alt: str,
) -> Figure:
    """Points ``(x, y)`` of numbers, one colour for each value of ``series``, ``labels`` written beside them.

    ``frontier`` joins the points that no other beats in both (smaller is better on both axes). ``diagonal``:
    what to call the line on which x and y are equal; it is drawn if it has a name.
    """

    def draw(axes: Axes, rows: pd.DataFrame, names: list) -> None:
        for index, name, part in split(rows, series, names):
            error = spread(part, y, low, high)
            axes.errorbar(
                part[x], part[y], yerr=error, label=name, **style(slot(names, index)) | {"linestyle": "none"}
            )
        if frontier:
            best = unbeaten(rows, x, y)
            axes.step(best[x], best[y], where="post", color=INK, linewidth=1, label="frontier", zorder=1)
        if diagonal:
            dashed = {"color": INK, "linewidth": 1.1, "linestyle": (0, (4, 3)), "zorder": 1}
            ends = max(rows[x].min(), rows[y].min()), min(rows[x].max(), rows[y].max())
            axes.plot(ends, ends, label=diagonal, **dashed)
        for _, row in rows.iterrows() if labels else ():
            text, place = str(row[labels]), (row[x], row[y])
            axes.annotate(text, place, (4, 4), textcoords="offset points", fontsize=8)

    columns = (labels, x, y, series, low, high)
    layout = Layout((x, y), series, panels, logs=(log_x, log_y), own_axes=own_axes)
    told = partial(findings.of_points, x=x, y=y, series=series, panels=panels)
    return _figure(data, draw, columns, y, layout, title, caption, alt, told)


def unbeaten(data: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """The rows, by rising ``x``, that no other row beats in both ``x`` and ``y`` (smaller is better)."""
    best = data.dropna(subset=[x, y]).sort_values([x, y])
    return best[best[y] < best[y].cummin().shift(fill_value=np.inf)]


def bars(
    data: pd.DataFrame,
    category: str,
    value: str,
    series: str | None = None,
    *,
    low: str | None = None,
    high: str | None = None,
    panels: str | None = None,
    log: bool = False,
    title: str,
    caption: str,
    alt: str,
) -> Figure:
    """Horizontal bars, so that long names stay readable; the first category is on top."""

    def draw(axes: Axes, rows: pd.DataFrame, names: list) -> None:
        thickness = 0.8 / len(names)
        for index, name, part in split(rows, series, names):
            at = positions(part[category], data[category], always=True) - 0.4 + thickness * (index + 0.5)
            bar = {"height": thickness * 0.92, "label": name} | bar_style(slot(names, index))
            if series is None and any(one in METHODS for one in part[category]):
                bar["color"] = bar["edgecolor"] = [method_colour(one) for one in part[category]]
            axes.barh(at, part[value], xerr=spread(part, value, low, high), ecolor=INK, **bar)
        name_positions(axes.yaxis, data[category], always=True)
        axes.set_ylim(len(levels(data[category])) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")

    columns = (category, value, series, low, high)
    layout = Layout((value, ""), series, panels, (log, False), category, 0.24)
    told = partial(findings.of_bars, category=category, value=value, series=series, panels=panels)
    return _figure(data, draw, columns, value, layout, title, caption, alt, told)


def heatmap(
    data: pd.DataFrame,
    x: str,
    y: str,
    value: str,
    *,
    centre: float | None = None,
    log: bool = False,
    title: str,
    caption: str,
    alt: str,
) -> Figure:
    """One cell for each pair ``(x, y)``, coloured by ``value``; up to 120 cells carry their number.

    ``centre`` makes the colours diverge from that value, ``log`` spaces them by orders of magnitude.
    """
    import seaborn  # here only: it takes a second to import

    def draw(axes: Axes, rows: pd.DataFrame, names: list) -> None:
        if rows.duplicated([x, y]).any():
            raise ParameterError("data", "several rows for one cell", f"one row for each pair of {x} and {y}")
        grid = rows.pivot(index=y, columns=x, values=value).astype(float)
        grid = grid.reindex(index=levels(rows[y]), columns=levels(rows[x]))
        options = {"norm": LogNorm()} if log else {"center": centre}
        if grid.size <= 120:
            options |= {"annot": grid.map(number), "fmt": "", "annot_kws": {"fontsize": 8}}
        colours = "cividis" if centre is None else "PuOr"
        seaborn.heatmap(grid, ax=axes, cmap=colours, cbar_kws={"label": value, "format": PLAIN}, **options)
        axes.set(xlabel="", ylabel="")
        axes.grid(visible=False)
        axes.tick_params(axis="y", rotation=0)

    layout = Layout(labels=(x, y), rows=y, row=0.27)
    told = partial(findings.of_cells, x=x, y=y, value=value)
    return _figure(data, draw, (x, y, value), value, layout, title, caption, alt, told)


def _figure(
    data: pd.DataFrame,
    draw: Draw,
    columns: tuple[str | None, ...],
    value: str,
    layout: Layout,
    title: str,
    caption: str,
    alt: str,
    told: Callable[[pd.DataFrame], str],
) -> Figure:
    """Refuse what cannot be a figure, then have it drawn; ``told(data)``: what is to be seen, for ``alt``."""
    for name, text in (("title", title), ("caption", caption), ("alt", alt)):
        require_text(name, text)
    if alt.strip() in (title.strip(), caption.strip()):
        raise ParameterError("alt", alt, "what the figure shows, in other words than its title and caption")
    used = list(dict.fromkeys(name for name in (layout.panels, *columns) if name is not None))
    for name in used:
        if name not in data.columns:
            raise ParameterError("column", name, list(data.columns))
    data = data[used].replace([np.inf, -np.inf], np.nan).reset_index(drop=True)
    if data[value].isna().all():  # also when there are no rows
        raise ParameterError(value, f"{len(data)} rows without a finite value", "something to draw")
    alt = f"{alt.strip()} {told(data)}"
    return Figure(draw_panels(data, draw, layout, title, alt), title, caption, alt, data)
