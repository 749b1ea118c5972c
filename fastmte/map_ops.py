"""The operators of inference on the maps of an ensemble.

A part of :mod:`fastmte.ops`, which names them too. Shapes: B batch, M mel bands, F frames,
K members, H and W of a map, C channels, I inputs and O outputs of a convolution.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmte import reference
from fastmte._library import define


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
