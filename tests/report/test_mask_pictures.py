"""Pictures of masks: of published runs, with their patterns, and drawn as they are recorded."""

import base64
import io

import matplotlib.image
import numpy as np
import pytest

from lmcompress import records
from lmcompress.report import mask_pictures

ROWS = mask_pictures.rows()


def kept(row: dict) -> np.ndarray:
    """Share of each block that stays."""
    return mask_pictures.counts(row) * len(row["whole"]) ** 2 / row["shape"][0] ** 2


def test_every_picture_is_of_a_published_run_that_came_out_again():
    known = {record.key: record for record in records.published_records("pruned_model")}
    assert {row["criterion"] for row in ROWS} >= {"magnitude", "wanda", "sparsegpt"}
    for row in ROWS:
        parameters = known[row["record"]].parameters
        assert (row["criterion"], row["pattern"]) == (parameters["criterion"], parameters["pattern"])
        assert row["published"] == known[row["record"]].result["perplexity"]["value"]
        assert row["agrees"]
    assert mask_pictures.pictures().keys() <= known.keys()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['criterion']} {row['pattern']}")
def test_a_mask_has_its_pattern(row):
    corner = np.array([[mark == "#" for mark in line] for line in row["corner"]])
    if row["pattern"] == "2:4":
        assert (corner.reshape(-1, 4).sum(1) == 2).all()
    assert kept(row).mean() == pytest.approx(0.5, abs=1e-4)
    within_rows = row["pattern"] == "2:4" or row["criterion"] in ("wanda", "magnitude-row")
    assert (
        np.ptp(kept(row).mean(1)) < 0.02
    ) == within_rows  # of the whole matrix: some outputs lose nearly all


def test_a_picture_shows_its_levels():
    levels = np.arange(65).reshape(5, 13)
    data = base64.b64decode(mask_pictures.png(levels, 64).partition(",")[2])
    read = matplotlib.image.imread(io.BytesIO(data), format="png")
    assert (read[..., 3] * 64).round().astype(int).tolist() == levels.tolist()


def test_without_a_record_there_are_no_pictures(monkeypatch):
    monkeypatch.setattr(mask_pictures, "benchmark", lambda _name: {"rows": []})
    assert mask_pictures.pictures() == {}
    assert mask_pictures.about() == ""
