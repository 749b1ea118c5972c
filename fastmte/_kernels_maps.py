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

from fastmte import _checks

Array = NDArray[Any]

_ACTIVATIONS = {"elu": 0, "none": 1, "relu": 2}


def pool_act(x: Tensor, pool: Sequence[int], activation: str) -> Tensor:
    """See :func:`fastmte.ops.pool_act`."""
    _checks.pool_act(x, pool, activation)
    n_songs, rows, columns, channels = x.shape
    shape = (n_songs, rows // pool[0], columns // pool[1], channels)
    values = x.float() if x.dtype == torch.bfloat16 else x
    out = values.new_empty(shape)
    _pool(
        values.detach().contiguous().numpy(),
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
