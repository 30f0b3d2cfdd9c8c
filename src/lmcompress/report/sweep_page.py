"""The page of a sweep: small multiples over the parameters that vary, with the explorer's filters, and all runs."""

import pandas as pd

from lmcompress.report import explorer, figures
from lmcompress.report.html import table

MEASURES = (
    "result.perplexity.value",
    "result.loss.value",
    "result.accuracy.value",
)  # shown first, where there


def page(frame: pd.DataFrame, name: str) -> str:
    """A whole HTML page for the table of a sweep (:func:`lmcompress.plan.table`).

    The parameter with the most values lies along the axis, the next makes the lines, the third the panels; runs that
    agree in these are averaged.
    """
    varied, measure = _varied(frame), _measure(frame)
    if not varied or not measure:
        return explorer.document(name, table(frame, f"All runs of {name}"))
    x, series, panels, *others = [*varied, None, None]
    shown = frame.groupby([one for one in (x, series, panels) if one], sort=False, as_index=False)[
        measure
    ].mean()
    mean = f"Mean over {', '.join(filter(None, others))}. " if any(others) else ""
    drawn = figures.lines(
        shown,
        x,
        measure,
        series,
        panels=panels,
        log="y" if (shown[measure] > 0).all() and shown[measure].max() > 10 * shown[measure].min() else "",
        title=f"{measure.removeprefix('result.').removesuffix('.value')} of the sweep {name}",
        caption=f"{mean}{len(frame)} runs.",
        alt=f"{measure} over {x}, from {shown[measure].min():.4g} to {shown[measure].max():.4g}.",
    )
    measures = [measure, *(one for one in _numbers(frame) if one != measure), "seconds"]
    listed = table(frame[[*varied, *measures, "key"]], f"All runs of {name}")
    first = {"y": measure, "x": x, "colour": series or "", "panels": panels or ""}
    views = {"all runs": {part: column for part, column in first.items() if column}}
    body = explorer.piece(frame, varied, measures, views, name, drawn._repr_html_() + listed)
    return explorer.document(name, body)


def _varied(frame: pd.DataFrame) -> list[str]:
    """Parameters with several values, the one with most of them first."""
    told = [name for name in frame.columns if not name.startswith("result.")]
    names = [name for name in told if name not in ("seconds", "device", "key")]
    counts = {name: frame[name].nunique(dropna=False) for name in names}
    return sorted(
        (name for name in names if counts[name] > 1), key=lambda name: (name == "seed", -counts[name])
    )


def _numbers(frame: pd.DataFrame) -> list[str]:
    found = [name for name in frame.columns if name.startswith("result.") and frame[name].dtype.kind in "fi"]
    return [name for name in found if frame[name].notna().any()]


def _measure(frame: pd.DataFrame) -> str | None:
    numbers = _numbers(frame)
    return next((name for name in (*MEASURES, *numbers) if name in numbers), None)
