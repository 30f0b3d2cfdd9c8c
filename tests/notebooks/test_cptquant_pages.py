"""The CPTQuant notebooks, cell by cell, on tiny models: parameters are the study's, every cell runs and
shows something.
"""

import sys
from pathlib import Path

import IPython.display
import jupytext
import pytest

from lmcompress import records
from lmcompress.records import study_class
from lmcompress.studies import cptquant_claims

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "studies"))
from cptquant_tiny import tiny  # noqa: E402, F401

FEW = {"widths": [2, 3, 4], "group": 8}
ALLOCATION = {
    **FEW,
    "language_scores": ["measured truth", "CMPQ", "PMPQ", "TDMPQ"],
    "classifier_scores": ["measured truth", "CMPQ", "PMPQ", "TDMPQ"],
    "averages": [6.0],
    "draws": 4,
    "clustered": ["CMPQ"],
    "test": 24,
    "test_windows": 4,
}
CHANGES = {
    "30_cmpq": {**FEW, "counts": [8], "measures": ["CMPQ"], "language_measures": ["CMPQ"]},
    "31_pmpq": {**FEW, "head_seeds": [0, 1]},
    "32_tdmpq": {**FEW, "classifier_scores": ["TDMPQ", "TDMPQ, Fisher"], "draws": 2},
    "33_sensitivity_shootout": {
        **FEW,
        "language_scores": ["CMPQ", "PMPQ", "TDMPQ"],
        "classifier_scores": ["CMPQ", "PMPQ", "TDMPQ"],
    },
    "34_bit_allocation": ALLOCATION,
    "35_real_size_and_speed": {**FEW, "average": 5.5, "uniform": [16, 4], "embeddings": ["8bit"], "test": 24},
    "36_prune_and_quantize": {**FEW, "patterns": ["0%", "2:4"], "averages": [5.0, 9.0], "test": 24},
    "39_cptquant_claims": {"test": 24},
}


def code_cells(name: str) -> list:
    notebook = jupytext.read(ROOT / "notebooks" / f"{name}.md")
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(name: str) -> dict:
    first = code_cells(name)[0]
    assert "parameters" in first.metadata["tags"]
    found: dict = {}
    exec(first.source, found)
    return {key: value for key, value in found.items() if not key.startswith("_")}


@pytest.mark.parametrize("name", CHANGES)
def test_parameters_are_those_of_the_study(name):
    study = study_class(name)
    found = parameters(name)
    assert set(found) == set(study.model_fields)
    assert len(study(**found).experiments()) > 0
    for cell in code_cells(name)[1:]:
        assert len(cell.source.splitlines()) <= 15


@pytest.mark.parametrize("name", CHANGES)
def test_every_cell_runs_on_tiny_models(name, tiny, monkeypatch):  # noqa: F811
    def few(_profile: str, notebook: str) -> dict:
        return {**tiny, **CHANGES[notebook], "language": ""}  # the studies' own tests have both models

    shown: list = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    monkeypatch.setattr(records, "profile", few)
    monkeypatch.setattr(cptquant_claims, "profile", few)
    variables = parameters(name) | few("quick", name)
    for cell in code_cells(name)[1:]:
        exec(cell.source, variables)
    pages = [piece._repr_html_() for piece in shown]
    assert any("Not run here" in page for page in pages)  # nothing is published in this folder
    assert sum("<table" in page for page in pages) >= 2
