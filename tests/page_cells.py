"""The code of a notebook, cell by cell, as the tests of the pages run it."""

import ast
from collections.abc import Callable
from pathlib import Path

import IPython.display
import jupytext

from lmcompress.plans import study_class

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def code_cells(name: str) -> list:
    """The code cells of a notebook; one of them holds the parameters."""
    notebook = jupytext.read(NOTEBOOKS / f"{name}.md")
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(name: str) -> dict:
    """Names and values of the cell of parameters."""
    (cell,) = filter(_of_parameters, code_cells(name))
    found: dict = {}
    exec(cell.source, found)
    return {key: value for key, value in found.items() if not key.startswith("_")}


def _of_parameters(cell) -> bool:
    return "parameters" in cell.metadata.get("tags", ())


def check_parameters(name: str) -> None:
    """The cell of parameters is the study's defaults, these stand for runs, and no other cell is long."""
    study, found = study_class(name), parameters(name)
    assert found == study().model_dump(mode="json"), "run: make notebooks"
    assert len(study(**found).experiments()) > 0
    for cell in code_cells(name):
        assert _of_parameters(cell) or len(cell.source.splitlines()) <= 15


def shown_by(name: str, changes: dict, patch: Callable) -> list[str]:
    """Run every cell with ``changes`` of the parameters; the HTML of what the cells show. ``patch``: a monkeypatch's
    ``setattr``.
    """
    shown: list = []
    patch(IPython.display, "display", shown.append)
    variables: dict = {}
    for cell in code_cells(name):
        if _of_parameters(cell):
            variables |= parameters(name) | changes
            continue
        body = ast.parse(cell.source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), name, "exec"), variables)
        value = last and eval(compile(ast.Expression(last.value), name, "eval"), variables)
        if value is not None:  # Jupyter shows the value of a cell's last line
            shown.append(value)
    return [piece._repr_html_() for piece in shown if hasattr(piece, "_repr_html_")]
