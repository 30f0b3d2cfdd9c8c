"""The table of the notebooks' times: of a record, and without one."""

import json

from lmcompress.report import notebook_times

ROWS = [
    {
        "notebook": "22_x",
        "exit code": 0,
        "seconds": 80.0,
        "processor seconds": 90.0,
        "runs": 2,
        "commit": "abc",
    },
    {
        "notebook": "30_y",
        "exit code": 1,
        "seconds": 70.0,
        "processor seconds": 120.4,
        "runs": 3,
        "commit": "abc",
    },
]


def test_the_table_says_what_failed_and_what_took_longest(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    (tmp_path / "results" / "benchmarks").mkdir(parents=True)
    assert "benchmarks/notebooks.py" in notebook_times.table()
    path = tmp_path / "results" / "benchmarks" / "notebooks.json"
    path.write_text(json.dumps({"benchmark": "notebooks", "cores": 2, "rows": ROWS}))
    shown = notebook_times.table()
    assert "1 of 2 notebooks" in shown
    assert "30_y, 120 s (70 s by the clock)" in shown
    assert shown.count("<tr>") == 3
