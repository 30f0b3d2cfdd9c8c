"""The workflow on trivial notebooks: what succeeds stays, what fails says why, nothing runs twice."""

import time
from pathlib import Path

import nbformat
import pytest


def test_fails_readably_resumes_and_then_rests(project):
    project.notebook("00_good", "print('value is', value)")
    project.notebook("10_bad", "first = 1\nassert value == 2, 'value must be two'")
    project.notebook("20_dead", "import os\nif value == 1:\n    os._exit(1)")
    project.write("book/intro.md", "# Intro\n\n{doc}`nowhere`\n")

    code, output = project.report()
    assert code != 0
    assert (
        "build/quick/logs/10_bad.log\n    Failed at [2] first = 1: AssertionError: value must be two"
        in output
    )
    assert (
        "build/quick/logs/20_dead.log\n    Failed outside of the cells: DeadKernelError: Kernel died"
        in output
    )
    assert not project.executed("10_bad").exists()
    assert project.log("10_bad").splitlines()[-1].startswith("Failed at [2]")
    assert project.executed("10_bad").with_suffix(".partial.ipynb").exists()
    good = project.executed("00_good")
    outputs = [out for cell in nbformat.read(good, 4).cells for out in cell.get("outputs", [])]
    assert [out.text for out in outputs] == ["value is 1\n"]
    written = good.stat().st_mtime_ns

    # A changed section of the profile reaches its notebook alone. Then the book: a dead link is an error.
    project.write("config/quick.yaml", "10_bad: {value: 2}\n20_dead: {value: 2}\n")
    code, output = project.report()
    assert code != 0
    assert "notebooks: 2 of 2 done" in output
    assert good.stat().st_mtime_ns == written
    assert "Failed: 1 warnings, the first: " in output
    assert "nowhere" in output

    project.write("book/intro.md", "# Intro\n")
    code, output = project.report()
    assert code == 0, output
    assert "running" not in output
    index = project.folder / "build" / "book" / "_build" / "html" / "index.html"
    assert index.is_file()
    assert output.rstrip().endswith(f"Open {index}")
    assert [line.split()[0] for line in output.splitlines() if line.startswith(("00_", "10_"))] == [
        "00_good",
        "10_bad",
    ]
    assert (index.parent / "notebooks" / "10_bad.html").is_file()

    built = index.stat().st_mtime_ns
    code, output = project.report()
    assert code == 0
    assert (good.stat().st_mtime_ns, index.stat().st_mtime_ns) == (written, built)

    # The code of the library is an input of every notebook.
    project.write("src/lmcompress/more.py", "")
    code, output = project.report("executed")
    assert code == 0
    assert "notebooks: 3 of 3 done" in output


def test_a_killed_parent_takes_all_with_it_and_the_next_call_goes_on(project):
    project.notebook("00_good", "print(value)")
    project.notebook("10_slow", "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)")
    process = project.start("executed")
    unfinished = project.folder / ".snakemake" / "incomplete"
    for _ in range(600):
        # Snakemake has taken note that 00_good is whole, and only the other notebook is under way.
        if project.executed("00_good").exists() and len(list(unfinished.iterdir())) == 1:
            break
        time.sleep(0.1)
    second = project.report("executed")
    kernel = int((project.folder / "pid").read_text())
    project.kill(process)  # the parent alone: Snakemake and the kernel are in sessions of their own
    for _ in range(100):
        if not Path(f"/proc/{kernel}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{kernel}").exists()
    assert not project.executed("10_slow").exists()
    assert second[0] != 0
    assert "Another report is being made" in second[1]

    project.notebook("10_slow", "print(value)")
    code, output = project.report("executed")
    assert code == 0, output
    assert "notebooks: 1 of 1 done" in output


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("10_other: {value: 1}\n", "has parameters for 10_other, but the notebooks are 00_good"),
        ("00_good: 3\n", "3 is not of type 'object'"),
        ("00_good: {Value: 1}\n", "Value"),
    ],
)
def test_refuses_a_profile_before_any_work(project, config, message):
    project.notebook("00_good", "print(value)")
    project.write("config/quick.yaml", config)
    code, output = project.report("executed")
    assert code != 0
    assert message in output
    assert not (project.folder / "build" / "quick").exists()


def test_a_study_refuses_its_values_before_the_notebook_starts(project):
    project.notebook("20_studied", "print(value)")
    project.write("config/quick.yaml", "20_studied: {value: 7}\n")
    code, output = project.report("executed")
    assert code != 0
    assert "Failed: config/quick.yaml, 20_studied: value: 7 is not valid; expected a number below 5" in output
    assert "running" not in output
