"""The label space: each label's mean over the descriptors of its songs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from fastmte import ops
from fastmte.errors import InputError


def label_space(
    features: np.ndarray, labels: np.ndarray, tags: Sequence[str], standardise: bool
) -> np.ndarray:
    """Return the centroid of each label: the mean descriptors of its songs, (L, D) float64.

    Args:
        features: (N, D) float, descriptors of the training songs, finite.
        labels: (N, L) bool, which song has which label.
        tags: the L labels' texts, for the error.
        standardise: shift and scale each descriptor to mean 0 and variance 1 over the songs
            first; for descriptors of different units. One that is constant becomes 0. The
            paper leaves its 22 descriptors, all in [0, 1], as they are.

    Raises:
        InputError: a label has no song, or a descriptor is not finite.
    """
    features = np.asarray(features, np.float64)
    labels = np.asarray(labels, bool)
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        raise InputError(
            f"features must be finite, got {features[tuple(bad[0])]} "
            f"in song {bad[0][0]}, descriptor {bad[0][1]}"
        )
    n_songs = labels.sum(axis=0).tolist()
    empty = [tag for tag, n in zip(tags, n_songs, strict=True) if not n]
    if empty:
        raise InputError(f"no song has the label {', '.join(empty)}, so it has no centroid")
    return _centroids(standardised(features) if standardise else features, labels)


def standardised(points: np.ndarray) -> np.ndarray:
    """Return each column of (n, d) float64 with mean 0 and variance 1; a constant one is 0."""
    spread = points.std(axis=0)
    return (points - points.mean(axis=0)) / np.where(spread > 0, spread, 1)


def _centroids(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    features = np.require(features, requirements=["C", "W"])
    labels = np.require(labels, requirements=["C", "W"])
    return ops.label_centroids(torch.from_numpy(features), torch.from_numpy(labels)).numpy()


class LabelCentroids(TransformerMixin, BaseEstimator):
    """Labels as points: the mean features of the songs that have them.

    ``transform`` gives each song's distance to every label. A DataFrame's columns become the
    names of features and labels.

    Attributes:
        centroids_: (n_labels, n_features) float64.
        label_names_: (n_labels,) object, the columns of ``y``, or the classes of a flat ``y``.
        n_songs_: (n_labels,) int64, how many songs each mean is of.

    Reference: Mayerl et al., MediaEval 2021, section 2.2.
    """

    def fit(self, X: Any, y: Any) -> "LabelCentroids":
        """Take the mean of each label's songs.

        Args:
            X: (n_songs, n_features) float, finite.
            y: (n_songs, n_labels) bool or 0/1, or (n_songs,) with one class a song.

        Raises:
            ValueError: a label has no song; it is named.
        """
        X = validate_data(self, X, dtype=np.float64, order="C")
        labels, names = _indicator(y)
        check_consistent_length(X, labels)
        self.n_songs_ = labels.sum(axis=0)
        if not self.n_songs_.all():
            empty = ", ".join(str(name) for name in names[self.n_songs_ == 0])
            raise ValueError(f"every label must have a song, got none with {empty}")
        self.label_names_ = names
        self.centroids_ = _centroids(X, labels)
        self._n_features_out = len(names)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the Euclidean distance of each song to each label, (n_songs, n_labels)."""
        check_is_fitted(self)
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


def _indicator(y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return ``y`` as (N, L) bool and the labels' names."""
    if y is None:
        raise ValueError("LabelCentroids requires y to be passed, but the target y is None")
    names = np.asarray(getattr(y, "columns", ()), dtype=object)
    values = np.asarray(y)
    if values.ndim == 2 and values.dtype == bool:
        return values, names if len(names) else np.arange(values.shape[1]).astype(object)
    check_classification_targets(values)
    if type_of_target(values) == "multilabel-indicator":
        return values.astype(bool), (
            names if len(names) else np.arange(values.shape[1]).astype(object)
        )
    binarizer = LabelBinarizer().fit(values.ravel())
    classes = binarizer.classes_.astype(object)
    return values.ravel()[:, None] == classes[None, :], classes
