"""What ``benchmarks/`` measured against the papers' official codes, as tables for a page."""

import json
from collections.abc import Callable
from typing import Any

import pandas as pd

from lmcompress.records import results_folder
from lmcompress.report.html import NOT_RUN, Html, not_run, table, verdict_on, verdicts

BENCHMARKS = {
    "agreement": "Masks and errors on the same weights and inputs (share of zeros; SparseGPT: relative output error)",
    "nm_mask": "N:M masks: one call against a loop over the columns, milliseconds",
    "adapter_kernels": "Fused adapter kernels and plain operations, microseconds (floor: memory traffic alone)",
    "adapter_step": "A training step with adapters against the official forward",
    "reconstruction": "Reconstruction of one block, seconds",
    "useful_tokens": "Tokens of real documents per second in training, padding not counted",
}


def aims() -> Html:
    """What was aimed at against the official codes, and what came of it."""
    return verdicts([_agreement(), _masks(), _useful_tokens(), _adapter_step()])


def tables() -> list[Html]:
    """A table for each benchmark whose record is in ``results/benchmarks``, and a note for each that is not."""
    return [_table(name, title) for name, title in BENCHMARKS.items()]


def _record(name: str) -> dict[str, Any] | None:
    path = results_folder() / "benchmarks" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _judged(
    claim: str, name: str, measured: Callable[[dict[str, Any]], tuple[list[bool], str]]
) -> tuple[str, str, str]:
    """``measured(record)``: whether what was aimed at is reached, in each case, and the evidence."""
    record = _record(name)
    if record is None:
        return claim, NOT_RUN, f"needs a GPU and the official codes: `benchmarks/{name}.py`"
    reached, evidence = measured(record)
    return claim, verdict_on(reached), evidence


def _agreement() -> tuple[str, str, str]:
    claim = "Masks of magnitude and Wanda equal the official ones, ties aside; SparseGPT's output error is within 1 %"

    def measured(record: dict[str, Any]) -> tuple[list[bool], str]:
        agreeing = sum(row["agrees"] for row in record["rows"])
        return [record["agrees"]], f"{agreeing} of {len(record['rows'])} comparisons agree"

    return _judged(claim, "agreement", measured)


def _masks() -> tuple[str, str, str]:
    def measured(record: dict[str, Any]) -> tuple[list[bool], str]:
        found = [row["speed-up"] for row in record["rows"]]
        evidence = f"{min(found):.0f} to {max(found):.0f} times, over {len(found)} shapes and patterns"
        return [min(found) >= 50], evidence

    return _judged("N:M masks in one call are 50 times as fast as the loop over columns", "nm_mask", measured)


def _useful_tokens() -> tuple[str, str, str]:
    def measured(record: dict[str, Any]) -> tuple[list[bool], str]:
        return [record["gain"] >= 3], f"{record['gain']:.1f} times, on {record['documents']:,} documents"

    return _judged("Packed training sees three times as many real tokens a second", "useful_tokens", measured)


def _adapter_step() -> tuple[str, str, str]:
    claim = "A step with MaskLoRA or ScaleLoRA is 1.5 times as fast, with at most 0.6 times the extra memory"

    def measured(record: dict[str, Any]) -> tuple[list[bool], str]:
        equal = [
            row for row in record["ratios"] if row["ours checkpointing"] == row["official checkpointing"]
        ]
        reached = [row["tokens/s ratio"] >= 1.5 and row["extra ratio"] <= 0.6 for row in equal]
        each = [
            f"{row['model']} {row['adapter']}{', checkpointing' if row['ours checkpointing'] else ''}: "
            f"{row['tokens/s ratio']:.2f} and {row['extra ratio']:.2f}"
            for row in equal
        ]
        return reached, f"speed and extra memory, ours over official: {'; '.join(each)}"

    return _judged(claim, "adapter_step", measured)


def _table(name: str, title: str) -> Html:
    record = _record(name)
    if record is None:
        return not_run(
            title[0].lower() + title[1:],
            f"a GPU and the official codes: `python benchmarks/{name}.py --help`",
        )
    about = record["provenance"]
    against = [f"{where.rpartition('/')[2]} at {commit[:7]}" for where, commit in about["official"].items()]
    origin = "; ".join([about["device"], f"ours at {about['commit'][:7]}", *against])
    rows = pd.DataFrame(record["rows"])
    named = [column for column in rows if rows[column].map(type).eq(str).any()]
    # ends of an interval after what they belong to, the lower one first
    numbers = sorted(rows.columns.difference(named), key=lambda name: name.replace(" high", " low 2"))
    return table(rows[[*named, *numbers]], f"{title} ({origin})")
