"""What ``benchmarks/`` measured against the papers' official codes, as tables for a page."""

import json

import pandas as pd

from lmcompress.html import Html, not_run, table
from lmcompress.records import results_folder

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


def _table(name: str, title: str) -> Html:
    path = results_folder() / "benchmarks" / f"{name}.json"
    if not path.is_file():
        return not_run(
            title[0].lower() + title[1:],
            f"a GPU and the official codes: `python benchmarks/{name}.py --help`",
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    about = record["provenance"]
    against = [f"{where.rpartition('/')[2]} at {commit[:7]}" for where, commit in about["official"].items()]
    origin = "; ".join([about["device"], f"ours at {about['commit'][:7]}", *against])
    return table(pd.DataFrame(record["rows"]), f"{title} ({origin})")
