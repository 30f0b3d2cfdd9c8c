"""Compute the runs of a sweep file that are not known yet, then gather all of them.

    python workflow/sweep.py config/sweeps/pruning.yaml --cores 2 [any other option of snakemake]

``make sweep SWEEP=FILE`` and ``lmcompress sweep FILE`` call this. Exit code: Snakemake's.
"""

import json
import shutil
import sys
import time
from pathlib import Path

from driver import alone, complaint, duration, snakemake

from lmcompress import plan as plans
from lmcompress import sweep
from lmcompress.errors import ParameterError
from lmcompress.pool import gpus


class Progress:
    """The line that stands while a sweep is computed, from the files of its jobs: done, running, failed, time left."""

    def __init__(self, folder: Path, jobs: list[plans.Job]):
        self.folder, self.start = folder / "progress", time.time()
        self.sizes = {job.name: len(job.experiments) for job in jobs}

    def __call__(self) -> str:
        done = failed = running = 0
        for path in self.folder.glob("*.jsonl"):
            lines = path.read_text().splitlines()
            errors = [bool(json.loads(line)["error"]) for line in lines[1:] if line.endswith("}")]
            done, failed = done + errors.count(False), failed + errors.count(True)
            running += bool(lines) and len(errors) < self.sizes.get(path.stem, 0)
        total = sum(self.sizes.values())
        text = f"runs: {done} of {total} done, {running} running, {failed} failed"
        ended = done + failed
        if ended and ended < total:
            text += f"; about {duration((time.time() - self.start) / ended * (total - ended))} left"
        return text


def main() -> int:
    given, *options = sys.argv[1:]
    try:
        experiments, runs_a_job = sweep.read(Path(given))
        plan = plans.plan(experiments, runs_a_job)
    except ParameterError as error:
        print(f"Failed: {error}", file=sys.stderr)
        return 2
    folder = Path("build/sweeps") / Path(given).stem
    print(plans.summary(plan), flush=True)
    with alone(folder, "run of this sweep") as lock:
        code = compute(plan, folder, options, lock) if plan.jobs else 0
        if not any(option in options for option in ("-n", "--dry-run")):
            for path in plans.gather(plan.experiments, folder):
                print(path)
    return code


def compute(plan: plans.Plan, folder: Path, options: list[str], lock) -> int:
    for old in ("done", "progress", "logs"):  # what is known is known by its record
        shutil.rmtree(folder / old, ignore_errors=True)
    plan.write(folder / "plan.json")
    log, cards = folder / "snakemake.log", len(gpus())
    config = {"name": folder.name, "gpu": int(cards > 0)}
    code = snakemake("sweep.smk", config, options, lock, log, Progress(folder, plan.jobs), max(1, cards))
    failed = [
        line
        for path in sorted((folder / "logs").glob("*.log"))
        for line in (f"{path}", *path.read_text(errors="replace").splitlines()[-1:])
        if not (folder / "done" / path.stem).exists()
    ]
    if code:
        print("Failed jobs, each with the end of its log:", *(failed or [log, complaint(log)]), sep="\n  ")
        print("All other runs are kept; the same command tries the missing ones again.")
    return code


if __name__ == "__main__":
    sys.exit(main())
