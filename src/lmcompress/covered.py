"""The sentence that says how much of the blocks a method reached, wherever that is not all of it."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lmcompress.lazily import lazy

models = lazy("lmcompress.models")
records = lazy("lmcompress.records")

FIELDS = {"covered", "left"}
"""What :func:`field` gives: an older record of the same version may lack it."""


def field(model: Any, layers: Iterable[str]) -> dict[str, object]:
    """What a result says of a method that reached these ``layers``: their share of the weights in the blocks' matrices
    as ``covered`` and, where that is not all, the other matrices as ``left``.
    """
    share, left = models.coverage(model, layers)
    return {"covered": share, "left": left} if left else {"covered": share}


def recorded(record: Any) -> str:
    """What a run card says of a record whose kind covers blocks: the share, or that its run did not record one."""
    if "covered" in record.result:
        return f"{_percent(record.result['covered'])} of the weights in the blocks' matrices"
    kind = records.classes().get(record.kind)
    return "not recorded" if kind is not None and kind.covers else ""


def sentences(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """:func:`told` of every result whose :func:`field` is not all, each once."""
    found = (told(result["covered"], result["left"]) for result in results if result.get("left"))
    return list(dict.fromkeys(found))


def told(share: float, left: Mapping[str, int] = {}) -> str:
    """What is to be read beside a number of a method that reached only ``share`` of the blocks; "" for all of it.

    share: of the weights in the blocks' matrices, in [0, 1].
    left: the matrices that were not reached, full parameter name -> number of weights; the largest kinds are named.
    """
    if share >= 1:
        return ""
    sizes: Counter[str] = Counter()
    for name, size in left.items():
        sizes[re.sub(r"\.\d+(?=\.)", ".*", name)] += size
    names = ", ".join(f"`{name}`" for name, _ in sizes.most_common(3))
    more = f" and {len(sizes) - 3} more kinds" if len(sizes) > 3 else ""
    which = f"; left as they were: {names}{more}" if names else ""
    return f"covers {_percent(share)} of the weights in the blocks' matrices, not all{which}"


def _percent(share: float) -> str:
    """Never rounded up to all of it."""
    return "100 %" if share >= 1 else f"{math.floor(1e4 * share) / 100:.2f} %"
