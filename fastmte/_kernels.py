"""The operators' numba tier: serial loops over arrays, released from the GIL.

Never ``prange``: numba's OpenMP layer dies in a forked data loader. A function
without an underscore takes the tensors of the operator of its name; a kernel
takes arrays, marked IN, OUT or TMP.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from fastmte import _checks
from fastmte._kernels_maps import (  # noqa: F401  (one module names all kernels)
    pool_act,
    resnet_stem,
    vgg_stem,
)
from fastmte.reference import scaled, songs_per_chunk

Array = NDArray[Any]


def crop_mels(  # type: ignore[no-untyped-def]
    mels: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    index: Tensor,
    starts: Tensor | None,
    frames: int,
    bands: int,
) -> Tensor:
    """See :func:`fastmte.ops.crop_mels`."""
    _checks.crop_mels(mels, offsets, lengths, index, starts, frames, bands)
    length = lengths[index]
    if starts is None:
        starts = _checks.centre_starts(length, frames)
    crops = mels.new_empty((len(index), bands, frames))
    # The bits are copied as integers: numba has no float16 arrays on the CPU.
    bits = torch.int16 if mels.dtype == torch.float16 else torch.int32
    _crop(
        _array(mels.view(bits)),
        _array(offsets[index]),
        _array(length),
        _array(starts),
        _array(crops.view(bits)),
    )
    crops = crops.float()
    _checks.finite_crops(crops, mels, offsets, lengths, index, starts)
    return crops


@njit(cache=True, nogil=True)
def _crop(  # type: ignore[no-untyped-def]
    packed: Array,  # IN  (n,) any dtype
    offset: Array,  # IN  (B,) int64
    length: Array,  # IN  (B,) int64
    start: Array,  # IN  (B,) int64
    crops: Array,  # OUT (B, M, F) of packed's dtype
):
    n_crops, bands, frames = crops.shape
    for crop in range(n_crops):
        for band in range(bands):
            row = offset[crop] + band * length[crop]
            source = start[crop] % length[crop]
            for frame in range(frames):
                crops[crop, band, frame] = packed[row + source]
                source += 1
                if source == length[crop]:
                    source = 0


def label_centroids(features: Tensor, labels: Tensor) -> Tensor:
    """See :func:`fastmte.ops.label_centroids`."""
    _checks.label_centroids(features, labels)
    song, label = labels.nonzero(as_tuple=True)
    return _centroids(features, song, label, labels.size(1))


def label_centroids_csr(features: Tensor, crow: Tensor, col: Tensor, n_labels: int) -> Tensor:
    """See :func:`fastmte.ops.label_centroids`."""
    _checks.label_centroids_csr(features, crow, col, n_labels)
    song = torch.arange(len(features)).repeat_interleave(crow.diff())
    return _centroids(features, song, col, n_labels)


def _centroids(features: Tensor, song: Tensor, label: Tensor, n_labels: int) -> Tensor:
    _checks.finite("label_centroids", "features", features)
    counts = torch.bincount(label, minlength=n_labels)
    _checks.every_label_has_a_song(counts)
    total = torch.zeros((n_labels, features.size(1)), dtype=torch.float64)
    chunk = songs_per_chunk(len(features))
    partial = np.empty(tuple(total.shape))
    _add_pairs(_array(features), _array(song), _array(label), chunk, partial, total.numpy())
    return (total / counts[:, None]).to(features.dtype)


@njit(cache=True, nogil=True)
def _add_pairs(  # type: ignore[no-untyped-def]
    features: Array,  # IN  (N, D) float32 or float64
    song: Array,  # IN  (P,) int64, ascending
    label: Array,  # IN  (P,) int64
    chunk: int,  # IN  songs a partial sum
    partial: Array,  # TMP (L, D) float64
    total: Array,  # OUT (L, D) float64, zeros before
):
    n_features = features.shape[1]
    pair = 0
    for end in range(chunk, features.shape[0] + chunk, chunk):
        partial[:] = 0.0
        while pair < song.shape[0] and song[pair] < end:
            for d in range(n_features):
                partial[label[pair], d] += features[song[pair], d]
            pair += 1
        total += partial


def dkmeans_assign(points: Tensor, seeds: Tensor, tie_tol: float) -> tuple[Tensor, Tensor]:
    """See :func:`fastmte.ops.dkmeans_assign`."""
    _checks.dkmeans_assign(points, seeds, tie_tol)
    n_points, n_members = len(points), len(seeds)
    labels = torch.empty(n_points, dtype=torch.int64)
    order = torch.empty(n_points, dtype=torch.int64)
    free = np.delete(np.arange(n_points), seeds.numpy(force=True))
    sums = np.empty((n_members, points.size(1)))
    distance = np.empty(len(free))
    _deal(
        _array(scaled(points)),
        _array(seeds),
        1 - tie_tol,
        free,
        sums,
        distance,
        labels.numpy(),
        order.numpy(),
    )
    return labels, order


@njit(cache=True, nogil=True)
def _deal(  # type: ignore[no-untyped-def]
    points: Array,  # IN  (L, D) float64, about 1
    seeds: Array,  # IN  (K,) int64
    tie_part: float,  # IN  a point this part of the largest squared distance away is tied with it
    free: Array,  # TMP (L - K,) int64, the points that are no seeds, ascending
    sums: Array,  # TMP (K, D) float64
    distance: Array,  # TMP (L - K,) float64
    labels: Array,  # OUT (L,) int64
    order: Array,  # OUT (L,) int64
):
    n_points, n_features = points.shape
    n_members = seeds.shape[0]
    for member in range(n_members):
        labels[seeds[member]] = member
        order[member] = seeds[member]
        sums[member] = points[seeds[member]]
    n_free = free.shape[0]
    for turn in range(n_points - n_members):
        member = turn % n_members
        size = 1.0 + turn // n_members
        centre = sums[member] / size
        largest = 0.0
        for i in range(n_free):
            squares = 0.0
            for d in range(n_features):
                difference = points[free[i], d] - centre[d]
                squares += difference * difference
            distance[i] = squares
            largest = max(largest, squares)
        at = 0
        while distance[at] < largest * tie_part:
            at += 1
        chosen = free[at]
        free[at : n_free - 1] = free[at + 1 : n_free]  # stays ascending: the first tie is lowest
        n_free -= 1
        sums[member] += points[chosen]
        labels[chosen] = member
        order[n_members + turn] = chosen


def _array(tensor: Tensor) -> Array:
    """Return the contiguous array of a CPU tensor."""
    return tensor.detach().contiguous().numpy()
