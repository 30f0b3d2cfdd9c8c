"""Snakemake's three questions to Kubernetes: submit a job, how is it, cancel it. Answered by kubectl.

pod.py submit --cpu 8 --memory 64000 --gpu 1 JOBSCRIPT     prints the job's name
pod.py status NAME                                         prints running, success or failed
pod.py cancel NAME ...
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

import yaml

JOB = yaml.safe_load(Path(__file__).with_name("job.yaml").read_text(encoding="utf-8"))


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """What kubectl prints; its failure is ours."""
    command = ["kubectl", "--namespace", JOB["metadata"]["namespace"], *arguments]
    return subprocess.run(command, input=stdin, text=True, check=True, stdout=subprocess.PIPE).stdout.strip()


def submit(given: argparse.Namespace) -> str:
    """Create the job; its name. ``given.memory`` is in MB."""
    container = JOB["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["/bin/sh", given.jobscript]
    container["workingDir"] = os.getcwd()
    container["resources"] = {"requests": {"cpu": str(given.cpu), "memory": f"{given.memory}M"}}
    if given.gpu:
        container["resources"]["limits"] = {"nvidia.com/gpu": str(given.gpu)}
    return kubectl("create", "-f", "-", "-o", "jsonpath={.metadata.name}", stdin=json.dumps(JOB))


def status(given: argparse.Namespace) -> str:
    found = json.loads(kubectl("get", "job", given.name, "-o", "json")).get("status", {})
    return "success" if found.get("succeeded") else "failed" if found.get("failed") else "running"


def cancel(given: argparse.Namespace) -> str:
    return kubectl("delete", "job", "--ignore-not-found", *given.names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(required=True)
    one = actions.add_parser("submit")
    for name in ("cpu", "memory", "gpu"):
        one.add_argument(f"--{name}", type=int, required=True)
    one.add_argument("jobscript")
    one.set_defaults(act=submit)
    one = actions.add_parser("status")
    one.add_argument("name")
    one.set_defaults(act=status)
    one = actions.add_parser("cancel")
    one.add_argument("names", nargs="+")
    one.set_defaults(act=cancel)
    given = parser.parse_args()
    print(given.act(given))


if __name__ == "__main__":
    main()
