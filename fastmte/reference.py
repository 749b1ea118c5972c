"""What every operator means, in plain torch.

Nothing here is fast. Each function is the definition that its compiled twin is
tested and timed against, and what runs on a device or an installation without a
kernel. Shapes: N songs, B batch, M mel bands, F frames, D features, L labels,
K members.
"""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastmte import _checks
from fastmte.reference_audio import mel_db, resample  # noqa: F401  (one module names all)
from fastmte.reference_maps import (  # noqa: F401  (one module names all references)
    conv_pool_act,
    pool_act,
    residual_blocks,
    resnet_stem,
    vgg_stem,
)

SONGS_PER_CHUNK = 8192  # one order of additions: csrc/label_centroids.h says which
SONGS_PER_GROUP = 16
MOST_IN_FLOAT64 = 64


def crop_mels(
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
    frame = (starts[:, None] + torch.arange(frames, device=mels.device)) % length[:, None]
    row = torch.arange(bands, device=mels.device) * length[:, None]
    position = offsets[index][:, None, None] + row[:, :, None] + frame[:, None, :]  # (B, M, F)
    crops = mels[position].float()
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


def label_centroids(features: Tensor, labels: Tensor) -> Tensor:
    """See :func:`fastmte.ops.label_centroids`."""
    return centroids_of(label_centroids_add, features, labels, n_labels=labels.size(-1))


def label_centroids_csr(features: Tensor, crow: Tensor, col: Tensor, n_labels: int) -> Tensor:
    """See :func:`fastmte.ops.label_centroids`."""
    _checks.label_centroids_csr(features, crow, col, n_labels)
    return centroids_of(label_centroids_add_csr, features, crow, col, n_labels=n_labels)


def label_centroids_add(features: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> None:
    """See :func:`fastmte.ops.label_centroids_add_`."""
    _add_pairs(features, *pairs_of(features, labels, sums, counts), sums, counts)


def label_centroids_add_csr(
    features: Tensor, crow: Tensor, col: Tensor, sums: Tensor, counts: Tensor
) -> None:
    """See :func:`fastmte.ops.label_centroids_add_`."""
    _add_pairs(features, *pairs_of_csr(features, crow, col, sums, counts), sums, counts)


def pairs_of(
    features: Tensor, labels: Tensor, sums: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each pair of a song and its label (P,) int64, songs in their order.

    Raises:
        RuntimeError: an argument of ``ops.label_centroids_add_`` is wrong.
    """
    _checks.label_centroids(features, labels)
    _checks.label_sums(features, labels.size(1), sums, counts)
    song, label = labels.nonzero(as_tuple=True)
    return song, label


def pairs_of_csr(
    features: Tensor, crow: Tensor, col: Tensor, sums: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what ``pairs_of`` returns, of sparse labels."""
    _checks.label_centroids_csr(features, crow, col, len(counts))
    _checks.label_sums(features, len(counts), sums, counts)
    song = torch.arange(len(features), device=col.device).repeat_interleave(crow.diff())
    return song, col


def centroids_of(
    add: Callable[..., None], features: Tensor, *labels: Tensor, n_labels: int
) -> Tensor:
    """Return the (L, D) means by a function that adds songs to sums and counts."""
    n_features = features.size(1) if features.dim() == 2 else 0
    sums = torch.zeros((n_labels, n_features), dtype=torch.float64, device=features.device)
    counts = torch.zeros(n_labels, dtype=torch.int64, device=features.device)
    add(features, *labels, sums, counts)
    _checks.every_label_has_a_song(counts)
    return (sums / counts[:, None]).to(features.dtype)


def has_groups(features: Tensor) -> bool:
    """Return whether sums are float32 first, SONGS_PER_GROUP songs of a label at a time."""
    return features.dtype == torch.float32 and features.size(1) > MOST_IN_FLOAT64


def _add_pairs(features: Tensor, song: Tensor, label: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Add the pairs of ``song`` and ``label``, which are in song order."""
    _checks.finite("label_centroids", "features", features)
    ends = [*range(SONGS_PER_CHUNK, len(features), SONGS_PER_CHUNK)]
    cuts = torch.searchsorted(song, song.new_tensor(ends)).tolist()
    for begin, end in itertools.pairwise([0, *cuts, len(song)]):
        pairs = features, song[begin:end], label[begin:end]
        part = _sums_by(pairs[2], features[pairs[1]].double(), len(counts))
        if has_groups(features):
            grouped = _grouped_sums(*pairs, len(counts))
            part = torch.where(grouped.isfinite(), grouped, part)
        sums += part
    counts += torch.bincount(label, minlength=len(counts))


def _sums_by(label: Tensor, rows: Tensor, n_labels: int) -> Tensor:
    """Return the (L, D) float64 sums of the rows (P, D) of each label."""
    sums = rows.new_zeros((n_labels, rows.size(1)))
    # float64: in the order of the pairs on the CPU, and by a sort on CUDA. No race.
    return sums.index_put_((label,), rows, accumulate=True)


def _grouped_sums(features: Tensor, song: Tensor, label: Tensor, n_labels: int) -> Tensor:
    """Return the sums of a chunk whose songs are added in float32 in groups of their label."""
    order = label.argsort(stable=True)
    song, label = song[order], label[order]
    size = torch.bincount(label, minlength=n_labels)
    rank = torch.arange(len(label), device=label.device) - (size.cumsum(0) - size)[label]
    n_groups = (size + SONGS_PER_GROUP - 1) // SONGS_PER_GROUP
    group = (n_groups.cumsum(0) - n_groups)[label] + rank // SONGS_PER_GROUP
    groups = features.new_zeros((int(n_groups.sum()), features.size(1)))
    for turn in range(SONGS_PER_GROUP):  # no group twice in a turn
        at = rank % SONGS_PER_GROUP == turn
        groups[group[at]] += features[song[at]]
    owner = torch.arange(n_labels, device=label.device).repeat_interleave(n_groups)
    return _sums_by(owner, groups.double(), n_labels)


def dkmeans_assign(
    points: Tensor, seeds: Tensor, tie_tol: float, last_two: bool = False
) -> tuple[Tensor, Tensor]:
    """See :func:`fastmte.ops.dkmeans_assign`."""
    _checks.dkmeans_assign(points, seeds, tie_tol, last_two)
    points = unit_points(points)
    runs = [_deal(points, row, tie_tol, last_two) for row in seeds.reshape(-1, seeds.size(-1))]
    shape = (*seeds.shape[:-1], len(points))
    labels, order = zip(*runs, strict=True) if runs else ((), ())
    return seeds.new_tensor(labels).reshape(shape), seeds.new_tensor(order).reshape(shape)


def _deal(
    points: Tensor, seeds: Tensor, tie_tol: float, last_two: bool
) -> tuple[list[int], list[int]]:
    members = seeds.reshape(-1, 2 if last_two else 1).tolist()
    order = seeds.tolist()
    is_free = torch.ones(len(points), dtype=torch.bool, device=points.device)
    is_free[seeds] = False
    while len(order) < len(points):
        member = members[(len(order) - len(seeds)) % len(members)]
        mine = member[-2:] if last_two else member
        centre = points[mine].cumsum(0)[-1] / len(mine)
        free = is_free.nonzero()[:, 0]
        distance = _squared_distance(points[free], centre)
        far = distance >= distance.max() * (1 - tie_tol)
        chosen = int(free[far.nonzero()[0, 0]])  # ties go to the lowest index
        member.append(chosen)
        order.append(chosen)
        is_free[chosen] = False
    owner = {point: label for label, member in enumerate(members) for point in member}
    return [owner[point] for point in range(len(points))], order


def unit_points(points: Tensor) -> Tensor:
    """Shift and scale so that the largest value is about 1: squares stay in range.

    A feature whose values are within a factor of two of one another is shifted by the least
    magnitude, which has no rounding and takes away a large offset; the scale is a power of two.
    """
    if not points.numel():
        return points
    least, most = points.aminmax(dim=0)
    zero = torch.zeros_like(least)
    shift = torch.where((least > 0) & (most <= 2 * least), least, zero)
    shift = torch.where((most < 0) & (least >= 2 * most), most, shift)
    points = points - shift
    exponent = math.frexp(float(points.abs().max()))[1]
    half = exponent // 2  # 2 ** 1074 has no float64, its halves do
    return points * math.ldexp(1.0, -half) * math.ldexp(1.0, half - exponent) + 0.0  # no -0


def _squared_distance(points: Tensor, centre: Tensor) -> Tensor:
    """Return the (n,) sums over features in their order, which ``sum`` would not keep."""
    squares = (points - centre).square()
    return torch.nn.functional.pad(squares, (1, 0)).cumsum(1)[:, -1]
