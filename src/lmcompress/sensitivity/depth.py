"""How much of CMPQ's U-shape over depth distance alone explains. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmcompress.errors import ParameterError
from lmcompress.numbers import mean


@dataclass(frozen=True)
class DepthNull:
    """What a similarity that depends on distance alone makes of "1 - mean similarity to all others".

    Lists run over the targets in order of depth. ``scores``: of the given matrix. ``expected``: of the matrix
    in which every entry is replaced by the mean over all pairs at its distance. ``residual``: the difference,
    which is what the layers themselves contribute. ``explained``: share of the scores' variance that
    ``expected`` accounts for (can be negative). ``contrast`` and ``expected_contrast``: mean score of the
    first and last 30 % minus that of the middle.
    """

    scores: list[float]
    expected: list[float]
    residual: list[float]
    explained: float
    contrast: float
    expected_contrast: float


def depth_null(similarity: Sequence[Sequence[float]], targets: Sequence[int] | None = None) -> DepthNull:
    """Compare CMPQ scores with their depth-only null.

    ``similarity`` [m][m] between the depths of a model; ``targets``: the depths that are scored (default: all
    but the first, as ``cca.cmpq`` does; the released code scores all but the last). On a line the points at
    the ends are farther from the rest than those in the middle (mean distance m/2 against m/4), so the mean
    of any similarity that decays with distance is lowest at both ends, whatever the layers do.
    """
    size = len(similarity)
    if size < 3 or any(len(row) != size for row in similarity):
        raise ParameterError("similarity", f"{size} rows", "a square matrix over at least three depths")
    targets = list(range(1, size) if targets is None else targets)
    decay = []
    for distance in range(size):
        pairs = [similarity[i][j] for i in range(size) for j in range(size) if abs(i - j) == distance]
        decay.append(sum(pairs) / len(pairs))
    scores = [1 - mean(similarity[i][j] for j in range(size) if j != i) for i in targets]
    expected = [1 - mean(decay[abs(i - j)] for j in range(size) if j != i) for i in targets]
    residual = [a - b for a, b in zip(scores, expected, strict=True)]
    centre = mean(scores)
    spread = sum((value - centre) ** 2 for value in scores)
    explained = 1 - sum(value**2 for value in residual) / spread if spread else 0.0
    return DepthNull(scores, expected, residual, explained, ends_contrast(scores), ends_contrast(expected))


def ends_contrast(scores: Sequence[float], share: float = 0.3) -> float:
    """Mean score of the first and the last ``share`` of the layers minus that of the others."""
    end = max(1, round(share * len(scores)))
    if 2 * end >= len(scores):
        raise ParameterError("share", share, "a share that leaves some layers in the middle")
    return mean([*scores[:end], *scores[-end:]]) - mean(scores[end:-end])
