"""The pages about data, pruning and PERP, cell by cell, on tiny models: parameters are the study's, every cell runs and
shows something.
"""

import sys
from pathlib import Path

import pytest
from page_cells import check_parameters, shown_by

from lmcompress import plans
from lmcompress.pages import perp_claims

sys.path.insert(0, str(Path(__file__).parents[1] / "pages"))
from perp_tiny import classification, language, tiny_place  # noqa: F401

RATES = {"norms": 0.02, "full": 0.003, "masklora": 0.01, "new-biases": 0.02}
CHANGES = {
    "00_dense_baseline": {"length": 16, "lengths": [8, 16, 32], "spans": 6, "span": 32},
    "10_pruning_sweep": {"length": 32, "test": 6, "calibration": 4, "sparsities": ["50%"], "share": 0.1},
    "20_retrain_subsets": {
        "subsets": ["nothing", "norms", "full"],
        "rates": RATES,
        "patterns": ["0%", "50%"],
    },
    "21_reconstruction": {
        "granularities": ["block", "linear"],
        "rates": RATES,
        "block_rates": {"masklora": 0.01},
    },
    "22_iterative_or_one_shot": {"rates": RATES},
    "23_cost_of_retraining": {
        "subsets": ["norms", "full"],
        "timed_steps": 1,
        "budgets": [2, 4],
        "rates": RATES,
        "architectures": ["OPT-125M"],
        "counted": ["biases", "norms"],
    },
    "24_learning_rates": {
        "patterns": ["0%", "50%"],
        "trials": {"norms": [0.01, 0.03], "full": [0.001, 0.003]},
    },
    "25_other_settings": {
        "steps": 2,
        "settings": [
            {"compared": [{"subsets": ["nothing", "norms"]}]},
            {"biases": 2, "compared": [{"subsets": ["nothing", "biases"]}]},
        ],
    },
    "29_perp_claims": {"steps": 3},
    "40_scale": {"architectures": ["OPT-125M"], "counted": ["biases", "norms"]},
}


@pytest.mark.parametrize("name", CHANGES)
def test_parameters_are_those_of_the_study(name):
    check_parameters(name)


@pytest.mark.parametrize("name", CHANGES)
def test_every_cell_runs_on_tiny_models(name, language, classification, monkeypatch):  # noqa: F811
    def few(_profile: str, notebook: str) -> dict:
        if notebook == "40_scale":
            return CHANGES[notebook]
        if notebook < "20":
            return {
                "model": language["model"],
                "data": language["corpus"],
                "dtype": "fp32",
                **CHANGES[notebook],
            }
        texts = classification if notebook == "20_retrain_subsets" else {}
        return {**language, **texts, **CHANGES[notebook]}

    for module in (plans, perp_claims):
        monkeypatch.setattr(module, "profile", few)
    pages = shown_by(name, few("quick", name), monkeypatch.setattr)
    assert any("Not run here" in page for page in pages)  # nothing is published in this folder
    assert sum(page.count("<table") for page in pages) >= 2
