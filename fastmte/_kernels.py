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
from fastmte._rounds import equal_points
from fastmte._scan import deal, squared_distance, start, take
from fastmte.reference import songs_per_chunk, unit_points

Array = NDArray[Any]
FEW_POINTS = 128  # up to here measuring all is faster than sorting


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


def dkmeans_assign(
    points: Tensor, seeds: Tensor, tie_tol: float, last_two: bool = False
) -> tuple[Tensor, Tensor]:
    """See :func:`fastmte.ops.dkmeans_assign`."""
    return dkmeans_assign_counted(points, seeds, tie_tol, last_two)[:2]


def dkmeans_assign_counted(
    points: Tensor, seeds: Tensor, tie_tol: float, last_two: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`fastmte.ops.dkmeans_assign`; the third is how many distances were computed."""
    _checks.dkmeans_assign(points, seeds, tie_tol, last_two)
    unit = _array(unit_points(points))
    runs = _array(seeds.reshape(-1, seeds.size(-1)))
    labels = np.empty((len(runs), len(unit)), np.int64)
    order = np.empty((len(runs), len(unit)), np.int64)
    counts = np.empty(len(runs), np.int64)
    is_few = len(unit) <= FEW_POINTS
    equal = np.empty(0, np.int64) if is_few else equal_points(unit)
    for run, row in enumerate(runs):
        part = (unit, row, 1 - tie_tol, last_two, labels[run], order[run])
        counts[run] = _deal(*part) if is_few else deal(*part, equal)
    shape = (*seeds.shape[:-1], len(unit))
    return (
        torch.from_numpy(labels).reshape(shape),
        torch.from_numpy(order).reshape(shape),
        torch.from_numpy(counts).reshape(seeds.shape[:-1]),
    )


@njit(cache=True, nogil=True)
def _deal(  # type: ignore[no-untyped-def]
    points: Array,  # IN  (n, D) float64, about 1
    seeds: Array,  # IN  (K,) int64, (2 K,) with last_two
    tie_part: float,  # IN  a point this part of the largest squared distance away is tied with it
    last_two: bool,  # IN
    labels: Array,  # OUT (n,) int64
    order: Array,  # OUT (n,) int64
):
    """Measure every free point at every turn; return how many distances that were."""
    n_points = points.shape[0]
    sums, last = start(points, seeds, last_two, labels, order)
    n_members = sums.shape[0]
    free = np.flatnonzero(labels < 0)
    distance = np.empty(len(free))
    n_free, n_measured = len(free), 0
    for turn in range(n_points - len(seeds)):
        member = turn % n_members
        centre = sums[member] / (2.0 if last_two else 1.0 + turn // n_members)
        largest = 0.0
        for i in range(n_free):
            distance[i] = squared_distance(points[free[i]], centre)
            largest = max(largest, distance[i])
        n_measured += n_free
        at = 0
        while distance[at] < largest * tie_part:
            at += 1
        chosen = free[at]
        free[at : n_free - 1] = free[at + 1 : n_free]  # stays ascending: the first tie is lowest
        n_free -= 1
        take(points, chosen, member, last_two, sums, last)
        labels[chosen] = member
        order[len(seeds) + turn] = chosen
    return n_measured


def _array(tensor: Tensor) -> Array:
    """Return the contiguous array of a CPU tensor."""
    return tensor.detach().contiguous().numpy()
