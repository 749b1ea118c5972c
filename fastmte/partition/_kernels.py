"""Exchange of points between the parts of a partition, in loops over arrays.

Kernels take arrays, marked IN, INOUT, OUT or TMP. Serial, and without ``fastmath``: the same
bits on every machine.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]


@njit(cache=True, nogil=True)
def exchange(  # type: ignore[no-untyped-def]
    columns: Array,  # IN  (d, n) float64
    is_squared: bool,
    weights: Array,  # IN  (K,) float64, what a distance counts in each part
    tie_tol: float,
    labels: Array,  # INOUT (n,) int64
    sums: Array,  # TMP (K, n) float64, distances of each point to all points of each part
    row: Array,  # TMP (n,) float64
    other: Array,  # TMP (n,) float64
    gains: Array,  # TMP (n,) float64
) -> int:
    """Swap points until no swap raises the weighted sum of distances within the parts.

    Each point in turn swaps with the point that raises it most; of equal ones, by ``tie_tol``
    times the largest sum, the first. Returns the number of swaps. O(n^2 d) a round.
    """
    n_points = len(labels)
    sums[:] = 0.0
    for point in range(n_points):
        _distances(columns, is_squared, point, row)
        sums[labels[point]] += row
    # Sums keep the rounding errors of all swaps; a smaller gain could be one of them.
    least = tie_tol * (sums.max() * weights.max())
    n_swaps, since = 0, 0
    while since < n_points:
        for point in range(n_points):
            since += 1
            here = labels[point]
            _distances(columns, is_squared, point, row)
            best = 0.0
            for j in range(n_points):
                there = labels[j]
                gain = 0.0
                if there != here:
                    gain = weights[here] * (sums[here, j] - sums[here, point] - row[j])
                    gain += weights[there] * (sums[there, point] - sums[there, j] - row[j])
                gains[j] = gain
                best = max(best, gain)
            if best > least:
                partner = 0
                while gains[partner] < best - least:
                    partner += 1
                there = labels[partner]
                _distances(columns, is_squared, partner, other)
                sums[here] += other - row
                sums[there] += row - other
                labels[point], labels[partner] = there, here
                n_swaps += 1
                since = 0
            if since >= n_points:
                break
    return n_swaps


@njit(cache=True, nogil=True)
def _distances(  # type: ignore[no-untyped-def]
    columns: Array,  # IN  (d, n) float64
    is_squared: bool,
    point: int,
    row: Array,  # OUT (n,) float64
):
    """Measure from one point to all; the sum over features in their order for each."""
    row[:] = 0.0
    for feature in range(len(columns)):
        column = columns[feature]
        here = column[point]
        for j in range(len(row)):
            difference = column[j] - here
            row[j] += difference * difference
    if not is_squared:
        for j in range(len(row)):
            row[j] = np.sqrt(row[j])
