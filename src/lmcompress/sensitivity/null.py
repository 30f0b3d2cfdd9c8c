"""Controls: scores that know nothing of the weights."""

import random
import time

from torch import nn

from lmcompress.models import blocks
from lmcompress.sensitivity.agreement import Scores
from lmcompress.sensitivity.losses import block_of
from lmcompress.sensitivity.scores import check_count, layer_groups


def random_draws(
    model: nn.Module, batches: object = None, *, per: str = "linear", draws: int = 20, seed: int = 0
) -> list[Scores]:
    """``draws`` uniform random scores: a score must beat these to mean anything."""
    check_count("draws", draws)
    names, found = list(layer_groups(model, per)), []
    for index in range(draws):
        started = time.perf_counter()
        source = random.Random(f"{seed}/{index}")
        scores = {name: source.random() for name in names}
        found.append(Scores(scores, time.perf_counter() - started, {"seed": seed, "draw": index}))
    return found


def ends_high(model: nn.Module, batches: object = None, *, per: str = "linear") -> Scores:
    """Depth heuristic "first and last layers are sensitive": 1 at both ends, falling to 0 in the middle."""
    started = time.perf_counter()
    where, last = block_of(model), max(len(blocks(model)) - 1, 1)
    scores = {name: abs(2 * where[name] / last - 1) for name in layer_groups(model, per)}
    return Scores(scores, time.perf_counter() - started)


def middle_high(model: nn.Module, batches: object = None, *, per: str = "linear") -> Scores:
    """The opposite of :func:`ends_high`: 1 in the middle, 0 at both ends."""
    ends = ends_high(model, per=per)
    return Scores({name: 1 - value for name, value in ends.per_layer.items()}, ends.seconds)
