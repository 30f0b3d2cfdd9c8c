import json

import experiments_for_tests as experiments
import pytest
import yaml

from lmcompress import cli, plans, records


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A project folder with a notebook, its study and two profiles."""
    monkeypatch.setenv("LMCOMPRESS_ROOT", str(tmp_path))
    monkeypatch.setattr(plans, "study_class", lambda _notebook: experiments.Study)
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


def test_the_bar_of_a_notebooks_runs_is_on_the_terminal(project, capsys):
    bar = "from tqdm import tqdm\nfor _ in tqdm(range(2), desc='experiments'):\n    pass\n"
    (project / "notebooks" / "90_doubling.md").write_text(NOTEBOOK.replace("print(", f"{bar}print("))
    assert cli.main(["run", "90_doubling"]) == 0
    assert "experiments: 100%" in capsys.readouterr().err


def test_a_failed_notebook_says_why_and_where(project, capsys):
    text = NOTEBOOK.replace("print(", "raise ValueError('too bad')\nprint(")
    (project / "notebooks" / "90_doubling.md").write_text(text)
    assert cli.main(["run", "90_doubling"]) == 1
    assert "ValueError: too bad" in capsys.readouterr().err
    assert [path.name for path in (project / "build" / "runs").iterdir()] == ["90_doubling.partial.ipynb"]


def test_records_are_computed_listed_shown_compared_and_published(project, capsys):
    first, second = records.obtain([experiments.Doubling(value=3), experiments.Doubling(value=9)])
    assert cli.main(["records", "list", "doubling"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "key",
        *sorted([first.key[:12], second.key[:12]]),
    ]
    assert cli.main(["records", "show", first.key[:8]]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == {"doubled": 6}
    assert cli.main(["records", "diff", first.key[:8], second.key[:8]]) == 0
    assert "result.doubled: 6 -> 18" in capsys.readouterr().out
    assert cli.main(["records", "redo", first.key[:8]]) == 0
    assert "computed again as" in capsys.readouterr().out
    assert cli.main(["records", "publish", "90_doubling"]) == 0
    assert [one.parameters["value"] for one in records.published_records("doubling")] == [3]


def test_another_profile_is_published_without_runs_of_an_older_version(project, capsys, monkeypatch):
    (project / "config" / "other.yaml").write_text("90_doubling:\n  values: [5, 6]\n")
    records.obtain([experiments.Doubling(value=6)])
    monkeypatch.setattr(experiments.Doubling, "version", 2)
    records.obtain([experiments.Doubling(value=value) for value in (3, 5)])
    assert cli.main(["records", "publish", "90_doubling", "--profile", "other"]) == 0
    assert "1 of 2 records left out: they are of an older version" in capsys.readouterr().out
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


def test_records_are_computed_in_processes_and_a_failure_is_named(project, capsys):
    log = project / "log"
    words = ["compute", "90_doubling", "-p", "values", "[1, -1, 2]", "-p", "log", str(log)]
    assert cli.main([*words, "--check"]) == 0
    assert capsys.readouterr().out == "3 runs\n"
    assert cli.main([*words, "--workers", "2", "--chunk", "2"]) == 1
    out = capsys.readouterr().out
    assert "failed: RuntimeError: no negative numbers" in out
    assert out.splitlines()[-1] == "2 records, 1 failed, 0 left for later"
    assert sorted(log.read_text().split()) == ["1", "2"]
    assert cli.main([*words[:3], "values", "[7]", "--seconds", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "0 records, 0 failed, 1 left for later"


def test_only_the_kinds_asked_for_are_computed(capsys):
    assert cli.main(["compute", "90_doubling", "--kind", "doubling", "--profile", "full"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 records, 0 failed, 0 left for later"
    assert cli.main(["compute", "90_doubling", "--kind", "doublin"]) == 2
    assert "kind: 'doublin' is not valid; expected one of doubling; did you mean doubling?" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("name", ["90_doubling", "doubling", "90", "notebooks/90_doubling.md"])
def test_a_notebook_has_the_names_that_one_types(name, capsys):
    assert cli.main(["run", name, "--check"]) == 0
    assert capsys.readouterr().out.startswith("# 2 runs\n")


def test_help_shows_every_action(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for group, command in cli.app.commands.items():
        for action in getattr(command, "commands", {}):
            assert f"  {group} {action} " in shown
        assert f"  {group} " in shown
