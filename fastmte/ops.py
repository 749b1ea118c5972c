"""The operators of fastmte: the one list of what has compiled kernels.

Each stands here as schema, meaning (its reference) and documented function; its
kernels are ``csrc/cpu/NAME.cpp`` and ``csrc/cuda/NAME.cu``. All raise
RuntimeError with the same text on every tier. Shapes: N songs, B batch, M mel
bands, F frames, D features, L labels, K members.
"""

import torch
from torch import Tensor

from fastmte import _rounds, reference
from fastmte._library import define
from fastmte.audio_ops import mel_db, resample  # noqa: F401  (one module names all operators)
from fastmte.map_ops import (  # noqa: F401
    conv_pool_act,
    pool_act,
    residual_blocks,
    resnet_stem,
    vgg_stem,
)


def _fake_crop_mels(
    mels: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    index: Tensor,
    starts: Tensor | None,
    frames: int,
    bands: int,
) -> Tensor:
    return mels.new_empty((index.size(0), bands, frames), dtype=torch.float32)


def _fake_label_centroids(features: Tensor, labels: Tensor) -> Tensor:
    return features.new_empty((labels.size(1), features.size(1)))


def _fake_label_centroids_csr(features: Tensor, crow: Tensor, col: Tensor, n_labels: int) -> Tensor:
    return features.new_empty((n_labels, features.size(1)))


def _fake_dkmeans_assign(
    points: Tensor, seeds: Tensor, tie_tol: float, last_two: bool = False
) -> tuple[Tensor, Tensor]:
    shape = (*seeds.shape[:-1], points.size(0))
    return seeds.new_empty(shape), seeds.new_empty(shape)


def _fake_dkmeans_assign_counted(
    points: Tensor, seeds: Tensor, tie_tol: float, last_two: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    counts = seeds.new_empty(seeds.shape[:-1])
    return *_fake_dkmeans_assign(points, seeds, tie_tol, last_two), counts


define(
    "crop_mels(Tensor mels, Tensor offsets, Tensor lengths, Tensor index, Tensor? starts, "
    "int frames, int bands) -> Tensor",
    reference.crop_mels,
    _fake_crop_mels,
)
define(
    "crop_mels.into(Tensor mels, Tensor offsets, Tensor lengths, Tensor index, Tensor? starts, "
    "Tensor(a!) crops) -> ()",
    reference.crop_mels_into,
    lambda *_: None,
)
define(
    "label_centroids(Tensor features, Tensor labels) -> Tensor",
    reference.label_centroids,
    _fake_label_centroids,
)
define(
    "label_centroids.csr(Tensor features, Tensor crow, Tensor col, int n_labels) -> Tensor",
    reference.label_centroids_csr,
    _fake_label_centroids_csr,
)
define(
    "label_centroids.add(Tensor features, Tensor labels, Tensor(a!) sums, Tensor(b!) counts) -> ()",
    reference.label_centroids_add,
    lambda *_: None,
)
define(
    "label_centroids.add_csr(Tensor features, Tensor crow, Tensor col, Tensor(a!) sums, "
    "Tensor(b!) counts) -> ()",
    reference.label_centroids_add_csr,
    lambda *_: None,
)
define(
    "dkmeans_assign(Tensor points, Tensor seeds, float tie_tol, bool last_two=False) "
    "-> (Tensor, Tensor)",
    _rounds.dkmeans_assign,
    _fake_dkmeans_assign,
)
define(
    "dkmeans_assign.counted(Tensor points, Tensor seeds, float tie_tol, bool last_two=False) "
    "-> (Tensor, Tensor, Tensor)",
    _rounds.dkmeans_assign_counted,
    _fake_dkmeans_assign_counted,
)


def crop_mels(
    mels: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    index: Tensor,
    starts: Tensor | None = None,
    frames: int = 1366,
    bands: int = 96,
    out: Tensor | None = None,
) -> Tensor:
    """Return one crop of each indexed song, out of songs packed one after another.

    A song shorter than ``frames`` is repeated: after its last frame comes its first.

    Args:
        mels: (n,) float32 or float16, dB. Song i is the row-major (M, lengths[i])
            array that begins at ``mels[offsets[i]]``.
        offsets: (N,) int64, where each song begins.
        lengths: (N,) int64, frames of each song, at least 1.
        index: (B,) int64, the songs to crop; may name one more than once.
        starts: (B,) int64, first frame of each crop, in [0, T - F] for a song of T >= F
            frames and in [0, T) for a shorter one; None for the centre of the song,
            repeated whole times where it is short, rounded down.
        frames: F, frames of a crop.
        bands: M, mel bands of a song.
        out: (B, M, F) float32 that is to hold the crops; new memory by default, whose first
            use costs more than the crops.

    Returns:
        (B, M, F) float32, dB; ``out`` where it is given.

    Raises:
        RuntimeError: a shape, dtype or device is wrong; an index or a start is out of
            range; a song has no frame or does not lie inside ``mels``; a value inside a
            crop is NaN or infinite.

    Reference:
        Mayerl et al. 2021, section 3.1: the centre 1366 frames of each song. Repeats as
        ``fastmte.crop.centre_start``.
    """
    if out is None:
        return torch.ops.fastmte.crop_mels(mels, offsets, lengths, index, starts, frames, bands)
    if out.shape[1:] != (bands, frames):
        raise RuntimeError(f"crop_mels: out must be (B, {bands}, {frames}), got {(*out.shape,)}")
    torch.ops.fastmte.crop_mels.into(mels, offsets, lengths, index, starts, out)
    return out


def label_centroids(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean feature vector of the songs of each label.

    One order of additions gives the same bits on every tier, device, instruction set and number
    of threads. Sums are float64: a float64 mean is off by at most
    ``(8192 + N / 8192) * 2 ** -53`` of the label's mean magnitude (1e-12). Rows of more than 64
    float32 features are summed in float32 for up to 16 songs of the label, then in float64: such
    a mean is off by at most ``16 * 2 ** -24`` of it (1e-6).

    Args:
        features: (N, D) float32 or float64, one row a song.
        labels: (N, L), true where the song has the label: bool, or ``torch.sparse_csr`` of
            any dtype whose stored values are all non-zero.

    Returns:
        (L, D) of the features' dtype.

    Raises:
        RuntimeError: a shape, dtype or device is wrong; a feature is NaN or infinite; a
            label has no song.

    Reference:
        Mayerl et al. 2021, section 2.2.
    """
    if labels.layout != torch.sparse_csr:
        return torch.ops.fastmte.label_centroids(features, labels)
    return torch.ops.fastmte.label_centroids.csr(features, *_listed(labels), labels.size(1))


def label_centroids_add_(features: Tensor, labels: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Add songs to the sums that ``label_centroids`` divides by the counts, in place.

    For songs that come in pieces: where all pieces but the last have a multiple of 8192 songs,
    ``sums / counts`` has the bits of ``label_centroids`` of all songs at once.

    Args:
        features: as ``label_centroids``.
        labels: as ``label_centroids``; a label may have no song.
        sums: (L, D) float64, contiguous.
        counts: (L,) int64, contiguous.

    Raises:
        RuntimeError: as ``label_centroids``, but for a label without songs. Nothing is added then.
    """
    if labels.layout != torch.sparse_csr:
        torch.ops.fastmte.label_centroids.add(features, labels, sums, counts)
    else:
        torch.ops.fastmte.label_centroids.add_csr(features, *_listed(labels), sums, counts)


def _listed(labels: Tensor) -> tuple[Tensor, Tensor]:
    values = labels.values()
    if int(values.count_nonzero()) < len(values):
        raise RuntimeError("label_centroids: labels must store no zero, got one in its values")
    return labels.crow_indices().long(), labels.col_indices().long()


def dkmeans_assign(
    points: Tensor, seeds: Tensor, tie_tol: float = 1e-10, last_two: bool = False
) -> tuple[Tensor, Tensor]:
    """Deal points to members in turn, each taking the free point farthest from its centroid.

    Distances are Euclidean, squared in float64 after an exact shift and scale: no magnitude
    overflows and an offset common to all points does not count. One order of additions and the
    rule for ties make the answer the same on every tier, device, instruction set and number of
    threads. Equal points cost as much as one.

    The CPU deals CUDA tensors too: a turn waits for the one before, and few distances are needed.
    The copies (8 n D bytes there, 16 n back) take about 50 us for few points and 1 % of the time
    for many.

    Args:
        points: (n, D) float64.
        seeds: (K,) int64, the first point of each member; distinct. (R, K) for R runs over the
            same points, which threads share.
        tie_tol: points whose squared distance is within this part of the largest count as
            tied; the lowest index wins. 1e-10 is above the rounding of any order of sums.
        last_two: whether the centroid is the mean of the last two points the member took, the
            authors' code, and not of all it has, the paper's text. ``seeds`` then names the
            first two points of each member, one member after another: (2 K,) or (R, 2 K).

    Returns:
        labels: (n,) or (R, n) int64, the member of each point.
        order: (n,) or (R, n) int64, the points in the order they were taken; begins with
            ``seeds``.

    Raises:
        RuntimeError: a shape, dtype or device is wrong; the number of seeds is not in [1, n]; a
            seed is out of range or named twice; a point is NaN or infinite.

    Reference:
        Mayerl et al. 2021, section 2.3 (diversity k-means); with ``last_two``,
        dbis-uibk/MediaEval2021, notebooks/label_clusters.ipynb.
    """
    return torch.ops.fastmte.dkmeans_assign(points, seeds, tie_tol, last_two)
