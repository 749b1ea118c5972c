"""What every operator means, in plain torch.

Nothing here is fast. Each function is the definition that its compiled twin is
tested and timed against, and what runs on a device or an installation without a
kernel. Shapes: N songs, B batch, M mel bands, F frames, D features, L labels,
K members.
"""

import math

import torch
from torch import Tensor

from fastmte import _checks
from fastmte.reference_maps import (  # noqa: F401  (one module names all references)
    pool_act,
    resnet_stem,
    vgg_stem,
)

MAX_CHUNKS = 64
MIN_SONGS_PER_CHUNK = 8192


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


def label_centroids(features: Tensor, labels: Tensor) -> Tensor:
    """See :func:`fastmte.ops.label_centroids`."""
    _checks.label_centroids(features, labels)
    song, label = labels.nonzero(as_tuple=True)
    return _centroids(features, song, label, labels.size(1))


def label_centroids_csr(features: Tensor, crow: Tensor, col: Tensor, n_labels: int) -> Tensor:
    """See :func:`fastmte.ops.label_centroids`."""
    _checks.label_centroids_csr(features, crow, col, n_labels)
    song = torch.arange(len(features), device=col.device).repeat_interleave(crow.diff())
    return _centroids(features, song, col, n_labels)


def songs_per_chunk(n_songs: int) -> int:
    """Return how many songs are summed before their sum joins the total.

    Sums have this one order on every tier and device, so threads can take chunks
    and the bits stay the same.
    """
    return max(MIN_SONGS_PER_CHUNK, math.ceil(n_songs / MAX_CHUNKS))


def _centroids(features: Tensor, song: Tensor, label: Tensor, n_labels: int) -> Tensor:
    """Return the (L, D) means over the pairs ``song``, ``label``, which are in song order."""
    _checks.finite("label_centroids", "features", features)
    counts = torch.bincount(label, minlength=n_labels)
    _checks.every_label_has_a_song(counts)

    chunk = songs_per_chunk(len(features))
    n_chunks = math.ceil(len(features) / chunk)
    partial = features.new_zeros((n_chunks * n_labels, features.size(1)), dtype=torch.float64)
    # index_put_ adds in the order of the pairs on the CPU and by a sort on CUDA: no race.
    where = song // chunk * n_labels + label
    partial.index_put_((where,), features[song].double(), accumulate=True)
    total = features.new_zeros((n_labels, features.size(1)), dtype=torch.float64)
    for part in partial.split(n_labels) if n_labels else ():
        total += part
    return (total / counts[:, None]).to(features.dtype)


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
