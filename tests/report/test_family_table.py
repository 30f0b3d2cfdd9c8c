"""The table of families is read from its record, and the record is of the families of today."""

import json
import sys
from pathlib import Path

import pytest
import tiny_families as tested

from lmcompress.records import results_folder
from lmcompress.report import families

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def test_the_published_table_has_every_family_and_hides_no_share():
    rows = families.rows().set_index("family")
    assert list(rows.index) == list(tested.FAMILIES)
    partial = rows[rows["pruned (%)"] < 100].index
    assert set(partial) == {*tested.MOE, "Mamba"}
    assert all(rows.loc[partial, "left as they are"])
    assert f"Of {len(rows)} families" in families.summary()
    assert "conv1d.weight" in families.table()


@pytest.mark.parametrize("family", ["Mixtral", "GPT2"])
def test_the_benchmark_finds_again_what_was_published(family):
    from families import row

    published = json.loads((results_folder() / "benchmarks" / "families.json").read_text())["rows"]
    assert row(family) == next(one for one in published if one["family"] == family)
