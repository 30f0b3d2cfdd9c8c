"""Sweeps as data: a YAML grid or a CSV sheet of runs, checked by the same typed parameters as everything else.

A YAML file names what is run and what it varies::

    experiment: pruned_model          # a kind of record; or  notebook: 10_pruning_sweep
    fixed: {model: smollm2-135m, data: wikipedia-vital, length: 512, seed: 0}
    grid: {criterion: [magnitude, wanda], pattern: ["50%", "2:4"]}

Runs that are no grid are listed, each with what it has beside the fixed parameters::

    runs: [{criterion: magnitude, pattern: "50%"}, {criterion: wanda, pattern: "2:4"}]

A file may hold a list of such sweeps, as ``config/paper.yaml`` does. A CSV file has a row a run: a column
``experiment`` or ``notebook``, and one a parameter; an empty cell is the default.
"""

import csv
import itertools
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from lmcompress import plans, records
from lmcompress.errors import ParameterError
from lmcompress.parameters import Parameters, read_yaml
from lmcompress.records import Experiment

MOST_RUNS = 100_000


class Sweep(Parameters):
    """A sweep file.

    experiment: the kind of the records, such as ``pruned_model``; or
    notebook: the notebook whose parameters are varied, such as ``10_pruning_sweep``.
    fixed: parameters that all runs have.
    grid: parameters that vary, each with its values; all combinations are run.
    runs: instead of a grid, the varying parameters of each run.
    runs_a_job: at most so many runs go into one job of the workflow.
    """

    experiment: str = ""
    notebook: str = ""
    fixed: dict[str, Any] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    runs: list[dict[str, Any]] = []
    runs_a_job: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 20

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if bool(self.experiment) == bool(self.notebook):
            raise ParameterError("experiment", self.experiment, "either this or notebook, and not both")
        if twice := self.fixed.keys() & self.grid.keys() | self.fixed.keys() & set().union(*self.runs):
            raise ParameterError(
                "fixed", min(twice), "a parameter that is not in the grid or the runs as well"
            )
        if self.grid and self.runs:
            raise ParameterError("runs", len(self.runs), "either these or a grid, and not both")
        if (count := math.prod(map(len, self.grid.values()))) > MOST_RUNS:
            raise ParameterError("grid", count, f"at most {MOST_RUNS:,} combinations")
        return self

    def experiments(self) -> list[Experiment]:
        """Every run of the grid or the list, each once."""
        points = [self.fixed | run for run in self.runs] or (
            self.fixed | dict(zip(self.grid, values, strict=True))
            for values in itertools.product(*self.grid.values())
        )
        return _once(one for point in points for one in _of(self.experiment, self.notebook, point))


def read(path: Path) -> tuple[list[Experiment], int]:
    """The runs of a sweep file, and how many go into one job.

    Raises :class:`ParameterError` that names file, row and parameter for whatever is wrong.
    """
    table = path.suffix == ".csv"
    try:
        text = path.read_text(encoding="utf-8")
        given = list(csv.reader(text.splitlines(), strict=True)) if table else read_yaml(text)
    except (OSError, ValueError, csv.Error) as error:
        raise ParameterError(
            "sweep", str(path), f"a YAML or CSV file ({' '.join(str(error).split())})"
        ) from None
    if table:
        return _of_rows(given), Sweep.model_fields["runs_a_job"].default
    several = given if isinstance(given, list) else [given]
    if not all(isinstance(one, dict) and all(isinstance(name, str) for name in one) for one in several):
        raise ParameterError("sweep", str(path), f"a mapping with some of {', '.join(Sweep.model_fields)}")
    sweeps = [Sweep(**one) for one in several]
    if not (found := _once(run for sweep in sweeps for run in sweep.experiments())):
        raise ParameterError("sweep", str(path), "a file that asks for at least one run")
    return found, min(sweep.runs_a_job for sweep in sweeps)


def _of_rows(rows: list[list[str]]) -> list[Experiment]:
    header, *rest = rows or [[]]
    names = [name.strip() for name in header]
    if not {"experiment", "notebook"} & set(names) or len(set(names)) < len(names) or "" in names:
        raise ParameterError(
            "header", ",".join(header), "distinct parameters beside 'experiment' or 'notebook'"
        )
    found = []
    for number, row in enumerate(rest, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(names):
            raise ParameterError(f"row {number}", ",".join(row), f"{len(names)} cells")
        point = {name: cell.strip() for name, cell in zip(names, row, strict=True) if cell.strip()}
        kind, notebook = point.pop("experiment", ""), point.pop("notebook", "")
        try:
            found += _of(kind, notebook, point)
        except ParameterError as error:
            raise ParameterError(f"row {number}, {error.field}", error.value, error.valid) from None
    if not found:
        raise ParameterError("rows", 0, "at least one row below the header")
    return _once(found)


def _of(kind: str, notebook: str, point: dict[str, Any]) -> list[Experiment]:
    if bool(kind) == bool(notebook):
        raise ParameterError("experiment", kind, "either this or notebook, and not both")
    if notebook:
        return plans.study_class(notebook)(**point).experiments()
    known = records.classes()
    if kind not in known or known[kind].run is Experiment.run:
        raise ParameterError("experiment", kind, sorted(known))
    return [known[kind](**point)]


def _once(found: Iterable[Experiment]) -> list[Experiment]:
    return list({(one.kind, one.model_dump_json()): one for one in found}.values())
