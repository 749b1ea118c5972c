"""The numba tier of the operators on feature maps; see :mod:`fastmte._kernels`.

numba has no bfloat16: such maps are computed in float32 and rounded once.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from fastmte import _checks_maps as _checks

Array = NDArray[Any]

_ACTIVATIONS = {"elu": 0, "none": 1, "relu": 2}


def vgg_stem(
    mels: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> Tensor:
    """See :func:`fastmte.ops.vgg_stem`."""
    _checks.vgg_stem(mels, scale, shift, weight, bias, dtype)
    (n_songs, bands, frames), members = mels.shape, len(scale)
    channels = len(bias) // members
    out = mels.new_empty((members, n_songs, bands // 2, frames // 4, channels))
    _vgg_stem(
        _array(mels),
        _array(scale),
        _array(shift),
        _taps(weight, members),
        _array(bias.view(members, channels)),
        np.zeros((bands + 2, frames + 2), _array(mels).dtype),
        _array(bias.new_empty(channels)),
        out.numpy(),
    )
    return out.to(dtype)


@njit(cache=True, nogil=True)
def _vgg_stem(  # type: ignore[no-untyped-def]
    mels: Array,  # IN  (B, M, F) float32 or float64
    scale: Array,  # IN  (K,)
    shift: Array,  # IN  (K,)
    taps: Array,  # IN  (K, 9, C)
    bias: Array,  # IN  (K, C)
    padded: Array,  # TMP (M + 2, F + 2), zeros around
    sums: Array,  # TMP (C,)
    out: Array,  # OUT (K, B, M // 2, F // 4, C)
):
    members, n_songs, rows, columns, _ = out.shape
    for member in range(members):
        for song in range(n_songs):
            padded[1:-1, 1:-1] = scale[member] * mels[song] + shift[member]
            for row in range(rows):
                for column in range(columns):
                    largest = out[member, song, row, column]
                    largest[:] = -np.inf
                    for i in range(2):
                        for j in range(4):
                            corner = padded[2 * row + i :, 4 * column + j :]
                            _convolve(corner, taps[member], bias[member], 3, sums)
                            _keep_largest(largest, sums)
                    _activate(largest, 0)


def resnet_stem(
    mels: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, members: int
) -> Tensor:
    """See :func:`fastmte.ops.resnet_stem`."""
    _checks.resnet_stem(mels, weight, bias, dtype, members)
    n_songs, bands, frames = mels.shape
    channels = len(bias) // members
    out = mels.new_empty((members, n_songs, (bands + 3) // 4, (frames + 3) // 4, channels))
    _resnet_stem(
        _array(mels),
        _taps(weight, members),
        _array(bias.view(members, channels)),
        np.zeros((bands + 6, frames + 6), _array(mels).dtype),
        _array(bias.new_empty((bands + 1) // 2, (frames + 1) // 2, channels)),
        out.numpy(),
    )
    return out.to(dtype)


@njit(cache=True, nogil=True)
def _resnet_stem(  # type: ignore[no-untyped-def]
    mels: Array,  # IN  (B, M, F) float32 or float64
    taps: Array,  # IN  (K, 49, C)
    bias: Array,  # IN  (K, C)
    padded: Array,  # TMP (M + 6, F + 6), zeros around
    sums: Array,  # TMP (ceil(M / 2), ceil(F / 2), C)
    out: Array,  # OUT (K, B, ceil(M / 4), ceil(F / 4), C)
):
    members, n_songs, rows, columns, _ = out.shape
    for member in range(members):
        for song in range(n_songs):
            padded[3:-3, 3:-3] = mels[song]
            for i in range(sums.shape[0]):
                for j in range(sums.shape[1]):
                    corner = padded[2 * i :, 2 * j :]
                    _convolve(corner, taps[member], bias[member], 7, sums[i, j])
            for row in range(rows):
                for column in range(columns):
                    largest = out[member, song, row, column]
                    largest[:] = -np.inf
                    for i in range(max(0, 2 * row - 1), min(sums.shape[0], 2 * row + 2)):
                        for j in range(max(0, 2 * column - 1), min(sums.shape[1], 2 * column + 2)):
                            _keep_largest(largest, sums[i, j])
                    _activate(largest, 2)


@njit(cache=True, nogil=True)
def _convolve(  # type: ignore[no-untyped-def]
    x: Array,  # IN  the input from the kernel's upper left corner on
    taps: Array,  # IN  (side * side, C)
    bias: Array,  # IN  (C,)
    side: int,  # IN
    sums: Array,  # OUT (C,)
):
    for c in range(len(sums)):
        sums[c] = bias[c]
    for i in range(side):
        for j in range(side):
            for c in range(len(sums)):
                sums[c] += taps[i * side + j, c] * x[i, j]


def pool_act(x: Tensor, pool: Sequence[int], activation: str) -> Tensor:
    """See :func:`fastmte.ops.pool_act`."""
    _checks.pool_act(x, pool, activation)
    n_songs, rows, columns, channels = x.shape
    shape = (n_songs, rows // pool[0], columns // pool[1], channels)
    values = x.float() if x.dtype == torch.bfloat16 else x
    out = values.new_empty(shape)
    _pool(
        _array(values),
        pool[0],
        pool[1],
        _ACTIVATIONS[activation],
        out.numpy(),
    )
    return out.to(x.dtype)


@njit(cache=True, nogil=True)
def _pool(  # type: ignore[no-untyped-def]
    x: Array,  # IN  (B, H, W, C) float32 or float64
    window_rows: int,  # IN
    window_columns: int,  # IN
    activation: int,  # IN  a value of _ACTIVATIONS
    out: Array,  # OUT (B, H // window_rows, W // window_columns, C)
):
    n_songs, rows, columns, _ = out.shape
    for song in range(n_songs):
        for row in range(rows):
            for column in range(columns):
                window = x[
                    song,
                    row * window_rows : (row + 1) * window_rows,
                    column * window_columns : (column + 1) * window_columns,
                ]
                largest = out[song, row, column]
                largest[:] = window[0, 0]
                for i in range(window_rows):
                    for j in range(window_columns):
                        _keep_largest(largest, window[i, j])
                _activate(largest, activation)


@njit(cache=True, nogil=True)
def _keep_largest(largest: Array, values: Array) -> None:
    """Take each value that is larger, and NaN, as torch.max_pool2d does."""
    for c in range(len(largest)):
        if values[c] > largest[c] or np.isnan(values[c]):
            largest[c] = values[c]


@njit(cache=True, nogil=True)
def _activate(x: Array, activation: int) -> None:
    if activation == 1:
        return
    for c in range(len(x)):
        if x[c] < 0:
            x[c] = math.expm1(x[c]) if activation == 0 else 0.0


def _taps(weight: Tensor, members: int) -> Array:
    """Return (K, taps, C) of a weight (K * C, 1, side, side)."""
    return _array(weight.reshape(members, len(weight) // members, -1).transpose(1, 2))


def _array(tensor: Tensor) -> Array:
    """Return the contiguous array of a CPU tensor."""
    return tensor.detach().contiguous().numpy()
