"""The sentence that says how much of the blocks a method reached, wherever that is not all of it."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from lmcompress.lazily import lazy

models = lazy("lmcompress.models")


def field(model: Any, layers: Iterable[str]) -> dict[str, object]:
    """What a result says of a method that reached only these ``layers``: their share of the weights in the blocks'
    matrices as ``covered``, the others as ``left``; nothing where they are all, as in most models.
    """
    share, left = models.coverage(model, layers)
    return {"covered": share, "left": left} if left else {}


def sentences(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """:func:`told` of every result with a :func:`field`, each once."""
    found = (told(result["covered"], result["left"]) for result in results if "covered" in result)
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
    percent = math.floor(1e4 * share) / 100  # never rounded up to all of it
    return f"covers {percent:.2f} % of the weights in the blocks' matrices, not all{which}"
