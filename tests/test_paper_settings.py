"""``config/paper.yaml``: every run is valid without a network, and each sweep runs on tiny stand-ins under the papers'
names, from a server that speaks the hub's protocol.
"""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hub_server import hub
from tiny import CONFIGS
from tiny_assets import tiny_classes, tiny_corpus, tiny_model_folder

from lmcompress import plan, records, sweep
from lmcompress.assets import manifest
from lmcompress.files import project_root

PAPER = project_root() / "config" / "paper.yaml"
SMALL = {  # of the numbers in the file; names of models, texts and methods stay
    "length": 16,
    "span": 32,
    "spans": 2,
    "batch": 2,
    "calibration": 2,
    "retraining": 4,
    "validation": 2,
    "test": 2,
    "tasks": {},
    "windows": 24,
    "generations": 1,
}
FAMILIES = {"opt": "opt", "Llama": "llama", "Mistral": "mistral", "Mixtral": "mistral", "bert": "bert"}


def runs():
    return sweep.read(PAPER)[0]


def names(kind):
    """Names of the hub that the file asks for."""
    known = manifest()[kind]
    found = {name for one in runs() for name, what in one.assets() if what == kind}
    return {known[name]["hub"] if name in known and "hub" in known[name] else name for name in found}


def test_every_run_is_planned_without_a_network(monkeypatch, tmp_path):
    import huggingface_hub

    def offline(*_names, local_files_only=False, **_options):
        assert local_files_only, "asked the network"
        raise huggingface_hub.errors.LocalEntryNotFoundError("not here")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    found = plan.plan(runs(), 20)
    assert found.missing == len(found.experiments) > 500
    assert {"tuned", "reconstruct", "dense_perplexity", "frontier", "clustered"} <= {
        one.kind for one in runs()
    }
    assert any("30b" in line for line in plan.by_model(found))


def stand_ins(folder: Path) -> None:
    """A tiny model for every model of the file, and small texts for its data, as repositories."""
    for name in names("model"):
        family = next(family for part, family in FAMILIES.items() if part in name)
        assert family in CONFIGS
        tiny_model_folder(folder / "models" / name, family)
    texts = Path(tiny_corpus(folder / "texts", 600)).joinpath("text.txt").read_text().split("\n\n")
    c4 = folder / "datasets" / "allenai" / "c4" / "en"
    c4.mkdir(parents=True)
    for split, part in (("train.00000-of-01024", texts[:500]), ("validation.00000-of-00008", texts[500:])):
        with gzip.open(c4 / f"c4-{split}.json.gz", "wt") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in part)
    (c4 / "c4-train.00001-of-01024.json.gz").write_bytes(b"a file that nobody asked for")
    wikitext = folder / "datasets" / "Salesforce" / "wikitext" / "wikitext-2-raw-v1"
    wikitext.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        lines = [line for text in texts for line in (f" = {text[:12]} = \n", f" {text} \n")]
        pd.DataFrame({"text": lines}).to_parquet(wikitext / f"{split}-00000-of-00001.parquet")
    imdb = folder / "datasets" / "stanfordnlp" / "imdb" / "plain_text"
    imdb.mkdir(parents=True)
    labelled = [
        (file.read_text(), int(file.parent.name == "odd"))
        for file in Path(tiny_classes(folder / "c", 500)).glob("*/*")
    ]
    for split in ("train", "test"):
        pd.DataFrame(labelled, columns=["text", "label"]).to_parquet(imdb / f"{split}-00000-of-00001.parquet")


def small(one):
    """The run with few and short texts; the stand-ins' only commit in place of a pinned one."""
    given = one.model_dump(mode="json")
    given |= {name: value for name, value in SMALL.items() if name in given}
    given["steps"] = min(given.get("steps", 0), 2) if "steps" in given else None
    if one.kind == "tuned":
        given["rates"] = given["rates"][:1]
    if given["steps"] is None:
        del given["steps"]
    return {"kind": one.kind, "parameters": given}


def chosen():
    """The dense run of every model, and of all others one of each kind, subset and task."""
    found = {}
    for one in runs():
        about = one.model_dump()
        dense = one.kind == "dense_perplexity"
        found.setdefault(
            (one.kind, about["model"] if dense else about.get("subset"), about.get("task")), small(one)
        )
    return list(found.values())


@pytest.mark.skipif(sys.platform == "win32", reason="the hub's cache links files")
def test_every_sweep_runs_on_stand_ins_from_a_server_that_speaks_the_hubs_protocol(tmp_path):
    stand_ins(tmp_path / "hub")
    (tmp_path / "runs.json").write_text(json.dumps(chosen()))
    code = (
        "import json, sys; from lmcompress import assets, records;"
        "assets.manifest()['data']['wikitext-2-raw']['revision'] = 'main';"
        "found = [records.experiment_class(one['kind'])(**one['parameters']) for one in json.load(open(sys.argv[1]))];"
        "made = records.obtain(found, progress=False);"
        "print(json.dumps([[one.kind, one.parameters['model'], one.assets] for one in made]))"
    )
    with hub(tmp_path / "hub") as (address, asked):
        place = {
            "LMCOMPRESS_ROOT": str(tmp_path),
            "LMCOMPRESS_CACHE": str(tmp_path / "cache"),
            "HF_HOME": str(tmp_path / "hf"),
        }
        path = os.pathsep.join([str(Path(records.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        own = {
            "HF_ENDPOINT": address,
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "0",
        }
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "runs.json")],
            env=os.environ | place | own,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(done.stdout.splitlines()[-1])
    assert {kind for kind, _, _ in made} == {one.kind for one in runs()}
    assert {name for _, name, _ in made} >= names("model") - {""}
    for _, _, assets in made:
        assert all(len(sha) in (40, 64) for sha in assets.values())  # runs are named by commits
    assert any("facebook/opt-125m/resolve" in line for line in asked)
    assert not any("00001-of-01024" in line for line in asked if line.startswith("GET /datasets"))
