"""The sentence that says how much of the blocks a method reached, wherever that is not all of it."""

import re
from collections import Counter
from collections.abc import Mapping


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
    return f"covers {100 * share:.2f} % of the weights in the blocks' matrices, not all{which}"
