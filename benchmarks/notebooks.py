"""Run notebooks as a user in a fresh clone does: plain papermill, their own defaults, nothing computed before.

    python benchmarks/notebooks.py --out results/benchmarks              all, ten to twenty minutes
    python benchmarks/notebooks.py --only 22_iterative_or_one_shot       one

Each runs in a folder of its own in which only the published records and the fetched models and texts are known: it
converts the model, fine-tunes the classifier and computes every run itself. Ends with status 1 where a notebook fails
or takes more than ``--limit`` seconds. A record in ``--out`` keeps its rows of notebooks that are not among those that
are measured. ``--set NAME=VALUE`` changes a parameter of all, as papermill's ``-p`` does.

Processor seconds are what a shared machine tells truly: alone on its cores, a notebook takes no longer by the clock.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench

from lmcompress.files import cache_folder

TINY = ["40_scale"]
READ = ("notebooks", "results", "config", "data/paper")  # what pages read of the checkout
FETCHED = ("model", "data")  # what of the cache comes from a network; the rest is made


def fresh(folder: Path) -> dict[str, str]:
    """Lay out ``folder`` as a clone in which nothing was computed; returns variables that name it."""
    for name in READ:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(bench.ROOT / name)
    cache = folder / "data" / "cache"
    cache.mkdir()
    for name in FETCHED:
        if (there := cache_folder() / name).is_dir():
            (cache / name).symlink_to(there.resolve())
    paths = [str(bench.ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "LMCOMPRESS_ROOT": str(folder),
        "LMCOMPRESS_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def row(name: str, changes: list[str], folder: Path) -> dict:
    """Run one notebook in ``folder``: exit code, seconds by the clock, of processors, and how many runs it computed."""
    environment = os.environ | fresh(folder)
    command = [str(Path(sys.executable).with_name("papermill")), f"notebooks/{name}.ipynb", "executed.ipynb"]
    command += ["--kernel", "python3", "--no-progress-bar"]
    for change in changes:
        command += ["-p", *change.split("=", 1)]
    start = time.perf_counter()
    with open(folder / "log.txt", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    found = {
        "notebook": name,
        "exit code": process.returncode,
        "seconds": round(time.perf_counter() - start, 1),
        "processor seconds": round(used.ru_utime + used.ru_stime, 1),
        "runs": len(list((folder / "build" / "records").glob("*/*.json"))),
        "commit": (bench.commit(bench.ROOT) or "unknown")[:7],
    }
    print(*found.values(), flush=True)
    if process.returncode:
        print((folder / "log.txt").read_text(errors="replace")[-3000:], flush=True)
    return found


def main(argv: list[str] | None = None) -> dict:
    names = sorted(path.stem for path in (bench.ROOT / "notebooks").glob("*.ipynb"))
    parser = bench.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NOTEBOOK", help="default: all")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE")
    parser.add_argument("--limit", type=float, default=180, help="seconds that a notebook may take")
    parser.add_argument("--work", type=Path, help="folder for what is computed; else it is thrown away")
    options = parser.parse_args(argv)
    rows = []
    for name in options.only or (TINY if options.tiny else names):
        with tempfile.TemporaryDirectory() as thrown:
            folder = options.work / name if options.work else Path(thrown)
            folder.mkdir(parents=True, exist_ok=True)
            rows.append(row(name, options.set, folder))
    late = [row["notebook"] for row in rows if row["exit code"] or at_most(row) > options.limit]
    if late:
        print(f"failed, or took more than {options.limit:.0f} s: {', '.join(late)}")
    print(f"notebooks: {len(rows) - len(late)} of {len(rows)} within {options.limit:.0f} s", flush=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows = sorted(
        rows + earlier(options.out, {row["notebook"] for row in rows}), key=lambda row: row["notebook"]
    )
    return bench.finish("notebooks", options, rows, agrees=not late, cores=cores)


def earlier(folder: Path | None, measured: set[str]) -> list[dict]:
    """The rows of the record in ``folder``, if there is one, of notebooks that were not ``measured`` this time."""
    path = None if folder is None else folder / "notebooks.json"
    if path is None or not path.is_file():
        return []
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return [row for row in rows if row["notebook"] not in measured]


def at_most(row: dict) -> float:
    """Seconds that a notebook takes at most where nothing else runs: other work makes only the clock's longer."""
    return min(row["seconds"], row["processor seconds"])


if __name__ == "__main__":
    sys.exit(0 if main()["agrees"] else 1)
