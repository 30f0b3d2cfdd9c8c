"""How long every notebook takes with its own parameters, of ``results/benchmarks/notebooks.json``."""

import pandas as pd

from lmcompress.files import benchmark
from lmcompress.report.html import Html, not_run, whole

COLUMNS = ["notebook", "exit code", "seconds", "processor seconds", "runs", "commit"]
CAPTION = "Notebooks by plain papermill with their own parameters, where nothing was computed before"


def table() -> Html:
    """What the longest takes, and a row a notebook: exit code, seconds by the clock and of processors, runs, commit; or
    that nothing was measured.
    """
    found = benchmark("notebooks")
    if not found["rows"]:
        return not_run(
            "the time of each notebook", "`python benchmarks/notebooks.py --out results/benchmarks`"
        )
    rows = pd.DataFrame(found["rows"])[COLUMNS]
    ended = int((rows["exit code"] == 0).sum())
    most = rows.loc[rows["processor seconds"].idxmax()]
    said = (
        f"<p>{ended} of {len(rows)} notebooks that were measured ended without a fault on {found['cores']} cores; the "
        f"most processor time is that of {most['notebook']}, {most['processor seconds']:.0f} s "
        f"({most['seconds']:.0f} s by the clock).</p>"
    )
    return Html(said + whole(rows, CAPTION))
