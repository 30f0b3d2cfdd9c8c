"""The profiles for clusters: every entry explained, every entry an option; pod.py against a stand-in for kubectl."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from snakemake.cli import get_argument_parser

PROFILES = Path(__file__).resolve().parents[2] / "workflow" / "profiles"
KUBECTL = """#!{python}
import json, pathlib, sys
with open("calls.jsonl", "a") as file:
    given = json.load(sys.stdin) if "create" in sys.argv else None
    file.write(json.dumps([sys.argv[1:], given]) + "\\n")
print(pathlib.Path("answer").read_text(), end="")
"""


@pytest.mark.parametrize("name", ["default", "slurm", "kubernetes"])
def test_every_entry_is_an_option_and_is_explained(name):
    lines = (PROFILES / name / "config.yaml").read_text().splitlines()
    entries = yaml.safe_load("\n".join(lines))
    options = {text for action in get_argument_parser()._actions for text in action.option_strings}
    for entry, value in entries.items():
        plugin = str(entries.get("executor")) + "-"
        assert f"--{entry}" in options or entry.startswith(plugin), entry
        assert value not in (None, "")
        place = next(number for number, line in enumerate(lines) if line.startswith(f"{entry}:"))
        assert lines[place - 1].strip().startswith("#"), f"{entry} has no comment"


@pytest.fixture
def pod(tmp_path):
    """Run pod.py where ``kubectl`` prints a given answer; returns its output and what kubectl was given."""
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL.format(python=sys.executable))
    kubectl.chmod(0o755)

    def run(answer: str, *arguments: str) -> tuple[str, list]:
        (tmp_path / "answer").write_text(answer)
        path = f"{kubectl.parent}{os.pathsep}{os.environ['PATH']}"
        command = [sys.executable, str(PROFILES / "kubernetes" / "pod.py"), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"PATH": path}, text=True, capture_output=True, check=True
        )
        return done.stdout.strip(), json.loads((tmp_path / "calls.jsonl").read_text().splitlines()[-1])

    return run


def test_submit_fills_in_command_folder_and_needs(pod, tmp_path):
    name, (_, job) = pod("lmcompress-7x", "submit", "--cpu", "8", "--memory", "64000", "--gpu", "1", "job.sh")
    assert name == "lmcompress-7x"
    container = job["spec"]["template"]["spec"]["containers"][0]
    assert container["command"] == ["/bin/sh", "job.sh"]
    assert container["workingDir"] == str(tmp_path)
    assert container["resources"] == {
        "requests": {"cpu": "8", "memory": "64000M"},
        "limits": {"nvidia.com/gpu": "1"},
    }
    _, (_, job) = pod("lmcompress-8x", "submit", "--cpu", "1", "--memory", "6000", "--gpu", "0", "job.sh")
    assert "limits" not in job["spec"]["template"]["spec"]["containers"][0]["resources"]


@pytest.mark.parametrize("version", ["1.28", "1.32", "1.36"])
def test_the_job_is_one_by_the_schema_of_kubernetes(pod, version):
    validate = pytest.importorskip("kubernetes_validate", reason="needs the extra 'cluster'").validate
    for gpu in ("0", "1"):
        _, (_, job) = pod("x", "submit", "--cpu", "8", "--memory", "64000", "--gpu", gpu, "job.sh")
        validate(job, version, strict=True)
        job["spec"]["template"]["spec"]["container"] = []  # the schema does refuse
        with pytest.raises(Exception, match="container"):
            validate(job, version, strict=True)


@pytest.mark.parametrize(
    ("state", "word"),
    [({"succeeded": 1}, "success"), ({"failed": 1}, "failed"), ({"active": 1}, "running"), ({}, "running")],
)
def test_status_is_one_of_snakemakes_words(pod, state, word):
    assert pod(json.dumps({"status": state}), "status", "lmcompress-7x")[0] == word


def test_cancel_names_the_jobs(pod):
    _, (arguments, _) = pod("", "cancel", "a", "b")
    assert arguments[-2:] == ["a", "b"]
