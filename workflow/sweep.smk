"""Compute the runs of a sweep: one job a group of runs. Started by `make sweep SWEEP=FILE` through workflow/sweep.py.

Which runs there are, which of them are known and how they are grouped has been written to build/sweeps/NAME/plan.json.
"""

import json
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

FOLDER = f"build/sweeps/{config['name']}"
JOBS = json.loads(Path(FOLDER, "plan.json").read_text(encoding="utf-8"))
# Jobs of one array have one request: the largest, with room for what an estimate misses.
MEGABYTES = int(1.5 * max((job["megabytes"] or 4000 for job in JOBS.values()), default=0)) + 500
MINUTES = int(3 * max((job["seconds"] or 7200 for job in JOBS.values()), default=0) / 60) + 30
SCRIPTS = Path(workflow.basedir) / "scripts"
PYTHON = Path(sys.executable)


localrules:
    all,


rule all:
    default_target: True
    input:
        expand(f"{FOLDER}/done/{{job}}", job=JOBS),


wildcard_constraints:
    job="[0-9a-f]+",


rule runs:
    message:
        "Runs of {wildcards.job}"
    output:
        touch(f"{FOLDER}/done/{{job}}"),
    params:
        plan=f"{FOLDER}/plan.json",
        folder=FOLDER,
    log:
        f"{FOLDER}/logs/{{job}}.log",
    # For a job that was killed; failed runs are not repeated.
    retries: 1
    # Always one thread unless it is asked for: the last digits of a sum depend on it.
    threads: int(config.get("threads", 1))
    resources:
        mem_mb=MEGABYTES,
        runtime=MINUTES,
        gpu=int(config.get("gpu", 0)),
    shell:
        "{PYTHON:q} {SCRIPTS:q}/runs.py {params.plan:q} {wildcards.job} {params.folder:q} {threads} >> {log:q} 2>&1"
