"""Tables of reconstruction block by block."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lmcompress.numbers import exp
from lmcompress.records import Record
from lmcompress.report.perp_tables import UNKNOWN, interval, named

KIND = "reconstruct"


def method(record: Record) -> str:
    """What was done after pruning, in words."""
    about = record.parameters
    if record.kind == KIND:
        dense = ", dense targets" if about["targets"] == "dense" else ""
        return f"{about['subset']} by {about['granularity'].replace('-', ' ')}{dense}"
    return "pruned" if about["subset"] == "nothing" else f"{about['subset']} retrained"


def methods(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """One row for each criterion, pattern and method that was evaluated on ``corpus``: perplexity with its interval,
    tokens seen, seconds.
    """
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        if corpus in record.result.get("tests", {}):
            about = record.parameters
            groups.setdefault((about["criterion"], about["pattern"], method(record)), []).append(record)
    rows = []
    for (criterion, pattern, name), group in groups.items():
        losses = [record.result["tests"][corpus]["nll"] for record in group]
        losses = [loss for loss in losses if loss is not None]
        level = interval(np.array(losses, dtype=float), exp) if losses else UNKNOWN
        result = group[0].result
        rows.append(
            {"criterion": criterion, "pattern": pattern, "method": name}
            | named("perplexity", level)
            | {
                "dense": result["tests"][corpus]["dense"],
                "texts seen (tokens)": result["tokens"],
                "rate": result["lr"] if name != "pruned" else np.nan,
                "seconds": result.get("reconstruct_seconds", result.get("train_seconds")),
                "seeds": len(losses),
            }
        )
    return pd.DataFrame(rows)


def block_errors(records: Sequence[Record]) -> pd.DataFrame:
    """Relative error of every block before and after, of the first seed of every reconstruction."""
    rows = []
    seen = set()
    for record in records:
        if record.kind != KIND:
            continue
        about = record.parameters
        key = (about["criterion"], about["pattern"], method(record))
        if key in seen:
            continue
        seen.add(key)
        for index, block in enumerate(record.result["blocks"]):
            rows += [
                dict(zip(("criterion", "pattern", "method"), key, strict=True))
                | {
                    "block": index,
                    "state": state,
                    "relative error": block[name],
                    "improved": block["improved"],
                }
                for state, name in (("pruned", "before"), ("reconstructed", "after"))
            ]
    return pd.DataFrame(rows)


def usual(frame: pd.DataFrame) -> list[str]:
    """The methods of :func:`methods` that were run in more than half of the settings that were reconstructed."""
    settings = frame["pattern"] + " by " + frame["criterion"]
    tried = settings.isin(settings[frame["method"].str.contains(" by ")])
    counts = frame[tried].groupby("method", sort=False).size()
    return list(counts[2 * counts > settings[tried].nunique()].index)


def levels(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """Perplexity: a row for each criterion and pattern that was reconstructed, a column for each usual method."""
    frame = methods(records, corpus)
    return _wide(frame)[usual(frame)].reset_index() if len(frame) else frame


def few(records: Sequence[Record], corpus: str) -> pd.DataFrame:
    """Perplexity with the methods that were run in few settings, one a row beside the usual ones, best first, a
    column for each such setting. Empty where all methods are usual.
    """
    frame = methods(records, corpus)
    if frame.empty:
        return frame
    wide = _wide(frame)
    rare = wide.drop(columns=usual(frame)).notna().any(axis=1)
    if not rare.any():
        return pd.DataFrame()
    chosen = wide[rare].T.sort_values(list(wide.index[rare]))
    return chosen.rename_axis(index="method", columns=None).reset_index()


def _wide(frame: pd.DataFrame) -> pd.DataFrame:
    """Perplexity by setting that was reconstructed and method."""
    frame = frame.assign(pruned_to=frame["pattern"] + " by " + frame["criterion"])
    order = list(dict.fromkeys(frame["method"]))
    wide = frame.pivot(index="pruned_to", columns="method", values="perplexity")[order]
    wide = wide.loc[frame["pruned_to"].unique()]
    tried = wide[[name for name in order if " by " in name]].notna().any(axis=1)
    return wide[tried].rename_axis(index="pruned to", columns=None)
