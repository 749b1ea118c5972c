"""The operators of fastmte: the one list of what has compiled kernels.

Each stands here as schema, meaning (its reference) and documented function; its
kernels are ``csrc/cpu/NAME.cpp`` and ``csrc/cuda/NAME.cu``. All raise
RuntimeError with the same text on every tier. Shapes: N songs, B batch, M mel
bands, F frames, D features, L labels, K members.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmte import _rounds, reference
from fastmte._library import define
from fastmte.audio_ops import mel_db, resample  # noqa: F401  (one module names all operators)


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


def _fake_vgg_stem(
    mels: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> Tensor:
    n_songs, bands, frames = mels.shape
    members = scale.size(0)
    channels = weight.size(0) // members
    return mels.new_empty((members, n_songs, bands // 2, frames // 4, channels), dtype=dtype)


def _fake_resnet_stem(
    mels: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, members: int
) -> Tensor:
    n_songs, bands, frames = mels.shape
    shape = (members, n_songs, (bands + 3) // 4, (frames + 3) // 4, weight.size(0) // members)
    return mels.new_empty(shape, dtype=dtype)


def _fake_pool_act(x: Tensor, pool: Sequence[int], activation: str) -> Tensor:
    return x.new_empty((x.size(0), x.size(1) // pool[0], x.size(2) // pool[1], x.size(3)))


def _fake_conv_pool_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    onto: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    pool: Sequence[int],
    activation: str,
) -> Tensor:
    sizes = [
        ((x.size(1 + i) + 2 * padding[i] - weight.size(1 + i)) // stride[i] + 1) // pool[i]
        for i in range(2)
    ]
    return x.new_empty((x.size(0), *sizes, bias.size(0)))


def _fake_residual_blocks(
    x: Tensor,
    weight: Sequence[Tensor],
    project: Sequence[Tensor],
    shortcut: Sequence[Tensor],
    bias: Sequence[Tensor],
    stride: Sequence[int],
) -> Tensor:
    sizes = [x.size(1), x.size(2)]
    for step in stride:
        sizes = [(size - 1) // step + 1 for size in sizes]
    return x.new_empty((x.size(0), *sizes, bias[-1].size(0)))


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
define(
    "vgg_stem(Tensor mels, Tensor scale, Tensor shift, Tensor weight, Tensor bias, "
    "ScalarType dtype) -> Tensor",
    reference.vgg_stem,
    _fake_vgg_stem,
)
define(
    "resnet_stem(Tensor mels, Tensor weight, Tensor bias, ScalarType dtype, int members) -> Tensor",
    reference.resnet_stem,
    _fake_resnet_stem,
)
define(
    "pool_act(Tensor x, int[] pool, str activation) -> Tensor",
    reference.pool_act,
    _fake_pool_act,
)
define(
    "conv_pool_act(Tensor x, Tensor weight, Tensor bias, Tensor? onto, int[] stride, "
    "int[] padding, int[] pool, str activation) -> Tensor",
    reference.conv_pool_act,
    _fake_conv_pool_act,
    has_numba=False,
    has_cuda=False,
)
define(
    "residual_blocks(Tensor x, Tensor[] weight, Tensor[] project, Tensor[] shortcut, "
    "Tensor[] bias, int[] stride) -> Tensor",
    reference.residual_blocks,
    _fake_residual_blocks,
    has_numba=False,
    has_cuda=False,
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


def vgg_stem(
    mels: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    bias: Tensor,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the first block of K VGG-like members: 3x3 convolution, 2x4 maximum, ELU.

    Member k convolves ``scale[k] * mels + shift[k]``, padded with zeros after the affine
    map, so that its border is that of a network that normalises its input. A batch
    norm that follows the convolution is folded into weight and bias. The map before
    the pooling is never stored.

    NaN is larger than any number and stays inside its member.

    Args:
        mels: (B, M, F) float32 or float64, M at least 2 and F at least 4.
        scale: (K,) of mels' dtype, K at least 1.
        shift: (K,) of mels' dtype.
        weight: (K * C, 1, 3, 3) of mels' dtype, member by member.
        bias: (K * C,) of mels' dtype.
        dtype: float32 or bfloat16 (rounded to nearest even, of sums that may be off by 2^-16 of
            their largest product); float64 for float64 mels.

    Returns:
        (K, B, M // 2, F // 4, C) of ``dtype``: one channels-last map a member and song.

    Raises:
        RuntimeError: a shape, dtype or device is wrong.

    Reference:
        Bogdanov et al. 2019; MTG/mtg-jamendo-dataset, scripts/baseline/model.py, to ``pool_1``.
    """
    return torch.ops.fastmte.vgg_stem(mels, scale, shift, weight, bias, dtype)


def resnet_stem(
    mels: Tensor,
    weight: Tensor,
    bias: Tensor,
    dtype: torch.dtype = torch.float32,
    members: int = 1,
) -> Tensor:
    """Return the stem of K residual members: 7x7 convolution, 3x3 maximum, ReLU.

    Both steps have a stride of 2 and pad the border, with zeros and with nothing. A
    batch norm between them is folded into weight and bias. The map before the pooling
    is never stored.

    NaN is larger than any number and stays inside its member.

    Args:
        mels: (B, M, F) float32 or float64, M and F at least 1.
        weight: (K * C, 1, 7, 7) of mels' dtype, member by member.
        bias: (K * C,) of mels' dtype.
        dtype: float32 or bfloat16 (rounded to nearest even, of sums that may be off by 2^-16 of
            their largest product); float64 for float64 mels.
        members: K, at least 1.

    Returns:
        (K, B, ceil(M / 4), ceil(F / 4), C) of ``dtype``: one channels-last map a member and song.

    Raises:
        RuntimeError: a shape, dtype or device is wrong.

    Reference:
        He et al. 2016, table 1, conv1 and the pooling of conv2_x.
    """
    return torch.ops.fastmte.resnet_stem(mels, weight, bias, dtype, members)


def pool_act(x: Tensor, pool: Sequence[int], activation: str) -> Tensor:
    """Return the maxima of non-overlapping windows of channels-last maps, activated.

    An activation that never falls may follow the pooling: less of it is computed.
    NaN is larger than any number, and is kept.

    Args:
        x: (B, H, W, C) float32, bfloat16 or float64; copied unless contiguous.
        pool: (h, w) of a window, at least 1; rows and columns that fill none are left out.
        activation: "elu" (alpha 1), "relu" or "none".

    Returns:
        (B, H // h, W // w, C) of x's dtype; ELU in float32 for bfloat16, rounded to nearest even.

    Raises:
        RuntimeError: a shape or dtype is wrong, the window is larger than the map, or the
            activation is unknown.

    Reference:
        torch.nn.functional.max_pool2d and elu.
    """
    return torch.ops.fastmte.pool_act(x, pool, activation)


def conv_pool_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    onto: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    pool: Sequence[int] = (1, 1),
    activation: str = "none",
) -> Tensor:
    """Return a bfloat16 convolution of channels-last maps, its maxima of windows, activated.

    Sums, bias and activation are float32 and rounded once, to the nearest even. The map
    before the pooling is never stored. It is made for the matrix units of CPUs (AMX), and
    slow without. NaN is larger than any number, and is kept; numbers below 1.2e-38 count
    as 0.

    Args:
        x: (B, H, W, I) bfloat16; copied unless contiguous.
        weight: that of ``packing.packed``, bfloat16.
        bias: (O,) float32.
        onto: (B, H', W', O) bfloat16 that is added to the convolution, H' and W' its sizes; only
            without a pool.
        stride: over (rows, columns), at least 1.
        padding: zeros on every side.
        pool: (h, w) of a window that does not overlap, at least 1 and w at most 32; rows and
            columns that fill none are left out.
        activation: "elu" (alpha 1), "relu" or "none".

    Returns:
        (B, H' // h, W' // w, O) bfloat16.

    Raises:
        RuntimeError: a shape or dtype is wrong, the map is smaller than the kernel and the
            window, or the activation is unknown.

    Reference:
        torch.nn.functional.conv2d, max_pool2d and elu.
    """
    return torch.ops.fastmte.conv_pool_act(x, weight, bias, onto, stride, padding, pool, activation)


def residual_blocks(
    x: Tensor,
    weight: Sequence[Tensor],
    project: Sequence[Tensor],
    shortcut: Sequence[Tensor],
    bias: Sequence[Tensor],
    stride: Sequence[int],
) -> Tensor:
    """Return what residual blocks, one after another, make of bfloat16 channels-last maps.

    A block is ``relu(project * relu(weight * x + bias) + shortcut * x + bias)``, whose
    project and shortcut are 1 x 1. Sums are float32; the inner and the outer ReLU are rounded
    once each, to the nearest even. No other map is stored, and of blocks with few weights
    only some rows. It is made for the matrix units of CPUs (AMX), and slow without. NaN is
    kept; numbers below 1.2e-38 count as 0.

    Args:
        x: (B, H, W, I) bfloat16; copied unless contiguous.
        weight: of each block, ``packing.packed``, bfloat16, of an odd kernel whose centre is on
            x: zeros pad it.
        project: of each block, packed, bfloat16.
        shortcut: of each block, packed, bfloat16; empty where it is x itself.
        bias: of each block two, (O,) float32: that of ``weight``, then that of both others.
        stride: of each block, over rows and columns.

    Returns:
        (B, H', W', O) bfloat16, the sizes divided by each stride and rounded up.

    Raises:
        RuntimeError: a shape or dtype is wrong, or a shortcut is missing where it is needed.

    Reference:
        He et al. 2016, section 3.2, equation 2.
    """
    return torch.ops.fastmte.residual_blocks(x, weight, project, shortcut, bias, stride)
