"""Sums of songs by label, for songs that come in pieces or lie in a file."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix, issparse, vstack

from fastmte import ops
from fastmte.reference import SONGS_PER_CHUNK

Labels = Any  # (n, L): an array of bool or 0/1, or a csr_matrix without stored zeros

_NATIVE = (np.float32, np.float64)


class NotFiniteError(ValueError):
    """A feature is NaN or infinite."""

    def __init__(self, value: float, row: int, column: int) -> None:
        super().__init__(f"must be finite, got {value} at [{row}, {column}]")
        self.value, self.row, self.column = value, row, column


class LabelSums:
    """Adds up the features of each label's songs, whose bits no cut between songs changes.

    Whole chunks of ``ops.label_centroids`` are added where they lie; fewer songs wait, as a
    copy, for those that follow.

    Attributes:
        sums: (L, D) float64, without the songs that wait.
        counts: (L,) int64, songs of each label, without those that wait.
    """

    def __init__(self, n_labels: int, n_features: int) -> None:
        self.sums = np.zeros((n_labels, n_features))
        self.counts = np.zeros(n_labels, np.int64)
        self._waiting: list[tuple[np.ndarray, Labels]] = []

    def add(self, features: np.ndarray, labels: Labels) -> None:
        """Add songs; nothing is added where a feature is not finite.

        A memory-mapped array of float32 or float64 is read in place, others a chunk at a time.

        Args:
            features: (n, D) real.
            labels: (n, L) bool or 0/1, or sparse without stored zeros.

        Raises:
            NotFiniteError: a feature is NaN or infinite; the first of all.
        """
        n_waiting = sum(len(rows) for rows, _ in self._waiting)
        head = min(len(features), -n_waiting % SONGS_PER_CHUNK)
        tail = head + (len(features) - head) // SONGS_PER_CHUNK * SONGS_PER_CHUNK
        kept = [_copy(features, labels, *cut) for cut in ((0, head), (tail, len(features)))]
        if not all(np.isfinite(rows).all() for rows, _ in kept):
            check_finite(features)
        sums, counts = self.sums.copy(), self.counts.copy()
        waiting = [*self._waiting, kept[0]]
        if n_waiting + head == SONGS_PER_CHUNK:
            _add(*_joined(waiting), sums, counts)
            waiting = []
        try:
            _add(features[head:tail], labels[head:tail], sums, counts)
        except RuntimeError:  # which counts rows from another one
            check_finite(features)
            raise
        self._waiting = [piece for piece in [*waiting, kept[1]] if len(piece[0])]
        self.sums, self.counts = sums, counts

    def close(self) -> None:
        """Add the songs that wait; those that follow begin a new chunk."""
        self.sums, self.counts = self.total()
        self._waiting = []

    def total(self) -> tuple[np.ndarray, np.ndarray]:
        """Return sums and counts of all songs, those that wait among them."""
        sums, counts = self.sums.copy(), self.counts.copy()
        if self._waiting:
            _add(*_joined(self._waiting), sums, counts)
        return sums, counts

    def means(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean of each label, (L, D) float64, and its songs; NaN where it has none."""
        sums, counts = self.total()
        with np.errstate(invalid="ignore"):
            return sums / counts[:, None], counts


def check_finite(features: np.ndarray) -> None:
    """Raise NotFiniteError for the first NaN or infinity of (n, D), read a chunk at a time."""
    for begin, end in _chunks(len(features)):
        bad = np.argwhere(~np.isfinite(features[begin:end]))
        if len(bad):
            row, column = begin + int(bad[0][0]), int(bad[0][1])
            raise NotFiniteError(float(features[row, column]), row, column) from None


def is_indicator(labels: np.ndarray) -> bool:
    """Return whether (n, L) real numbers are all 0 or 1, read a chunk at a time."""
    if labels.dtype == bool:
        return True
    pieces = (labels[begin:end] for begin, end in _chunks(len(labels)))
    return all(bool(((piece == 0) | (piece == 1)).all()) for piece in pieces)


def as_csr(labels: ArrayLike) -> csr_matrix:
    """Return sparse labels of any kind as bool without stored zeros, a copy."""
    listed = csr_matrix(labels).astype(bool)
    listed.sum_duplicates()
    listed.eliminate_zeros()
    return listed


def _chunks(n_songs: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, n_songs, SONGS_PER_CHUNK):
        yield begin, min(n_songs, begin + SONGS_PER_CHUNK)


def _copy(features: np.ndarray, labels: Labels, begin: int, end: int) -> tuple[np.ndarray, Labels]:
    dtype = features.dtype if features.dtype in _NATIVE else np.float64
    return np.array(features[begin:end], dtype), labels[begin:end].astype(bool)


def _joined(
    pieces: list[tuple[np.ndarray, Labels]],
) -> tuple[np.ndarray, Labels]:
    features, labels = zip(*pieces, strict=True)
    if any(issparse(piece) for piece in labels):
        return np.concatenate(features), vstack([csr_matrix(piece) for piece in labels], "csr")
    return np.concatenate(features), np.concatenate(labels)


def _add(
    features: np.ndarray,
    labels: Labels,
    sums: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Add songs from the first of a chunk on."""
    is_listed = issparse(labels)
    in_place = features.dtype in _NATIVE and features.flags.c_contiguous and features.flags.aligned
    in_place &= features.dtype.isnative
    in_place &= is_listed or (labels.dtype == bool and labels.flags.c_contiguous)
    for begin, end in [(0, len(features))] if in_place else _chunks(len(features)):
        rows, has = features[begin:end], labels[begin:end]
        if not in_place:
            rows, has = _copy(rows, has, 0, end - begin)
        to = torch.from_numpy(sums), torch.from_numpy(counts)
        if is_listed:
            lists = (_tensor(has.indptr.astype(np.int64)), _tensor(has.indices.astype(np.int64)))
            torch.ops.fastmte.label_centroids.add_csr(_tensor(rows), *lists, *to)
        else:
            ops.label_centroids_add_(_tensor(rows), _tensor(has), *to)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Return an array, perhaps a mapped file, as a tensor that is only ever read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
