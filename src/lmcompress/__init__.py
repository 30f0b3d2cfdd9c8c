"""Run, measure and teach the compression of language models (PERP and CPTQuant).

The functions that most work needs, imported when they are first used::

    from lmcompress import load, prune_model, retrain, reconstruct, quantize_model, allocate, evaluate, compress

``retrain``, ``allocate``, ``evaluate`` and ``compress`` are also the modules of these names.
"""

import importlib
import os
from typing import Any

__version__ = "0.1.0"

# OpenMP reads this once, when torch is imported: threads that wait for one another sleep, and do not spin. Where other
# work wants the same cores, spinning makes small operations ten times as slow.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

FACE = {  # name -> module that is imported for it
    "load": "lmcompress.models",
    "prune_model": "lmcompress.api",
    "retrain": "lmcompress.api",
    "reconstruct": "lmcompress.api",
    "quantize_model": "lmcompress.api",
    "allocate": "lmcompress.api",
    "evaluate": "lmcompress.api",
    "compress": "lmcompress.compress",
    "Bits": "lmcompress.quantize.formats",
    "Recipe": "lmcompress.recipe",
    "Training": "lmcompress.api",
    "Walk": "lmcompress.api",
}
_MODULES = ("retrain", "allocate", "evaluate", "compress")


def __getattr__(name: str) -> Any:
    if name in _MODULES:  # a module that can be called, see lazily.callable_module
        return importlib.import_module(f"lmcompress.{name}")
    if name in FACE:
        return getattr(importlib.import_module(FACE[name]), name)
    raise AttributeError(f"module 'lmcompress' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *FACE})
