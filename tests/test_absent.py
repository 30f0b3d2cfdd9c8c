"""Where nothing is computed: pages run, say what they lack, and show what is published."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmcompress import absent, records
from lmcompress.experiments.dense import WeightGrid

ROOT = Path(__file__).resolve().parents[1]
# Cells of notebooks as IPython runs them, in a process to which torch is not there.
PAGES = """
import importlib.abc, sys
sys.path.insert(0, "tests")

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "transformers", "safetensors", "accelerate", "datasets", "pyarrow"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from page_cells import code_cells
shell = InteractiveShell.instance()
for page in sys.argv[1:]:
    shell.reset()
    for cell in code_cells(page):
        with capture_output() as shown:
            result = shell.run_cell(cell.source)
        result.raise_error()
        print(getattr(result.result, "_repr_html_", str)())
        for piece in shown.outputs:
            print(piece.data.get("text/html", ""))
"""


@pytest.mark.parametrize(
    ("page", "published"), [("10_pruning_sweep", "sparsegpt"), ("22_iterative_or_one_shot", "rounds")]
)
def test_a_page_runs_without_torch(page, published, tmp_path):
    command = [sys.executable, "-c", PAGES, page]
    hidden = os.environ | {"LMCOMPRESS_READ_ONLY": "1", "IPYTHONDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Not computed on this machine:") == 1  # in full once
    assert published in done.stdout[done.stdout.index("<table") :]


def test_outside_of_a_notebook_it_is_an_error(monkeypatch):
    monkeypatch.setenv("LMCOMPRESS_READ_ONLY", "1")
    runs = [WeightGrid(model="minilm-l6", rows=rows) for rows in (16, 17)]
    with pytest.raises(absent.NotComputed, match=r"not computed on this machine: 2 runs \(2 weight_grid\)"):
        records.obtain(runs)


def test_any_use_of_an_absent_record_says_what_is_absent():
    missing = absent.Absent(absent.NotComputed(["truth"], "no torch"))
    for use in (list, len, bool, lambda x: x[0], lambda x: x.result, lambda x: 1 in x, lambda x: [*x], sum):
        with pytest.raises(absent.NotComputed, match="1 run \\(1 truth\\); no torch"):
            use(missing)
