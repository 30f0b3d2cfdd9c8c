"""Runs and their records: a run is named by what it depends on, computed once, and read from then on.

key = hash of the experiment's kind, the version of that kind, its parameters and the assets that it reads; for timings
also of the device. Whoever changes what a kind computes raises its version; ``tests/golden`` fails where one did not.
Code, commit, package versions and device are provenance: written once by the run, and never edited. Computed records
are files under ``build/records``; published ones (computed on a GPU, committed) are lines of ``results/KIND.jsonl``,
which :mod:`lmcompress.publish` writes.
"""

import gc
import hashlib
import json
import re
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, get_origin

from filelock import FileLock, Timeout
from tqdm import tqdm

from lmcompress import absent, provenance
from lmcompress.assets import sha256_of
from lmcompress.errors import LmcompressError, ParameterError
from lmcompress.files import carried, project_root, write_json
from lmcompress.parameters import Parameters

_CLASSES: dict[str, type["Experiment"]] = {}  # kind -> class, of every experiment that was defined


class Experiment(Parameters):
    """The parameters of one run, and the run itself.

    ``kind`` names the records; by default it is the class name in snake case. ``version``: raised by whoever changes
    what the kind computes; records of a lower one are called older. ``timed``: its result is a time, so that a record
    holds for one device only. ``covers``: its result says which share of the block weights its method reached (see
    :mod:`lmcompress.covered`). ``shares``: the parameters in which runs agree that one process computes one after the
    other, since it holds a dense or pruned model for them. ``assets()``: the (name, kind) pairs of what is read.
    ``run()``: the result, a small dict that JSON can hold.
    """

    kind: ClassVar[str] = ""
    version: ClassVar[int] = 1
    timed: ClassVar[bool] = False
    covers: ClassVar[bool] = False
    shares: ClassVar[tuple[str, ...]] = ("model", "data", "dtype")

    @classmethod
    def __pydantic_init_subclass__(cls, **_options: Any) -> None:
        cls.kind = cls.__dict__.get("kind") or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        _CLASSES[cls.kind] = cls

    def assets(self) -> list[tuple[str, str]]:
        raise NotImplementedError

    def run(self) -> dict[str, Any]:
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


class BrokenRecord(LmcompressError):
    """A file or line that is no record: says where, and why."""

    def __init__(self, where: str, why: str):
        super().__init__(f"{where} is no record: {why}")


@dataclass(frozen=True)
class Record:
    """One run.

    kind, version: what was computed, and by which version of it.
    parameters, assets: what it depends on (assets: name -> sha256).
    key: the hash of these (see :func:`hashed`).
    result: what came out.
    provenance: commit, code, versions, device, threads, date, seconds, and the command that computes it again.
    """

    key: str
    kind: str
    version: int
    parameters: dict[str, Any]
    assets: dict[str, str]
    result: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def older(self) -> bool:
        """Whether its kind computes something else today, or is gone."""
        cls = classes().get(self.kind)
        return cls is None or self.version != cls.version

    @property
    def computed_here(self) -> bool:
        """Whether this machine computed it (a file under ``build/records``); a published record was only read."""
        return (build_folder() / self.kind / f"{self.key}.json").is_file()

    def again(self) -> Experiment:
        """The experiment that this is the record of. Raises :class:`ParameterError` for a kind that there is not."""
        return experiment_class(self.kind)(**self.parameters)


def classes() -> dict[str, type[Experiment]]:
    """Kind -> experiment class. Records name kinds, never modules: reading one cannot import anything else."""
    from lmcompress.experiments import kinds

    kinds()
    return _CLASSES


def experiment_class(kind: str) -> type[Experiment]:
    """The class of a kind. Raises :class:`ParameterError` for a kind that there is not."""
    if kind not in classes():
        raise ParameterError("kind", kind, sorted(classes()))
    return classes()[kind]


def hashed(
    kind: str, version: int, parameters: dict[str, Any], assets: dict[str, str], device: str = ""
) -> str:
    """The key of a record; ``device`` for timings only."""
    about = {"kind": kind, "version": version, "parameters": parameters, "assets": assets}
    if device:
        about["device"] = device
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def key_of(experiment: Experiment, fetch: bool = True) -> str:
    """The hash that names the record of ``experiment``. Pinned assets are not fetched for it, without ``fetch`` none is
    (:class:`~lmcompress.errors.AssetError` where one is not here).
    """
    device = provenance.device() if experiment.timed else ""
    parameters = experiment.model_dump(mode="json")
    return hashed(experiment.kind, experiment.version, parameters, _assets(experiment, fetch), device)


def _assets(experiment: Experiment, fetch: bool = True) -> dict[str, str]:
    return {name: sha256_of(name, kind, fetch) for name, kind in experiment.assets()}


def obtain(experiments: Sequence[Experiment], *, progress: bool = True, force: bool = False) -> list[Record]:
    """The record of every experiment: read where its key is known, else computed and kept (``force``: computed).

    Two processes that want the same record do not compute it twice: the second goes on with its others, and waits for
    it at the end. What was computed before an interruption is kept.
    Where nothing is computed (see :mod:`lmcompress.absent`) the records must be known: a notebook is given an
    ``Absent`` in their place, whose use skips a cell, and ``NotComputed`` is raised elsewhere.
    """
    if why := absent.reason():
        known: Any = [find(experiment.kind, key_of(experiment)) for experiment in experiments]
        missing = [one.kind for one, record in zip(experiments, known, strict=True) if record is None]
        return absent.stand_in(missing, why) if missing else known
    with tqdm(
        total=len(experiments), desc="experiments", disable=not progress or len(experiments) < 2
    ) as bar:
        found: dict[int, Record] = {}
        for wait in (False, True):
            for place, experiment in enumerate(experiments):
                if place not in found and (record := _obtain(experiment, force, wait)):
                    found[place] = record
                    bar.update()
    return [found[place] for place in range(len(experiments))]


def _obtain(experiment: Experiment, force: bool, wait: bool) -> Record | None:
    """The record; None where another process computes it just now and there is no ``wait``."""
    key = key_of(experiment)
    path = build_folder() / experiment.kind / f"{key}.json"
    if not force and (known := find(experiment.kind, key)):
        return known
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path.with_suffix(".lock")).acquire(blocking=wait)
    except Timeout:
        return None
    with lock:
        if not force and (known := find(experiment.kind, key)):
            return known
        record = compute(experiment, key)
        write_json(path, asdict(record))
    return record


def compute(experiment: Experiment, key: str | None = None) -> Record:
    """Run the experiment and return its record, without keeping it."""
    import torch

    key = key or key_of(experiment)
    torch.manual_seed(getattr(experiment, "seed", 0))
    about, started = provenance.here(), time.perf_counter()
    result = experiment.run()
    about["seconds"] = round(time.perf_counter() - started, 3)
    about["peak_mb"] = provenance.peak_memory()
    if about["seconds"] > 5:  # what a short run leaves is small, and looking for it takes a third of a second
        gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    about["command"] = f"lmcompress records redo {key[:12]}"
    parameters = experiment.model_dump(mode="json")
    return Record(key, experiment.kind, experiment.version, parameters, _assets(experiment), result, about)


def build_folder() -> Path:
    """Where records are computed to."""
    return project_root() / "build" / "records"


def results_folder() -> Path:
    """Where published records are."""
    return carried("results")


def find(kind: str, key: str) -> Record | None:
    """The record of that key, computed here or published; a broken file of this machine is named and counts as none."""
    path = build_folder() / kind / f"{key}.json"
    if path.is_file() and (record := _read_file(path)):
        return record
    return next((record for record in published_records(kind) if record.key == key), None)


def read(text: str, where: str) -> Record:
    """The record that ``text`` holds. Raises :class:`BrokenRecord`, naming ``where``, for anything else, and for a
    record whose key is not that of its content.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenRecord(where, f"not JSON ({error})") from None
    wanted = {field.name: field.type for field in fields(Record)}
    if not isinstance(found, dict) or found.keys() != wanted.keys():
        raise BrokenRecord(where, f"expected an object with {', '.join(wanted)}")
    for name, kind in wanted.items():
        plain: Any = get_origin(kind) or kind
        if not isinstance(found[name], plain) or isinstance(found[name], bool):
            raise BrokenRecord(where, f"{name} is no {plain.__name__}")
    missing = {"device", "date", "seconds", "commit", "versions"} - found["provenance"].keys()
    if missing:
        raise BrokenRecord(where, f"provenance lacks {', '.join(sorted(missing))}")
    record = Record(**found)
    cls = classes().get(record.kind)
    device = record.provenance["device"] if cls is not None and cls.timed else ""
    if record.key != hashed(record.kind, record.version, record.parameters, record.assets, device):
        raise BrokenRecord(where, "its key is not that of its kind, version, parameters and assets")
    return record


def _read_file(path: Path) -> Record | None:
    """The record in a file of this machine; None, with a warning, for a broken one: it is computed again if wanted."""
    try:
        return read(path.read_text(encoding="utf-8"), str(path))
    except (BrokenRecord, UnicodeDecodeError, OSError) as error:
        warnings.warn(f"left out: {error}", stacklevel=2)
        return None


def published_files(kind: str) -> list[Path]:
    """The files of a kind's published records: ``KIND.jsonl``, ``KIND.2.jsonl``, ..."""
    first = results_folder() / f"{kind}.jsonl"
    more = sorted(first.parent.glob(f"{kind}.*.jsonl"), key=lambda path: int(path.suffixes[0][1:]))
    return [*([first] if first.is_file() else []), *more]


def published_kinds() -> list[str]:
    """Kinds of which something is published."""
    return sorted({path.name.split(".")[0] for path in results_folder().glob("*.jsonl")})


def published_records(kind: str) -> list[Record]:
    """All published records of a kind; a broken line is named in a warning and left out."""
    files = published_files(kind)
    return [record for path in files for record in _read_lines(path, path.stat().st_mtime_ns)]


@lru_cache(maxsize=64)
def _read_lines(path: Path, _changed: int) -> tuple[Record, ...]:
    found, broken = read_lines(path)
    for error in broken:
        warnings.warn(f"left out: {error}", stacklevel=3)
    return tuple(found)


def read_lines(path: Path) -> tuple[list[Record], list[BrokenRecord]]:
    """The records in a published file, and what is wrong with the lines that are none."""
    found, broken = [], []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            found.append(read(line.decode(), f"{path}, line {number}"))
        except UnicodeDecodeError:
            broken.append(BrokenRecord(f"{path}, line {number}", "not UTF-8"))
        except BrokenRecord as error:
            broken.append(error)
    return found, broken


def computed_records() -> list[Record]:
    """All records computed here."""
    found = (_read_file(path) for path in sorted(build_folder().glob("*/*.json")))
    return [record for record in found if record is not None]


def all_records() -> list[Record]:
    """All records, computed here and published."""
    return computed_records() + [record for kind in published_kinds() for record in published_records(kind)]


def by_key(start: str) -> Record:
    """The one record whose key begins with ``start`` (:class:`ParameterError` for none or several)."""
    found = {record.key: record for record in all_records() if record.key.startswith(start)}
    if len(found) != 1:
        raise ParameterError("key", start, f"the beginning of one record's key; {len(found)} begin so")
    return next(iter(found.values()))


def worth(record: Record) -> tuple[int, str]:
    """Greater for the run that is kept of several."""
    return record.version, record.provenance["date"]
