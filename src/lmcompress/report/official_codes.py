"""What ``benchmarks/`` measured against the papers' official codes, as tables for a page."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from lmcompress.files import benchmark
from lmcompress.report.html import NOT_RUN, Html, not_run, table, verdict_on, verdicts

BENCHMARKS = {
    "agreement": "Masks and errors on the same weights and inputs (share of zeros; SparseGPT: relative output error)",
    "nm_mask": "N:M masks: one call against a loop over the columns, milliseconds",
    "adapter_kernels": "Fused adapter kernels and plain operations, microseconds (floor: memory traffic alone)",
    "adapter_step": "A training step with adapters against the official forward",
    "reconstruction": "Reconstruction of one block, seconds",
    "useful_tokens": "Tokens of real documents per second in training, padding not counted",
}


def tables() -> list[Html]:
    """A table for each benchmark whose record is in ``results/benchmarks``, and a note for each that is not."""
    return [_table(name, title) for name, title in BENCHMARKS.items()]


def _agreement(record: dict[str, Any]) -> tuple[list[bool], str]:
    agreeing = sum(row["agrees"] for row in record["rows"])
    return [record["agrees"]], f"{agreeing} of {len(record['rows'])} comparisons agree"


def _masks(record: dict[str, Any]) -> tuple[list[bool], str]:
    found = [row["speed-up"] for row in record["rows"]]
    return [min(found) >= 50], (
        f"{min(found):.0f} to {max(found):.0f} times, over {len(found)} shapes and patterns"
    )


def _useful_tokens(record: dict[str, Any]) -> tuple[list[bool], str]:
    return [record["gain"] >= 3], f"{record['gain']:.1f} times, on {record['documents']:,} documents"


def _adapter_step(record: dict[str, Any]) -> tuple[list[bool], str]:
    equal = [row for row in record["ratios"] if row["ours checkpointing"] == row["official checkpointing"]]
    reached = [row["tokens/s ratio"] >= 1.5 and row["extra ratio"] <= 0.6 for row in equal]
    each = [
        f"{row['model']} {row['adapter']}{', checkpointing' if row['ours checkpointing'] else ''}: "
        f"{row['tokens/s ratio']:.2f} and {row['extra ratio']:.2f}"
        for row in equal
    ]
    return reached, f"speed and extra memory, ours over official: {'; '.join(each)}"


# What was aimed at -> whether the record of a benchmark reaches it, in each case, and the evidence.
AIMS: dict[str, tuple[str, Callable[[dict[str, Any]], tuple[list[bool], str]]]] = {
    "Masks of magnitude and Wanda equal the official ones, ties aside; SparseGPT's output error is within 1 %": (
        ("agreement", _agreement)
    ),
    "N:M masks in one call are 50 times as fast as the loop over columns": ("nm_mask", _masks),
    "Packed training sees three times as many real tokens a second": ("useful_tokens", _useful_tokens),
    "A step with MaskLoRA or ScaleLoRA is 1.5 times as fast, with at most 0.6 times the extra memory": (
        ("adapter_step", _adapter_step)
    ),
}


def aims() -> Html:
    """What was aimed at against the official codes, and what came of it."""
    rows = []
    for claim, (name, measured) in AIMS.items():
        record = benchmark(name)
        if record["rows"]:
            reached, evidence = measured(record)
            rows.append((claim, verdict_on(reached), evidence))
        else:
            rows.append((claim, NOT_RUN, f"needs a GPU and the official codes: `benchmarks/{name}.py`"))
    return verdicts(rows)


def _table(name: str, title: str) -> Html:
    record = benchmark(name)
    if not record["rows"]:
        return not_run(
            title[0].lower() + title[1:],
            f"a GPU and the official codes: `python benchmarks/{name}.py --help`",
        )
    about = record["provenance"]
    against = [f"{where.rpartition('/')[2]} at {commit[:7]}" for where, commit in about["official"].items()]
    commit = about["commit"]
    ours = f"ours at {commit[:7]}" if commit else "ours, whose commit the run did not record"
    origin = "; ".join([about["device"], ours, *against])
    rows = pd.DataFrame(record["rows"])
    named = [column for column in rows if rows[column].map(type).eq(str).any()]
    # ends of an interval after what they belong to, the lower one first
    numbers = sorted(rows.columns.difference(named), key=lambda name: name.replace(" high", " low 2"))
    return table(rows[[*named, *numbers]], f"{title} ({origin})")
