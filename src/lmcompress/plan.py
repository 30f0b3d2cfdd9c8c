"""What a sweep takes: which runs are known, jobs of those that are not, and in the end one table of all."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcompress import records
from lmcompress.errors import AssetError
from lmcompress.estimates import Estimate, estimate
from lmcompress.files import atomic_path, write_json
from lmcompress.records import Experiment, Record


@dataclass(frozen=True)
class Job:
    """Runs that one process computes one after the other, and what each is expected to take."""

    experiments: list[Experiment]
    estimates: list[Estimate]

    @property
    def name(self) -> str:
        return hashlib.sha256("\n".join(map(about, self.experiments)).encode()).hexdigest()[:12]

    @property
    def seconds(self) -> float | None:
        """Of the whole job; runs without an estimate count as the mean of the others."""
        known = [one.seconds for one in self.estimates if one.seconds is not None]
        return sum(known) / len(known) * len(self.estimates) if known else None

    @property
    def megabytes(self) -> float | None:
        return max((one.megabytes for one in self.estimates if one.megabytes is not None), default=None)


@dataclass(frozen=True)
class Plan:
    """What a sweep has and what is left to do. ``known``: place in ``experiments`` -> record."""

    experiments: Sequence[Experiment]
    known: dict[int, Record]
    jobs: list[Job]

    @property
    def missing(self) -> int:
        return len(self.experiments) - len(self.known)

    def write(self, path: Path) -> None:
        """Keep the jobs for the workflow (``workflow/sweep.smk``)."""
        jobs = {
            job.name: {
                "runs": list(map(_run, job.experiments)),
                "seconds": job.seconds,
                "megabytes": job.megabytes,
            }
            for job in self.jobs
        }
        write_json(path, jobs)


def _known(one: Experiment) -> Record | None:
    try:
        return records.find(one.kind, records.key_of(one, fetch=False))
    except AssetError:
        return None


def _run(one: Experiment) -> dict[str, Any]:
    return {"kind": one.kind, "parameters": one.model_dump(mode="json")}


def about(one: Experiment) -> str:
    """Kind and parameters, in a line."""
    return f"{one.kind} {one.model_dump_json()}"


def plan(experiments: Sequence[Experiment], runs_a_job: int) -> Plan:
    """Look up what is known; put the rest into jobs of at most ``runs_a_job`` runs that share what one process holds
    (:attr:`Experiment.shares`). Nothing is fetched: of a model that is not here no run is known.
    """
    known = {place: record for place, one in enumerate(experiments) if (record := _known(one))}
    groups: dict[str, list[Experiment]] = {}
    for place, one in enumerate(experiments):
        if place not in known:
            groups.setdefault(one.shared(), []).append(one)
    earlier = records.all_records() if groups else []
    parts = (
        group[start : start + runs_a_job]
        for group in groups.values()
        for start in range(0, len(group), runs_a_job)
    )
    return Plan(experiments, known, [Job(part, [estimate(one, earlier) for one in part]) for part in parts])


def listing(plan: Plan) -> Iterator[str]:
    """A line a run: known (with the beginning of its key), or the job that will compute it and what it will take."""
    for place, record in plan.known.items():
        yield f"known {record.key[:12]}  {about(plan.experiments[place])}"
    for job in plan.jobs:
        for one, expected in zip(job.experiments, job.estimates, strict=True):
            seconds = "?" if expected.seconds is None else f"{expected.seconds:.1f}"
            memory = "?" if expected.megabytes is None else f"{expected.megabytes / 1000:.1f}"
            yield f"job {job.name}  {seconds:>7} s {memory:>5} GB  {about(one)}"


def summary(plan: Plan) -> str:
    """How many runs there are, how many of them are known, and what the rest is expected to take."""
    text = f"{len(plan.experiments)} runs: {len(plan.known)} known, {plan.missing} to do in {len(plan.jobs)} jobs"
    timed = [job for job in plan.jobs if job.seconds is not None]
    if timed:
        mean = sum(job.seconds or 0 for job in timed) / sum(len(job.experiments) for job in timed)
        devices = sorted({one.device for job in timed for one in job.estimates if one.device})
        text += f"; about {duration(mean * plan.missing)} one after the other (earlier runs on {', '.join(devices)})"
    elif plan.jobs:
        text += "; no earlier record tells how long"
    memory = [job.megabytes for job in plan.jobs if job.megabytes is not None]
    return text + (f", up to {max(memory) / 1000:.1f} GB each" if memory else "")


def by_model(plan: Plan) -> Iterator[str]:
    """A line a model: how many runs are to do, and what they are expected to take; none where all are of one model."""
    found: dict[str, list[float | None]] = {}
    for job in plan.jobs:
        for one, expected in zip(job.experiments, job.estimates, strict=True):
            found.setdefault(str(getattr(one, "model", "no model")), []).append(expected.seconds)
    for model, seconds in found.items() if len(found) > 1 else ():
        known = [one for one in seconds if one is not None]
        time = f"about {duration(sum(known) / len(known) * len(seconds))}" if known else "no estimate"
        yield f"{model}: {len(seconds)} runs, {time}"


def duration(seconds: float) -> str:
    """``45 s``, ``12 min`` or ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def gather(experiments: Sequence[Experiment], folder: Path) -> list[Path]:
    """Write what is known of a sweep: ``folder/results.parquet`` (:func:`table`) and ``results.html``, small multiples.
    Returns what was written.
    """
    from lmcompress.report.sweep_page import page

    frame = table(experiments)
    if frame.empty:
        return []
    with atomic_path(folder / "results.parquet") as temporary:
        frame.to_parquet(temporary, index=False)
    with atomic_path(folder / "results.html") as temporary:
        temporary.write_text(page(frame, folder.name), encoding="utf-8")
    return [folder / "results.parquet", folder / "results.html"]


def table(experiments: Sequence[Experiment]) -> Any:
    """One row a run that is known (a pandas DataFrame): ``kind``, its parameters, ``result.NAME`` for every number,
    text or truth in its result, then ``seconds``, ``device`` and ``key``. Lists in a result, such as the loss of
    every window, stay in the record.
    """
    import pandas as pd

    found = [record for one in experiments if (record := records.find(one.kind, records.key_of(one)))]
    frame = pd.DataFrame([_row(record) for record in found])
    for name in frame.columns:  # a column of parquet has one type
        if len({type(value) for value in frame[name].dropna()}) > 1 and frame[name].dtype.kind == "O":
            frame[name] = [None if value is None else str(value) for value in frame[name]]
    return frame


def _row(record: Record) -> dict[str, Any]:
    parameters = {
        name: json.dumps(value) if isinstance(value, (dict, list)) else value
        for name, value in record.parameters.items()
    }
    origin = {name: record.provenance.get(name) for name in ("seconds", "device")}
    return {"kind": record.kind, **parameters, **_leaves(record.result), **origin, "key": record.key}


def _leaves(result: dict[str, Any], before: str = "result") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, dict):
            found |= _leaves(value, f"{before}.{name}")
        elif not isinstance(value, list):
            found[f"{before}.{name}"] = value
    return found
