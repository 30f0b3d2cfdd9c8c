"""The wheel alone, in an empty folder: published records, notebooks and profiles are at hand."""

import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
from packaging.requirements import Requirement

NOTHING = SimpleNamespace(util=SimpleNamespace(find_spec=lambda _name: None))  # finds no package
ROOT = Path(__file__).parents[1]
PARTS = (
    "src",
    "config",
    "notebooks",
    "results",
    "data/paper",
    "pyproject.toml",
    "setup.py",
    "README.md",
    "LICENSE",
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs a command line of the installed package in an empty folder; ``installed("-c", code)`` runs Python."""
    room = tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        (room / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, room / "source" / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "-w", str(room), str(room / "source")], check=True)
    shutil.rmtree(room / "source")
    (wheel,) = room.glob("*.whl")
    subprocess.run(
        [*pip, "install", *offline, "--no-compile", "--target", str(room / "site"), str(wheel)], check=True
    )
    (room / "empty").mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LMCOMPRESS_")}
    environment = clean | {"PYTHONPATH": str(room / "site"), "LMCOMPRESS_READ_ONLY": "1"}

    def run(*words: str) -> str:
        words = words if words[0] == "-c" else ("-m", "lmcompress", *words)
        call = [sys.executable, *words]
        done = subprocess.run(call, cwd=room / "empty", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    run.folder = room
    return run


def test_published_records_are_read(installed):
    code = "import lmcompress; print(lmcompress.__file__)"
    count = "from lmcompress.plans import published; print(len(published('10_pruning_sweep')))"
    file, count = installed("-c", f"{code}\n{count}").split()
    assert Path(file).is_relative_to(installed.folder / "site")
    assert int(count) >= 30


def test_a_notebook_is_checked_with_its_profile(installed):
    said = installed("run", "10_pruning_sweep", "--check")
    assert (
        said
        == subprocess.run(
            [sys.executable, "-m", "lmcompress", "run", "10_pruning_sweep", "--check"],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
        ).stdout
    )


def test_a_page_is_executed_on_its_published_records(installed):
    said = installed("run", "23_cost_of_retraining")
    made = installed.folder / "empty" / "build" / "runs" / "23_cost_of_retraining.ipynb"
    assert said.splitlines()[-1] == str(made)
    assert "[run]" in made.read_text(encoding="utf-8")  # the block below what is shown of records


def test_a_notebook_installs_the_package_from_its_repository_where_it_is_not():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    first = next(
        cell
        for cell in jupytext.read(ROOT / "notebooks/20_retrain_subsets.md").cells
        if cell.cell_type == "code"
    )
    asked = []
    shell = SimpleNamespace(run_line_magic=lambda *words: asked.append(words))
    absent = {"get_ipython": lambda: shell, "__builtins__": {"__import__": lambda *_: NOTHING}}
    exec(first.source, absent)
    ((magic, words),) = asked
    assert magic == "pip"
    wanted = Requirement(shlex.split(words)[-1])
    assert (wanted.name, wanted.url) == (project["name"], f"git+{project['urls']['Repository']}")
    assert wanted.extras <= project["optional-dependencies"].keys()
    asked.clear()
    exec(first.source, {"get_ipython": lambda: shell})
    assert not asked  # it is here
