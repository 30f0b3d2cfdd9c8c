"""A sweep of 200 runs of a tiny model, undisturbed then with processes killed at random: are all records the same?

    python benchmarks/faults.py FOLDER [--runs 200] [--kills 10] [--seed 0]

FOLDER holds ``model`` and ``corpus`` or gets tiny random ones (from tests/). Prints, as JSON, the seconds of both
sweeps, the overhead a run, what was killed, and how the records compare: every number but times, bit for bit.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
TIMES = {"seconds", "deciding"}


def prepare(folder: Path, runs: int) -> None:
    """The tiny model and corpus, and a sweep file of as many runs."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_assets import tiny_corpus, tiny_model_folder

    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model").exists():
        tiny_model_folder(folder / "model")
        tiny_corpus(folder / "corpus")
    fixed = {"model": str(folder / "model"), "data": str(folder / "corpus"), "dtype": "fp32", "length": 16}
    grid = {
        "criterion": ["magnitude", "wanda", "random", "sparsegpt"],
        "pattern": ["20%", "30%", "40%", "50%", "60%", "70%", "80%", "2:4", "1:4", "4:8"],
        "seed": list(range(runs // 40)),
    }
    sweep = {
        "experiment": "pruned_model",
        "fixed": fixed | {"test": 4, "calibration": 4, "layer_errors": False},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(sweep | {"grid": grid}, sort_keys=False))


def start(folder: Path, checkout: Path) -> subprocess.Popen:
    checkout.mkdir(parents=True, exist_ok=True)
    if not (checkout / "workflow").exists():
        shutil.copytree(ROOT / "workflow", checkout / "workflow")
    environment = os.environ | {"LMCOMPRESS_ROOT": str(checkout), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "workflow/sweep.py", str(folder / "tiny.yaml"), "--cores", "2"]
    return subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)


def records(checkout: Path) -> dict[str, dict]:
    """Key -> parameters and result of every record, times left out."""
    found = {}
    for path in (checkout / "build" / "records").glob("*/*.json"):
        record = json.loads(path.read_text())
        result = {name: value for name, value in record["result"].items() if name not in TIMES}
        found[path.stem] = {"parameters": record["parameters"], "result": result}
    return found


def role(process: psutil.Process) -> str:
    """What a process of a sweep does, by its command line."""
    words = " ".join(process.cmdline())
    names = {"multiprocessing": "worker", "runs.py": "job", "snakemake": "scheduler", "sweep.py": "parent"}
    return next((name for part, name in names.items() if part in words), "shell")


def disturbed(folder: Path, checkout: Path, kills: int, source: random.Random) -> tuple[Counter, int]:
    """Run the sweep to its end while ``kills`` of its processes are killed; what they were, and calls it took."""
    killed, calls = Counter(), 0
    while True:
        calls += 1
        process = start(folder, checkout)
        while process.poll() is None:
            if killed.total() < kills and wait(process, source.uniform(4, 25)):
                try:
                    top = psutil.Process(process.pid)
                    one = source.choice([top, *top.children(recursive=True)])
                    what = role(one)
                    one.kill()
                    killed[what] += 1
                    print(f"killed: {what}", file=sys.stderr, flush=True)
                except psutil.Error:
                    continue
            else:
                time.sleep(0.2)
        if process.returncode == 0:
            return killed, calls


def wait(process: subprocess.Popen, seconds: float) -> bool:
    """Whether the process is still there after so many seconds."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = given.folder.resolve()
    prepare(folder, given.runs)
    for name in ("undisturbed", "disturbed"):
        shutil.rmtree(folder / name, ignore_errors=True)

    began = time.monotonic()
    process = start(folder, folder / "undisturbed")
    if process.wait():
        sys.exit("the undisturbed sweep failed")
    seconds = time.monotonic() - began
    plain = records(folder / "undisturbed")
    paths = (folder / "undisturbed" / "build" / "records").glob("*/*.json")
    busy = sum(json.loads(path.read_text())["provenance"]["seconds"] for path in paths)

    began = time.monotonic()
    killed, calls = disturbed(folder, folder / "disturbed", given.kills, random.Random(given.seed))
    again = records(folder / "disturbed")
    left = [str(path) for path in (folder / "disturbed" / "build").rglob("*.partial")]
    found = {
        "runs": len(plain),
        "seconds": round(seconds, 1),
        "seconds in runs": round(busy, 1),
        "overhead a run": round((seconds - busy / 2) / len(plain), 3),
        "killed": dict(killed),
        "calls": calls,
        "seconds when disturbed": round(time.monotonic() - began, 1),
        "lost": len(plain.keys() - again.keys()),
        "other": sum(plain[key] != again[key] for key in plain.keys() & again.keys()),
        "left over": left,
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    main()
