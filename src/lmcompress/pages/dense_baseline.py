"""The dense model before anything is done to it: its perplexity, how sure we are, and what the number hangs on."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd

from lmcompress.errors import ParameterError
from lmcompress.experiments.dense import DensePerplexity, WeightGrid
from lmcompress.intervals import bootstrap
from lmcompress.parameters import CorpusName, Count, Length, ModelName, Some
from lmcompress.records import Experiment, Record
from lmcompress.records import Study as BaseStudy
from lmcompress.report import figures
from lmcompress.report.html import Html, number
from lmcompress.report.opening import Answer
from lmcompress.report.words import estimate, of_kind


class Study(BaseStudy):
    """Parameters of ``00_dense_baseline``; ``lengths`` must divide ``span``, and ``length`` be one of them."""

    model: ModelName = "smollm2-135m"
    data: CorpusName = "wikipedia-vital"
    dtype: Literal["fp32", "bf16"] = "bf16"
    length: Length = 512
    lengths: Some[Length] = (128, 512, 2048)
    spans: Count | None = 2
    span: Length = 2048

    def experiments(self) -> list[Experiment]:
        for length in (*self.lengths, self.length):
            if self.span % length:
                raise ParameterError("lengths", length, f"lengths that divide the span, {self.span}")
        if self.length not in self.lengths:
            raise ParameterError("length", self.length, self.lengths)
        about = {"model": self.model, "data": self.data, "spans": self.spans, "span": self.span}
        one: dict[str, Any] = {**about, "dtype": self.dtype, "length": self.length}
        other = {"bf16": "fp32", "fp32": "bf16"}[self.dtype]
        return [
            *(DensePerplexity(**one | {"length": length}) for length in self.lengths),
            DensePerplexity(**one, convention="GPTQ"),
            DensePerplexity(**one, bos=True),
            DensePerplexity(**one | {"dtype": other}),
            WeightGrid(model=self.model),
        ]


def perplexities(records: Sequence[Record]) -> pd.DataFrame:
    """How each run measured, and what it found."""
    rows = [
        {
            "convention": run.parameters["convention"],
            "window": run.parameters["length"],
            "first token": "BOS" if run.parameters["bos"] else "text",
            "arithmetic": run.parameters["dtype"],
            "perplexity": run.result["perplexity"],
            "low": run.result["low"],
            "high": run.result["high"],
            "predicted tokens": run.result["tokens"],
        }
        for run in of_kind(records, "dense_perplexity")
    ]
    return pd.DataFrame(rows)


def baseline(records: Sequence[Record], length: int, **other: object) -> Record:
    """The run by our convention at that length without BOS, or with what ``other`` says instead."""
    wanted = {"length": length, "convention": "ours", "bos": False} | other
    runs = (record for record in records if record.kind == "dense_perplexity")
    return next(run for run in runs if all(run.parameters[name] == value for name, value in wanted.items()))


def distribution_figure(run: Record) -> figures.Figure:
    """How the windows' own perplexities are spread: number of windows in each bin of equal ratio."""
    values = sorted(math.exp(nll) for nll in run.result["nll"])
    edges = np.geomspace(values[0], values[-1], 9)
    counts = np.histogram(values, edges)[0]
    names = [f"{number(low)} to {number(high)}" for low, high in pairwise(edges)]
    return figures.bars(
        pd.DataFrame({"perplexity of a window": names, "windows": counts}),
        "perplexity of a window",
        "windows",
        title="Every window is differently hard",
        caption=f"{len(values)} windows of {run.parameters['length']} tokens, each with its own perplexity; bins of "
        "equal ratio.",
        alt=f"Counts of windows by perplexity, from {number(values[0])} for the easiest window to "
        f"{number(values[-1])} for the hardest.",
    )


def length_figure(records: Sequence[Record], dtype: str) -> figures.Figure:
    """Perplexity against window length, by our convention."""
    rows = perplexities(records)
    same = (rows["convention"] == "ours") & (rows["first token"] == "text") & (rows["arithmetic"] == dtype)
    rows = rows[same].rename(columns={"window": "tokens a window"})
    ends = rows.set_index("tokens a window")["perplexity"].sort_index()
    return figures.lines(
        rows,
        "tokens a window",
        "perplexity",
        log="x",
        title="More context, lower perplexity",
        caption="The same text cut into windows of different length. Bars: 95 % bootstrap interval over windows.",
        alt=f"From windows of {ends.index[0]} tokens to {ends.index[-1]} the perplexity goes from "
        f"{number(ends.iloc[0])} to {number(ends.iloc[-1])}.",
    )


def claims(records: Sequence[Record], length: int, dtype: str) -> list[tuple[str, str, str]]:
    """``(claim, verdict, evidence)`` about the conventions."""
    ours = baseline(records, length, dtype=dtype)
    gptq, bos = baseline(records, length, convention="GPTQ"), baseline(records, length, bos=True)
    other = next(run for run in records if run.parameters.get("dtype") not in (None, dtype))
    same = math.isclose(ours.result["perplexity"], gptq.result["perplexity"], rel_tol=1e-6)
    return [
        (
            "On the same windows the GPTQ convention gives the same number",
            "holds" if same else "does not hold here",
            f"{number(ours.result['perplexity'])} and {number(gptq.result['perplexity'])}",
        ),
        _alike("BOS before every window changes the perplexity", bos, ours),
        _alike(f"{other.parameters['dtype']} instead of {dtype} changes the perplexity", other, ours),
    ]


def _alike(claim: str, run: Record, ours: Record) -> tuple[str, str, str]:
    """Whether the paired interval of the ratio leaves out 1."""
    difference = np.float32(run.result["nll"]) - np.float32(ours.result["nll"])
    low, high = (math.exp(end) for end in bootstrap(difference))
    evidence = (
        f"{math.exp(float(difference.mean())):.4f} times (paired 95 % interval {low:.4f} to {high:.4f})"
    )
    return claim, "does not hold here" if low <= 1 <= high else "holds", evidence


def grid_counts(records: Sequence[Record]) -> pd.DataFrame:
    """``distinct values`` and ``share of groups`` of the weights' grid; counts that do not occur are left out."""
    histogram = next(record.result["histogram"] for record in records if record.kind == "weight_grid")
    rows = [
        {"distinct values": count, "share of groups (%)": 100 * found / sum(histogram)}
        for count, found in enumerate(histogram)
        if found
    ]
    return pd.DataFrame(rows)


def _usual(records: Sequence[Record]) -> Record:
    """The run by our convention at the length at which all conventions were tried."""
    lengths = [run.parameters["length"] for run in records if run.parameters.get("bos")]
    if not lengths:
        raise LookupError("perplexities of the dense model")
    return baseline(records, lengths[0])


def answer(records: Sequence[Record]) -> Answer:
    """The dense perplexity at the shortest and longest windows, and whether the two conventions agree. Raises
    ``LookupError`` where the runs are missing.
    """
    about = _usual(records).parameters
    rows = perplexities(records)
    rows = rows[(rows["convention"] == "ours") & (rows["arithmetic"] == about["dtype"])]
    rows = rows[rows["first token"] == "text"].sort_values("window").iloc[[0, -1]]
    parts = [
        f"{estimate(row['perplexity'], row['low'], row['high'])} in windows of {row['window']:,} tokens"
        for _, row in rows.iterrows()
    ]
    claim, verdict, _ = claims(records, about["length"], about["dtype"])[0]
    return Answer(
        f"{about['model']} reads the same text of {about['data']} with a perplexity of {' and of '.join(parts)}.",
        f"{claim}.",
        verdict,
    )


perplexities_table = figures.tabled(perplexities, "One model, one text, several perplexities")


def lengths(records: Sequence[Record]) -> figures.Figure:
    """Perplexity against window length, in the arithmetic of the first run."""
    return length_figure(records, _usual(records).parameters["dtype"])


def spread(records: Sequence[Record]) -> figures.Figure:
    """How differently hard the windows are."""
    return distribution_figure(_usual(records))


def conventions(records: Sequence[Record]) -> Html:
    """Verdicts on the conventions."""
    about = _usual(records).parameters
    return figures.verdicts(claims(records, about["length"], about["dtype"]))


grid_table = figures.tabled(grid_counts, "Distinct values among 32 consecutive weights of a row")


def small(records: Sequence[Record]) -> list[Any]:
    """Figures and tables of a few runs: for what one machine computed."""
    return [make(records) for make in (perplexities_table, spread, lengths, conventions, grid_table)]
