"""Published records computed again on two kinds of machine, of ``results/benchmarks/verify_*.json``."""

from typing import Any

import pandas as pd

from lmcompress.files import benchmark
from lmcompress.report.html import Html, not_run, whole

MACHINES = {"verify_gpu": "on a GPU", "verify_cpu": "on two cores"}


def table() -> Html:
    """A row a kind: where its record was published, and on each machine how many of its numbers came out equal and the
    median and largest relative deviation; or that nothing was computed again.
    """
    found = {name: benchmark(name)["rows"] for name in MACHINES}
    rows = [
        {"kind": row["kind"], "published on": row["published on"], "computed again": MACHINES[name]}
        | _told(row)
        for name, each in found.items()
        for row in each
    ]
    if not rows:
        return not_run(
            "the numbers of a second machine",
            "`python benchmarks/verify_records.py --out results/benchmarks`",
        )
    done = [row for each in found.values() for row in each if row["numbers"]]
    equal = sum(row["equal"] == row["numbers"] for row in done)
    close = sum(row["median deviation"] <= 1e-3 for row in done)
    said = (
        f"<p>{len(done)} records were computed again: {equal} came out equal in every number, and in {close} the "
        f"median deviation is at most 0.1 %. The others that are listed took longer than was allowed.</p>"
    )
    shown = pd.DataFrame(rows).sort_values(["kind", "computed again"])
    return Html(said + whole(shown, "Published records, one of each kind, computed again"))


def _told(row: dict[str, Any]) -> dict[str, str]:
    if not row["numbers"]:
        return {"equal": "not finished", "median deviation": "", "largest deviation": ""}
    return {
        "equal": f"{row['equal']} of {row['numbers']}",
        "median deviation": f"{row['median deviation']:.1g}",
        "largest deviation": f"{row['largest deviation']:.1g}",
    }
