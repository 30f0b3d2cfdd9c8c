"""A sweep through a real SLURM: one job a group of runs, a killed job, controller and node killed in the middle."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import slurm_cluster
import yaml
from tiny_assets import tiny_corpus, tiny_model_folder

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.cluster


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="needs the extra 'cluster'")
    if why := slurm_cluster.missing():
        pytest.skip(why)
    try:
        made = slurm_cluster.Cluster(tmp_path / "slurm")
    except RuntimeError as error:
        pytest.skip(f"SLURM does not start here: {str(error)[-300:]}")
    yield made
    made.stop()


def job_processes(folder: Path) -> list[psutil.Process]:
    """The processes on this machine that compute runs of the sweep in ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or [""]
        at_work = "python" in words[0] and any(word.endswith("/runs.py") for word in words)
        if at_work and process.info["cwd"] == str(folder):
            found.append(process)
    return found


def until(what, seconds: float = 120):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return found


def harm(checkout: Path, cluster: slurm_cluster.Cluster) -> None:
    """Kill the first job, and once a record is there controller and node; then start these again."""
    until(lambda: job_processes(checkout))[0].kill()
    until(lambda: list((checkout / "build").glob("records/*/*.json")))
    cluster.kill()
    time.sleep(3)
    cluster.start()


def test_every_record_arrives_though_a_job_and_the_cluster_are_killed(tmp_path, cluster):
    checkout = tmp_path / "a checkout"
    shutil.copytree(ROOT / "workflow", checkout / "workflow")
    fixed = {
        "model": tiny_model_folder(tmp_path / "model"),
        "data": tiny_corpus(tmp_path / "corpus"),
        **{"dtype": "fp32", "length": 16, "test": 2, "calibration": 2, "layer_errors": False},
    }
    grid = {"criterion": ["magnitude", "wanda"], "pattern": ["50%", "70%", "2:4"], "seed": [0]}
    sweep = {"experiment": "pruned_model", "fixed": fixed, "grid": grid, "runs_a_job": 2}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(sweep))
    command = [sys.executable, "workflow/sweep.py", str(tmp_path / "tiny.yaml")]
    quicker = ["--seconds-between-status-checks", "3", "--slurm-init-seconds-before-status-checks", "3"]
    command += ["--profile", "workflow/profiles/slurm", "--latency-wait", "5", *quicker]
    command += ["--slurm-status-command", "squeue", "--slurm-no-account"]  # there is no accounting here
    paths = {"LMCOMPRESS_ROOT": str(checkout), "PYTHONPATH": str(ROOT / "src")}
    environment = cluster.environment | paths

    process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        harm(checkout, cluster)
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    if process.returncode:  # what was missing is computed by the next call
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=240
        )
        output += done.stdout
        assert done.returncode == 0, output + cluster.log()
    assert "Submitted array job" in (checkout / "build/sweeps/tiny/snakemake.log").read_text()
    records = [json.loads(path.read_text()) for path in (checkout / "build").glob("records/*/*.json")]
    assert len(records) == 6, output
    assert (checkout / "build" / "sweeps" / "tiny" / "results.parquet").exists()
    if kept := os.environ.get("LMCOMPRESS_SLURM_LOG"):  # for the book
        text = (checkout / "build/sweeps/tiny/snakemake.log").read_text()
        Path(kept).write_text("\n".join((output, text, cluster.log())))
