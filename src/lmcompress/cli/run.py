"""``lmcompress run``: execute a notebook with your parameters."""

import html
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from lmcompress.cli import options
from lmcompress.files import carried, project_root


@click.command()
@click.argument("notebook")
@options.parameters
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Default: build/runs/NOTEBOOK.ipynb.")
@click.option("--check", is_flag=True, help="Only check the parameters, and print them all.")
def run(
    notebook: str,
    parameter: Sequence[tuple[str, str]],
    file: Path | None,
    profile: str | None,
    output: Path | None,
    check: bool,
) -> None:
    """Execute a notebook with your parameters, and print what it found."""
    study, given, experiments = options.study(notebook, parameter, file, profile)
    if check:
        print(f"# {len(experiments)} runs")
        print(yaml.safe_dump(study.model_dump(mode="json"), sort_keys=False), end="")
        return
    import jupytext
    import papermill

    name = options.notebook_name(notebook)
    output = output or project_root() / "build" / "runs" / f"{name}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    made, partial = output.with_suffix(".input.ipynb"), output.with_suffix(".partial.ipynb")
    jupytext.write(jupytext.read(carried("notebooks", f"{name}.md")), made)
    chosen = {name: value for name, value in study.model_dump(mode="json").items() if name in given}
    try:
        papermill.execute_notebook(
            made,
            partial,
            parameters=chosen,
            kernel_name="python3",
            language="python",
            cwd=str(project_root()),
            progress_bar=False,  # of cells, which stands still while one of them computes
            stderr_file=sys.stderr,  # the bar of the runs, with the time left
        )
    except papermill.PapermillExecutionError as error:
        print(f"lmcompress: {name} failed with {error.ename}: {error.evalue}; see {partial}", file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        made.unlink(missing_ok=True)
    partial.replace(output)
    for line in found(json.loads(output.read_text(encoding="utf-8"))):
        print(line)
    print(output)


def found(notebook: dict[str, Any]) -> list[str]:
    """What this machine found, which stands after the parameters: the answer, and the verdicts in tables of claims, a
    line each: verdict, claim, evidence.
    """
    from lmcompress.report.html import VERDICTS

    cells = notebook["cells"]
    given = [at for at, cell in enumerate(cells) if "parameters" in cell.get("metadata", {}).get("tags", ())]
    pages = [
        "".join(output["data"]["text/html"])
        for cell in cells[given[0] if given else 0 :]
        for output in cell.get("outputs", [])
        if "text/html" in output.get("data", {})
    ]
    said = [
        _text(text)
        for page in pages
        for text in re.findall(
            r"<summary[^>]*>(On this machine:.*?)<|<p><strong>(.*?)</strong>", page, re.DOTALL
        )
        for text in text
        if text
    ]
    rows = (row for page in pages for row in re.findall(r"<tr.*?>(.*?)</tr>", page, re.DOTALL))
    cells = ([_text(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)] for row in rows)
    marks = {f"{mark} {verdict}" for verdict, mark in VERDICTS.items()}
    return said + [f"{row[1]}: {row[0]} {row[2]}" for row in cells if len(row) == 3 and row[1] in marks]


def _text(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", markup)).split())
