"""What a model or corpus holds: its files, and one sha256 of their names and whole contents.

Contents are read once. The hash of every file is kept in the cache beside its size, times and inode, and a file is
read again when one of these has changed. So a run can be named by all it read, at the price of a look at its files.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any

from lmcompress.errors import AssetError, StorageError
from lmcompress.files import cache_folder, write_json

_NOT_TEXT = re.compile(r"(read-?me|licen[cs]e|copying|notice)(\.\w+)?$", re.IGNORECASE)
_WORTH = 1 << 22  # bytes: what is smaller is read again as fast as looked up
_SETTLED = 2.0  # seconds: a file changed this shortly before it was read may change again within one tick of its clock


def files(path: Path, kind: str) -> list[Path]:
    """All files of a model or corpus (``kind``: ``model`` or ``data``) below a folder, sorted, links followed.

    What begins with a dot is never part of it, nor the read-me and licence files beside a corpus. A file stands for
    itself. Raises :class:`AssetError` for links that lead nowhere or in a circle and for what cannot be listed.
    """
    return [path / name if name else path for name in _listing(path, kind)]


def fingerprint(path: Path, kind: str) -> str:
    """sha256 of the relative names and contents of all :func:`files`. Raises :class:`AssetError` as that does."""
    listing, known = _listing(path, kind), _known(path)
    found, entries = _look(path, listing, known)
    if sum(status.st_size for status in listing.values()) >= _WORTH:
        _remember(path, known, found, entries)
    return found


def damage(path: Path, kind: str, expected: str | None) -> str | None:
    """What is wrong with a folder that must never change, in words; None when its sha256 is ``expected`` (None: that
    of the first look).
    """
    known = _known(path)
    found, entries = _look(path, _listing(path, kind), known)
    if found == (expected or known.get("sha256", found)):
        _remember(path, known, found, entries)
        return None
    before = known.get("files", {})
    gone = [name for name in before if name not in entries]
    other = [name for name in entries if name not in before or before[name][-1] != entries[name][-1]]
    told = [
        f"{len(names)} file{'s'[: len(names) > 1]} {verb} ({', '.join(names[:3])}{', ...' if names[3:] else ''})"
        for names, verb in ((gone, "missing"), (other, "changed"))
        if names and before
    ]
    return " and ".join(told) or f"sha256 {found} instead of {expected}"


def forget(path: Path) -> None:
    """The next look at a folder counts as the first: it is to be made anew."""
    _index(path).unlink(missing_ok=True)


def digest(parts: Iterable[tuple[str, bytes]]) -> str:
    """The one hash of ``(relative name, sha256 of the content)``."""
    whole = hashlib.sha256()
    for name, content in parts:
        whole.update(name.encode() + b"\0" + content)
    return whole.hexdigest()


def _listing(path: Path, kind: str) -> dict[str, os.stat_result]:
    status = _stat(path)
    found = dict(_walk(path, "", (status,))) if S_ISDIR(status.st_mode) else {"": status}
    return {
        name: found[name]
        for name in sorted(found, key=lambda name: name.split("/"))
        if kind == "model" or not _NOT_TEXT.match(name.rpartition("/")[2])
    }


def _walk(
    folder: Path, start: str, above: tuple[os.stat_result, ...]
) -> Iterator[tuple[str, os.stat_result]]:
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise AssetError(f"{folder}: {error.strerror}") from error
    for entry in entries:
        status = _stat(entry)
        if S_ISDIR(status.st_mode):
            if any(os.path.samestat(status, one) for one in above):
                raise AssetError(f"{entry.path}: a link that leads back to a folder above it")
            yield from _walk(Path(entry.path), f"{start}{entry.name}/", (*above, status))
        elif S_ISREG(status.st_mode):
            yield start + entry.name, status
        else:
            raise AssetError(f"{entry.path}: neither a file nor a folder")


def _stat(path: Path | os.DirEntry[str]) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        link = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise AssetError(f"{os.fspath(path)}: {error.strerror}{link}") from error


def _look(
    path: Path, listing: dict[str, os.stat_result], known: dict[str, Any]
) -> tuple[str, dict[str, list[Any]]]:
    """The fingerprint, and for each file ``[size, mtime, ctime, inode, sha256]``."""
    known, entries = known.get("files", {}), {}
    for name, status in listing.items():
        now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        if known.get(name, [])[:4] == now:
            entries[name] = known[name]
            continue
        settled = max(status.st_mtime, status.st_ctime) < time.time() - _SETTLED
        file = path / name if name else path
        try:
            with file.open("rb") as source:
                content = hashlib.file_digest(source, "sha256").hexdigest()
        except OSError as error:
            raise AssetError(f"{file}: {error.strerror}") from error
        entries[name] = [*(now if settled else (-1, -1, -1, -1)), content]
    return digest((name or ".", bytes.fromhex(one[-1])) for name, one in entries.items()), entries


def _index(path: Path) -> Path:
    return cache_folder() / "index" / f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"


def _known(path: Path) -> dict[str, Any]:
    try:
        return json.loads(_index(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or not readable: everything is read again
        return {}


def _remember(path: Path, known: dict[str, Any], found: str, entries: dict[str, list[Any]]) -> None:
    if known.get("files") != entries:
        with suppress(StorageError):  # a cache that can only be read costs a second reading, no more
            write_json(_index(path), {"path": str(path), "sha256": found, "files": entries})
