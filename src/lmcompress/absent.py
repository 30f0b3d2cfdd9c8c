"""Pages on a machine that does not compute: cells that need records of this machine say so, all others run.

Computing needs torch (``pip install "lmcompress[run]"``). Without it, or where the variable LMCOMPRESS_READ_ONLY is
set, as ``make book`` does, ``records.obtain`` gives a notebook an :class:`Absent` for runs that are not known.
"""

import ast
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

from lmcompress.errors import LmcompressError


def reason() -> str:
    """Why nothing is computed here; empty where runs are computed."""
    if os.environ.get("LMCOMPRESS_READ_ONLY"):
        return "this book was made of known records alone; `make report` computes"
    if importlib.util.find_spec("torch") is None:
        return 'they need torch: `pip install "lmcompress[run]"`, or `make report`'
    return ""


class NotComputed(LmcompressError):
    """Runs that were asked for where nothing is computed. ``kinds``: of each of them; ``why``: see :func:`reason`."""

    def __init__(self, kinds: Sequence[str], why: str):
        counts = ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).items())
        self.what = f"{len(kinds)} run{'s' * (len(kinds) > 1)} ({counts})"
        self.why = why
        super().__init__(f"not computed on this machine: {self.what}; {why}")
        self._said = False

    def skip(self, names: Sequence[str]) -> None:
        """In the place of a cell: say what it lacks, once in full, and let what it would have named be absent, too."""
        from IPython import get_ipython
        from IPython.display import display

        from lmcompress.report.html import not_computed

        space = get_ipython().user_ns
        for name in names:
            space.setdefault(name, Absent(self))
        display(not_computed("" if self._said else f"{self.what}; {self.why}."))
        self._said = True


class Absent:
    """Stands in a notebook for what was not computed; any use of it raises :class:`NotComputed`."""

    def __init__(self, error: NotComputed):
        self.__error = error

    def __repr__(self) -> str:
        return str(self.__error)

    def _raise(self, *_others: Any) -> NoReturn:
        raise self.__error

    __iter__ = __len__ = __bool__ = __getitem__ = __contains__ = __add__ = __radd__ = __call__ = _raise

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # a question of the interpreter, not a use
            raise AttributeError(name)
        raise self.__error


def stand_in(kinds: Sequence[str], why: str) -> Any:
    """An :class:`Absent` for runs of these kinds, in a notebook, whose next cells are skipped where they use it.
    Elsewhere :class:`NotComputed` is raised.
    """
    error = NotComputed(kinds, why)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        raise error
    if not any(isinstance(known, _Skipping) for known in shell.ast_transformers):
        shell.ast_transformers.append(_Skipping())
    return Absent(error)


class _Skipping(ast.NodeTransformer):
    """Puts a cell's code into a ``try`` that shows the value of its last line and skips it where a record is absent."""

    _AROUND = """\
try:
    pass
except __import__("lmcompress.absent", fromlist=["_"]).NotComputed as _error:
    _error.skip({names})
"""

    def visit_Module(self, module: ast.Module) -> ast.Module:
        if not module.body:
            return module
        stored = {
            node.id
            for node in ast.walk(module)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        around: Any = ast.parse(self._AROUND.format(names=sorted(stored)))
        last = module.body[-1]
        if isinstance(last, ast.Expr):
            shown: Any = ast.parse("__import__('sys').displayhook(None)").body[0]
            shown.value.args = [last.value]
            module.body[-1] = shown
        around.body[0].body = module.body
        module.body = around.body
        return ast.fix_missing_locations(module)
