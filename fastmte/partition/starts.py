"""Points that clusters start from."""

from typing import Any

import numpy as np
from sklearn.cluster import kmeans_plusplus

from fastmte.partition.quality import centred

INITS = ("random", "k-means++", "farthest")


def draw_seeds(
    points: np.ndarray,
    n_clusters: int,
    init: str,
    random: np.random.RandomState,
    tie_tol: float = 1e-10,
) -> np.ndarray:
    """Return the first point of each cluster, (n_clusters,) int64, distinct.

    ``random`` draws them alike, ``k-means++`` the more often the farther they are from those
    drawn before, and ``farthest`` draws the first and takes then the one farthest from all
    taken before, the lowest index of equally far ones.

    Args:
        points: (n, d) float64, finite; n is at least n_clusters.
        n_clusters: how many.
        init: one of the three names.
        random: the source of chance.
        tie_tol: squared distances that differ by no more than this share are equal.

    Reference: Arthur and Vassilvitskii, SODA 2007 (k-means++); Gonzalez, Theoretical Computer
        Science 1985 (farthest).
    """
    if init == "random":
        return random.permutation(len(points))[:n_clusters].astype(np.int64)
    points = centred(points)[0]
    if init == "farthest":
        return _farthest(points, n_clusters, random, tie_tol)
    _, seeds = kmeans_plusplus(points, n_clusters, random_state=random)
    return _distinct(seeds, len(points))


def given_seeds(seeds: Any, n_clusters: int, n_points: int, name: str) -> np.ndarray:
    """Return indices given by a user as (n_clusters,) int64.

    Raises:
        ValueError: they are not as many distinct points; ``name`` is what the user called them.
    """
    seeds = np.asarray(seeds)
    is_valid = (
        seeds.shape == (n_clusters,)
        and np.issubdtype(seeds.dtype, np.integer)
        and len(np.unique(seeds)) == n_clusters
        and seeds.min() >= 0
        and seeds.max() < n_points
    )
    if not is_valid:
        raise ValueError(
            f"{name} must be {n_clusters} distinct indices in [0, {n_points}), got {seeds.tolist()}"
        )
    return seeds.astype(np.int64)


def _farthest(
    points: np.ndarray, n_clusters: int, random: np.random.RandomState, tie_tol: float
) -> np.ndarray:
    seeds = np.empty(n_clusters, np.int64)
    seeds[0] = random.randint(len(points))
    nearest = np.full(len(points), np.inf)  # squared distance to the nearest seed
    for index in range(1, n_clusters):
        seed = seeds[index - 1]
        nearest = np.minimum(nearest, ((points - points[seed]) ** 2).sum(axis=1))
        nearest[seed] = -1.0  # taken, also where all others are equal to it
        seeds[index] = np.flatnonzero(nearest >= nearest.max() * (1 - tie_tol))[0]
    return seeds


def _distinct(seeds: np.ndarray, n_points: int) -> np.ndarray:
    """Put the lowest free point in the place of each repeated one.

    scikit-learn's k-means++ repeats points where fewer places than clusters are left.
    """
    _, first = np.unique(seeds, return_index=True)
    free = np.setdiff1d(np.arange(n_points), seeds)
    distinct = np.array(seeds, np.int64)
    repeated = np.setdiff1d(np.arange(len(seeds)), first)
    distinct[repeated] = free[: len(repeated)]
    return distinct
