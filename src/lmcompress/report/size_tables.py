"""Tables of the sizes of saved models."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from lmcompress.experiments.packed import UNIFORM
from lmcompress.records import Record
from lmcompress.report.words import of_kind, perplexity, readable


def size_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a saved model: bytes of the file, how many times smaller than FP16, quality after reloading."""
    rows = []
    for record in of_kind(records, "packed"):
        about, result = record.parameters, record.result
        language = about["task"] == "language"
        rows.append(
            {
                "task": readable(about["task"]),
                "blocks": _blocks(about),
                "embeddings": about["embeddings"],
                "bits a block weight": result["block_bits"],
                "file MB": result["file_bytes"] / 1e6,
                "times smaller than FP16": result["over_fp16"],
                "than FP32": result["over_fp32"],
                "perplexity": perplexity(result["loss"]) if language else None,
                "accuracy": None if language else result["right"],
                "accuracy low": None if language else result["right_low"],
                "accuracy high": None if language else result["right_high"],
                "loss increase (nats)": result["increase"],
                "low": result["low"],
                "high": result["high"],
                "same after reloading": result["same"],
            }
        )
    return pd.DataFrame(rows)


def _blocks(about: dict[str, Any]) -> str:
    """How a table calls the formats of the blocks."""
    if about["average"] == 16:
        return "FP16"
    if about["score"] == UNIFORM:
        return f"uniform {about['average']:g} bits"
    return f"{about['average']:g} bits by {about['score']}" + (
        " with GPTQ" if about["method"] == "gptq" else ""
    )


def mixed(sizes: pd.DataFrame) -> pd.DataFrame:
    """The rows of :func:`size_table` in which a score decided the widths, biggest file first."""
    chosen = sizes[~sizes["blocks"].str.contains("uniform|FP16")]
    return chosen.sort_values("times smaller than FP16", kind="stable")
