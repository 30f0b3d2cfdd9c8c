"""Sweep files: what they stand for, what is refused, how runs are put into jobs, what is known of them."""

import json
import shutil
from pathlib import Path

import experiments_for_tests as experiments
import pandas as pd
import pytest
import yaml
from tiny_assets import tiny_corpus, tiny_model_folder

from lmcompress import cli, estimates, plan, plans, records, sweep
from lmcompress.errors import ParameterError
from lmcompress.estimates import Estimate, estimate
from lmcompress.files import project_root
from lmcompress.report import sweep_page

CONFIG = project_root() / "config" / "sweeps"
FIXED = {"dtype": "fp32", "length": 16, "test": 2, "calibration": 2, "layer_errors": False}


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    return tmp_path


def written(folder: Path, name: str, content) -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def test_a_grid_is_every_combination_once(tmp_path):
    grid = {"value": [1, 2, 2], "log": ["", "x"]}
    path = written(tmp_path, "s.yaml", {"experiment": "doubling", "grid": grid, "runs_a_job": 3})
    found, runs_a_job = sweep.read(path)
    assert [(one.value, one.log) for one in found] == [(1, ""), (1, "x"), (2, ""), (2, "x")]
    assert runs_a_job == 3


def test_a_sheet_has_a_row_a_run_and_an_empty_cell_is_the_default(tmp_path):
    path = written(tmp_path, "s.csv", "experiment,value,log\ndoubling,3,\n\ndoubling,,x\ndoubling,3,\n")
    assert sweep.read(path)[0] == [experiments.Doubling(value=3), experiments.Doubling(log="x")]


def test_runs_that_are_no_grid_are_listed(tmp_path):
    content = {
        "experiment": "doubling",
        "fixed": {"log": "x"},
        "runs": [{"value": 1}, {"value": 7}, {"value": 1}],
    }
    found, _ = sweep.read(written(tmp_path, "s.yaml", content))
    assert [(one.value, one.log) for one in found] == [(1, "x"), (7, "x")]


def test_runs_of_one_pruned_model_go_together(tmp_path):
    fixed = {"model": "smollm2-135m", "data": "wikipedia-vital", "length": 16, "batch": 2, "calibration": 2}
    fixed |= {"retraining": 8, "validation": 2, "test": 2, "steps": 2, "criterion": "magnitude", "lr": 0.001}
    fixed |= {"tests": ["wikipedia-vital"], "seed": 0}
    grid = {"subset": ["norms", "head", "full"], "pattern": ["50%", "70%"]}
    content = {"experiment": "retrain", "fixed": fixed, "grid": grid, "runs_a_job": 20}
    jobs = plan.plan(*sweep.read(written(tmp_path, "s.yaml", content))).jobs
    assert [[(one.pattern, one.subset) for one in job.experiments] for job in jobs] == [
        [("50%", "norms"), ("50%", "head"), ("50%", "full")],
        [("70%", "norms"), ("70%", "head"), ("70%", "full")],
    ]


def test_a_notebooks_parameters_can_be_varied(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "study_class", lambda _name: experiments.Study)
    path = written(tmp_path, "s.yaml", {"notebook": "90_doubling", "grid": {"values": [[1, 2], [2, 3]]}})
    assert [one.value for one in sweep.read(path)[0]] == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "a mapping with some of"),
        ("- 1", "a mapping with some of"),
        ("experiment: [", "a YAML or CSV file"),
        ("1: 2", "a mapping with some of"),
        ({"grid": {"value": [1]}}, "either this or notebook"),
        ({"experiment": "doubling", "notebook": "90"}, "either this or notebook"),
        ({"experiment": "doublin"}, "did you mean doubling"),
        ({"experiment": "doubling", "girds": {}}, "girds"),
        ({"experiment": "doubling", "grid": {"value": []}}, "grid.value"),
        ({"experiment": "doubling", "grid": {"value": 3}}, "grid.value"),
        ({"experiment": "doubling", "grid": {"valeu": [3]}}, "did you mean value"),
        ({"experiment": "doubling", "grid": {"value": ["x"]}}, "value: 'x'"),
        (
            {"experiment": "doubling", "fixed": {"value": 1}, "grid": {"value": [1]}},
            "not in the grid or the runs as well",
        ),
        ({"experiment": "doubling", "fixed": {"value": 1}, "runs": [{"value": 1}]}, "or the runs as well"),
        (
            {"experiment": "doubling", "grid": {"value": [1]}, "runs": [{"log": "x"}]},
            "either these or a grid",
        ),
        ({"experiment": "doubling", "runs_a_job": 0}, "runs_a_job: 0"),
        ({"experiment": "doubling", "runs_a_job": True}, "runs_a_job: True"),
        ({"experiment": "doubling", "grid": {"value": list(range(400)), "log": ["x"] * 300}}, "100,000"),
    ],
)
def test_a_wrong_grid_is_refused_by_name(tmp_path, content, named):
    with pytest.raises(ParameterError) as refused:
        sweep.read(written(tmp_path, "s.yaml", content))
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "header"),
        ("value,log\n1,x\n", "header"),
        ("experiment,value,value\n", "header"),
        ("experiment,value\n", "at least one row"),
        ("experiment,value\ndoubling\n", "row 2"),
        ("experiment,value\ndoubling,1\ndoubling,x\n", "row 3, value: 'x'"),
        ("experiment,value\n,1\n", "row 2, experiment"),
        ('experiment,value\ndoubling,"1\n', "a YAML or CSV file"),
    ],
)
def test_a_wrong_sheet_is_refused_by_row(tmp_path, text, named):
    with pytest.raises(ParameterError) as refused:
        sweep.read(written(tmp_path, "s.csv", text))
    assert named in str(refused.value)


def test_a_file_that_is_not_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "s.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("s.yaml", "absent.yaml", "."):
        with pytest.raises(ParameterError, match="a YAML or CSV file"):
            sweep.read(tmp_path / name)


class Grouped(experiments.Doubling):
    shares = ("log",)


def test_jobs_hold_missing_runs_that_share_what_a_process_holds():
    records.obtain([Grouped(value=1, log="")])
    wanted = [Grouped(value=value, log=log) for value in (1, 2, 3) for log in ("", "/dev/null")]
    made = plan.plan(wanted, 2)
    assert set(made.known) == {0}
    jobs = [[(one.log, one.value) for one in job.experiments] for job in made.jobs]
    assert jobs == [
        [("/dev/null", 1), ("/dev/null", 2)],
        [("/dev/null", 3)],
        [("", 2), ("", 3)],
    ]
    assert plan.summary(made).startswith("6 runs: 1 known, 5 to do in 3 jobs; about 0 s one after the other")


def test_the_papers_runs_are_priced_by_what_was_measured_at_size(project):
    rows = [
        {"method": "wanda", "parameters": 30e9, "minutes": 2.0, "tokens": 1000, "device": "a GPU"},
        {"method": "biases+norms", "parameters": 30e9, "minutes": 15.0, "tokens": 4000, "device": "a GPU"},
        {"method": "biases+norms", "parameters": 1e9, "minutes": 1.0, "tokens": 4000, "device": "a GPU"},
        {"method": "full", "parameters": 30e9, "minutes": None, "tokens": 0, "device": "none"},
    ]
    place = project / "results" / "benchmarks"
    place.mkdir(parents=True)
    (place / "at_size.json").write_text(json.dumps({"rows": rows}))
    about = {"model": "facebook/opt-13b", "criterion": "wanda", "calibration": 5, "length": 100, "batch": 2}
    about |= {"subset": "norms", "steps": 40, "rates": [0.1, 0.2]}
    found = estimates.at_size(about)
    whole = 2.0 * 13 / 30 * 500 / 1000 + 15.0 * 13 / 30 * 40 * 2 * 100 * 2 / 4000
    assert found == Estimate(pytest.approx(60 * whole), None, "a GPU")
    assert estimates.at_size(about | {"subset": "full"}) == Estimate()
    assert estimates.at_size(about | {"model": "bert-base-uncased"}) == Estimate()
    pruned = estimates.at_size(about | {"subset": "nothing", "steps": 0, "rates": []})
    assert pruned.seconds == pytest.approx(60 * 2.0 * 13 / 30 / 2)


def test_an_estimate_from_another_model_is_scaled_by_its_work_or_not_made():
    class Trained(records.Experiment):
        model: str
        length: int = 512
        steps: int = 100

        def run(self) -> dict:
            return {}

    def record(**parameters):
        about = Trained(**parameters).model_dump(mode="json")
        return records.Record("k", "trained", 1, about, {}, {}, {"seconds": 10.0, "peak_mb": 5.0})

    earlier = [record(model="smollm2-135m")]
    assert (
        estimate(Trained(model="smollm2-135m", steps=200), earlier).seconds == 10.0
    )  # the model counts before all
    found = estimate(Trained(model="facebook/opt-1.3b", length=1024, steps=200), earlier)
    assert found.seconds == pytest.approx(10 * 1300 / 135 * 2 * 2)
    assert found.megabytes is None
    assert estimate(Trained(model="google-bert/bert-base-uncased"), earlier).seconds is None
    assert estimates.size({"model": "mistralai/Mixtral-8x7B-v0.1"}) == 56e9
    assert estimates.size({"model": "meta-llama/Llama-2-7b-hf"}) == 7e9


def test_an_estimate_is_the_median_of_the_closest_earlier_runs():
    def record(seconds, **parameters):
        about = {"seconds": seconds, "peak_mb": 10 * seconds, "device": "CPU"}
        return records.Record("k", "doubling", 1, parameters, {}, {}, about)

    earlier = [record(1, value=1, log="y"), record(3, value=1, log="y"), record(100, value=2, log="z")]
    found = estimate(experiments.Doubling(value=1, log="x"), earlier)
    assert found == Estimate(2, 20, "CPU")
    assert estimate(experiments.Doubling(value=1), []) == Estimate()


def test_the_table_has_a_row_a_known_run_and_goes_through_parquet(tmp_path):
    known = [experiments.Doubling(value=value) for value in (1, 4)]
    records.obtain(known)
    path, page = plan.gather([*known, experiments.Doubling(value=9)], tmp_path)
    assert "<svg" in page.read_text()
    frame = pd.read_parquet(path)
    assert frame[["kind", "value", "result.doubled"]].to_numpy().tolist() == [
        ["doubling", 1, 2],
        ["doubling", 4, 8],
    ]
    assert not plan.gather([experiments.Doubling(value=9)], tmp_path / "none")


def test_a_dry_run_prints_the_runs_and_what_is_known(tmp_path, capsys):
    path = written(tmp_path, "s.yaml", {"experiment": "doubling", "grid": {"value": [1, 2]}})
    records.obtain([experiments.Doubling(value=1)])
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["known", "job", "2"]


@pytest.mark.parametrize("path", sorted(CONFIG.iterdir()), ids=lambda path: path.name)
def test_the_examples_are_accepted(path):
    assert len(sweep.read(path)[0]) > 3


def test_a_file_may_hold_several_sweeps(tmp_path):
    one = {"experiment": "doubling", "grid": {"value": [1, 2]}, "runs_a_job": 3}
    path = written(tmp_path, "s.yaml", [one, one | {"grid": {"value": [2, 5]}, "runs_a_job": 2}])
    found, together = sweep.read(path)
    assert [run.value for run in found] == [1, 2, 5]  # each once
    assert together == 2
    with pytest.raises(ParameterError, match="a mapping"):
        sweep.read(written(tmp_path, "s.yaml", [one, "doubling"]))


def test_the_schema_is_the_one_of_the_class():
    schema = yaml.safe_load((CONFIG.parents[1] / "workflow" / "schemas" / "sweep.schema.yaml").read_text())
    schema = schema["$defs"]["sweep"]
    made = json.loads(json.dumps(sweep.Sweep.model_json_schema()))
    assert {name: schema["properties"][name].get("type") for name in made["properties"]} == {
        name: about.get("type") for name, about in made["properties"].items()
    }
    assert schema["additionalProperties"] is False


def test_a_sweep_runs_through_the_workflow(tmp_path, capfd, monkeypatch):
    """The run that fails leaves its log and stops no other; only that one is left to do for the next call."""
    monkeypatch.setenv("PYTHONPATH", str(CONFIG.parents[1] / "src"))
    shutil.copytree(CONFIG.parents[1] / "workflow", tmp_path / "workflow")
    fixed = FIXED | {"model": tiny_model_folder(tmp_path / "model"), "data": tiny_corpus(tmp_path / "corpus")}
    grid = {"criterion": ["wanda"], "pattern": ["50%"], "seed": [0], "calibration": [2, 10**6, 3]}
    del fixed["calibration"]
    path = written(tmp_path, "s.yaml", {"experiment": "pruned_model", "fixed": fixed, "grid": grid})
    assert cli.main(["sweep", str(path), "--cores", "1"]) == 1
    out = capfd.readouterr().out
    assert "3 runs: 0 known, 3 to do in 1 jobs" in out
    assert "runs: 2 of 3 done, 0 running, 1 failed" in out
    assert "Failed: 1 of 3 runs, the first: " in out
    frame = pd.read_parquet(tmp_path / "build" / "sweeps" / "s" / "results.parquet")
    assert frame.calibration.tolist() == [2, 3]
    assert cli.main(["sweep", str(path), "--dry-run"]) == 0
    assert "3 runs: 2 known, 1 to do in 1 jobs" in capfd.readouterr().out


def test_the_page_draws_the_parameters_that_vary_and_escapes_what_it_shows():
    rows = [
        {"kind": "k", "model": "<b>", "pattern": pattern, "criterion": criterion, "seed": seed}
        | {"result.perplexity.value": 10.0 + seed, "seconds": 1.0, "device": "CPU", "key": "0"}
        for pattern in ("30%", "50%", "70%")
        for criterion in ("wanda", "magnitude")
        for seed in (0, 1, 2, 3)
    ]
    text = sweep_page.page(pd.DataFrame(rows), "a <sweep>")
    assert "<title>a &lt;sweep&gt;</title>" in text
    assert "a <sweep>" not in text
    assert "24 runs." in text
    single = pd.DataFrame(rows[:1])
    assert "<svg xmlns" not in sweep_page.page(single, "one")
