import json

from lmcompress.studies import official_codes

ROW = {"shape": "2048x2048", "pattern": "2:4", "ours ms": 0.25, "official ms": 40.0}
ABOUT = {"device": "a GPU", "commit": "abcdef0123", "official": {"github.com/someone/code": "0123456789"}}


def test_a_record_becomes_a_table_and_a_missing_one_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(official_codes, "results_folder", lambda: tmp_path)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "nm_mask.json").write_text(json.dumps({"rows": [ROW], "provenance": ABOUT}))
    found = dict(zip(official_codes.BENCHMARKS, official_codes.tables(), strict=True))
    assert "(a GPU; ours at abcdef0; code at 0123456)" in found["nm_mask"]
    assert "2048x2048" in found["nm_mask"]
    assert "Not run here" in found["adapter_step"]
    assert "benchmarks/adapter_step.py" in found["adapter_step"]
