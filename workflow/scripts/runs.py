"""Compute the runs of one job of a sweep, one after the other; what fails does not stop the others.

    python runs.py build/sweeps/NAME/plan.json JOB build/sweeps/NAME THREADS

Standard output is the log. build/sweeps/NAME/progress/JOB.jsonl gets a line when the job starts, and one a run.
"""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from follow import follow_driver


def main() -> None:
    plan, job, folder, threads = sys.argv[1:]
    follow_driver()
    os.environ["OMP_NUM_THREADS"] = threads
    runs = json.loads(Path(plan).read_text(encoding="utf-8"))[job]["runs"]
    progress = Path(folder) / "progress" / f"{job}.jsonl"
    progress.parent.mkdir(parents=True, exist_ok=True)
    if len(reported(progress)) < len(runs):  # else this is Snakemake's second try, which is for killed jobs
        compute(runs, progress)
    if failed := [line for line in reported(progress) if line["error"]]:
        for line in failed:
            print(line["run"], line["trace"])
        print(f"Failed: {len(failed)} of {len(runs)} runs, the first: {failed[0]['error']}")
        sys.exit(1)


def reported(progress: Path) -> list[dict]:
    """What this job has said of its runs, in this try or, where that tried all of them, in the last one."""
    lines = progress.read_text().splitlines()[1:] if progress.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def compute(runs: list[dict], progress: Path) -> None:
    from lmcompress import pool, records

    experiments = [records.experiment_class(run["kind"])(**run["parameters"]) for run in runs]
    with ExitStack() as stack, progress.open("w", buffering=1) as file:
        take_gpu(stack)
        file.write(json.dumps({"started": time.time()}) + "\n")
        for outcome in pool.run_all([[one] for one in experiments]):
            about = f"{outcome.experiment.kind} {outcome.experiment.model_dump_json()}"
            print(about, outcome.error or f"{outcome.seconds:.2f} s", flush=True)
            if not outcome.retried:
                told = {name: getattr(outcome, name) for name in ("seconds", "error", "trace")}
                file.write(json.dumps({"run": about} | told) + "\n")


def take_gpu(stack: ExitStack) -> None:
    """One run a GPU: hold the first free GPU of this machine until the job ends. A scheduler's own choice stands."""
    from filelock import FileLock, Timeout

    from lmcompress import pool

    if os.environ.get("CUDA_VISIBLE_DEVICES") is not None or not (found := pool.gpus()):
        return
    while True:
        for name in found:
            lock = FileLock(Path("build") / f".gpu-{name}.lock", blocking=False)
            try:
                stack.enter_context(lock)
            except Timeout:
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return
        time.sleep(1)


if __name__ == "__main__":
    main()
