"""How good a partition is: parts that are alike on average, and as unlike as can be within."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

_AT_ONCE = 1 << 22  # distances held at a time: 32 MB


@dataclass(frozen=True)
class Quality:
    """What a partition of points into parts is like.

    Attributes:
        sizes: points of each part.
        between_ss: sum of squares between the parts' means, in the points' squared unit.
        r2: share of the points' sum of squares that lies between the parts, in [0, 1]: low
            where the parts are alike on average, high where they are clusters.
        balance: ``(n - 1) r2 / (k - 1)``: 0 where all parts have one mean, 1 on average over
            random partitions, above for clusters. 0 for a single part or equal points.
        diversity: sum of the Euclidean distances of all pairs within a part, the objective of
            anticlustering. It compares partitions with equal sizes only.
        dispersion: the smallest distance within a part; infinite where no part has two points.
    """

    sizes: tuple[int, ...]
    between_ss: float
    r2: float
    balance: float
    diversity: float
    dispersion: float


def judge(points: np.ndarray, labels: np.ndarray) -> Quality:
    """Return what a partition is like. Cost: O(n^2 d / k).

    Args:
        points: (n, d) float, finite.
        labels: (n,) int, each point's part in [0, k); every part has a point.

    Raises:
        ValueError: the points are not finite, or the labels are no partition of them.

    Reference: Papenberg and Klau, Using anticlustering to partition data sets into equivalent
        parts, Psychological Methods 2021 (diversity); Papenberg, K-plus anticlustering, 2024.
    """
    points, labels, n_parts = checked_partition(points, labels)
    scaled, scale = centred(points)
    sizes = np.bincount(labels, minlength=n_parts)
    between = _between(scaled, labels, sizes)
    total = float((scaled**2).sum())
    r2 = between / total if total else 0.0
    diversity, dispersion = 0.0, math.inf
    for part in range(n_parts):
        part_sum, part_min = _pairs(scaled[labels == part])
        diversity, dispersion = diversity + part_sum, min(dispersion, part_min)
    return Quality(
        tuple(sizes.tolist()),
        between * scale * scale,
        r2,
        _balance(r2, len(points), n_parts),
        diversity * scale,
        dispersion * scale,
    )


def between_groups(points: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return ``between_ss`` and ``balance`` of ``judge`` alone. Cost: O(n d)."""
    points, labels, n_parts = checked_partition(points, labels)
    scaled, scale = centred(points)
    between = _between(scaled, labels, np.bincount(labels, minlength=n_parts))
    total = float((scaled**2).sum())
    r2 = between / total if total else 0.0
    return between * scale * scale, _balance(r2, len(points), n_parts)


def agreement(partitions: Sequence[np.ndarray] | np.ndarray) -> float:
    """Return the mean adjusted Rand index over all pairs of partitions of the same points.

    1 where all are the same whatever the parts' numbers, 0 on average where they agree as
    chance would; NaN for fewer than two partitions. Equals the mean of scikit-learn's
    ``adjusted_rand_score``, and takes one matrix product instead of S^2 / 2 calls.

    Args:
        partitions: (S, n) int, each point's part in each partition.

    Reference: Hubert and Arabie, Comparing partitions, Journal of Classification 1985.
    """
    stack = np.asarray(partitions)
    n_partitions, n_points = stack.shape
    if n_partitions < 2:
        return math.nan
    parts = [np.unique(row, return_inverse=True)[1] for row in stack]
    ends = np.cumsum([part.max() + 1 for part in parts])
    starts = np.concatenate([[0], ends[:-1]])
    is_in = np.zeros((n_points, ends[-1]), np.float64)
    for start, part in zip(starts, parts, strict=True):
        is_in[np.arange(n_points), start + part] = 1
    together = np.add.reduceat(np.add.reduceat((is_in.T @ is_in) ** 2, starts, 0), starts, 1)
    pairs = (together - n_points) / 2  # that both partitions keep together
    own = np.diag(pairs)
    chance = own[:, None] * own / max(n_points * (n_points - 1) / 2, 1)
    most = (own[:, None] + own) / 2
    is_same = most == chance  # all together, or all apart, in both
    index = np.where(is_same, 1, (pairs - chance) / np.where(is_same, 1, most - chance))
    return float(index[np.triu_indices(n_partitions, 1)].mean())


def pair_counts(labels: np.ndarray) -> np.ndarray:
    """Return how many songs have both of two labels, (L, L) int64; the diagonal is 0.

    Args:
        labels: (N, L) bool or 0/1, which song has which label; read a piece at a time.
    """
    counts = np.zeros((labels.shape[1], labels.shape[1]), np.int64)
    for start in range(0, len(labels), 1 << 16):  # float32 counts exactly up to 2 ** 24
        block = labels[start : start + (1 << 16)].astype(bool).astype(np.float32)
        counts += (block.T @ block).astype(np.int64)
    np.fill_diagonal(counts, 0)
    return counts


@dataclass(frozen=True)
class Together:
    """How a partition treats labels that songs have together.

    Attributes:
        share: part of the pairs of labels of a song that one member learns; NaN without pairs.
        expected: the same, on average over random partitions with these sizes.
        lift: ``share / expected``: below 1 keeps such labels apart, above 1 together; NaN
            without pairs or where every member has one label.
    """

    share: float
    expected: float
    lift: float


def co_occurrence(counts: np.ndarray, labels: np.ndarray) -> Together:
    """Return how a partition treats labels that songs have together.

    Args:
        counts: (L, L) int, of ``pair_counts``.
        labels: (L,) int, each label's part.
    """
    sizes = np.bincount(labels)
    pairs = len(labels) * (len(labels) - 1)
    expected = float((sizes * (sizes - 1)).sum() / pairs) if pairs else math.nan
    total = counts.sum()
    kept = counts[np.equal.outer(labels, labels)].sum()
    share = float(kept / total) if total else math.nan
    return Together(share, expected, share / expected if expected else math.nan)


def checked_partition(points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return points as (n, d) float64, their parts (n,) int, and the number of parts.

    Raises:
        ValueError: the points are not finite, or the labels are no partition of them.
    """
    points, labels = np.asarray(points, np.float64), np.asarray(labels)
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"points must be a finite matrix with a row, got shape {points.shape}")
    if labels.shape != (len(points),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be {len(points)} integers, one a point, got shape {labels.shape} of "
            f"{labels.dtype}"
        )
    used = np.unique(labels)
    if not np.array_equal(used, np.arange(len(used))):
        raise ValueError(f"labels must use 0, 1, ... each at least once, got {used.tolist()}")
    return points, labels, len(used)


def centred(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Return points around 0 of size about 1, whose squares stay in range, and the unit."""
    exponent = int(np.frexp(np.abs(points).max(initial=0.0))[1])
    half = exponent // 2  # 2 ** 1074 has no float64, its halves do
    scaled = points * math.ldexp(1.0, -half) * math.ldexp(1.0, half - exponent)
    return scaled - scaled.mean(axis=0), math.ldexp(0.5, exponent) * 2


def _between(points: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> float:
    """Return the sum of squares between the parts of points with mean 0."""
    sums = np.zeros((len(sizes), points.shape[1]))
    np.add.at(sums, labels, points)
    return float(((sums**2).sum(axis=1) / sizes).sum())


def _balance(r2: float, n_points: int, n_parts: int) -> float:
    return (n_points - 1) * r2 / (n_parts - 1) if n_parts > 1 else 0.0


def _pairs(points: np.ndarray) -> tuple[float, float]:
    """Return sum and minimum of the distances of all pairs, in rows that fit in memory."""
    total, least = 0.0, math.inf
    step = max(1, _AT_ONCE // len(points))
    for start in range(0, len(points) - 1, step):
        rows = cdist(points[start : start + step], points[start:])
        later = rows[np.less.outer(np.arange(len(rows)), np.arange(rows.shape[1]))]
        total, least = total + float(later.sum()), min(least, float(later.min(initial=math.inf)))
    return total, least
