"""A project in a temporary folder: trivial notebooks, a book and a small library, run by the real workflow."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = """\
---
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# Notebook {name}

```{{code-cell}} python
:tags: [parameters]

value: int = 1  # what is shown
```

```{{code-cell}} python
{code}
```
"""
# Stands for the library's plans: here the only study is that of 20_studied, and it takes values below 5.
PLANS = """\
from lmcompress.errors import ParameterError

def planned_with(notebook, parameters):
    value = parameters.get("value", 1)
    if value >= 5:
        raise ParameterError("value", value, "a number below 5")
"""


class Project:
    """A folder with what the workflow reads; :meth:`report` is what ``make report`` does there."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copytree(ROOT / "workflow", folder / "workflow")
        self.write(
            "_config.yml", 'title: T\nexecute: {execute_notebooks: "off"}\nonly_build_toc_files: true\n'
        )
        self.write("_toc.yml", 'format: jb-book\nroot: book/intro\nchapters: [{glob: "notebooks/*"}]\n')
        self.write("book/intro.md", "# Intro\n")
        self.write("config/quick.yaml", "{}\n")
        for name in ("errors.py", "files.py"):
            self.write(f"src/lmcompress/{name}", (ROOT / "src" / "lmcompress" / name).read_text())
        self.write("src/lmcompress/__init__.py", "")
        self.write("src/lmcompress/plans.py", PLANS)
        self.write("src/lmcompress/pages/__init__.py", "")
        self.write("src/lmcompress/pages/studied.py", "")
        self.write("src/lmcompress/assets.toml", "")
        # The assets count as fetched: no network in tests.
        self.write("data/cache/fetched.txt", "all\n")

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def notebook(self, name: str, code: str) -> None:
        self.write(f"notebooks/{name}.md", NOTEBOOK.format(name=name, code=textwrap.dedent(code).strip()))

    def start(self, *options: str) -> subprocess.Popen:
        command = [sys.executable, "workflow/report.py", "quick", "--cores", "2", *options]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def report(self, *options: str) -> tuple[int, str]:
        """Exit code and everything printed."""
        process = self.start(*options)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    def kill(self, process: subprocess.Popen) -> None:
        """End a run and all that it started at once, as a power cut would."""
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()

    def executed(self, name: str) -> Path:
        return self.folder / "build" / "quick" / "notebooks" / f"{name}.ipynb"

    def log(self, name: str) -> str:
        return (self.folder / "build" / "quick" / "logs" / f"{name}.log").read_text()


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / "a checkout")  # whose path has a space
