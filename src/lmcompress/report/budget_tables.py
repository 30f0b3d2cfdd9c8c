"""What biases are worth, and what more steps of retraining bring: tables and a figure of tuned runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lmcompress.records import Record
from lmcompress.report import figures
from lmcompress.report.figures import Figure


def language(records: Sequence[Record]) -> list[Record]:
    """The runs that are compared."""
    return [record for record in records if record.kind == "tuned"]


def biased(records: Sequence[Record]) -> list[Record]:
    """The runs that measured what biases are worth."""
    return [record for record in records if record.kind == "biases_matter"]


def where(record: Record) -> str:
    """The setting of a run, in words."""
    about = record.parameters
    biases = " with biases" if about["fine_tune_steps"] else ""
    model, corpus = (Path(about[name]).name for name in ("model", "data"))
    return f"{model}{biases}, {corpus}, {about['length']} tokens"


def biases_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Perplexity of each model without biases, with trained ones, and with these set to zero."""
    return pd.DataFrame(
        {
            "model": record.parameters["model"],
            "steps of training": record.parameters["steps"],
            "biases": record.result["biases"],
            "perplexity as it comes": record.result["without"],
            "with trained biases": record.result["with"],
            "these set to zero": record.result["ablated"],
        }
        for record in biased(records)
    )


biases_table = figures.tabled(biases_frame, "What the biases are worth", "a model with trained biases")


def budgets(records: Sequence[Record]) -> pd.DataFrame:
    """Perplexity by steps and subset, with passes over the retraining texts and the rate that was chosen: of the one
    setting and pruning that were retrained with several numbers of steps.
    """
    several: dict[tuple[Any, ...], list[Record]] = {}
    for record in language(records):
        about = record.parameters
        if about["steps"] and (about["criterion"], about["seed"]) == ("magnitude", 0):
            several.setdefault((where(record), about["pattern"], about["subset"]), []).append(record)
    rows = []
    for (_, pattern, subset), group in several.items():
        for record in group if len({one.parameters["steps"] for one in group}) > 1 else ():
            about = record.parameters
            for corpus, found in record.result["tests"].items():
                if found["nll"] is not None:
                    row = {"tested on": corpus, "pattern": pattern, "subset": subset, "steps": about["steps"]}
                    row["passes"] = about["steps"] * about["batch"] / about["retraining"]
                    row |= {name: found[name] for name in ("perplexity", "low", "high")}
                    rows.append(row | {"rate": record.result["lr"]})
    frame = pd.DataFrame(rows)
    return frame.sort_values(["tested on", "subset", "steps"], ignore_index=True) if rows else frame


def budget_figure(records: Sequence[Record]) -> Figure:
    """Perplexity against steps, a line a subset, a panel a corpus. Raises ``LookupError`` without any."""
    frame = budgets(records)
    if frame.empty:
        raise LookupError("several numbers of steps")
    best = frame.loc[frame.groupby("tested on")["perplexity"].idxmin()]
    alt = "; ".join(
        f"on {row['tested on']} {row['subset']} is lowest with {row['perplexity']:.1f} after {row['steps']} steps"
        for _, row in best.iterrows()
    )
    return figures.lines(
        frame,
        "steps",
        "perplexity",
        "subset",
        panels="tested on",
        own_axes=True,
        log="xy",
        title="More steps of retraining",
        caption=f"After magnitude pruning to {frame['pattern'].iloc[0]}, each subset at its own learning rate, "
        "one seed; bars are 95 % intervals over test windows.",
        alt=f"Perplexity by steps of retraining: {alt}.",
    )


budget_table = figures.tabled(
    budgets,
    "Perplexity by steps; passes: how often every retraining text was read",
    "several numbers of steps",
)
