"""The explorer: a table of results that a reader filters, draws and redoes in the browser.

:func:`points` makes one row of every result in the published records; :func:`piece` makes the HTML of any such table,
which ``static/explorer.js`` brings to life. Without JavaScript a reader sees what the caller gives as a fallback.
"""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from statistics import fmean

import pandas as pd

from lmcompress import plans, records
from lmcompress.files import carried
from lmcompress.records import Record
from lmcompress.report import canvas, figures, mask_pictures
from lmcompress.report.html import Html

STATIC = Path(__file__).with_name("static")
FILES = ("explorer.css", "tables.js", "explorer.js")  # in this order
SHARED = (
    "model",
    "criterion",
    "pattern",
    "subset",
    "score",
    "method",
)  # parameters that are filters as they stand
FACETS = ("page", "kind", *SHARED, "budget", "measured on", "seed")
MEASURES = (
    "perplexity",
    "KL",
    "accuracy",
    "loss increase",
    "bits a weight",
    "MB",
    "trainable (%)",
    "tokens/s",
    "seconds",
)
BESIDE = {
    "random_band": "random draws",
    "uniform_format": "uniform",
    "joint": "measured truth",
}  # no score of their own
PROFILES = ("full", "sst2", "cpu")
# Of the pages whose names begin so: views that the book's explorer offers, question by question.
_RETRAINED = {
    "kind": "retrain",
    "criterion": "magnitude",
    "measured on": "wikipedia-vital",
    "y": "perplexity",
}
_ALLOCATED = {"page": "34_bit_allocation", "kind": "frontier", "y": "loss increase", "x": "bits a weight"}
_SUBSETS = _RETRAINED | {"page": "20_retrain_subsets", "x": "pattern", "colour": "subset"}
_COST = {"page": "33_sensitivity_shootout", "kind": "score", "y": "seconds", "x": "score", "colour": "model"}
VIEWS = {
    "": {
        "Which criterion survives which sparsity?": {
            "page": "10_pruning_sweep",
            "kind": "pruned_model",
            "y": "perplexity",
            "x": "pattern",
            "colour": "criterion",
        },
        "What does retraining win back?": _SUBSETS,
        "Which score finds the better bits?": _ALLOCATED | {"colour": "score", "panels": "measured on"},
        "What does a score cost?": _COST,
    },
    "2": {
        "What does retraining win back?": _SUBSETS,
        "With steps in between?": _RETRAINED
        | {"page": "22_iterative_or_one_shot", "x": "pattern", "colour": "subset"},
        "What is trained, and what does it buy?": _SUBSETS | {"x": "trainable (%)", "panels": "pattern"},
    },
    "3": {
        "Which score finds the better bits?": _ALLOCATED
        | {"measured on": "wikipedia-vital", "colour": "score"},
        "And on SST-2?": _ALLOCATED | {"measured on": "sst2", "colour": "score"},
        "What does a score cost?": _COST,
    },
}


def points() -> pd.DataFrame:
    """One row a result: :data:`FACETS`, :data:`MEASURES`, ``record``, ``bars`` (a pair of a name and
    ``{layer: number}``, or None) and ``picture`` of its mask (HTML or None). A record of several budgets or corpora has
    several rows.
    """
    pages, masks = pages_of(), mask_pictures.pictures()
    found = []
    for kind in records.published_kinds():
        for record in records.published_records(kind):
            about = {name: record.parameters.get(name) for name in SHARED}
            about["score"] = about["score"] or BESIDE.get(record.kind)
            about |= {"kind": record.kind, "seed": record.parameters.get("seed"), "record": record}
            about |= {"page": pages.get(_run(record.kind, record.parameters), "of no page")}
            about |= {"seconds": record.provenance["seconds"], "picture": masks.get(record.key)}
            found += [about | point for point in _points(record)]
    return pd.DataFrame(found, columns=[*FACETS, *MEASURES, "record", "bars", "picture"])


def _run(kind: str, parameters: dict) -> str:
    return kind + json.dumps(parameters, sort_keys=True)


@lru_cache(maxsize=1)
def pages_of() -> dict[str, str]:
    """Kind and parameters of a run -> the first notebook that asks for it in one of :data:`PROFILES`."""
    found: dict[str, str] = {}
    for name in sorted(path.stem for path in carried("notebooks").glob("*.md")):
        for profile in PROFILES:
            if profile == "full" or plans.profile(profile, name):
                for one in plans.planned(name, profile):
                    found.setdefault(_run(one.kind, one.model_dump(mode="json")), name)
    return found


def _points(record: Record) -> Iterator[dict]:
    """What the rows of a record have besides its parameters."""
    result, on = record.result, record.parameters.get("data")
    shares = {"trainable (%)": result.get("percent")}
    if "points" in result:
        for point in result["points"]:
            if "increase" not in point:  # a budget that no allocation fits
                continue
            yield {"measured on": on, **_size(point), "bars": _bits(record, point.get("choice"))}
    elif "file_bytes" in result:
        yield {
            "measured on": on,
            **_size(result | {"bits": result["block_bits"]}),
            "MB": result["file_bytes"] / 1e6,
        }
    elif tests := result.get("tests") or result.get("tasks"):
        for name, test in tests.items():
            measured = {
                "perplexity": test.get("perplexity"),
                "KL": test.get("kl"),
                "accuracy": test.get("accuracy"),
            }
            yield {"measured on": name, **measured, **shares, "bars": _bars(record)}
    else:
        values = {
            "perplexity": result.get("perplexity"),
            "KL": result.get("kl"),
            "accuracy": result.get("right"),
        }
        values = {name: one["value"] if isinstance(one, dict) else one for name, one in values.items()}
        speed = result.get("decode") or result.get("tokens_per_s")
        values |= {"tokens/s": speed, "MB": (result.get("weight_bytes") or 0) / 1e6 or None}
        yield {"measured on": on, **values, **shares, "bars": _bars(record)}


def _size(point: dict) -> dict:
    """Of one allocation: its size and what it costs."""
    return {
        "budget": f"{round(2 * point['bits']) / 2:g} bits",
        "bits a weight": point["bits"],
        "MB": point.get("model_bytes", 0) / 1e6 or None,
        "loss increase": point["increase"],
        "accuracy": point.get("right"),
    }


def _bits(record: Record, choice: list | dict | None) -> tuple[str, dict] | None:
    if isinstance(choice, dict):  # "70% at 2 bits", a layer
        bits = {layer: float(text.rpartition(" at ")[2].split()[0]) for layer, text in choice.items()}
        return "bits of each layer", bits
    return choice and ("bits of each layer", dict(enumerate(choice)))


def _bars(record: Record) -> tuple[str, dict] | None:
    """What a record knows of single layers."""
    result = record.result
    if layers := result.get("per_layer"):
        one = next(iter(layers.values()))
        if isinstance(one, dict):  # a score for each width: the narrowest
            width = min(one, key=float)
            return f"score at {width} bits", {layer: values[width] for layer, values in layers.items()}
        return "score", layers
    if record.kind == "truth":
        width, base = min(next(iter(result["losses"].values())), key=float), fmean(result["base"])
        rises = {layer: fmean(values[width]) - base for layer, values in result["losses"].items()}
        return f"loss increase with this layer alone at {width} bits", rises
    if errors := result.get("errors"):
        layers = {
            f"{block}.{name}": value for name, column in errors.items() for block, value in enumerate(column)
        }
        return "relative error of the output", layers
    if isinstance(blocks := result.get("blocks"), list):
        return "relative error after reconstruction", {str(i): one["after"] for i, one in enumerate(blocks)}
    return None


def of_book(pages: str, link: str) -> Html:
    """The explorer of the notebooks whose names begin with ``pages``, one of :data:`VIEWS`, with its first view as a
    figure and a table for a reader without JavaScript. link: see :func:`piece`.
    """
    frame, views = points(), VIEWS[pages]
    view = next(iter(views.values()))
    frame = frame[frame["page"].str.startswith(pages)].reset_index(drop=True)
    shown = frame
    for name in FACETS:
        shown = shown[shown[name] == view[name]] if name in view else shown
    masks = "".join(shown["picture"].dropna())
    masks = masks and f'<p>{mask_pictures.about()}</p><div class="lm-masks">{masks}</div>'
    y, x, colour = view["y"], view["x"], view["colour"]
    shown = shown.dropna(subset=[y, x, colour])[[x, colour, *(name for name in MEASURES if name not in (x,))]]
    shown = shown.dropna(axis=1, how="all").groupby([colour, x], as_index=False).median(numeric_only=True)
    about = ", ".join(f"{name} {view[name]}" for name in FACETS if name in view)
    words = {"title": f"{y} over {x}", "caption": f"Medians over draws; {about}."}
    if not pd.api.types.is_numeric_dtype(shown[x]):
        shown[x] = pd.Categorical(shown[x], sorted(shown[x].unique(), key=_order))
    low, high = shown.loc[shown[y].idxmin()], shown.loc[shown[y].idxmax()]
    alt = f"Lowest for {low[colour]} at {low[x]}, {low[y]:.4g}; highest for {high[colour]} at {high[x]}, {high[y]:.4g}."
    log = bool(shown[y].min() > 0)
    figure = figures.lines(shown, x, y, colour, log="y" if log else "", alt=alt, **words)
    said = "<p>With JavaScript, this is an explorer of all results; without, its first view:</p>"
    return piece(
        frame, FACETS, MEASURES, views, "published results", said + figure._repr_html_() + masks, link
    )


def document(title: str, body: str) -> str:
    """A whole HTML page that needs no other file: ``body`` with the script and the style of the explorer."""
    style, *scripts = ((STATIC / name).read_text(encoding="utf-8") for name in FILES)
    code = "".join(f"<script>{one}</script>" for one in scripts)
    about = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    head = f"{about}<style>:root {{ color-scheme: light dark }} body {{ font-family: sans-serif }}{style}</style>"
    main = f"<main><h1>{escape(title)}</h1>{body}</main>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{main}{code}</body></html>\n'


def piece(
    frame: pd.DataFrame,
    facets: Sequence[str],
    measures: Sequence[str],
    views: dict[str, dict[str, str]],
    name: str,
    fallback: str,
    link: str = "",
) -> Html:
    """The explorer of a table, called ``name``; ``fallback`` (HTML) is what a reader without JavaScript sees.

    facets, measures: columns to filter by, and numbers to look at.
    views: by title, what can be drawn with one click, the first of them at once: ``y``, ``x``, ``colour``, ``panels``,
    and a value for each facet that is filtered.
    link: the address of a page's notebook, with PAGE for its name.
    Columns ``record``, ``bars`` and ``picture`` are as :func:`points` has them, where there are any.
    """
    columns = [_levels(frame, column) for column in facets] + [
        _numbers(frame[column], column) for column in measures
    ]
    levels = [level for column in columns for level in column.get("levels", ())]
    looks = {level: canvas.METHODS[level] for level in levels if level in canvas.METHODS}
    data: dict = {"columns": columns, "views": views, "link": link, "name": name}
    data |= {"palette": canvas.PALETTE, "looks": looks}
    if "record" in frame:
        known = {record.key: record for record in frame["record"]}
        places = {key: place for place, key in enumerate(known)}
        data["record"] = [places[one.key] for one in frame["record"]]
        pairs: dict[str, int] = {}
        data["records"] = [
            [
                record.key[:12],
                record.kind,
                [pairs.setdefault(json.dumps(one), len(pairs)) for one in record.parameters.items()],
            ]
            for record in known.values()
        ]
        data["pairs"] = [json.loads(one) for one in pairs]
    if "picture" in frame and frame["picture"].notna().any():
        found = frame["picture"].dropna()
        data["pictures"] = {
            "about": mask_pictures.about(),
            "of": dict(zip(map(int, found.index), found, strict=True)),
        }
    if "bars" in frame:
        names: dict[str, int] = {}
        data["bars"] = [_packed(*one, names) if isinstance(one, tuple) else None for one in frame["bars"]]
        data["layers"] = [json.loads(one) for one in names]
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return Html(
        f'<section class="lm-explorer" aria-label="{escape(name)}"><script type="application/json">{text}</script>'
        f'<div class="lm-static">{fallback}</div></section>'
    )


def _packed(label: str, layers: dict, names: dict[str, int]) -> list:
    place = names.setdefault(json.dumps(list(map(str, layers))), len(names))
    return [label, place, [_short(value, 3) for value in layers.values()]]


def _levels(frame: pd.DataFrame, name: str) -> dict:
    """A column of few values: these, in order, and the place of each row's among them; -1 for none."""
    texts = [
        None if pd.isna(one) else f"{one:g}" if isinstance(one, float) else str(one) for one in frame[name]
    ]
    levels = sorted({text for text in texts if text is not None}, key=_order)
    return {"name": name, "levels": levels, "codes": [levels.index(text) if text else -1 for text in texts]}


def _order(text: str) -> tuple:
    """Texts by the first number in them, if they begin with one."""
    number = text.split("%")[0].split(" ")[0]
    try:
        return 0, float(number), text
    except ValueError:
        return 1, 0.0, text


def _numbers(column: pd.Series, name: str) -> dict:
    values = pd.to_numeric(column)
    return {"name": name, "numbers": [None if pd.isna(one) else _short(one, 5) for one in values]}


def _short(value: float, digits: int) -> float:
    """The number to so many digits, as short as JSON writes it."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
