"""What the rules share: which notebooks there are, their parameters, and digests of what files alone do not show."""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

import yaml
from snakemake.utils import validate

PROFILE = config.setdefault("profile", "quick")
OUT = f"build/{PROFILE}"
BOOK = "build/book/_build/html/index.html"
SCRIPTS = Path(workflow.basedir) / "scripts"
PYTHON = Path(sys.executable)
LIBRARY = Path(importlib.util.find_spec("lmcompress").origin).parent

NOTEBOOKS = sorted(path.stem for path in Path("notebooks").glob("*.md"))
EXECUTED = expand(f"{OUT}/notebooks/{{name}}.ipynb", name=NOTEBOOKS)


def sections(profile):
    """{notebook: {parameter: value}} of config/<profile>.yaml; an unknown notebook or a misspelt shape is refused."""
    given = yaml.safe_load(Path(f"config/{profile}.yaml").read_text(encoding="utf-8")) or {}
    validate(given, str(Path(workflow.basedir) / "schemas" / "config.schema.yaml"))
    unknown = sorted(set(given) - set(NOTEBOOKS))
    if unknown:
        raise WorkflowError(
            f"config/{profile}.yaml has parameters for {', '.join(unknown)}, but the notebooks are "
            f"{', '.join(NOTEBOOKS) or 'none'}."
        )
    return given


def digest(*places):
    """One hash over the names and contents of the files at and below the places; what is absent counts as empty."""
    total = hashlib.sha256()
    for place in map(Path, places):
        for path in sorted([place, *place.rglob("*")]):
            if path.is_file() and "__pycache__" not in path.parts:
                total.update(f"{path.relative_to(place)}\0".encode())
                total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


SECTIONS = sections(PROFILE)
# Snakemake sees changed files of a rule, not changed code behind it: these digests stand for the library and for what
# the pages show beside their own runs (the published runs, what the papers report).
LIBRARY_DIGEST = digest(LIBRARY)
SHOWN_DIGEST = digest("results", "data/paper", *(f"config/{name}.yaml" for name in ("full", "sst2", "cpu")))


wildcard_constraints:
    name="|".join(NOTEBOOKS) or "none",
