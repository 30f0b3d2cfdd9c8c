"""The errors that users see. Every message names what was wrong, the value given and what would be valid."""

import difflib
import shutil
from collections.abc import Iterable
from pathlib import Path


class LmcompressError(Exception):
    """Base of all errors raised on purpose by this package."""


class ParameterError(LmcompressError, ValueError):
    """A parameter was refused before any work was done.

    Parameters: ``field`` (its name), ``value`` (as given), ``valid`` (a sentence, or the valid choices).
    """

    def __init__(self, field: str, value: object, valid: str | Iterable[object]):
        near = []
        if not isinstance(valid, str):
            names = [str(choice) for choice in valid]
            near = difflib.get_close_matches(str(value), names, 1)
            valid = "one of " + ", ".join(names)
        meant = f"; did you mean {near[0]}?" if near else ""
        super().__init__(f"{field}: {value!r} is not valid; expected {valid}{meant}")
        self.field, self.value, self.valid = field, value, valid


class AssetError(LmcompressError):
    """A model or corpus could not be provided (unknown, unreachable, damaged, no room)."""


class StorageError(LmcompressError):
    """Something could not be written: a full disk, a read-only folder. Nothing half-written stays."""

    def __init__(self, path: Path, cause: Exception):
        there = next(folder for folder in path.absolute().parents if folder.is_dir())
        free = shutil.disk_usage(there).free / 2**20
        reason = getattr(cause, "strerror", None) or str(cause)
        super().__init__(f"{path} cannot be written: {reason} ({free:,.0f} MiB free there)")
        self.path = path


class NumericError(LmcompressError):
    """Numbers of a layer went wrong (non-finite statistics, no damping that helps)."""

    def __init__(self, layer: str, what: str):
        super().__init__(f"layer {layer}: {what}")
        self.layer = layer
