"""k-means of label centroids, with the number of members from the elbow."""

import warnings
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.cluster import KMeans
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

# scikit-learn's default of 2021, when the paper was written; 1 start spreads the elbow over 3-8.
N_INIT = 10

# The sharpest bend in 150 samples of 56 points of one 22-dimensional Gaussian is 0.23 (0.17 on
# average, at 3 to 6 clusters by chance); the published label space's is 0.50.
LEAST_GAP = 0.25
LARGEST = 1e150  # value whose squares can be summed


def kmeans(n_clusters: int, random_state: int | np.random.RandomState | None) -> KMeans:
    """Return scikit-learn's k-means with the starts the paper's version of it made."""
    return KMeans(n_clusters, n_init=N_INIT, random_state=random_state)


def chord_elbow(k: np.ndarray, inertia: np.ndarray) -> tuple[int, float]:
    """Return the ``k`` farthest below the chord from the curve's first to its last point.

    Args:
        k: (P,) int64, ascending.
        inertia: (P,) float64, of each ``k``.

    Returns:
        The ``k`` of the elbow, the lowest of equals, and how far it lies below the chord when
        both axes are scaled to [0, 1]: 0 for a straight line, towards 1 for a sharp bend.
        A curve of one or two points, or a flat one, has its elbow at its first ``k``, gap 0.
    """
    drop = inertia[0] - inertia[-1]
    if len(k) < 3 or drop <= 0:
        return int(k[0]), 0.0
    across = (k - k[0]) / (k[-1] - k[0])
    gap = 1 - across - (inertia - inertia[-1]) / drop
    # On a straight line all gaps are 0 but for rounding; 1e-12 is above it.
    return int(k[np.flatnonzero(gap >= gap.max() - 1e-12)[0]]), float(gap.max())


class KMeansElbow(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """k-means with as many clusters as the elbow of its inertia says.

    A curve that nowhere lies 0.25 below its chord has no elbow: where it bends most is chance,
    as for one heap of points. ``fit`` then warns, and takes the place where it bends most.

    Args:
        k_max: the curve runs from 1 to this, or to the number of distinct points. The elbow
            depends on it: a longer curve moves it to the right.
        random_state: seed of each ``k``'s starts.

    Attributes:
        elbow_: int, or None where the curve has none.
        n_clusters_: int, the elbow, or where there is none the place nearest to one.
        k_values_: (P,) int64, the ``k`` tried.
        inertia_curve_: (P,) float64, sum of squared distances to the centres, of each.
        elbow_gap_: float in [0, 1], how far the curve lies below its chord there.
        labels_: (n_samples,) int64, cluster of each point at the elbow.
        cluster_centers_: (n_clusters_, n_features) float.
        inertia_: float, at the elbow.

    Reference: Mayerl et al., MediaEval 2021, section 2.2, where it was read off by eye.
    """

    _parameter_constraints = {  # noqa: RUF012 - scikit-learn's own convention
        "k_max": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self, k_max: int = 10, *, random_state: int | np.random.RandomState | None = None
    ) -> None:
        self.k_max = k_max
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> "KMeansElbow":
        """Fit k-means for every ``k`` and keep the one at the elbow.

        Args:
            X: (n_samples, n_features) float, within 1e150 of 0.
            y: not looked at.

        Raises:
            ValueError: values are larger.

        Warns:
            UserWarning: the curve has no elbow.
        """
        X = validate_data(self, X, dtype=np.float64)
        if np.abs(X).max() > LARGEST:
            raise ValueError(f"X must be at most {LARGEST:g}, got {np.abs(X).max():g}")
        random = check_random_state(self.random_state)
        k = np.arange(1, min(self.k_max, len(np.unique(X, axis=0))) + 1)
        # One seed each: the fit at k is the same however long the curve is.
        seed = random.randint(2**31 - 1)
        models = [kmeans(int(value), seed).fit(X) for value in k]
        self.k_values_ = k
        self.inertia_curve_ = np.array([model.inertia_ for model in models])
        self.n_clusters_, self.elbow_gap_ = chord_elbow(k, self.inertia_curve_)
        self.elbow_ = self.n_clusters_ if self.elbow_gap_ >= LEAST_GAP else None
        if self.elbow_ is None:
            warnings.warn(
                f"the curve of k-means up to {k[-1]} clusters has no elbow: it lies "
                f"{self.elbow_gap_:.2f} below its chord at most, an elbow {LEAST_GAP} or more; "
                f"took {self.n_clusters_}",
                stacklevel=3,
            )
        self._model = models[self.n_clusters_ - 1]
        self.labels_ = self._model.labels_.astype(np.int64)
        self.cluster_centers_ = self._model.cluster_centers_
        self.inertia_ = float(self._model.inertia_)
        self._n_features_out = self.n_clusters_
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return the nearest centre of each point, (n_samples,) int64."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self._model.predict(X).astype(np.int64)

    def transform(self, X: Any) -> np.ndarray:
        """Return the distance of each point to each centre, (n_samples, n_clusters_)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return self._model.transform(X)

    def curve(self) -> dict[str, Any]:
        """Return the curve and its elbow, or None, as plain numbers for JSON.

        ``k_max`` is the one asked for; ``k`` ends earlier where points are fewer.
        """
        check_is_fitted(self)
        return {
            "k": self.k_values_.tolist(),
            "inertia": self.inertia_curve_.tolist(),
            "elbow": self.elbow_,
            "gap": self.elbow_gap_,
            "k_max": self.k_max,
        }
