"""Where a result comes from: commit, versions, device, and the code that it depends on."""

import ast
import hashlib
import importlib.util
import inspect
import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import torch

from lmcompress.files import project_root

_VERSIONS = ("torch", "transformers", "numpy", "scipy", "lmcompress")
_NO_RESULT = {  # modules that only carry parameters, records and pages: they cannot change a number
    f"lmcompress.{name}"
    for name in ("records", "parameters", "provenance", "figures", "canvas", "html", "cli", "files", "errors")
}


def here() -> dict:
    """Commit, versions, device and time of this process, as plain values."""
    return {
        "commit": commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _VERSIONS},
        "device": device(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@lru_cache
def commit() -> str:
    """Hash of the checked-out commit, with ``+changes`` when tracked files differ from it; ``unknown`` without git.

    The variable LMCOMPRESS_COMMIT stands in where the files travel without their history.
    """
    if given := os.environ.get("LMCOMPRESS_COMMIT"):
        return given
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
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores"


def peak_memory() -> int:
    """The most memory that this process has held so far, in MB: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_reserved() / 1e6)
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6)


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
def code_of(experiment: type) -> dict[str, str]:
    """Module -> hash of the code that ``experiment`` depends on: of its own module the definitions that it refers to,
    of every module of this package that these import (directly or not) the whole. Comments, docstrings and layout
    do not count.
    """
    name = experiment.__module__
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    own = _referred(tree, experiment.__name__)
    found = {name: _hash(own)}
    waiting = _imports(ast.Module(own, []))
    while waiting:
        module = waiting.pop()
        if module in found or module in _NO_RESULT:
            continue
        spec = importlib.util.find_spec(module)
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        found[module] = _hash(tree.body)
        waiting |= _imports(tree)
    return dict(sorted(found.items()))


def _referred(tree: ast.Module, name: str) -> list[ast.stmt]:
    """Top-level statements that ``name`` refers to, directly or not, in the order of the file; of an import, the
    names that are.
    """
    defines = {}
    for statement in tree.body:
        for defined in _defined(statement):
            defines.setdefault(defined, []).append(statement)
    chosen, names, waiting = [], set(), [name]
    while waiting:
        names.add(name := waiting.pop())
        for statement in defines.get(name, []):
            if statement not in chosen:
                chosen.append(statement)
                waiting += [node.id for node in ast.walk(statement) if isinstance(node, ast.Name)]
    return [_without_others(statement, names) for statement in tree.body if statement in chosen]


def _without_others(statement: ast.stmt, names: set[str]) -> ast.stmt:
    """An import of just those of its names that are in ``names``; any other statement as it is."""
    if not isinstance(statement, (ast.Import, ast.ImportFrom)):
        return statement
    kept = [alias for alias in statement.names if _bound(alias) in names]
    if isinstance(statement, ast.Import):
        return ast.Import(kept)
    return ast.ImportFrom(statement.module, kept, statement.level)


def _bound(alias: ast.alias) -> str:
    """The name that an import makes."""
    return (alias.asname or alias.name).partition(".")[0]


def _defined(statement: ast.stmt) -> list[str]:
    if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
        return [statement.name]
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return [_bound(alias) for alias in statement.names]
    return [
        node.id
        for node in ast.walk(statement)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]


def _imports(part: ast.AST) -> set[str]:
    """Modules of this package that are imported anywhere in ``part``, with the packages that hold them."""
    names = set()
    for node in ast.walk(part):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = {name for name in names if name.partition(".")[0] == "lmcompress" and name != "lmcompress"}
    return {name for name in ours if _is_module(name)}


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the parent is a module, not a package: the name is a function in it
        return False


def _hash(statements: list[ast.stmt]) -> str:
    digest = hashlib.sha256()
    for statement in statements:
        for node in ast.walk(statement):
            body = getattr(node, "body", None)
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
                node.body = body[1:] or [ast.Pass()]
        if not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            digest.update(_plain(statement).encode())
    return digest.hexdigest()[:16]


def _plain(part: object) -> str:
    """A syntax tree as text. Empty fields are left out: which of them there are depends on the version of Python."""
    if isinstance(part, list):
        return f"[{','.join(map(_plain, part))}]"
    if not isinstance(part, ast.AST):
        return repr(part)
    fields = ((name, value) for name, value in ast.iter_fields(part) if value is not None and value != [])
    return f"{type(part).__name__}({','.join(f'{name}={_plain(value)}' for name, value in fields)})"
