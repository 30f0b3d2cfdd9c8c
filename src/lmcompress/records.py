"""Runs and their records: a run is named by what it depends on, computed once, and read from then on.

key = hash of the experiment's kind and parameters, of the assets that it reads and of the code that it calls. Computed
records are files under ``build/records``; published ones (computed on a GPU, committed) are lines of
``results/KIND.jsonl``.
"""

import gc
import hashlib
import importlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
import yaml
from filelock import FileLock
from tqdm.auto import tqdm

from lmcompress import provenance
from lmcompress.assets import sha256_of
from lmcompress.errors import ParameterError
from lmcompress.files import atomic_path, project_root, write_json
from lmcompress.parameters import Parameters


class Experiment(Parameters):
    """The parameters of one run, and the run itself.

    ``kind`` names the records; by default it is the class name in snake case. ``assets()``: the (name, kind) pairs of
    what is read. ``run()``: the result, a small dict that JSON can hold. ``shares``: the parameters in which runs
    agree that one process computes one after the other, since it holds a dense or pruned model for them.
    """

    kind: ClassVar[str] = ""
    shares: ClassVar[tuple[str, ...]] = ("model", "data", "dtype")

    @classmethod
    def __pydantic_init_subclass__(cls, **_options) -> None:
        cls.kind = cls.__dict__.get("kind") or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def assets(self) -> list[tuple[str, str]]:
        raise NotImplementedError

    def run(self) -> dict:
        raise NotImplementedError

    def shared(self) -> str:
        """Names the group of runs that this one shares a process with."""
        return json.dumps(
            {name: getattr(self, name) for name in self.shares if hasattr(self, name)}, default=str
        )


class Study(Parameters):
    """The parameters of a notebook and the experiments that they stand for."""

    def experiments(self) -> list[Experiment]:
        raise NotImplementedError


@dataclass(frozen=True)
class Record:
    """One run: ``experiment`` (``module:Class``), ``parameters``, ``assets`` (name -> sha256), ``code`` (module ->
    hash), ``result`` and ``provenance`` (commit, versions, device, date, seconds, and the command that
    computes it again in a checkout).
    """

    key: str
    kind: str
    experiment: str
    parameters: dict
    assets: dict[str, str]
    code: dict[str, str]
    result: dict
    provenance: dict

    @property
    def changed_since(self) -> list[str]:
        """Modules whose code differs today from the code that computed this record (empty: it is up to date)."""
        try:
            now = provenance.code_of(experiment_class(self.experiment))
        except (AttributeError, ModuleNotFoundError):  # renamed or removed since
            return [self.experiment]
        return sorted(name for name in now.keys() | self.code.keys() if now.get(name) != self.code.get(name))

    def again(self) -> Experiment:
        """The experiment that this is the record of."""
        return experiment_class(self.experiment)(**self.parameters)


def experiment_class(path: str) -> type[Experiment]:
    """The class behind ``module:Class``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def key_of(experiment: Experiment) -> str:
    """The hash that names the record of ``experiment``; pinned assets are not fetched for it."""
    about = {
        "kind": experiment.kind,
        "parameters": experiment.model_dump(mode="json"),
        "assets": _assets(experiment),
        "code": provenance.code_of(type(experiment)),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _assets(experiment: Experiment) -> dict[str, str]:
    return {name: sha256_of(name, kind) for name, kind in experiment.assets()}


def obtain(experiments: Sequence[Experiment], *, progress: bool = True, force: bool = False) -> list[Record]:
    """The record of every experiment: read where its key is known, else computed and kept (``force``: computed).

    Two processes that want the same record do not compute it twice. What was computed before an interruption is kept.
    """
    bar = tqdm(experiments, desc="experiments", disable=not progress or len(experiments) < 2)
    return [_obtain(experiment, force) for experiment in bar]


def _obtain(experiment: Experiment, force: bool) -> Record:
    key = key_of(experiment)
    path = build_folder() / experiment.kind / f"{key}.json"
    if not force and (known := find(experiment.kind, key)):
        return known
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not force and (known := find(experiment.kind, key)):
            return known
        record = compute(experiment, key)
        write_json(path, asdict(record))
    return record


def compute(experiment: Experiment, key: str | None = None) -> Record:
    """Run the experiment and return its record, without keeping it."""
    torch.manual_seed(getattr(experiment, "seed", 0))
    about, started = provenance.here(), time.perf_counter()
    result = experiment.run()
    about["seconds"] = round(time.perf_counter() - started, 3)
    about["peak_mb"] = provenance.peak_memory()
    if about["seconds"] > 5:  # what a short run leaves is small, and looking for it takes a third of a second
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    cls, key = type(experiment), key or key_of(experiment)
    about["command"] = f"lmcompress records redo {key[:12]}"
    return Record(
        key=key,
        kind=experiment.kind,
        experiment=f"{cls.__module__}:{cls.__qualname__}",
        parameters=experiment.model_dump(mode="json"),
        assets=_assets(experiment),
        code=provenance.code_of(cls),
        result=result,
        provenance=about,
    )


def build_folder() -> Path:
    """Where records are computed to."""
    return project_root() / "build" / "records"


def results_folder() -> Path:
    """Where published records are."""
    return project_root() / "results"


def find(kind: str, key: str) -> Record | None:
    """The record of that key, computed here or published."""
    path = build_folder() / kind / f"{key}.json"
    if path.is_file():
        return Record(**json.loads(path.read_text(encoding="utf-8")))
    return next((record for record in published_records(kind) if record.key == key), None)


def published_records(kind: str) -> list[Record]:
    """All published records of a kind."""
    path = results_folder() / f"{kind}.jsonl"
    return list(_read_lines(path, path.stat().st_mtime_ns)) if path.is_file() else []


@lru_cache
def _read_lines(path: Path, _changed: int) -> tuple[Record, ...]:
    return tuple(Record(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines())


def computed_records() -> list[Record]:
    """All records computed here."""
    return [
        Record(**json.loads(path.read_text(encoding="utf-8")))
        for path in sorted(build_folder().glob("*/*.json"))
    ]


def all_records() -> list[Record]:
    """All records, computed here and published."""
    kinds = sorted(path.stem for path in results_folder().glob("*.jsonl"))
    return computed_records() + [record for kind in kinds for record in published_records(kind)]


def by_key(start: str) -> Record:
    """The one record whose key begins with ``start`` (:class:`ParameterError` for none or several)."""
    found = {record.key: record for record in all_records() if record.key.startswith(start)}
    if len(found) != 1:
        raise ParameterError("key", start, f"the beginning of one record's key; {len(found)} begin so")
    return next(iter(found.values()))


def publish(records: Iterable[Record]) -> tuple[list[Path], list[Record]]:
    """Merge records into ``results/KIND.jsonl``, one line each, sorted. Returns the files, and the records that were
    left out because their code has changed since.

    Of two runs of the same parameters one is kept: the one that is up to date, else the later.
    """
    by_kind: dict[str, list[Record]] = {}
    left_out = []
    for record in records:
        if record.changed_since:
            left_out.append(record)
        else:
            by_kind.setdefault(record.kind, []).append(record)
    written = []
    for kind, new in by_kind.items():
        known = sorted([*published_records(kind), *new], key=_worth)
        merged = {json.dumps(record.parameters, sort_keys=True): record for record in known}
        lines = [json.dumps(asdict(merged[name]), sort_keys=True, allow_nan=False) for name in sorted(merged)]
        path = results_folder() / f"{kind}.jsonl"
        with atomic_path(path) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        written.append(path)
    return written, left_out


def _worth(record: Record) -> tuple[bool, str]:
    """Greater for the run that is kept of several."""
    return not record.changed_since, record.provenance["date"]


def profile(name: str, notebook: str) -> dict:
    """Parameters of a notebook (``NN_name``) in ``config/NAME.yaml``. Raises :class:`ParameterError` for a profile
    that there is not.
    """
    path = project_root() / "config" / f"{name}.yaml"
    if not path.is_file():
        there = sorted(other.stem for other in path.parent.glob("*.yaml"))
        raise ParameterError("profile", name, there or "a checkout with the folder config")
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get(notebook) or {}


def study_class(notebook: str) -> type[Study]:
    """The :class:`Study` of a notebook: ``10_pruning_sweep`` (or its path) is ``lmcompress.studies.pruning_sweep``."""
    name = re.sub(r"^\d+_", "", Path(notebook).stem)
    try:
        return importlib.import_module(f"lmcompress.studies.{name}").Study
    except ModuleNotFoundError as error:
        if error.name != f"lmcompress.studies.{name}":
            raise
        folder = Path(__file__).with_name("studies")
        there = sorted(
            path.stem for path in folder.glob("*.py") if "class Study" in path.read_text(encoding="utf-8")
        )
        raise ParameterError("notebook", notebook, there) from None


def planned(notebook: str, in_profile: str = "full") -> list[Experiment]:
    """The experiments of a notebook in a profile."""
    return study_class(notebook)(**profile(in_profile, notebook)).experiments()


def published(notebook: str, in_profile: str = "full") -> list[Record]:
    """The published records of a notebook: those of its :func:`planned` experiments that are in ``results/``.

    They are found by kind and parameters, so that a page shows them where the assets (WikiText, say) are not at hand.
    Look at :attr:`Record.changed_since` before you call one up to date.
    """
    return [record for experiment in planned(notebook, in_profile) for record in _published(experiment)]


def coverage(notebook: str, in_profile: str = "full") -> dict[str, tuple[int, int]]:
    """Kind -> how many of the :func:`planned` experiments are published, and how many there are."""
    counts: dict[str, tuple[int, int]] = {}
    for experiment in planned(notebook, in_profile):
        done, all_of_them = counts.get(experiment.kind, (0, 0))
        counts[experiment.kind] = (done + len(_published(experiment)), all_of_them + 1)
    return counts


def _published(experiment: Experiment) -> list[Record]:
    parameters = experiment.model_dump(mode="json")
    return [record for record in published_records(experiment.kind) if record.parameters == parameters][:1]
