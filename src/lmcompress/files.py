"""Where the project's files are, and writing them so that a reader never sees half of one.

A writer works in a room of its own beside the target (``.NAME.XXXX.partial``) and moves the finished thing into place.
The room holds a lock that dies with its writer, so that the next writer of the same name can tell a room in use from
one that a killed process left behind, and removes the latter.
"""

import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lmcompress.errors import StorageError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_LOCK = ".lock"


def project_root() -> Path:
    """The checkout that holds this package; of a package installed elsewhere, the current folder.

    The variable LMCOMPRESS_ROOT names another one.
    """
    if given := os.environ.get("LMCOMPRESS_ROOT"):
        return Path(given)
    root = Path(__file__).resolve().parents[2]
    return root if (root / "notebooks").is_dir() else Path.cwd()


def carried(*parts: str) -> Path:
    """A file or folder that the pages read: ``notebooks``, ``results``, ``config`` or ``data/paper``, and what is in
    them. Of the checkout or the current folder; where that has none, as the installed package carries it.
    """
    here, packed = project_root().joinpath(*parts), Path(__file__).parent.joinpath("carried", *parts)
    return packed if not here.exists() and packed.exists() else here


def benchmark(name: str) -> dict[str, Any]:
    """The record ``results/benchmarks/NAME.json``; one without rows where there is none."""
    path = carried("results", "benchmarks", f"{name}.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"rows": []}


def cache_folder() -> Path:
    """``data/cache`` of the checkout, or where the variable LMCOMPRESS_CACHE says."""
    return Path(os.environ.get("LMCOMPRESS_CACHE") or project_root() / "data" / "cache")


@contextmanager
def atomic_path(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it into place on success, remove it on any failure.

    The caller creates a file or a folder at the temporary path. A file at ``path`` is replaced. A folder may be in
    use: it is replaced only with ``replace``, and stays until the new one is complete; else ``FileExistsError``.
    Raises :class:`~lmcompress.errors.StorageError` where nothing can be written (full, read-only).
    """
    path = Path(path)
    with _room(path) as room:
        temporary = room / path.name
        try:
            yield temporary
            if path.is_dir() and temporary.is_dir() and any(path.iterdir()):
                if not replace:
                    raise FileExistsError(errno.EEXIST, "a finished folder is there already", str(path))
                os.rename(path, room / "old")
                try:
                    os.rename(temporary, path)
                except OSError:
                    os.rename(room / "old", path)
                    raise
            else:
                os.replace(temporary, path)
        except Exception as error:  # safetensors reports a full disk in an error of its own
            told = any(f"(os error {code})" in str(error) for code in _DISK)
            if not told and getattr(error, "errno", None) not in _DISK:
                raise
            raise StorageError(path, error) from error


def once(path: Path, make: Callable[[Path], object], whole: Callable[[Path], bool] = Path.exists) -> Path:
    """``path``, which ``make(temporary path)`` wrote unless it was ``whole`` already.

    However many processes ask at the same time, one makes it and the others wait. What is whole is never touched; what
    is not is replaced. Raises as :func:`atomic_path` does, and what ``make`` raises.
    """
    if not whole(path):
        with _writable(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.parent / f".{path.name}{_LOCK}")
            lock.acquire()
        try:
            if not whole(path):
                with atomic_path(path, replace=True) as temporary:
                    make(temporary)
        finally:
            lock.release()
    return path


@contextmanager
def _room(path: Path) -> Iterator[Path]:
    """A locked temporary folder beside ``path``; rooms of killed writers of the same name are removed first."""
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            _remove_stale(left)
        while True:  # until the lock is held: another writer may take a room without one for a stale one
            room = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
            lock = FileLock(room / _LOCK)
            with suppress(FileNotFoundError):
                lock.acquire()
            if room.is_dir():
                break
    try:
        yield room
    finally:
        shutil.rmtree(room, ignore_errors=True)
        lock.release()


def _remove_stale(room: Path) -> None:
    with suppress(Timeout, OSError), FileLock(room / _LOCK, blocking=False):
        shutil.rmtree(room, ignore_errors=True)


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(path, error) from error


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` as readable JSON, atomically. NaN and infinities are refused (``ValueError``)."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, sort_keys=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
