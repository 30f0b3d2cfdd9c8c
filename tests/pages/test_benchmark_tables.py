import json

from lmcompress import files
from lmcompress.report import official_codes

ROW = {"shape": "2048x2048", "pattern": "2:4", "ours ms": 0.25, "official ms": 40.0}
ABOUT = {"device": "a GPU", "commit": "abcdef0123", "official": {"github.com/someone/code": "0123456789"}}


def test_a_record_becomes_a_table_and_a_missing_one_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "carried", lambda *parts: tmp_path.joinpath(*parts[1:]))
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "nm_mask.json").write_text(json.dumps({"rows": [ROW], "provenance": ABOUT}))
    found = dict(zip(official_codes.BENCHMARKS, official_codes.tables(), strict=True))
    assert "(a GPU; ours at abcdef0; code at 0123456)" in found["nm_mask"]
    assert "2048x2048" in found["nm_mask"]
    assert "Not run here" in found["adapter_step"]
    assert "benchmarks/adapter_step.py" in found["adapter_step"]


def test_an_aim_holds_only_where_every_case_reaches_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "carried", lambda *parts: tmp_path.joinpath(*parts[1:]))
    (tmp_path / "benchmarks").mkdir()
    rows = [{"agrees": True, "speed-up": 60.0}, {"agrees": True, "speed-up": 40.0}]
    equal = {"ours checkpointing": True, "official checkpointing": True}
    named = {"model": "opt", "adapter": "masklora"}
    defaults = {"ours checkpointing": False, "official checkpointing": True}
    ratios = [
        {**named, **equal, "tokens/s ratio": 1.6, "extra ratio": 0.5},
        {**named, **defaults, "tokens/s ratio": 1.1, "extra ratio": 2.0},
    ]
    records = {
        "agreement": {"rows": rows, "agrees": True},
        "nm_mask": {"rows": rows},
        "useful_tokens": {"rows": rows, "gain": 3.5, "documents": 10},
        "adapter_step": {"rows": rows, "ratios": ratios},
    }
    for name, record in records.items():
        (tmp_path / "benchmarks" / f"{name}.json").write_text(json.dumps(record))
    text = official_codes.aims()
    assert text.count("does not hold here") == 1
    assert "40 to 60 times" in text
    assert "opt masklora, checkpointing: 1.60 and 0.50" in text
    assert "holds in part" not in text
    ratios.append({**named, **equal, "tokens/s ratio": 1.6, "extra ratio": 0.7})
    (tmp_path / "benchmarks" / "adapter_step.json").write_text(json.dumps({"rows": rows, "ratios": ratios}))
    assert official_codes.aims().count("holds in part") == 1
    (tmp_path / "benchmarks" / "nm_mask.json").unlink()
    assert official_codes.aims().count("not run here") == 1
