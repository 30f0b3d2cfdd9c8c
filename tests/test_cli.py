import json
import subprocess
import sys

import experiments_for_tests as experiments
import pytest
import yaml

from lmcompress import cli, records


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project folder with a notebook, its study and two profiles."""
    for module in (records, cli):
        monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    monkeypatch.setattr(records, "study_class", lambda _notebook: experiments.Study)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "full.yaml").write_text("90_doubling:\n  values: [3, 4]\n")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "90_doubling.md").write_text(NOTEBOOK)
    return tmp_path


NOTEBOOK = """---
kernelspec:
  name: python3
  display_name: Python 3
jupytext:
  text_representation:
    extension: .md
    format_name: myst
---

# Doubling

```{code-cell} ipython3
:tags: [parameters]

values = [1, 2]
log = ""
```

```{code-cell} ipython3
print([2 * value for value in values], log)
```
"""


def test_parameters_come_from_profile_file_and_command_in_this_order(project, capsys):
    (project / "mine.yaml").write_text("values: [5]\nlog: from-file\n")
    assert (
        cli.main(
            [
                "run",
                "90_doubling",
                "--check",
                "--profile",
                "full",
                "-f",
                str(project / "mine.yaml"),
                "-p",
                "values",
                "[6, 7]",
            ]
        )
        == 0
    )
    assert yaml.safe_load(capsys.readouterr().out) == {"values": [6, 7], "log": "from-file"}


def test_a_wrong_parameter_is_refused_before_a_notebook_is_made(project, capsys):
    assert cli.main(["run", "90_doubling", "-p", "value", "[1]"]) == 2
    assert (
        "value: '[1]' is not valid; expected no such parameter; they are values, log"
        in capsys.readouterr().err
    )
    assert not (project / "build").exists()


def test_a_notebook_is_executed_with_typed_parameters(project, capsys):
    assert cli.main(["run", "90_doubling", "-p", "values", "[4]"]) == 0
    path = project / "build" / "runs" / "90_doubling.ipynb"
    assert capsys.readouterr().out.strip().endswith(str(path))
    cells = json.loads(path.read_text())["cells"]
    printed = [
        line for cell in cells for output in cell.get("outputs", []) for line in output.get("text", [])
    ]
    assert "[8] \n" in printed
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_notebook_says_why_and_where(project, capsys):
    text = NOTEBOOK.replace("print(", "raise ValueError('too bad')\nprint(")
    (project / "notebooks" / "90_doubling.md").write_text(text)
    assert cli.main(["run", "90_doubling"]) == 1
    assert "ValueError: too bad" in capsys.readouterr().err


def test_records_are_computed_listed_shown_compared_and_published(project, capsys):
    first, second = records.obtain([experiments.Doubling(value=3), experiments.Doubling(value=9)])
    assert cli.main(["records", "list", "doubling"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == sorted(
        [first.key[:12], second.key[:12]]
    )
    assert cli.main(["records", "show", first.key[:8]]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == {"doubled": 6}
    assert cli.main(["records", "diff", first.key[:8], second.key[:8]]) == 0
    assert "result.doubled: 6 -> 18" in capsys.readouterr().out
    assert cli.main(["records", "redo", first.key[:8]]) == 0
    assert "computed again as" in capsys.readouterr().out
    assert cli.main(["records", "publish", "90_doubling"]) == 0
    assert [one.parameters["value"] for one in records.published_records("doubling")] == [3]


def test_another_profile_is_published_without_runs_of_older_code(project, capsys):
    (project / "config" / "other.yaml").write_text("90_doubling:\n  values: [5, 6]\n")
    for record in records.obtain([experiments.Doubling(value=value) for value in (3, 5, 6)]):
        if record.parameters["value"] == 6:
            path = records.build_folder() / "doubling" / f"{record.key}.json"
            about = json.loads(path.read_text())
            path.write_text(json.dumps(about | {"code": about["code"] | {"lmcompress.data": "other"}}))
    assert cli.main(["records", "publish", "90_doubling", "--profile", "other"]) == 0
    assert "1 of 2 records left out: their code has changed" in capsys.readouterr().out
    assert [one.parameters["value"] for one in records.published_records("doubling")] == [5]
    assert cli.main(["records", "publish", "90_doubling"]) == 0
    assert "left out" not in capsys.readouterr().out
    assert [one.parameters["value"] for one in records.published_records("doubling")] == [3, 5]
    assert cli.main(["records", "publish", "90_doubling", "--profile", "fast"]) == 2


def test_an_unknown_record_is_refused(capsys):
    assert cli.main(["records", "show", "abc"]) == 2
    assert "key: 'abc'" in capsys.readouterr().err


def test_assets_are_listed_with_licence_and_source(capsys):
    assert cli.main(["assets", "list"]) == 0
    assert "smollm2-135m" in capsys.readouterr().out


def test_experiments_are_computed_by_a_worker_that_survives_a_failure(project, capsys, monkeypatch):
    log = project / "log"
    monkeypatch.setattr(cli.multiprocessing, "get_context", lambda _name: _Inline)
    assert cli.main(["compute", "90_doubling", "-p", "values", "[1, -1, 2]", "-p", "log", str(log)]) == 1
    out = capsys.readouterr().out
    assert "failed: RuntimeError: no negative numbers" in out
    assert out.splitlines()[-1] == "2 records, 1 failed, 0 left for later"
    assert log.read_text().split() == ["1", "2"]
    assert (
        cli.main(
            ["compute", "90_doubling", "-p", "values", "[1, 5]", "-p", "log", str(log), "--seconds", "-1"]
        )
        == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == "0 records, 0 failed, 2 left for later"


WORKER = """
import multiprocessing, time
from lmcompress.cli import _end_with_parent

def work():
    _end_with_parent()
    print("at work", flush=True)
    time.sleep(300)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work).start()
    time.sleep(300)
"""


def test_a_worker_ends_when_the_process_that_started_it_is_killed(tmp_path):
    (tmp_path / "parent.py").write_text(WORKER)
    parent = subprocess.Popen([sys.executable, tmp_path / "parent.py"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "at work\n"
    parent.kill()
    assert parent.communicate(timeout=60) == ("", None)  # the end of the worker's output, too


def test_only_the_kinds_asked_for_are_computed(capsys, monkeypatch):
    monkeypatch.setattr(cli.multiprocessing, "get_context", lambda _name: _Inline)
    assert cli.main(["compute", "90_doubling", "--kinds", "doubling"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 records, 0 failed, 0 left for later"
    assert cli.main(["compute", "90_doubling", "--kinds", "halving"]) == 2
    assert "kinds: 'halving' is not valid; expected one of doubling" in capsys.readouterr().err


class _Inline:
    """A multiprocessing context that runs its processes at once, in this one."""

    from queue import Queue

    class Process:
        def __init__(self, target, args):
            self.start = lambda: target(*args)

        def join(self):
            pass
