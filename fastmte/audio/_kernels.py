"""Numba kernel of the sinc resampler."""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def _add(
    total: NDArray[np.float64],  # IN, OUT (B,)
    tap: float,  # IN
    x: NDArray[np.float32],  # IN (B,)
) -> None:
    """Add ``tap * x`` to ``total``, side by side: vector instructions, no sum reordered."""
    for b in range(total.shape[0]):
        total[b] += tap * x[b]


@njit(cache=True, nogil=True)
def _add_both(
    near: NDArray[np.float64],  # IN, OUT (B,)
    tap: float,  # IN
    far: NDArray[np.float64],  # IN, OUT (B,)
    slope: float,  # IN
    x: NDArray[np.float32],  # IN (B,)
) -> None:
    """Add ``tap * x`` to ``near`` and ``slope * x`` to ``far``."""
    for b in range(near.shape[0]):
        near[b] += tap * x[b]
        far[b] += slope * x[b]


@njit(cache=True, nogil=True)
def polyphase(
    rows: NDArray[np.float32],  # IN (M, W): input sample q * M + m of the chunk at [m, q]
    base: NDArray[np.int64],  # IN (P,): first input sample, of the chunk, a phase's filter covers
    taps: NDArray[np.float64],  # TMP (2, J)
    first: NDArray[np.float64],  # IN (P,): where the filter is centred, in taps, for the first row
    drift: float,  # IN: how far that moves from the first row to the last of the chunk
    along: NDArray[np.float64],  # IN (B,): place of each row in the chunk, 0 to 1
    cut: float,  # IN: steps of the filter table a fraction of an input sample is
    spacing: float,  # IN: steps of the filter table between two taps
    table: NDArray[np.float32],  # IN (H,): half of the symmetric filter
    out: NDArray[np.float64],  # OUT (P, B)
) -> None:
    """Write output sample p of every row b: a filter per phase, the same for all rows.

    The innermost loop walks the rows, which lie side by side in memory.
    """
    n_rows = rows.shape[0]
    n_taps = taps.shape[1]
    n_along = along.shape[0]
    near = np.empty(n_along)
    far = np.empty(n_along)
    for p in range(base.shape[0]):
        for end in range(2):
            centre = first[p] + end * drift
            whole = np.floor(centre)
            for j in range(n_taps):
                at = abs((j - whole) * spacing - (centre - whole) * cut)
                step = int(at)
                value = 0.0
                if step + 1 < table.shape[0]:
                    value = table[step] + (at - step) * (table[step + 1] - table[step])
                taps[end, j] = value
        near[:] = 0.0
        far[:] = 0.0
        for j in range(n_taps):
            q = (base[p] + j) // n_rows
            x = rows[(base[p] + j) % n_rows, q : q + n_along]
            if drift == 0.0:
                _add(near, taps[0, j], x)
            else:
                _add_both(near, taps[0, j], far, taps[1, j] - taps[0, j], x)
        for b in range(n_along):
            out[p, b] = near[b] + along[b] * far[b]
