"""All figures of the pages. A figure is a tidy table drawn as SVG, with a caption, a text for those who do
not see it, and the table itself folded away below it.

The arguments that are not texts of the figure name columns of the table, and these names label the axes:
rename columns to what a reader should see. Columns ``low`` and ``high`` become error bars. A column that is
categorical fixes order and colours, whatever is absent; numbers are sorted; the rest stays in its order. Unknown
and infinite values are gaps. Every function raises :class:`~lmcompress.errors.ParameterError` for an unknown
column, nothing to draw, and a missing text.

The pages' other pieces (tables, the run behind a figure, what was not run, verdicts) are in
:mod:`lmcompress.report.html` and can be had from here.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from html import escape
from itertools import cycle
from typing import Any, TypedDict, Unpack

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from lmcompress.errors import ParameterError
from lmcompress.report import findings
from lmcompress.report.canvas import (
    INK,
    METHODS,
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
    details,
    folded,
    not_run,
    require_text,
    table,
    tabled,
    tables,
    varied,
    verdicts,
    whole,
)
from lmcompress.report.run_card import cited, provenance

__all__ = [
    "Figure",
    "bars",
    "cited",
    "folded",
    "lines",
    "not_run",
    "provenance",
    "scatter",
    "table",
    "tabled",
    "tables",
    "varied",
    "verdicts",
    "whole",
]


DASHES = (4, 3), (1, 2)  # of reference lines, so that two can be told apart
ENDS = ("low", "high")  # columns between which error bars are drawn where a table has both


class Texts(TypedDict):
    """What every figure must say; ``alt``: in other words than title and caption."""

    title: str
    caption: str
    alt: str


@dataclass(frozen=True)
class Figure:
    """What a figure function returns. A notebook shows it as HTML."""

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


def lines(
    data: pd.DataFrame,
    x: str,
    y: str,
    series: str | None = None,
    *,
    ends: tuple[str, ...] = ENDS,
    panels: str | None = None,
    own_axes: bool = False,
    reference: dict[str, float] | None = None,
    log: str = "",
    **texts: Unpack[Texts],
) -> Figure:
    """``y`` against ``x``, one line for each value of ``series``, error bars between the columns ``ends``.

    ``panels``: one panel for each value of that column, with ``own_axes`` if their sizes differ much.
    ``reference``: label -> height of a dashed horizontal line, for the dense model, say.
    ``x`` may be text (in its order) or numbers.
    """

    def draw(axes: Axes, rows: pd.DataFrame, names: list[Any]) -> None:
        for index, name, part in split(rows, series, names):
            at, error = positions(part[x], data[x]), spread(part, y, ends)
            axes.errorbar(at, part[y], yerr=error, label=name, **style(slot(names, index)))
        for (label, height), dashes in zip((reference or {}).items(), cycle(DASHES)):
            axes.axhline(height, color=INK, linewidth=1.1, linestyle=(0, dashes), label=label, zorder=1)
        name_positions(axes.xaxis, data[x])

    layout = Layout((x, y), series, panels, logs=("x" in log, "y" in log), own_axes=own_axes)
    told = partial(findings.of_lines, x=x, y=y, series=series, panels=panels)
    return _figure(data, draw, (x, y, series), y, ends, layout, texts, told)


def scatter(
    data: pd.DataFrame,
    x: str,
    y: str,
    series: str | None = None,
    *,
    ends: tuple[str, ...] = ENDS,
    panels: str | None = None,
    own_axes: bool = False,
    diagonal: str = "",
    log: str = "",
    **texts: Unpack[Texts],
) -> Figure:
    """Points ``(x, y)`` of numbers, one colour for each value of ``series``, error bars between the columns
    ``ends``. ``diagonal``: what to call the line on which x and y are equal; it is drawn if it has a name.
    """

    def draw(axes: Axes, rows: pd.DataFrame, names: list[Any]) -> None:
        for index, name, part in split(rows, series, names):
            look = style(slot(names, index)) | {"linestyle": "none"}
            axes.errorbar(part[x], part[y], yerr=spread(part, y, ends), label=name, **look)
        if diagonal:
            dashed: dict[str, Any] = {"color": INK, "linewidth": 1.1, "linestyle": (0, (4, 3)), "zorder": 1}
            both = max(rows[x].min(), rows[y].min()), min(rows[x].max(), rows[y].max())
            axes.plot(both, both, label=diagonal, **dashed)

    layout = Layout((x, y), series, panels, logs=("x" in log, "y" in log), own_axes=own_axes)
    told = partial(findings.of_points, x=x, y=y, series=series, panels=panels)
    return _figure(data, draw, (x, y, series), y, ends, layout, texts, told)


def bars(
    data: pd.DataFrame,
    category: str,
    value: str,
    series: str | None = None,
    *,
    ends: tuple[str, ...] = ENDS,
    panels: str | None = None,
    log: bool = False,
    **texts: Unpack[Texts],
) -> Figure:
    """Horizontal bars, so that long names stay readable; the first category is on top."""

    def draw(axes: Axes, rows: pd.DataFrame, names: list[Any]) -> None:
        thickness = 0.8 / len(names)
        for index, name, part in split(rows, series, names):
            at = positions(part[category], data[category], always=True) - 0.4 + thickness * (index + 0.5)
            bar: dict[str, Any] = {"height": thickness * 0.92, "label": name} | bar_style(slot(names, index))
            if series is None and any(one in METHODS for one in part[category]):
                bar["color"] = bar["edgecolor"] = [method_colour(one) for one in part[category]]
            axes.barh(at, part[value], xerr=spread(part, value, ends), ecolor=INK, **bar)
        name_positions(axes.yaxis, data[category], always=True)
        axes.set_ylim(len(levels(data[category])) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")

    layout = Layout((value, ""), series, panels, (log, False), category, 0.24)
    told = partial(findings.of_bars, category=category, value=value, series=series, panels=panels)
    return _figure(data, draw, (category, value, series), value, ends, layout, texts, told)


def _figure(
    data: pd.DataFrame,
    draw: Draw,
    columns: tuple[str | None, ...],
    value: str,
    ends: tuple[str, ...],
    layout: Layout,
    texts: Texts,
    told: Callable[[pd.DataFrame], str],
) -> Figure:
    """Refuse what cannot be a figure, then have it drawn; ``told(data)``: what is to be seen, for ``alt``."""
    for name in ("title", "caption", "alt"):
        require_text(name, texts.get(name))
    title, caption, alt = texts["title"], texts["caption"], texts["alt"]
    if alt.strip() in (title.strip(), caption.strip()):
        raise ParameterError("alt", alt, "what the figure shows, in other words than its title and caption")
    shown = () if ends == ENDS and not set(ends) <= set(data.columns) else ends
    used = list(dict.fromkeys(name for name in (layout.panels, *columns, *shown) if name is not None))
    for name in used:
        if name not in data.columns:
            raise ParameterError("column", name, list(data.columns))
    data = data[used].replace([np.inf, -np.inf], np.nan).reset_index(drop=True)
    if data[value].isna().all():  # also when there are no rows
        raise ParameterError(value, f"{len(data)} rows without a finite value", "something to draw")
    if shown and (data[shown[0]].gt(data[value]) | data[shown[1]].lt(data[value])).mean() > 0.5:
        raise ParameterError("ends", shown, f"an interval around {value}, or () for no error bars")
    alt = f"{alt.strip()} {told(data)}"
    return Figure(draw_panels(data, draw, layout, title, alt), title, caption, alt, data)
