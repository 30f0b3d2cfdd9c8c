"""Experiments: what a record is of. Parameters are here; torch and the algorithms come only once a run starts.

A new kind is a class in a module here.
"""

import importlib
import inspect
import pkgutil
from functools import cache

from lmcompress.records import Experiment


@cache
def kinds() -> dict[str, type[Experiment]]:
    """Kind -> class of every experiment of this package that can be run."""
    found = {}
    for name in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        module = importlib.import_module(f"lmcompress.experiments.{name}")
        for cls in vars(module).values():
            if inspect.isclass(cls) and issubclass(cls, Experiment) and cls.__module__ == module.__name__:
                found[cls.kind] = cls
    return {kind: cls for kind, cls in found.items() if cls.run is not Experiment.run}
