"""The CPTQuant notebooks, cell by cell, on tiny models: parameters are the study's, every cell runs and
shows something.
"""

import sys
from pathlib import Path

import pytest
from page_cells import check_parameters, shown_by

from lmcompress import plans
from lmcompress.pages import cptquant_claims
from lmcompress.report import reported

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "pages"))
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


@pytest.mark.parametrize("name", CHANGES)
def test_parameters_are_those_of_the_study(name):
    check_parameters(name)


@pytest.mark.parametrize("name", CHANGES)
def test_every_cell_runs_on_tiny_models(name, tiny, monkeypatch):  # noqa: F811
    def few(_profile: str, notebook: str) -> dict:
        return {**tiny, **CHANGES[notebook], "language": ""}  # the studies' own tests have both models

    for module in (plans, cptquant_claims):
        monkeypatch.setattr(module, "profile", few)
    monkeypatch.setattr(reported, "carried", lambda *parts: ROOT.joinpath(*parts))
    pages = shown_by(name, few("quick", name), monkeypatch.setattr)
    assert any("Not run here" in page for page in pages)  # nothing is published in this folder
    assert sum(page.count("<table") for page in pages) >= 2
