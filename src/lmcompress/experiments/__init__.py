"""Experiments: what a record is of. Parameters are here; torch and the algorithms come only once a run starts.

A new kind is a class in one of these modules (or in a new one, named in :data:`MODULES`).
"""

import importlib
import inspect
from functools import cache

from lmcompress.records import Experiment

MODULES = [
    "allocated",
    "costs",
    "dense",
    "joint",
    "one_shot",
    "packed",
    "pruned",
    "reconstructed",
    "released",
    "retrained",
    "scored",
    "speeds",
    "subjects",
]


@cache
def kinds() -> dict[str, type[Experiment]]:
    """Kind -> class of every experiment of this package that can be run."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(f"lmcompress.experiments.{name}")
        for cls in vars(module).values():
            if inspect.isclass(cls) and issubclass(cls, Experiment) and cls.__module__ == module.__name__:
                found[cls.kind] = cls
    return {kind: cls for kind, cls in found.items() if cls.run is not Experiment.run}
