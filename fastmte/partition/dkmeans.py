"""dk-means: groups of labels that are as unlike within as can be, and alike on average."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

from fastmte import ops


class DKMeans(ClusterMixin, BaseEstimator):
    """dk-means of the paper's text: clusters take the point farthest from them in turn.

    Each cluster starts with one point. Then, one after the other, each takes the free point
    that is farthest from the mean of its points (Euclidean), until none is left. Sizes differ
    by one at most. It is the opposite of a clustering: points that lie together are parted.

    Args:
        n_clusters: number of clusters, at most the number of points.
        init: ``"random"``, or the (n_clusters,) indices of the first points.
        n_init: number of random starts; the one with the lowest ``between_ss_`` is kept.
        tie_tol: distances whose squares differ by no more than this share are equal, and the
            lowest index is taken, so that every machine gives the same order.
        random_state: seed of the random starts.

    Attributes:
        labels_: (n_samples,) int64, cluster of each point.
        order_: (n_samples,) int64, the points in the order they were taken.
        seed_indices_: (n_clusters,) int64, the first point of each.
        cluster_centers_: (n_clusters, n_features) float64, the means.
        between_ss_: float, sum of squares between the clusters: the lower, the more alike.
        balance_: float, ``between_ss_`` beside what a random partition has on average:
            0 is perfect, 1 is no better than chance.

    Reference: Mayerl et al., MediaEval 2021, section 2.2.
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own convention
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions({"random"}), "array-like"],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "tie_tol": [Interval(Real, 0, 1, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_clusters: int = 4,
        *,
        init: Any = "random",
        n_init: int = 1,
        tie_tol: float = 1e-10,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.tie_tol = tie_tol
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> "DKMeans":
        """Deal the points to the clusters.

        Args:
            X: (n_samples, n_features) float, finite.
            y: not looked at.

        Raises:
            ValueError: fewer points than clusters, or ``init`` names no distinct points.
        """
        X = validate_data(self, X, dtype=np.float64, order="C")
        if len(X) < self.n_clusters:
            raise ValueError(f"n_clusters must be in [1, {len(X)}], got {self.n_clusters}")
        points = torch.from_numpy(np.require(X, requirements=["C", "W"]))
        best: float | None = None
        for seeds in self._starts(len(X)):
            labels, order = ops.dkmeans_assign(points, torch.from_numpy(seeds), self.tie_tol)
            centers, between = _between(X, labels.numpy(), self.n_clusters)
            if best is None or between < best:
                best = between
                self.labels_, self.order_ = labels.numpy(), order.numpy()
                self.seed_indices_, self.cluster_centers_ = seeds, centers
        assert best is not None  # n_init is at least 1
        self.between_ss_ = best
        self.balance_ = _balance(X, self.between_ss_, self.n_clusters)
        return self

    def _starts(self, n_samples: int) -> list[np.ndarray]:
        if isinstance(self.init, str):
            random = check_random_state(self.random_state)
            draws = (random.permutation(n_samples) for _ in range(self.n_init))
            return [draw[: self.n_clusters].astype(np.int64) for draw in draws]
        return [_checked_seeds(self.init, self.n_clusters, n_samples, "init")]


def dkmeans_published(
    points: np.ndarray,
    n_clusters: int = 4,
    *,
    seeds: np.ndarray | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return clusters by the authors' code, which made the partitions they published.

    It differs from the paper's text twice: a cluster starts with its seed and the free point
    farthest from it, both taken before the next cluster's seed is drawn; and its centre is the
    middle of the last two points it took. Of equally far points the first is taken. Given
    seeds are kept for their clusters. Where points are too few for two each, the later
    clusters start with their seed alone. Cost: O(n^2 d).

    Args:
        points: (n, d) float, finite.
        n_clusters: number of clusters, at most n.
        seeds: (n_clusters,) int64, distinct indices of points; drawn at random by default.
        random_state: seed of the draw.

    Returns:
        ``labels``: (n,) int64, cluster of each point. ``order``: (n,) int64, the points in the
        order they were taken.

    Raises:
        ValueError: fewer points than clusters, points not finite, or seeds not distinct points.

    Reference: dbis-uibk/MediaEval2021, notebooks/label_clusters.ipynb.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"points must be a finite matrix, got shape {points.shape}")
    if not 1 <= n_clusters <= len(points):
        raise ValueError(f"n_clusters must be in [1, {len(points)}], got {n_clusters}")
    if seeds is not None:
        seeds = _checked_seeds(seeds, n_clusters, len(points), "seeds")
    labels = np.full(len(points), -1, np.int64)
    order: list[int] = []
    centers = np.empty((n_clusters, points.shape[1]))
    last = np.empty(n_clusters, np.int64)

    def take(point: int, cluster: int) -> None:
        labels[point] = cluster
        order.append(point)
        last[cluster] = point

    def take_farthest(cluster: int, keep: np.ndarray) -> None:
        free = np.setdiff1d(np.flatnonzero(labels < 0), keep)
        distance = np.linalg.norm(points[free] - centers[cluster], axis=1)
        previous, point = last[cluster], free[np.argmax(distance)]
        take(int(point), cluster)
        centers[cluster] = (points[previous] + points[point]) / 2

    random = check_random_state(random_state)
    none = np.empty(0, np.int64)
    for cluster in range(n_clusters):
        free = np.flatnonzero(labels < 0)
        take(int(random.choice(free) if seeds is None else seeds[cluster]), cluster)
        centers[cluster] = points[last[cluster]]
        if len(free) - 1 > n_clusters - cluster - 1:  # the others still need one each
            take_farthest(cluster, none if seeds is None else seeds[cluster + 1 :])
    for turn in range(len(points) - len(order)):
        take_farthest(turn % n_clusters, none)
    return labels, np.array(order, np.int64)


def _checked_seeds(seeds: Any, n_clusters: int, n_samples: int, name: str) -> np.ndarray:
    seeds = np.asarray(seeds)
    is_valid = (
        seeds.shape == (n_clusters,)
        and np.issubdtype(seeds.dtype, np.integer)
        and len(np.unique(seeds)) == n_clusters
        and seeds.min() >= 0
        and seeds.max() < n_samples
    )
    if not is_valid:
        raise ValueError(
            f"{name} must be {n_clusters} distinct indices in [0, {n_samples}), "
            f"got {seeds.tolist()}"
        )
    return seeds.astype(np.int64)


def _between(X: np.ndarray, labels: np.ndarray, n_clusters: int) -> tuple[np.ndarray, float]:
    """Return the clusters' means (K, D) and the sum of squares between them."""
    centers = np.stack([X[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    sizes = np.bincount(labels, minlength=n_clusters)
    return centers, float(sizes @ ((centers - X.mean(axis=0)) ** 2).sum(axis=1))


def _balance(X: np.ndarray, between_ss: float, n_clusters: int) -> float:
    """Return ``(n - 1) R^2 / (k - 1)``, whose mean over random partitions is 1."""
    total = ((X - X.mean(axis=0)) ** 2).sum()
    if n_clusters == 1 or total == 0:
        return 0.0
    return float((len(X) - 1) * between_ss / total / (n_clusters - 1))
