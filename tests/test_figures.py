"""Figures: refused without words, the same bytes every time, colours for all eyes, the right data drawn."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from lmcompress.errors import ParameterError
from lmcompress.report import figures
from lmcompress.report.canvas import MARKERS, METHODS, PALETTE

TEXTS = {
    "title": "Perplexity by sparsity",
    "caption": "Windows of 8 tokens.",
    "alt": "Two rising lines, the one of magnitude above the one of Wanda.",
}
LIGHT, DARK = (
    "#ffffff",
    "#121212",
)  # backgrounds of the book's two modes; tests/book checks that they are these


def sweep() -> pd.DataFrame:
    rows = [
        {"sparsity": s, "criterion": c, "perplexity": base * (1 + 4 * s), "low": 9.0, "high": 99.0}
        for c, base in (("magnitude", 20.0), ("wanda", 15.0))
        for s in (0.3, 0.5, 0.7)
    ]
    return pd.DataFrame(rows)


def every_figure() -> list[figures.Figure]:
    data, one = sweep(), sweep().query("sparsity == 0.5")
    xy = ("sparsity", "perplexity", "criterion")
    return [
        figures.lines(data, *xy, log="y", reference={"dense": 12.0}, **TEXTS),
        figures.lines(data, "criterion", "perplexity", "sparsity", **TEXTS),
        figures.lines(data, "sparsity", "perplexity", panels="criterion", **TEXTS),
        figures.scatter(data, *xy, **TEXTS),
        figures.bars(data, "sparsity", "perplexity", "criterion", **TEXTS),
        figures.bars(one, "criterion", "perplexity", log=True, **TEXTS),
    ]


def svg_texts(figure: figures.Figure) -> list[str]:
    root = ET.fromstring(figure.svg)
    return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_same_input_gives_the_same_bytes():
    for first, second in zip(every_figure(), every_figure(), strict=True):
        assert first.svg == second.svg


def test_html_has_alternative_text_caption_and_data():
    for figure in every_figure():
        root = ET.fromstring(figure.svg)  # well-formed
        assert root.get("role") == "img"
        assert root.get("aria-label").startswith(TEXTS["alt"] + " ")
        html = figure._repr_html_()
        assert f"<strong>{TEXTS['title']}.</strong> {TEXTS['caption']}" in html
        assert "<details" in html
        assert html.count("<tr>") == len(figure.table) + 1


def test_a_drawing_brings_no_style_that_would_rule_the_page():
    assert not [figure for figure in every_figure() if "<style" in figure.svg]


def test_words_are_escaped():
    texts = {"title": "a < b", "caption": "a & b", "alt": 'where "a" < b'}
    html = figures.lines(sweep(), "sparsity", "perplexity", "criterion", **texts)._repr_html_()
    assert "a &lt; b" in html
    assert "a &amp; b" in html
    assert 'aria-label="where &quot;a&quot; &lt; b ' in html


def test_alternative_text_says_what_is_to_be_seen():
    lines = figures.lines(sweep(), "sparsity", "perplexity", "criterion", **TEXTS)
    assert lines.alt.endswith("perplexity: magnitude: 44 at 0.3 to 76 at 0.7; wanda: 33 at 0.3 to 57 at 0.7.")
    one = sweep().query("sparsity == 0.5")
    assert figures.bars(one, "criterion", "perplexity", **TEXTS).alt.endswith(
        "perplexity: wanda 45, magnitude 60."
    )


def test_the_same_drawing_of_other_data_has_other_identifiers():
    names = [
        set(re.findall(r'id="([^"]+)"', figures.lines(d, "sparsity", "perplexity", **TEXTS).svg))
        for d in (sweep(), sweep().assign(perplexity=10.0))
    ]
    assert names[0]
    assert not names[0] & names[1]


@pytest.mark.parametrize("missing", ["title", "caption", "alt"])
@pytest.mark.parametrize("text", ["", "  ", None])
def test_a_figure_without_words_is_refused(missing, text):
    with pytest.raises(ParameterError, match=missing):
        figures.lines(sweep(), "sparsity", "perplexity", "criterion", **TEXTS | {missing: text})


def test_alternative_text_that_repeats_the_caption_is_refused():
    with pytest.raises(ParameterError, match="alt"):
        figures.lines(sweep(), "sparsity", "perplexity", **TEXTS | {"alt": TEXTS["caption"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"y": "loss"}, "'loss' is not valid; expected one of"),
        ({"panels": "model"}, "'model' is not valid"),
        ({"ends": ("low", "most")}, "'most' is not valid"),
    ],
)
def test_wrong_columns_are_refused(arguments, message):
    with pytest.raises(ParameterError, match=message):
        figures.lines(sweep(), **{"x": "sparsity", "y": "perplexity"} | arguments, **TEXTS)


def test_nothing_to_draw_is_refused():
    for data in (sweep().iloc[:0], sweep().assign(perplexity=None), sweep().assign(perplexity=np.inf)):
        with pytest.raises(ParameterError, match="something to draw"):
            figures.lines(data, "sparsity", "perplexity", **TEXTS)


def many(count: int) -> pd.DataFrame:
    return pd.DataFrame({"x": range(count), "y": range(count), "name": [f"s{i}" for i in range(count)]})


def test_the_second_eight_series_are_dashed_and_hollow():
    svg = figures.lines(pd.concat([many(9), many(9).assign(x=20)]), "x", "y", "name", **TEXTS).svg
    assert "stroke-dasharray" in svg
    assert "stroke-dasharray" not in figures.lines(many(8), "x", "y", "name", **TEXTS).svg
    hollow = [
        f"fill: none; stroke: {colour}" in figures.bars(many(9), "x", "y", "name", **TEXTS).svg
        for colour in PALETTE
    ]
    assert hollow == [True] + [False] * 7


@pytest.mark.parametrize("draw", [figures.lines, figures.scatter, figures.bars])
def test_more_series_than_can_be_told_apart_are_refused(draw):
    assert draw(many(16), "x", "y", "name", **TEXTS)
    with pytest.raises(ParameterError, match="use panels"):
        draw(many(17), "x", "y", "name", **TEXTS)


def test_unknown_and_infinite_values_are_gaps_and_dashes():
    data = sweep()
    data.loc[1, "perplexity"] = np.inf
    figure = figures.lines(data, "sparsity", "perplexity", "criterion", **TEXTS)
    assert "–" in figure._repr_html_()
    assert "inf" not in figure._repr_html_()


def test_a_categorical_fixes_colours_whatever_is_absent():
    order = ["third", "second", "first"]  # no methods: these have colours of their own
    named = sweep().criterion.map({"magnitude": "second", "wanda": "first"})
    data = sweep().assign(criterion=pd.Categorical(named, order))
    both = figures.lines(data, "sparsity", "perplexity", "criterion", **TEXTS).svg
    one = figures.lines(data[data.criterion == "first"], "sparsity", "perplexity", "criterion", **TEXTS).svg
    assert PALETTE[2] in one
    assert PALETTE[1] not in one
    assert PALETTE[1] in both
    assert PALETTE[0] not in both  # the third has no rows


def test_bars_of_methods_have_their_colours():
    svg = figures.bars(sweep().query("sparsity == 0.5"), "criterion", "perplexity", **TEXTS).svg
    assert all(PALETTE[METHODS[name]] in svg for name in ("wanda", "magnitude"))


def test_series_axes_and_reference_are_named():
    texts = svg_texts(every_figure()[0])
    assert {"sparsity", "perplexity", "magnitude", "wanda", "dense", "100"} <= set(texts)
    assert texts.index("dense") > texts.index("wanda")  # measured series first


def height(figure: figures.Figure) -> float:
    return float(ET.fromstring(figure.svg).get("viewBox").split()[3])


def test_a_long_legend_takes_no_room_from_the_lines():
    short, long = (figures.lines(many(count), "x", "y", "name", **TEXTS) for count in (3, 16))
    assert height(long) > height(short)


def test_panels_that_are_the_series_need_no_legend():
    data = sweep()
    figure = figures.lines(data, "sparsity", "perplexity", "criterion", panels="criterion", **TEXTS)
    assert [text for text in svg_texts(figure) if text in ("wanda", "magnitude")] == ["magnitude", "wanda"]


def test_panels_of_numbers_say_of_what():
    data = pd.concat([sweep().assign(bits=bits) for bits in (3, 4)])
    assert {"bits 3", "bits 4"} <= set(
        svg_texts(figures.lines(data, "sparsity", "perplexity", "criterion", panels="bits", **TEXTS))
    )


def test_panels_with_their_own_axes_do_not_squash_each_other():
    data = pd.DataFrame({"x": [0, 1, 0, 1], "y": [0, 2, 0, 1000], "model": ["a", "a", "b", "b"]})
    shared = svg_texts(figures.lines(data, "x", "y", panels="model", **TEXTS))
    own = svg_texts(figures.lines(data, "x", "y", panels="model", own_axes=True, **TEXTS))
    assert "1.5" not in shared
    assert {"1.5", "1,000"} <= set(own)


def test_long_numbers_below_panels_have_room():
    data = pd.DataFrame({"x": [1e-9, 0.1, 1e-9, 0.1], "y": [1, 2, 1, 2], "model": ["a", "a", "b", "b"]})
    texts = svg_texts(figures.scatter(data, "x", "y", panels="model", own_axes=True, log="x", **TEXTS))
    assert sum(text.startswith("1e-") for text in texts) <= 4


def test_a_diagonal_is_drawn_if_it_has_a_name():
    data = pd.DataFrame({"x": [1, 2], "y": [1, 3]})
    assert "equal" in svg_texts(figures.scatter(data, "x", "y", diagonal="equal", **TEXTS))
    assert "equal" not in svg_texts(figures.scatter(data, "x", "y", **TEXTS))


def test_numbers_on_a_long_logarithmic_axis_have_room():
    data = pd.DataFrame({"run": ["a", "b"], "perplexity": [20.0, 8e6]})
    texts = svg_texts(figures.bars(data, "run", "perplexity", log=True, **TEXTS))
    assert [text for text in texts if text in ("10", "100", "1,000", "10,000", "100,000", "1e+06")] == [
        "100",
        "10,000",
        "1e+06",
    ]


def test_a_narrow_logarithmic_axis_has_several_numbers():
    data = pd.DataFrame({"sparsity": [30, 50, 70], "ratio": [0.9, 1.4, 2.6]})
    texts = svg_texts(figures.lines(data, "sparsity", "ratio", log="y", **TEXTS))
    assert {"1", "1.5", "2", "2.5"} <= set(texts)


def test_every_column_of_panels_has_numbers_below_it():
    data = pd.concat([sweep().assign(model=f"m{i}") for i in range(3)])
    texts = svg_texts(figures.lines(data, "criterion", "perplexity", "sparsity", panels="model", **TEXTS))
    assert texts.count("magnitude") == 3


def test_error_bars_are_drawn_where_the_table_has_their_ends():
    with_ends = figures.lines(sweep(), "sparsity", "perplexity", "criterion", **TEXTS)
    assert {"low", "high"} <= set(with_ends.table)
    without = figures.lines(sweep(), "sparsity", "perplexity", "criterion", ends=(), **TEXTS)
    assert not {"low", "high"} & set(without.table)
    assert len(without.svg) < len(with_ends.svg)
    with pytest.raises(ParameterError, match="an interval around perplexity"):  # ends of something else
        figures.lines(sweep().assign(low=0.1, high=0.2), "sparsity", "perplexity", "criterion", **TEXTS)


# ---- colours ----


def channels(colour: str) -> np.ndarray:
    """Linear RGB of ``#rrggbb``."""
    value = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2.1 contrast ratio."""
    low, high = sorted(float(channels(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (one, other))
    return high / low


# Machado, Oliveira and Fernandes 2009, severity 1.0 (complete absence of one cone type), on linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# sRGB primaries, D65
TO_XYZ = [
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
]


def lab(rgb: np.ndarray) -> np.ndarray:
    x, y, z = np.cbrt(np.clip(np.array(TO_XYZ) @ rgb, 1e-6, None) / [0.95047, 1.0, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_contrast_formula_on_known_pairs():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("colour", PALETTE)
@pytest.mark.parametrize("background", [LIGHT, DARK])
def test_colours_stand_out_on_both_backgrounds(colour, background):
    assert contrast(colour, background) >= 3  # WCAG 1.4.11, graphical objects


@pytest.mark.parametrize("vision", VISION)
def test_colours_differ_whatever_the_vision(vision):
    seen = [lab(np.clip(VISION[vision] @ channels(colour), 0, 1)) for colour in PALETTE]
    worst = min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))
    assert worst >= 20, f"two colours are only {worst:.1f} apart (CIE76)"


def test_every_colour_has_its_own_marker():
    assert len(set(MARKERS)) == len(MARKERS) == len(PALETTE)
