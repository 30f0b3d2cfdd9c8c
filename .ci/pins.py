"""Write constraints.txt and environment.yml: every package that lmcompress needs, at one version. Run: make pins

pip resolves the package with all its extras; the pins in force are kept unless ``--upgrade`` is given.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"
HEADER = """\
# Every package that lmcompress can use, pinned. Written by `make pins`; do not edit.
# The pin of torch names no build: pip takes the CPU or the CUDA build of that version from whichever index it is
# given. What a CUDA build brings along (nvidia-*, cuda-*, triton) is pinned by torch itself.
"""
ENVIRONMENT = """\
# conda env create -f environment.yml && conda activate lmcompress
# The pins of constraints.txt, less those of the extras gpu and cluster (a test compares them).
# Written by `make pins`; do not edit.
name: lmcompress
channels:
  - conda-forge
  - nodefaults
dependencies:
  - python=3.11
  - pip
  - make
  - pip:
"""


def closure(extras: str, constraints: Path | None) -> list[str]:
    """Names and versions of all that pip would install for ``lmcompress[extras]``, sorted."""
    with tempfile.TemporaryDirectory() as room:
        report = Path(room) / "report.json"
        limits = ["-c", str(constraints)] if constraints else []
        package = f"{ROOT}[{extras}]" if extras else str(ROOT)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *limits, TORCH, package], check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    pins = {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"].split("+")[0] for one in found}
    of_torch = re.compile(r"(nvidia|cuda)-|triton$|lmcompress$")
    return [f"{name}=={version}" for name, version in sorted(pins.items()) if not of_torch.match(name)]


def main() -> None:
    constraints = ROOT / "constraints.txt"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    keep = constraints if constraints.exists() and "--upgrade" not in sys.argv else None
    pins = closure(",".join(project["optional-dependencies"]), keep)
    constraints.write_text(HEADER + "\n".join(pins) + "\n")
    lines = [f"      - {pin}\n" for pin in [*closure("run,dev", constraints), "-e ."]]
    (ROOT / "environment.yml").write_text(ENVIRONMENT + "".join(lines))
    print(f"{len(pins)} packages pinned in constraints.txt and environment.yml")


if __name__ == "__main__":
    main()
