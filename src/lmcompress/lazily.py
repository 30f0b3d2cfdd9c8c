"""Modules that are imported when they are first used: parameters, records and pages need no torch, runs do."""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Lazy:
    def __init__(self, name: str):
        self.__name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name), attribute)


def lazy(name: str) -> Any:
    """Stands for the module ``name``; the first attribute that is asked for imports it.

    A module is no place for hidden work: use this only for what parameters must not wait for (torch, transformers, and
    the algorithms that import them).
    """
    return _Lazy(name)


class _Callable(ModuleType):
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        name = self.__name__.rpartition(".")[2]
        face = importlib.import_module("lmcompress").FACE[name]
        return getattr(importlib.import_module(face), name)(*arguments, **keywords)


def callable_module(name: str) -> None:
    """Let the module ``name`` be called as the function of the library's face that has its name.

    Python keeps one thing under ``lmcompress.retrain``: whether that is the module or the function would otherwise
    depend on what was imported before.
    """
    sys.modules[name].__class__ = _Callable
