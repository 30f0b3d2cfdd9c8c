"""Modules that are imported when they are first used: parameters, records and pages need no torch, runs do."""

import importlib
from typing import Any


class lazy:
    """Stands for the module ``name``; the first attribute that is asked for imports it.

    A module is no place for hidden work: use this only for what parameters must not wait for (torch, transformers, and
    the algorithms that import them).
    """

    def __init__(self, name: str):
        self.__name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name), attribute)
