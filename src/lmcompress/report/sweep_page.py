"""The page of a sweep: small multiples over the parameters that vary, and the table of all runs."""

import html

import pandas as pd

from lmcompress.report import figures
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
    parts = []
    varied = _varied(frame)
    if varied and (measure := _measure(frame)):
        x, series, panels, *others = [*varied, None, None]
        shown = frame.groupby([one for one in (x, series, panels) if one], sort=False, as_index=False)[
            measure
        ].mean()
        mean = f"Mean over {', '.join(one for one in others if one)}. " if any(others) else ""
        parts.append(
            figures.lines(
                shown,
                x,
                measure,
                series,
                panels=panels,
                log_y=bool((shown[measure] > 0).all() and shown[measure].max() > 10 * shown[measure].min()),
                title=f"{measure.removeprefix('result.').removesuffix('.value')} of the sweep {name}",
                caption=f"{mean}{len(frame)} runs.",
                alt=f"{measure} over {x}, from {shown[measure].min():.4g} to {shown[measure].max():.4g}.",
            )
        )
    columns = [
        *varied,
        *(column for column in frame.columns if column.startswith("result.")),
        "seconds",
        "key",
    ]
    parts.append(table(frame[columns], f"All runs of {name}"))
    body = "\n".join(part._repr_html_() for part in parts)
    title = html.escape(name)
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><h1>{title}</h1>{body}</html>\n'


def _varied(frame: pd.DataFrame) -> list[str]:
    """Parameters with several values, the one with most of them first."""
    told = [name for name in frame.columns if not name.startswith("result.")]
    names = [name for name in told if name not in ("seconds", "device", "key")]
    counts = {name: frame[name].nunique(dropna=False) for name in names}
    return sorted(
        (name for name in names if counts[name] > 1), key=lambda name: (name == "seed", -counts[name])
    )


def _measure(frame: pd.DataFrame) -> str | None:
    numbers = [
        name for name in frame.columns if name.startswith("result.") and frame[name].dtype.kind in "fi"
    ]
    return next(
        (name for name in (*MEASURES, *numbers) if name in numbers and frame[name].notna().any()), None
    )
