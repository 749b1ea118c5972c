"""Refinement of a partition by exchanges of two points, as in anticlustering."""

import numpy as np

from fastmte.partition.quality import centred, checked_partition

OBJECTIVES = ("variance", "diversity")


def refine(
    points: np.ndarray, labels: np.ndarray, objective: str, tie_tol: float = 1e-10
) -> np.ndarray:
    """Return a partition that no exchange of two points makes better, (n,) int64.

    Each point in turn changes places with the point of another part that gains most, the
    lowest index of equal ones, until none gains. Parts keep their sizes. Deterministic.
    Cost: O(n^2 d) a round and a handful of rounds: 0.3 ms for 56 labels, 0.4 s for 2,000 x 22.

    Args:
        points: (n, d) float, finite.
        labels: (n,) int, each point's part in [0, k); every part has a point.
        objective: ``"variance"`` lowers the sum of squares between the parts: their means come
            together. ``"diversity"`` raises the sum of distances within them.
        tie_tol: gains that differ by less than this share of the largest sum of one point's
            distances to a part are equal, and smaller ones are none.

    Raises:
        ValueError: the points are not finite, the labels are no partition of them, or the
            objective is unknown.

    Reference: Papenberg and Klau, Using anticlustering to partition data sets into equivalent
        parts, Psychological Methods 2021, method ``local-maximum`` of R's anticlust.
    """
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    from fastmte.partition._kernels import exchange  # numba, only where it is asked for

    points, labels, n_parts = checked_partition(points, labels)
    refined = labels.astype(np.int64)
    sizes = np.bincount(refined, minlength=n_parts)
    # A part's sum of squares around its mean is that of its pairs' distances over its size.
    weights = 1.0 / sizes if objective == "variance" else np.ones(n_parts)
    row, other, gains = np.empty((3, len(points)))
    sums = np.empty((n_parts, len(points)))
    columns = np.ascontiguousarray(centred(points)[0].T)
    exchange(columns, objective == "variance", weights, tie_tol, refined, sums, row, other, gains)
    return refined
