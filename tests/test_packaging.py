"""The set-up files agree with one another, and the notebooks with their twins."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.md"))


def pins(lines: list[str]) -> dict[str, str]:
    """{name: version} of lines such as ``torch==2.13.0``; anything else than one exact public version fails."""
    found = {}
    for line in lines:
        name, _, version = line.partition("==")
        assert re.fullmatch(r"[a-z0-9-]+", name), line
        assert re.fullmatch(r"[0-9][0-9a-z.]*", version), (
            f"{line}: a build's own suffix fits one kind of machine"
        )
        found[name] = version
    return found


@pytest.fixture(scope="module")
def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return pins([line for line in lines if line and not line.startswith("#")])


def test_every_requirement_is_pinned_within_its_range(constraints):
    for text in [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(constraints[canonicalize_name(requirement.name)]), text


def test_what_is_installed_is_what_is_pinned(constraints):
    for text in [*PROJECT["dependencies"], *EXTRAS["run"], *EXTRAS["dev"]]:
        name = Requirement(text).name
        assert metadata.version(name).partition("+")[0] == constraints[canonicalize_name(name)]


def test_pins_suit_a_machine_with_cuda(constraints):
    assert constraints["torch"] == "2.13.0"
    assert not [name for name in constraints if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


def test_conda_environment_has_the_same_pins(constraints):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, pip = environment["dependencies"]
    python = next(text for text in conda if text.startswith("python="))
    assert Requirement("python" + PROJECT["requires-python"]).specifier.contains(python.partition("=")[2])
    *listed, package = pip["pip"]
    assert package == "-e ."
    assert pins(listed).items() <= constraints.items()
    for text in [*PROJECT["dependencies"], *EXTRAS["run"], *EXTRAS["dev"]]:
        assert canonicalize_name(Requirement(text).name) in pins(listed), text


def test_jupyter_book_is_of_the_first_major_version():
    # Version 2 is another program: it reads none of _config.yml, _toc.yml and the Sphinx extensions.
    assert metadata.version("jupyter-book").startswith("1.")


@pytest.mark.parametrize("version", [(3, 9), (3, 10)])
def test_make_refuses_an_old_python(tmp_path, version):
    old = tmp_path / "python-old"
    old.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo Python {version[0]}.{version[1]};; *) exit 1;; esac\n'
    )
    old.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    command = ["make", "-f", str(ROOT / "Makefile"), "report", f"PYTHON={old}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "lmcompress needs Python 3.11 or newer" in done.stdout
    assert f"Python {version[0]}.{version[1]}" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_the_readmes_test_command():
    readme = (ROOT / "README.md").read_text()
    script = (ROOT / ".ci" / "run").read_text()
    assert re.search(r"^make test\b", readme, re.MULTILINE)
    assert "make test" in script.splitlines()


@pytest.mark.parametrize(
    "workflow", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem
)
def test_what_github_runs_is_there(workflow):
    jobs = yaml.safe_load(workflow.read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands:
        assert all(target in targets for target in re.findall(r"^make (\w+)", command)), command
        assert all((ROOT / path).is_file() for path in re.findall(r"\.ci/\w+(?:\.py)?", command)), command
    assert any(re.match(r"make test|\.ci/run", command) for command in commands)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_twin_is_in_step_and_has_no_outputs(notebook):
    source, twin = jupytext.read(notebook), nbformat.read(notebook.with_suffix(".ipynb"), as_version=4)
    about = [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in source.cells]
    assert [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in twin.cells] == about, (
        "make notebooks"
    )
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in twin.cells), (
        "make notebooks"
    )
    assert twin.metadata.kernelspec.name == "python3"


def test_every_notebook_has_the_cells_that_are_written_for_it():
    command = [sys.executable, ROOT / "workflow/scripts/cells.py", "--check", *NOTEBOOKS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}: make notebooks"


def test_no_twin_without_its_text():
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == [
        path.stem for path in NOTEBOOKS
    ]


def test_import_is_light():
    """``import lmcompress`` alone loads neither torch nor a plotting library."""
    code = "import sys, lmcompress; print(sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
