"""The operators' numba tier: serial loops over arrays, released from the GIL.

Never ``prange``: numba's OpenMP layer dies in a forked data loader. A function
without an underscore takes the tensors of the operator of its name; a kernel
takes arrays, marked IN, OUT or TMP.
"""

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from fastmte import _checks, _checks_audio, _kernels_audio
from fastmte._kernels_maps import (  # noqa: F401  (one module names all kernels)
    pool_act,
    resnet_stem,
    vgg_stem,
)
from fastmte._rounds import equal_points
from fastmte._scan import deal, squared_distance, start, take
from fastmte.reference import (
    SONGS_PER_CHUNK,
    SONGS_PER_GROUP,
    centroids_of,
    has_groups,
    pairs_of,
    pairs_of_csr,
)

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


def crop_mels_into(
    mels: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    index: Tensor,
    starts: Tensor | None,
    crops: Tensor,
) -> None:
    """See :func:`fastmte.ops.crop_mels`."""
    bands, frames = _checks.crops_to_fill(crops, index, mels)
    crops.copy_(crop_mels(mels, offsets, lengths, index, starts, frames, bands))


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
    return centroids_of(label_centroids_add, features, labels, n_labels=labels.size(-1))


def label_centroids_csr(features: Tensor, crow: Tensor, col: Tensor, n_labels: int) -> Tensor:
    """See :func:`fastmte.ops.label_centroids`."""
    _checks.label_centroids_csr(features, crow, col, n_labels)
    return centroids_of(label_centroids_add_csr, features, crow, col, n_labels=n_labels)


def label_centroids_add(features: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> None:
    """See :func:`fastmte.ops.label_centroids_add_`."""
    _add_songs(features, *pairs_of(features, labels, sums, counts), sums, counts)


def label_centroids_add_csr(
    features: Tensor, crow: Tensor, col: Tensor, sums: Tensor, counts: Tensor
) -> None:
    """See :func:`fastmte.ops.label_centroids_add_`."""
    _add_songs(features, *pairs_of_csr(features, crow, col, sums, counts), sums, counts)


def _add_songs(features: Tensor, song: Tensor, label: Tensor, sums: Tensor, counts: Tensor) -> None:
    _checks.finite("label_centroids", "features", features)
    in_groups = has_groups(features)
    part, count = np.empty(tuple(sums.shape)), np.empty(len(counts), np.int64)
    group = np.empty(part.shape if in_groups else (0, 0), np.float32)
    arrays = _array(features), _array(song), _array(label)
    begin = 0
    while begin < len(song):
        end = int(torch.searchsorted(song, _chunk_end(int(song[begin]))))
        _add_pairs(*arrays, begin, end, in_groups, part, group, count)
        if in_groups and not np.isfinite(part).all():
            narrow = part.copy()
            _add_pairs(*arrays, begin, end, False, part, group, count)
            np.copyto(part, narrow, where=np.isfinite(narrow))
        sums += torch.from_numpy(part)
        counts += torch.from_numpy(count)
        begin = end


def _chunk_end(song: int) -> int:
    return (song // SONGS_PER_CHUNK + 1) * SONGS_PER_CHUNK


@njit(cache=True, nogil=True)
def _add_pairs(  # type: ignore[no-untyped-def]
    features: Array,  # IN  (N, D) float32 or float64
    song: Array,  # IN  (P,) int64, ascending
    label: Array,  # IN  (P,) int64
    begin: int,  # IN  the first pair of a chunk
    end: int,  # IN
    in_groups: bool,  # IN
    part: Array,  # OUT (L, D) float64
    group: Array,  # TMP (L, D) float32; (0, 0) unless in_groups
    count: Array,  # OUT (L,) int64
):
    n_features = features.shape[1]
    part[:] = 0.0
    group[:] = 0.0
    count[:] = 0
    for pair in range(begin, end):
        row, to = song[pair], label[pair]
        count[to] += 1
        if not in_groups:
            for d in range(n_features):
                part[to, d] += features[row, d]
            continue
        for d in range(n_features):
            group[to, d] += features[row, d]
        if count[to] % SONGS_PER_GROUP == 0:
            for d in range(n_features):
                part[to, d] += group[to, d]
                group[to, d] = 0.0
    if in_groups:
        part += group


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
    unit = np.empty(tuple(points.shape))
    _scale(_array(points), unit)
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
def _scale(  # type: ignore[no-untyped-def]
    points: Array,  # IN  (n, D) float64
    unit: Array,  # OUT (n, D) float64
):
    """Shift and scale as ``reference.unit_points``, in two passes instead of a dozen."""
    n_points, n_features = points.shape
    least, most = points[0].copy(), points[0].copy()
    for i in range(n_points):
        for d in range(n_features):
            least[d] = min(least[d], points[i, d])
            most[d] = max(most[d], points[i, d])
    largest = 0.0
    for d in range(n_features):
        shift = 0.0
        if least[d] > 0 and most[d] <= 2 * least[d]:
            shift = least[d]
        elif most[d] < 0 and least[d] >= 2 * most[d]:
            shift = most[d]
        largest = max(largest, abs(least[d] - shift), abs(most[d] - shift))
        least[d] = shift
    exponent = math.frexp(largest)[1]
    half = exponent // 2
    first, second = math.ldexp(1.0, -half), math.ldexp(1.0, half - exponent)
    for i in range(n_points):
        for d in range(n_features):
            unit[i, d] = (points[i, d] - least[d]) * first * second + 0.0


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


def resample(
    samples: Tensor,
    filter: Tensor | None,
    sample_rate: int,
    target: int,
    first: int,
    start: int,
    stop: int,
) -> Tensor:
    """See :func:`fastmte.ops.resample`."""
    places = (sample_rate, target, first, start, stop)
    _checks_audio.resample(samples, filter, *places)
    table = None if filter is None else _array(filter)
    return torch.from_numpy(_kernels_audio.resample(_array(samples), table, *places))


def mel_db(
    samples: Tensor,
    window: Tensor,
    weights: Tensor,
    first_bins: Tensor,
    splits: Tensor,
    hop: int,
    offset: int,
    frames: int,
    db_per_decade: float,
    floor_db: float,
) -> Tensor:
    """See :func:`fastmte.ops.mel_db`."""
    _checks_audio.mel_db(
        samples, window, weights, first_bins, splits, hop, offset, frames, db_per_decade, floor_db
    )
    tables = [_array(table) for table in (window, weights, first_bins, splits)]
    numbers = (hop, offset, frames, db_per_decade, floor_db)
    out = samples.new_empty((len(samples), len(first_bins), frames))
    for song, mel in zip(_array(samples), out.numpy(), strict=True):
        mel[:] = _kernels_audio.mel_db(song, *tables, *numbers)  # type: ignore[call-arg,arg-type]
    return out


def _array(tensor: Tensor) -> Array:
    """Return the contiguous array of a CPU tensor."""
    return tensor.detach().contiguous().numpy()
