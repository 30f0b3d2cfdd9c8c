"""Names of what can be retrained, and how they are joined (:mod:`lmcompress.retrain.subsets` says what each is).

No torch here: parameters are checked by these names.
"""

from dataclasses import dataclass

from lmcompress.errors import ParameterError, did_you_mean

ADDITIVE = ("lora", "lora-prune")
MASKED = ("masklora",)
SCALING = ("scalelora", "scalelora-free")
ADAPTERS = ADDITIVE + MASKED + SCALING
ALONE = ("nothing", "full")
EXISTING = ("biases", "norms", "head", "embeddings")
ADDED = ("new-biases", "head-lora", *ADAPTERS)
NAMES = (*ALONE, *EXISTING, *ADDED)


OUTSIDE = ("head", "head-lora", "embeddings")  # of the blocks


@dataclass(frozen=True)
class Subset:
    """Names of what is trained, each once, in the order of the table above. Made by :func:`parse`."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "+".join(self.names)

    @property
    def adapter(self) -> str | None:
        """The kind of adapter on the Linears of the blocks, if any."""
        return next((name for name in self.names if name in ADAPTERS), None)


def parse(text: "str | Subset") -> Subset:
    """The subset that ``text`` names. Raises :class:`ParameterError` for unknown names and impossible
    combinations.
    """
    if isinstance(text, Subset):
        return text
    names = [name.strip() for name in text.split("+")] if isinstance(text, str) else [text]
    for name in names:
        if name not in NAMES:
            valid = f"{', '.join(NAMES)} (several joined by +){did_you_mean(name, NAMES)}"
            raise ParameterError("subset", name, valid)
    chosen = tuple(name for name in NAMES if name in names)
    if len(chosen) > 1 and set(chosen) & set(ALONE):
        raise ParameterError("subset", text, "'full' or 'nothing' without any other name")
    if sum(name in ADAPTERS for name in chosen) > 1 or {"head", "head-lora"} <= set(chosen):
        raise ParameterError("subset", text, "at most one adapter for the same layers")
    return Subset(chosen)


def require_inside(subset: "str | Subset", granularity: str, targets: str = "sparse") -> None:
    """Raise :class:`ParameterError` for a reconstruction of what no block, or no Linear, has of its own."""
    outside = (*OUTSIDE, "norms") if granularity == "linear" else OUTSIDE
    for name in parse(subset).names:
        if name in outside:
            raise ParameterError("subset", name, f"parameters inside a {granularity}")
    if granularity == "linear" and targets == "dense":
        raise ParameterError("targets", targets, "'sparse': one Gram matrix belongs to one set of inputs")
