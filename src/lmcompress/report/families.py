"""How much of each family of models every method reaches, of ``results/benchmarks/families.json``."""

import re
from typing import Any

import pandas as pd

from lmcompress.files import benchmark
from lmcompress.report.html import Html, whole


def rows() -> pd.DataFrame:
    """A row a family: share of the weights in the blocks' matrices that each method covers in percent, trained norms.

    Raises ``LookupError`` where the record is missing.
    """
    found = pd.DataFrame(map(_row, benchmark("families")["rows"]))
    if found.empty:
        raise LookupError("`python benchmarks/families.py results/benchmarks/families.json`")
    return found


def _row(row: dict[str, Any]) -> dict[str, Any]:
    kinds = dict.fromkeys(re.sub(r"^.*?\.\d+\.", "", name) for name in row["left"])
    shares = {
        head: 100 * row[name] if isinstance(row[name], float) else "no: " + row[name]
        for head, name in (
            ("pruned (%)", "prune"),
            ("MaskLoRA (%)", "masklora"),
            ("quantized (%)", "quantize"),
        )
    }
    norms = row["norms"] if isinstance(row["norms"], int) else "none"
    return {"family": row["family"], **shares, "values in norms": norms, "left as they are": ", ".join(kinds)}


def table() -> Html:
    """The table of :func:`rows`."""
    return whole(rows().round(2), "Share of the weights in the blocks' matrices that each method covers")


def summary() -> Html:
    """How many families there are, and how many are covered whole."""
    found = rows()
    shares = found[["pruned (%)", "MaskLoRA (%)", "quantized (%)"]]
    some = shares.apply(lambda row: all(isinstance(one, float) for one in row), axis=1)
    full = int((shares[some] == 100).all(axis=1).sum())
    least = shares[some].astype(float).min().min()
    return Html(
        f"<p>Of {len(found)} families, {some.sum()} go through every method; in {full} every matrix of the blocks is "
        f"reached, in the other {some.sum() - full} at least {least:.1f} % of the weights.</p>"
    )
