"""The label space: each label's mean over the descriptors of its songs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from fastmte.errors import InputError
from fastmte.partition.sums import (
    LabelSums,
    NotFiniteError,
    as_csr,
    check_finite,
    is_indicator,
)


def label_space(
    features: np.ndarray, labels: np.ndarray, tags: Sequence[str], standardise: bool
) -> np.ndarray:
    """Return the centroid of each label: the mean descriptors of its songs, (L, D) float64.

    Args:
        features: (N, D) real, descriptors of the training songs, finite; a memory-mapped array
            may be larger than memory, unless it is to be standardised.
        labels: (N, L) bool or 0/1, which song has which label.
        tags: the L labels' texts, for the error.
        standardise: shift and scale each descriptor to mean 0 and variance 1 over the songs
            first; for descriptors of different units. One that is constant becomes 0. The
            paper leaves its 22 descriptors, all in [0, 1], as they are.

    Raises:
        InputError: a label has no song, or a descriptor is not finite.
    """
    songs = LabelSums(labels.shape[1], features.shape[1])
    try:
        if standardise:
            check_finite(features)
            features = standardised(np.asarray(features, np.float64))
        songs.add(features, labels)
    except NotFiniteError as error:
        raise InputError(
            f"features must be finite, got {error.value} in song {error.row}, "
            f"descriptor {error.column}"
        ) from None
    centroids, n_songs = songs.means()
    empty = [tag for tag, n in zip(tags, n_songs, strict=True) if not n]
    if empty:
        raise InputError(f"no song has the label {', '.join(empty)}, so it has no centroid")
    return centroids


def standardised(points: np.ndarray) -> np.ndarray:
    """Return each column of (n, d) float64 with mean 0 and variance 1; a constant one is 0."""
    spread = points.std(axis=0)
    return (points - points.mean(axis=0)) / np.where(spread > 0, spread, 1)


class LabelCentroids(TransformerMixin, BaseEstimator):
    """Labels as points: the mean features of the songs that have them.

    ``transform`` gives each song's distance to every label. A DataFrame's columns become the
    names of features and labels.

    Songs may be more than memory holds: ``fit`` reads a memory-mapped float32 or float64 array
    where it lies, and ``partial_fit`` takes songs in pieces. However they are cut, pieces that
    ``partial_fit`` takes have the bits of all songs at once; of wide float32 rows the errors are
    those of ``ops.label_centroids``.

    Attributes:
        centroids_: (n_labels, n_features) float64; NaN for a label that has no song yet.
        label_names_: (n_labels,) object, the columns of ``y``, or the classes of a flat ``y``.
        n_songs_: (n_labels,) int64, how many songs each mean is of.

    Reference: Mayerl et al., MediaEval 2021, section 2.2.
    """

    centroids_: np.ndarray
    label_names_: np.ndarray
    n_songs_: np.ndarray
    _sums: LabelSums

    def fit(self, X: Any, y: Any) -> "LabelCentroids":
        """Take the mean of each label's songs.

        Args:
            X: (n_songs, n_features) real, finite.
            y: (n_songs, n_labels) bool or 0/1, dense or sparse, or (n_songs,) with one class a
                song.

        Raises:
            ValueError: a label has no song; it is named.
        """
        self._add(X, y, None, is_first=True)
        self._sums.close()  # what waits is a copy of songs, which no fitted model needs
        self._check_every_label_has_a_song()
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> "LabelCentroids":
        """Add songs to those of earlier calls; after ``fit``, to its songs.

        Keeps a copy of up to 8,191 songs until the next ones come.

        Args:
            X: as ``fit``.
            y: as ``fit``, with the same labels as in the first call.
            classes: all classes of a flat ``y``, in the first call; by default those of its ``y``.

        Raises:
            ValueError: ``y`` has another number of labels, other names or other classes.
        """
        self._add(X, y, classes, is_first=not hasattr(self, "_sums"))
        return self

    def _add(self, X: Any, y: Any, classes: Any, is_first: bool) -> None:
        X = validate_data(self, X, dtype="numeric", ensure_all_finite=False, reset=is_first)
        known = classes if is_first else self.label_names_
        labels, names = _indicator(y, known)
        check_consistent_length(X, labels)
        if not is_first:
            self._check_same_labels(names, has_names=hasattr(y, "columns"))
        sums = LabelSums(len(names), X.shape[1]) if is_first else self._sums
        try:
            sums.add(X, labels)
        except NotFiniteError as error:
            kind = "NaN" if np.isnan(error.value) else "infinity"
            raise ValueError(f"Input X contains {kind}: X {error}") from None
        self._sums = sums
        if is_first:
            self.label_names_ = names
            self._n_features_out = len(names)
        self.centroids_, self.n_songs_ = sums.means()

    def _check_same_labels(self, names: np.ndarray, has_names: bool) -> None:
        if len(names) != len(self.label_names_):
            raise ValueError(f"y must have {len(self.label_names_)} labels, got {len(names)}")
        if has_names and list(names) != list(self.label_names_):
            raise ValueError(f"y must have the labels {', '.join(map(str, self.label_names_))}")

    def _check_every_label_has_a_song(self) -> None:
        if not self.n_songs_.all():
            empty = ", ".join(str(name) for name in self.label_names_[self.n_songs_ == 0])
            raise ValueError(f"every label must have a song, got none with {empty}")

    def transform(self, X: Any) -> np.ndarray:
        """Return the Euclidean distance of each song to each label, (n_songs, n_labels).

        Raises:
            ValueError: a label has no song yet; it is named.
        """
        check_is_fitted(self)
        self._check_every_label_has_a_song()
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return euclidean_distances(X, self.centroids_)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the labels' names, the columns of ``transform``."""
        check_is_fitted(self)
        return np.array([str(name) for name in self.label_names_], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        return tags


def _indicator(y: Any, classes: Any) -> tuple[Any, np.ndarray]:
    """Return ``y`` as (N, L), bool, 0/1 or sparse, and the labels' names.

    ``classes`` are those of a flat ``y``, None for those that it has.
    """
    if y is None:
        raise ValueError("LabelCentroids requires y to be passed, but the target y is None")
    if issparse(y):
        return as_csr(y), np.arange(y.shape[1]).astype(object)
    names = np.asarray(getattr(y, "columns", ()), dtype=object)
    values = np.asarray(y)
    is_wide = values.ndim == 2 and (values.dtype == bool or values.shape[1] > 1)
    if is_wide and values.dtype.kind in "biuf" and is_indicator(values):
        return values, names if len(names) else np.arange(values.shape[1]).astype(object)
    check_classification_targets(values)
    if type_of_target(values).startswith("multi") and values.ndim == 2 and values.shape[1] > 1:
        raise ValueError(f"y of several columns must be 0 or 1, got {values.dtype} values")
    values = values.ravel()
    classes = np.unique(values if classes is None else np.asarray(classes))
    at = np.searchsorted(classes, values).clip(max=len(classes) - 1)
    if not (classes[at] == values).all():
        unknown = values[classes[at] != values][0]
        raise ValueError(f"y must be of the classes {', '.join(map(str, classes))}, got {unknown}")
    ones = np.ones(len(values), bool)
    listed = csr_matrix((ones, at, np.arange(len(values) + 1)), (len(values), len(classes)))
    return listed, classes.astype(object)
