"""CPTQuant's way from scores to bits (arXiv 2412.03599): cluster the scores, one bit-width a cluster.

No budget enters: the mean bit-width is whatever the sizes of the clusters make it. Scores are single
numbers, so k-means is solved exactly here instead of from random starts.
"""

from collections.abc import Callable, Sequence

import numpy as np

from lmcompress.errors import ParameterError
from lmcompress.lazily import lazy

vq = lazy("scipy.cluster.vq")

WIDTHS = (16, 8, 4)
NEAREST = 1e-3  # of the range: a value at distance 0 would no longer hold its centre in k-harmonic means


def k_means(values: Sequence[float], k: int) -> list[int]:
    """Cluster of every value, 0 = the one of lowest mean; the sum of squared distances is least.

    In one dimension clusters are intervals of the sorted values, so dynamic programming finds the optimum
    (Wang and Song, 2011). Fewer clusters than ``k`` come out when there are fewer distinct values.
    """
    points, place, k = _distinct(values, k)
    x, count = points[:, 0], points[:, 1]
    if len(x) == k:
        return place.tolist()
    x = (x - x[0]) / np.ptp(x)  # sums of squares with a large part in common would cancel
    # moments of the values before each index: squared distance of x[i:j] to its mean in constant time
    zero, one, two = (np.concatenate([[0], np.cumsum(count * x**power)]) for power in (0, 1, 2))

    def spread(i: int, j: int) -> float:
        return two[j] - two[i] - (one[j] - one[i]) ** 2 / (zero[j] - zero[i])

    size = len(x)
    best = [0.0] + [np.inf] * size
    cuts: list[list[int]] = []
    for _ in range(k):
        costs = [[best[i] + spread(i, j) for i in range(j)] for j in range(1, size + 1)]
        cuts.append([0] + [int(np.argmin(row)) for row in costs])
        best = [np.inf] + [min(row) for row in costs]
    labels, end = np.zeros(size, dtype=int), size
    for cluster in reversed(range(k)):
        start = cuts[cluster][end]
        labels[start:end], end = cluster, start
    return labels[place].tolist()


def k_harmonic_means(
    values: Sequence[float], k: int, *, power: float = 3.5, iterations: int = 200
) -> list[int]:
    """Cluster of every value, 0 = the one of lowest centre, by k-harmonic means (Zhang, Hsu and Dayal, 1999).

    Minimises sum_i k / sum_j |x_i - c_j|^-power: every centre feels every value, most of all those that no
    centre is near. Starts at the means of :func:`k_means`, so that the result is deterministic.
    """
    points, place, k = _distinct(values, k)
    if len(points) == k:
        return place.tolist()
    x, count = points[:, 0], points[:, 1]
    x = (x - x[0]) / np.ptp(x)
    start = np.array(k_means(values, k))
    centres = np.array([x[place][start == cluster].mean() for cluster in range(k)])
    for _ in range(iterations):
        near = np.maximum(np.abs(x[:, None] - centres), NEAREST)
        pull = near ** -(power + 2)
        weight = count / (near**-power).sum(1) ** 2  # membership times importance, up to the sum that cancels
        moved = (pull * weight[:, None] * x[:, None]).sum(0) / (pull * weight[:, None]).sum(0)
        if np.abs(moved - centres).max() < 1e-12:
            break
        centres = moved
    centres = np.sort(centres)
    return np.abs(x[:, None] - centres).argmin(1)[place].tolist()


METHODS: dict[str, Callable[[Sequence[float], int], list[int]]] = {
    "k_means": k_means,
    "k_harmonic_means": k_harmonic_means,
}


def by_clusters(
    scores: dict[str, float], widths: Sequence[int] = WIDTHS, method: str = "k_means"
) -> dict[str, int]:
    """Bits of every layer: the cluster of highest scores gets the first of ``widths`` (given from most to
    fewest).

    With fewer distinct scores than widths the last widths go unused. Raises :class:`ParameterError` for an
    unknown method, widths out of order, or no layer.
    """
    if method not in METHODS:
        raise ParameterError("method", method, METHODS)
    if not widths or list(widths) != sorted(set(widths), reverse=True):
        raise ParameterError("widths", widths, "distinct bit-widths from most to fewest")
    labels = METHODS[method](list(scores.values()), len(widths))
    highest = max(labels)
    return {layer: widths[highest - label] for layer, label in zip(scores, labels, strict=True)}


def as_released(scores: dict[str, float], widths: Sequence[int] = WIDTHS, seed: int = 0) -> dict[str, int]:
    """Bits as the authors' first scripts assign them: cluster number 0 -> 16, 1 -> 8, 2 -> 4 bits.

    The flaw, kept: the numbers of k-means clusters are arbitrary. They follow the random start (``seed``),
    not the scores, so the most sensitive layers may get the fewest bits. The authors' seed fixes
    scikit-learn's generator and not this one (SciPy's), so single outcomes differ from theirs; what is shown
    is that the seed decides.
    """
    if not scores:
        raise ParameterError("scores", scores, "at least one layer")
    values = np.array(list(scores.values()), dtype=float)
    spread = values.std()
    values = (values - values.mean()) / (spread if spread > 0 else 1)
    k = min(len(widths), len(np.unique(values)))
    _, labels = vq.kmeans2(values[:, None], k, minit="++", seed=seed, iter=50)
    return {layer: widths[int(label)] for layer, label in zip(scores, labels, strict=True)}


def _distinct(values: Sequence[float], k: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Distinct values with their counts [n, 2], each value's place among them, and k or n if that is less."""
    array = np.asarray(values, dtype=float)
    if not array.size or not np.isfinite(array).all():
        raise ParameterError("scores", values, "at least one finite number")
    if k < 1:
        raise ParameterError("k", k, "an integer of at least 1")
    distinct, place, counts = np.unique(array, return_inverse=True, return_counts=True)
    return np.stack([distinct, counts], axis=1), place, min(k, len(distinct))
