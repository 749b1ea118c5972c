"""dk-means: groups of labels that are as unlike within as can be, and alike on average."""

import warnings
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import validate_data

from fastmte import ops
from fastmte.partition.exchange import OBJECTIVES, refine
from fastmte.partition.quality import between_groups, judge
from fastmte.partition.starts import INITS, draw_seeds, given_seeds
from fastmte.reference import unit_points


class _Dealt(NamedTuple):
    """Clusters from one start."""

    cost: float  # the lower, the better
    labels: np.ndarray
    order: np.ndarray
    seeds: np.ndarray


class DKMeans(ClusterMixin, BaseEstimator):
    """dk-means of the paper's text: clusters take the point farthest from them in turn.

    Each cluster starts with one point. Then, one after the other, each takes the free point
    that is farthest from the mean of its points (Euclidean), until none is left. Sizes differ
    by one at most. It is the opposite of a clustering: points that lie together are parted.

    Args:
        n_clusters: number of clusters, at most the number of points.
        init: ``"random"``, ``"k-means++"``, ``"farthest"`` (each first point far from those
            before), or the (n_clusters,) indices of the first points. On label centroids the
            spread-out starts gain nothing over random ones.
        n_init: number of starts. The one with the lowest ``between_ss_`` is kept, with
            ``refine="diversity"`` the one with the highest sum of distances within clusters;
            of equal ones the first.
        refine: ``"variance"`` or ``"diversity"`` to exchange points between the clusters, as
            ``refine`` does, until none gains; sizes stay. The paper has none.
        tie_tol: distances whose squares differ by no more than this share are equal, and the
            lowest index is taken, so that every machine gives the same order.
        random_state: seed of the random starts.

    Attributes:
        labels_: (n_samples,) int64, cluster of each point.
        order_: (n_samples,) int64, the points in the order they were taken, before any
            exchange.
        seed_indices_: (n_clusters,) int64, the first point each cluster took.
        cluster_centers_: (n_clusters, n_features) float64, the means.
        between_ss_: float, sum of squares between the clusters: the lower, the more alike.
        balance_: float, ``between_ss_`` beside what a random partition has on average:
            0 is perfect, 1 is no better than chance.

    Reference: Mayerl et al., MediaEval 2021, section 2.2.
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own convention
        "n_clusters": [Interval(Integral, 1, None, closed="left")],
        "init": [StrOptions(set(INITS)), "array-like"],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "refine": [StrOptions(set(OBJECTIVES)), None],
        "tie_tol": [Interval(Real, 0, 1, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_clusters: int = 4,
        *,
        init: Any = "random",
        n_init: int = 1,
        refine: str | None = None,
        tie_tol: float = 1e-10,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.n_init = n_init
        self.refine = refine
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
        best: _Dealt | None = None
        starts = np.stack(list(self._starts(X)))
        runs = ops.dkmeans_assign(points, torch.from_numpy(starts), self.tie_tol)
        for seeds, labels, order in zip(starts, *(run.numpy() for run in runs), strict=True):
            dealt = self._dealt(X, seeds, labels, order)
            # By more than rounding, so that every machine keeps the same one.
            if best is None or dealt.cost < best.cost - self.tie_tol * abs(best.cost):
                best = dealt
        assert best is not None  # n_init is at least 1
        self.labels_, self.order_, self.seed_indices_ = best.labels, best.order, best.seeds
        self.between_ss_, self.balance_ = between_groups(X, self.labels_)
        self.cluster_centers_ = np.stack(
            [X[self.labels_ == cluster].mean(axis=0) for cluster in range(self.n_clusters)]
        )
        return self

    def _dealt(
        self, X: np.ndarray, seeds: np.ndarray, labels: np.ndarray, order: np.ndarray
    ) -> _Dealt:
        if self.refine is not None:
            labels = refine(X, labels, self.refine, self.tie_tol)
        is_diversity = self.refine == "diversity"
        cost = -judge(X, labels).diversity if is_diversity else between_groups(X, labels)[1]
        return _Dealt(cost, labels, order, seeds)

    def _starts(self, X: np.ndarray) -> list[np.ndarray]:
        if not isinstance(self.init, str):
            if self.n_init > 1:
                warnings.warn(
                    f"init names the first points, so n_init={self.n_init} makes one start",
                    RuntimeWarning,
                    stacklevel=3,
                )
            return [given_seeds(self.init, self.n_clusters, len(X), "init")]
        random = check_random_state(self.random_state)
        return [
            draw_seeds(X, self.n_clusters, self.init, random, self.tie_tol)
            for _ in range(self.n_init)
        ]


def dkmeans_published(
    points: np.ndarray,
    n_clusters: int = 4,
    *,
    seeds: np.ndarray | None = None,
    tie_tol: float = 1e-10,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return clusters by the authors' code, which made the partitions they published.

    It differs from the paper's text twice: a cluster starts with its seed and the free point
    farthest from it, both taken before the next cluster's seed is drawn; and its centre is the
    middle of the last two points it took. Of equally far points the first is taken. Given
    seeds are kept for their clusters. Where points are too few for two each, the later
    clusters start with their seed alone.

    Args:
        points: (n, d) float, finite.
        n_clusters: number of clusters, at most n.
        seeds: (n_clusters,) int64, distinct indices of points; drawn at random by default.
        tie_tol: as in ``DKMeans``.
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
        seeds = given_seeds(seeds, n_clusters, len(points), "seeds")
    unit = unit_points(torch.from_numpy(np.require(points, requirements=["C", "W"])))
    random = check_random_state(random_state)
    first = _first_points(unit.numpy(), n_clusters, seeds, random, tie_tol)
    if len(first) < 2 * n_clusters:  # so few points that all are taken
        n_pairs = len(first) - n_clusters
        labels = np.empty(len(points), np.int64)
        labels[first] = np.r_[np.repeat(np.arange(n_pairs), 2), np.arange(n_pairs, n_clusters)]
        return labels, first
    made, order = ops.dkmeans_assign(unit, torch.from_numpy(first), tie_tol, last_two=True)
    return made.numpy(), order.numpy()


def _first_points(
    points: np.ndarray,
    n_clusters: int,
    seeds: np.ndarray | None,
    random: np.random.RandomState,
    tie_tol: float,
) -> np.ndarray:
    """Return each cluster's seed and the free point farthest from it, while there are enough."""
    is_free = np.ones(len(points), bool)
    is_kept = np.zeros(len(points), bool)  # seeds of clusters that come later
    if seeds is not None:
        is_kept[seeds] = True
    first: list[int] = []
    for cluster in range(n_clusters):
        free = np.flatnonzero(is_free)
        seed = int(random.choice(free) if seeds is None else seeds[cluster])
        is_free[seed] = is_kept[seed] = False
        first.append(seed)
        if len(free) - 1 <= n_clusters - cluster - 1:  # the others still need one each
            continue
        others = np.flatnonzero(is_free & ~is_kept)
        squares = np.square(points[others] - points[seed])
        distance = np.pad(squares, ((0, 0), (1, 0))).cumsum(axis=1)[:, -1]  # in one order
        farthest = int(others[np.argmax(distance >= distance.max() * (1 - tie_tol))])
        is_free[farthest] = False
        first.append(farthest)
    return np.array(first, np.int64)
