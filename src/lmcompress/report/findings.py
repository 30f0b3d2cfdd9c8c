"""What a figure shows, in words made of its numbers: for those who do not see it."""

from collections.abc import Callable

import pandas as pd

from lmcompress.report.html import number

MANY = 8  # more lines or bars are told by their ends


def of_lines(data: pd.DataFrame, x: str, y: str, series: str | None, panels: str | None) -> str:
    """Each line from its first to its last value, a sentence a panel."""

    def told(rows: pd.DataFrame) -> str:
        ends = rows.dropna(subset=[x, y])
        if pd.api.types.is_numeric_dtype(ends[x]):
            ends = ends.sort_values(x, kind="stable")
        if ends.empty:
            return ""
        first, last = ends.iloc[0], ends.iloc[-1]
        if len(ends) == 1:
            return f"{number(first[y])} at {number(first[x])}"
        return f"{number(first[y])} at {number(first[x])} to {number(last[y])} at {number(last[x])}"

    return _each_panel(data, panels, lambda rows: _each_series(rows, series, told), y)


def of_bars(data: pd.DataFrame, category: str, value: str, series: str | None, panels: str | None) -> str:
    """Every bar, or of many the smallest and the largest, a sentence a panel."""

    def told(rows: pd.DataFrame) -> str:
        bars = rows.dropna(subset=[value]).sort_values(value)
        if len(bars) > MANY:
            bars = bars.iloc[[0, -1]]
        return ", ".join(f"{number(one[category])} {number(one[value])}" for _, one in bars.iterrows())

    return _each_panel(data, panels, lambda rows: _each_series(rows, series, told), value)


def of_points(data: pd.DataFrame, x: str, y: str, series: str | None, panels: str | None) -> str:
    """How far the points of every series reach on both axes, a sentence a panel."""

    def told(rows: pd.DataFrame) -> str:
        rows = rows.dropna(subset=[x, y])
        if rows.empty:
            return ""
        ends = [f"{number(rows[name].min())} to {number(rows[name].max())}" for name in (x, y)]
        return f"{ends[0]} across, {ends[1]} up"

    return _each_panel(data, panels, lambda rows: _each_series(rows, series, told), f"{y} against {x}")


def _each_series(rows: pd.DataFrame, series: str | None, told: Callable[[pd.DataFrame], str]) -> str:
    if series is None:
        return told(rows)
    names = list(rows[series].dropna().unique())
    parts = [(number(name), told(rows[rows[series] == name])) for name in names[: 2 * MANY]]
    return "; ".join(f"{name}: {text}" for name, text in parts if text)


def _each_panel(
    data: pd.DataFrame, panels: str | None, told: Callable[[pd.DataFrame], str], what: str
) -> str:
    if panels is None:
        return f"{what}: {told(data)}."
    parts = [(number(name), told(data[data[panels] == name])) for name in data[panels].dropna().unique()]
    return " ".join(f"{name}, {what}: {text}." for name, text in parts if text)
