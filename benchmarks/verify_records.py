"""Published records computed again on this machine: how far are its numbers from those that were published?

Of every kind the record that took the least time, of those whose model and text are here. What takes more than
``--each`` seconds here is given up, and the table says so. Timings are left out: they belong to one machine.

    python benchmarks/verify_records.py --out results/benchmarks --device cpu
    python benchmarks/verify_records.py --out results/benchmarks --device cuda
"""

import os
import signal
import statistics
import sys
import time

import bench
import torch

from lmcompress import records
from lmcompress.cli.records import deviations
from lmcompress.errors import AssetError


def main(argv: list[str] | None = None) -> dict:
    parser = bench.parser(__doc__)
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="default: all that are published")
    parser.add_argument("--each", type=int, default=60, metavar="SECONDS", help="the most for one record")
    parser.add_argument("--seconds", type=int, default=900, help="after so many no other record is begun")
    options = parser.parse_args(argv)
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGALRM, _too_long)
    begun, rows = time.monotonic(), []
    for kind in options.kinds or records.published_kinds():
        if records.experiment_class(kind).timed or time.monotonic() - begun > options.seconds:
            continue
        known = [record for record in records.published_records(kind) if not record.older]
        known.sort(key=lambda record: record.provenance.get("seconds") or float("inf"))
        rows += next(filter(None, (row(record, options.each) for record in known[:20])), [])
        print(rows[-1] if rows else kind, file=sys.stderr, flush=True)
    name = "verify_gpu" if torch.device(options.device).type == "cuda" else "verify_cpu"
    return bench.finish(name, options, rows, cores=os.cpu_count())


def row(record: records.Record, most: int) -> list[dict]:
    """Compute ``record`` again, for at most ``most`` seconds; nothing where its model or text is not here."""
    found = {
        "kind": record.kind,
        "key": record.key[:12],
        "published on": record.provenance["device"],
        "numbers": None,
        "equal": None,
        "median deviation": None,
        "largest deviation": None,
        "seconds": None,
    }
    begun = time.monotonic()
    signal.alarm(most)
    try:
        new = records.compute(record.again())
    except AssetError:
        return []
    except TimeoutError:
        return [found]
    finally:
        signal.alarm(0)
    apart = deviations(record.result, new.result)
    return [
        found
        | {
            "numbers": len(apart),
            "equal": sum(one == 0 for one in apart),
            "median deviation": statistics.median(apart),
            "largest deviation": max(apart),
            "seconds": round(time.monotonic() - begun, 1),
        }
    ]


def _too_long(*_: object) -> None:
    raise TimeoutError


if __name__ == "__main__":
    bench.script(main)
