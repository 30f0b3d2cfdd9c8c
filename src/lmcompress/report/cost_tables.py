"""Tables of what retraining costs."""

from collections.abc import Sequence

import pandas as pd

from lmcompress.records import Record


def costs(records: Sequence[Record]) -> pd.DataFrame:
    """One row a subset: parameters, tokens per second, seconds a step, peak memory; ``of full``: tokens per
    second over those of full retraining.
    """
    rows = [
        {
            "subset": record.parameters["subset"],
            "trained": record.result["trainable"],
            "trained %": record.result["percent"],
            "tokens/s": record.result["tokens_per_s"],
            "seconds a step": record.result["seconds_a_step"],
            "peak memory (GiB)": record.result["peak_bytes"] / 2**30,
        }
        for record in records
        if record.kind == "step_cost"
    ]
    frame = pd.DataFrame(rows)
    full = {row["subset"]: row["tokens/s"] for row in rows}.get("full")
    return frame.assign(**{"times full": frame["tokens/s"] / full}) if full else frame


def trained_shares(records: Sequence[Record]) -> pd.DataFrame:
    """Percentage of the parameters that each subset trains, by architecture."""
    rows = [
        {"model": record.parameters["architecture"], "subset": subset, "percent": found and found["percent"]}
        for record in records
        if record.kind == "share_trained"
        for subset, found in record.result["subsets"].items()
    ]
    return pd.DataFrame(rows)
