"""The errors that users see. Every message names what was wrong, the value given and what would be valid."""

import difflib
import reprlib
import shutil
from collections.abc import Iterable
from pathlib import Path


class LmcompressError(Exception):
    """Base of all errors raised on purpose by this package."""


def did_you_mean(given: object, names: Iterable[str]) -> str:
    """``; did you mean NAME?`` for the name that is closest to what was given; nothing where none is close."""
    near = difflib.get_close_matches(given[:100], names, 1) if isinstance(given, str) else []
    return f"; did you mean {near[0]}?" if near else ""


class _Shown(reprlib.Repr):
    """Values as messages show them: a line of each, however large it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 4, 300, 300
        self.maxtuple = self.maxlist = self.maxdict = 12

    def repr(self, value: object) -> str:
        shown = super().repr(value)
        return shown if len(shown) <= 600 else f"{shown[:600]}..."

    def repr_int(self, value: int, _level: int) -> str:
        return repr(value) if value.bit_length() < 400 else f"an integer of {value.bit_length()} bits"


_show = _Shown().repr


class ParameterError(LmcompressError, ValueError):
    """A parameter was refused before any work was done.

    Parameters: ``field`` (its name), ``value`` (as given), ``valid`` (a sentence, or the valid choices).
    """

    def __init__(self, field: str, value: object, valid: str | Iterable[object]):
        if not isinstance(valid, str):
            names = [str(choice) for choice in valid]
            comma = "; " if any(", " in name for name in names) else ", "
            valid = f"one of {comma.join(names)}{did_you_mean(value, names)}"
        super().__init__(f"{field}: {_show(value)} is not valid; expected {valid}")
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
