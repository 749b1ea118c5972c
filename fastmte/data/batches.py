"""Which songs, and which part of each, make up the batches of an epoch."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fastmte.crop import BANDS
from fastmte.data.store import MelStore, Starts, batch_room

_ORDER, _CROP = 1, 2  # purposes of the random streams of a run's seed


@dataclass(frozen=True, eq=False)
class LabelledMels:
    """Songs of a mel store with their labels.

    Attributes:
        store: where the mels are.
        index: (N,) int64, the songs' positions in the store.
        labels: (N, L) bool.

    Raises:
        ValueError: not one row of labels a song.
    """

    store: MelStore
    index: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        if self.labels.ndim != 2 or len(self.labels) != len(self.index):
            raise ValueError(
                f"labels must be ({len(self.index)}, L), one row a song, got {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.index)

    def batch(
        self, rows: Tensor, frames: int, starts: Starts = "centre", out: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mels (B, 96, frames) float32, dB, and labels (B, L) bool of some of the songs.

        Args:
            rows: (B,) int64, positions among these songs.
            frames: width of the crops.
            starts: see ``MelStore.gather``.
            out: memory for the mels, likewise.
        """
        labels = torch.from_numpy(self.labels)[rows]
        index = torch.from_numpy(self.index)[rows]
        return self.store.gather(index, frames, starts, out), labels

    def of_labels(self, columns: np.ndarray) -> "LabelledMels":
        """Return the same songs with some labels, in another order or more than once."""
        return replace(self, labels=self.labels[:, columns])

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) int64, frames the store has of each song."""
        return self.store.lengths[self.index]

    def digest(self) -> str:
        """Return a hash that changes with the songs, their mels and their labels."""
        state = hashlib.sha256(self.store.hash.encode())
        state.update(np.ascontiguousarray(self.index).tobytes())
        state.update(np.ascontiguousarray(self.labels).tobytes())
        return state.hexdigest()


class BatchRoom:
    """Memory that one batch of mels after another is gathered into.

    Args:
        is_pinned: the batches go to a GPU, which copies from pinned memory faster.
    """

    def __init__(self, is_pinned: bool = False) -> None:
        self._is_pinned = is_pinned
        self._mels = torch.empty(0, BANDS, 0)

    def take(self, n_songs: int, frames: int) -> Tensor:
        """Return (n_songs, 96, frames) float32, unset, in place of what was taken before."""
        if self._mels.size(2) != frames or len(self._mels) < n_songs:
            self._mels = batch_room(n_songs, frames)
            if self._is_pinned:
                self._mels = self._mels.pin_memory()
        return self._mels[:n_songs]


def batch_order(n_songs: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Return the batches of one epoch: every song once, in an order f(seed, epoch).

    A last batch of one song joins the one before: batch normalisation has no variance
    of a single value, which is all that a small map of one song may be.
    """
    random = np.random.default_rng([seed % 2**64, _ORDER, epoch])
    batches = list(torch.from_numpy(random.permutation(n_songs)).split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def random_starts(lengths: np.ndarray, frames: int, seed: int, epoch: int) -> Tensor:
    """Return (N,) int64, where each song's crop begins in one epoch: f(seed, epoch, song).

    Every start at which the crop fits is as likely as any other; a song shorter than the
    crop begins at its beginning.
    """
    random = np.random.default_rng([seed % 2**64, _CROP, epoch])
    choices = np.maximum(lengths - frames, 0) + 1
    return torch.from_numpy((random.random(len(lengths)) * choices).astype(np.int64))
