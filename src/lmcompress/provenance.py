"""Where a result comes from: commit, code, versions, device, threads. No torch is needed to ask."""

import hashlib
import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lmcompress.files import project_root

_VERSIONS = ("torch", "transformers", "numpy", "scipy", "lmcompress")


def here() -> dict[str, Any]:
    """Commit, code, versions, device, threads and time of this process, as plain values."""
    return {
        "commit": commit(),
        "code": code(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _VERSIONS},
        "device": device(),
        "threads": _threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache
def commit() -> str:
    """Hash of the checked-out commit, with ``+changes`` when tracked files differ from it; ``unknown`` without git and
    for a package that is installed outside its checkout.

    The variable LMCOMPRESS_COMMIT stands in where the files travel without their history.
    """
    if given := os.environ.get("LMCOMPRESS_COMMIT"):
        return given
    if not Path(__file__).is_relative_to(project_root()):
        return "unknown"
    try:
        git = ["git", "-C", str(project_root())]
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "diff", "--quiet", "HEAD", "--", "src"], capture_output=True
        ).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def device() -> str:
    """Name of the GPU, or of the processor with the number of its cores that this process may use."""
    try:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    except ImportError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores"


def peak_memory() -> int:
    """The most memory that this process has held so far, in MB: of the GPU where there is one, else of the machine."""
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return round(int(sys.modules["torch"].cuda.max_memory_reserved()) / 1e6)
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6)


def _threads() -> int | None:
    """Threads that torch computes with: their number decides the last digits of sums. None without torch."""
    try:
        import torch
    except ImportError:
        return None
    return torch.get_num_threads()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


@lru_cache
def code() -> str:
    """Hash of this package's source: which code it was, also where there is no commit to name."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
