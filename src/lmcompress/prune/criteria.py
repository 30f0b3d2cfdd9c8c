"""Every criterion by name: what it has to know of a layer, and the function that decides. (No torch on import.)"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from lmcompress.parameters import one_of


@dataclass(frozen=True)
class Criterion:
    """How a criterion decides which weights go.

    function: ``module.function`` of :mod:`lmcompress.prune`. By what it needs, it is called as

        ``weights``: ``f({name: weight [out, in]}, pattern) -> {name: mask}``,
        ``norms``: ``f(weight, norms of its inputs [in], pattern) -> mask``,
        ``gram``: ``f(weight, Gram matrix of its inputs [in, in], pattern, layer=, factor=)`` ->
        ``(new weight, mask, damping, dead columns)``; see :func:`lmcompress.prune.sparsegpt.prune`.

        A mask is bool [out, in], True = kept.
    needs: what it has to know.
    whole: whether it decides over the weights of all layers at once.
    draws: whether it draws at random; it is then given a seed as well.
    """

    function: str
    needs: Literal["weights", "norms", "gram"] = "weights"
    whole: bool = False
    draws: bool = False

    @property
    def by_data(self) -> bool:
        """Whether it needs calibration inputs."""
        return self.needs != "weights"

    @property
    def varies(self) -> bool:
        """Whether its result depends on the seed, of the draw or of the calibration inputs."""
        return self.by_data or self.draws

    def __call__(self, *given: Any, **options: Any) -> Any:
        """The result of the function."""
        module, _, name = self.function.partition(".")
        return getattr(importlib.import_module(f"lmcompress.prune.{module}"), name)(*given, **options)

    def of_weights(self, weights: dict[str, Any], pattern: Any, seed: int) -> dict[str, Any]:
        """Masks of layers by their weights alone."""
        return self(weights, pattern, seed) if self.draws else self(weights, pattern)

    def of_layer(self, name: str, weight: Any, norms: Any, pattern: Any, seed: int = 0) -> Any:
        """Mask of one layer by its weights, or by them and the norms of its inputs."""
        if self.needs == "norms":
            return self(weight, norms.to(weight.device), pattern)
        return self.of_weights({name: weight}, pattern, seed)[name]


CRITERIA: dict[str, Criterion] = {
    "magnitude": Criterion("magnitude.per_matrix"),
    "magnitude-row": Criterion("magnitude.per_row"),
    "magnitude-global": Criterion("magnitude.over_model", whole=True),
    "random": Criterion("magnitude.at_random", draws=True),
    "wanda": Criterion("wanda.prune", "norms"),
    "sparsegpt": Criterion("sparsegpt.prune", "gram"),
}
"""Every criterion by name: a new one is a function in :mod:`lmcompress.prune` and a line here."""

CriterionName = Annotated[str, one_of(CRITERIA)]
"""One of :data:`CRITERIA`."""
ONE_LAYER = [name for name, one in CRITERIA.items() if one.needs != "gram" and not one.whole]
"""Those that mask one layer and leave its other weights."""
