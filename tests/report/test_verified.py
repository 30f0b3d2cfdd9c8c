"""The table of records that were computed again: of its files, and without them."""

import json

from lmcompress.report import verified

ROW = {"published on": "A", "numbers": 4, "equal": 4, "median deviation": 0.0, "largest deviation": 0.0}


def test_the_table_counts_equal_records_and_tells_of_those_that_did_not_end(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    (tmp_path / "results" / "benchmarks").mkdir(parents=True)
    assert "benchmarks/verify_records.py" in verified.table()
    rows = [
        ROW | {"kind": "first"},
        ROW | {"kind": "second", "equal": 1, "median deviation": 0.01, "largest deviation": 0.5},
        ROW | {"kind": "third", "numbers": None},
    ]
    path = tmp_path / "results" / "benchmarks" / "verify_cpu.json"
    path.write_text(json.dumps({"benchmark": "verify_cpu", "rows": rows}))
    shown = verified.table()
    assert "2 records were computed again: 1 came out equal in every number, and in 1 the" in shown
    assert all(text in shown for text in ("not finished", "1 of 4", "0.5"))
