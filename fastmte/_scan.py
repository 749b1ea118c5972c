"""dkmeans_assign for many points in numba: the scan of ``csrc/cpu/dkmeans_scan.h``.

Rows are the free points by falling distance from a reference, float32, in blocks of 16. Scores
|y|^2 - 2 y.o only narrow the choice; what they cannot tell apart is told apart in float64.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fastmte._filter import GONE, GROUP, KEPT, ROWS, find

Array = NDArray[Any]
_ROUNDING = 2.0**-24  # of a float32 operation


@njit(cache=True, nogil=True)
def start(points: Array, seeds: Array, last_two: bool, labels: Array, order: Array):  # type: ignore[no-untyped-def]
    """Give each member its seeds; return the sums (K, D) and the last points (K,)."""
    n_of_member = 2 if last_two else 1
    n_members = len(seeds) // n_of_member
    sums = np.zeros((n_members, points.shape[1]))
    last = np.empty(n_members, np.int64)
    labels[:] = -1
    for i in range(len(seeds)):
        member = i // n_of_member
        sums[member] += points[seeds[i]]
        last[member] = order[i] = seeds[i]
        labels[seeds[i]] = member
    return sums, last


@njit(cache=True, nogil=True)
def take(points: Array, point: int, member: int, last_two: bool, sums: Array, last: Array):  # type: ignore[no-untyped-def]
    """Let the member's centroid have the point."""
    for d in range(points.shape[1]):
        before = points[last[member], d] if last_two else sums[member, d]
        sums[member, d] = before + points[point, d]
    last[member] = point


@njit(cache=True, nogil=True)
def squared_distance(x: Array, centre: Array) -> float:
    """Return the sum in the order of the features: the one arithmetic that decides."""
    squares = 0.0
    for d in range(len(x)):
        difference = x[d] - centre[d]
        squares += difference * difference
    return squares


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _near_square(x: Array, y: Array) -> float:
    squares = 0.0
    for d in range(len(x)):
        squares += (x[d] - y[d]) * (x[d] - y[d])
    return squares


@njit(cache=True, nogil=True)
def _pack(  # type: ignore[no-untyped-def]
    points: Array,  # IN  (n, D) float64
    live: Array,  # IN  (L,) int64; sorted here
    reference: Array,  # IN  (D,) float64
    scale: float,  # IN
    rows: Array,  # OUT (blocks, D, 16) float32
    squares: Array,  # OUT (blocks, 16) float32
    radius: Array,  # OUT (blocks,) float64
):
    """Sort the live points by their distance from the reference and lay them out."""
    distance = np.empty(len(live))
    for i in range(len(live)):
        distance[i] = np.sqrt(_near_square(points[live[i]], reference)) * scale
    order = np.argsort(-distance)
    live[:] = live[order]
    squares[:] = GONE
    for row in range(len(live)):
        block, lane = row // ROWS, row % ROWS
        square = distance[order[row]] ** 2
        squares[block, lane] = square
        if lane == 0:
            radius[block] = distance[order[row]] * (1 + 4 * _ROUNDING) + 2.0**-125
        for d in range(points.shape[1]):
            rows[block, d, lane] = (points[live[row], d] - reference[d]) * scale


@njit(cache=True, nogil=True)
def _place(  # type: ignore[no-untyped-def]
    sums: Array,  # IN  (K, D) float64
    had: float,  # IN  how many points the member's sum is of
    member: int,  # IN
    reference: Array,  # IN  (D,) float64
    scale: float,  # IN
    centres: Array,  # OUT (K, D) float64; one row, as below
    offsets: Array,  # OUT (groups, D, 4) float32
    norm: Array,  # OUT (K,) float64
):
    """Bring a member's centroid into the offsets."""
    square = 0.0
    n_features = sums.shape[1]
    for d in range(n_features):
        centre = sums[member, d] / had
        offset = (centre - reference[d]) * scale
        square += offset * offset
        centres[member, d] = centre
        offsets[member // GROUP, d, member % GROUP] = -2 * offset
    norm[member] = np.sqrt(square) * (1 + 2.0**-52 * (n_features + 8))


@njit(cache=True, nogil=True)
def _floor(top: float, norm: float, margin: float, tie_part: float) -> float:
    """Return what a row must score that may tie with the one that scores ``top``."""
    return max(top + norm * norm - margin, 0.0) * tie_part - norm * norm - margin


@njit(cache=True, nogil=True)
def _lowest_tied(  # type: ignore[no-untyped-def]
    points: Array, live: Array, rows: Array, n: int, centre: Array, tie_part: float
):
    """Return of n rows as far as the farthest, in float64, the one with the lowest point."""
    if n == 1:
        return rows[0]
    largest = 0.0
    for i in range(n):
        largest = max(largest, squared_distance(points[live[rows[i]]], centre))
    lowest = -1
    for i in range(n):
        if lowest >= 0 and live[rows[i]] > live[lowest]:
            continue
        if squared_distance(points[live[rows[i]]], centre) >= largest * tie_part:
            lowest = rows[i]
    return lowest


@njit(cache=True, nogil=True)
def _tied(  # type: ignore[no-untyped-def]
    squares: Array,  # IN  (blocks, 16) float32
    best: Array,  # IN  (16,) float32, falling
    best_row: Array,  # IN  (16,) int64
    n_best: int,  # IN
    n_kept: int,  # IN
    norm: float,  # IN
    margin: float,  # IN
    tie_part: float,  # IN
    tied: Array,  # OUT rows that may be the farthest, or tie with it
):
    """Return how many rows of a list may be the farthest; 0 where others may be, too."""
    n_tied, floor = 0, 0.0
    for i in range(n_best):
        row = best_row[i]
        if squares[row // ROWS, row % ROWS] == GONE:
            continue
        if n_tied == 0:
            floor = _floor(best[i], norm, margin, tie_part)
        if best[i] < floor:
            break
        tied[n_tied] = row
        n_tied += 1
    is_all = n_tied > 0 and (n_best < n_kept or best[n_best - 1] < floor)
    return n_tied if is_all else 0


@njit(cache=True, nogil=True)
def _tied_of_all(  # type: ignore[no-untyped-def]
    points: Array, live: Array, squares: Array, first: int, centre: Array, tie_part: float,
    tied: Array,
):  # fmt: skip
    """Fill ``tied`` with all live rows that may be the farthest or tie with it; return their n."""
    n_tied, floor = 0, -1.0
    slack = 1 - 2.0**-50 * (len(centre) + 8)  # this sum and the one that decides differ by less
    for row in range(first * ROWS, len(live)):
        if squares[row // ROWS, row % ROWS] == GONE:
            continue
        distance = _near_square(points[live[row]], centre)
        if distance >= floor:
            floor = max(floor, distance * tie_part * slack)
            tied[n_tied] = row
            n_tied += 1
    return n_tied


@njit(cache=True, nogil=True)
def _move_reference(  # type: ignore[no-untyped-def]
    points: Array, live: Array, sums: Array, size: float, uses_rows: bool, reference: Array
):
    """Set the mean of the centroids, or of the live points where that is the better one."""
    n_features = points.shape[1]
    mean = np.zeros(n_features)
    for point in live:
        for d in range(n_features):
            mean[d] += points[point, d]
    for d in range(n_features):
        mean[d] /= len(live)
    if not uses_rows:
        reference[:] = 0.0
        for member in range(len(sums)):
            for d in range(n_features):
                reference[d] += sums[member, d] / size / len(sums)
        total = 0.0
        for point in live:
            total += _near_square(points[point], reference)
        if _near_square(mean, reference) * len(live) < 0.9 * total:
            return
    reference[:] = mean


@njit(cache=True, nogil=True)
def _scale(  # type: ignore[no-untyped-def]
    points: Array, live: Array, sums: Array, size: float, reference: Array
):
    """Return the power of two that brings the rows to about 1, and the offsets into range."""
    largest = 0.0
    for point in live:
        largest = max(largest, _near_square(points[point], reference))
    largest = np.sqrt(largest)
    for member in range(len(sums)):
        norm = np.sqrt(_near_square(sums[member] / size, reference))
        largest = max(largest, norm / 2.0**20)
    if largest == 0.0:
        return 1.0
    return 2.0 ** min(-np.ceil(np.log2(largest)), 1000.0)


@njit(cache=True, nogil=True)
def _would_be_nearer(offsets: Array, norm: Array, n_features: int) -> bool:
    """Return whether the mean of the centroids as the reference would shorten the offsets."""
    squares = square = 0.0
    for member in range(len(norm)):
        squares += norm[member] ** 2
    for d in range(n_features):
        mean = 0.0
        for member in range(len(norm)):
            mean += offsets[member // GROUP, d, member % GROUP] / (2.0 * len(norm))
        square += mean * mean
    return square * len(norm) > 0.3 * squares


@njit(cache=True, nogil=True)
def _margin(radius: float, norm: float, n_features: int) -> float:
    """Return a bound of a score's rounding; see ``Scan::set_margin`` in C++."""
    product, far = 2 * radius * norm, radius + norm
    return (
        _ROUNDING * ((n_features + 8) * product + 4 * (radius * radius + product))
        + 2.0**-125 * (n_features + 8) * (far + 1)
        + 2.0**-50 * (n_features + 8) * far * far
    )


@njit(cache=True, nogil=True)
def _free_rows(equal: Array, labels: Array):  # type: ignore[no-untyped-def]
    """Return of each set of equal points the lowest free one."""
    is_first = np.ones(len(equal), np.bool_)
    for point in equal:
        if point >= 0:
            is_first[point] = False
    live = np.flatnonzero(is_first)
    n_live = 0
    for first in live:
        point = _next_free(first, equal, labels)
        if point >= 0:
            live[n_live] = point
            n_live += 1
    return live[:n_live]


@njit(cache=True, nogil=True)
def _next_free(point: int, equal: Array, labels: Array) -> int:
    while point >= 0 and labels[point] >= 0:
        point = equal[point]
    return point


@njit(cache=True, nogil=True)
def _still_live(live: Array, squares: Array, first: int):  # type: ignore[no-untyped-def]
    n_live = 0
    for row in range(first * ROWS, len(live)):
        if squares[row // ROWS, row % ROWS] != GONE:
            live[n_live] = live[row]
            n_live += 1
    return live[:n_live]


@njit(cache=True, nogil=True)
def deal(  # type: ignore[no-untyped-def]
    points: Array,  # IN  (n, D) float64, about 1
    seeds: Array,  # IN  (K,) int64, (2 K,) with last_two
    tie_part: float,  # IN
    last_two: bool,  # IN
    labels: Array,  # OUT (n,) int64
    order: Array,  # OUT (n,) int64
    equal: Array,  # IN  (n,) int64, the next point that equals this one, or -1
):
    """Deal the points in rounds of one turn a member; return how many distances were computed."""
    n_features = points.shape[1]
    sums, last = start(points, seeds, last_two, labels, order)
    n_members = len(sums)
    n_groups = (n_members + GROUP - 1) // GROUP
    offsets = np.zeros((n_groups, n_features, GROUP), np.float32)
    norm, margin = np.zeros(n_members), np.zeros(n_members)
    centres = np.empty_like(sums)
    best = np.empty((n_members, KEPT), np.float32)
    best_row = np.empty((n_members, KEPT), np.int64)
    n_kept = 4 if n_members <= 4 else 8 if n_members <= 8 else KEPT
    least = np.empty(n_groups * GROUP, np.float32)
    n_best, active = np.empty(n_members, np.int64), np.empty(n_groups, np.int64)
    scores, reference = np.empty((GROUP, ROWS), np.float32), np.zeros(n_features)
    live = _free_rows(equal, labels)
    n_blocks, n_live = (len(live) + ROWS - 1) // ROWS, len(live)
    rows = np.zeros((n_blocks, n_features, ROWS), np.float32)
    squares, radius = np.empty((n_blocks, ROWS), np.float32), np.empty(n_blocks)
    tied = np.empty(n_live, np.int64)

    turn, n_turns, scale = 0, len(points) - len(seeds), 1.0
    n_scores = scores_at_check = first = 0
    is_packed = False
    while turn < n_turns:
        size = 2.0 if last_two else 1.0 + turn // n_members
        span = len(live) - first * ROWS
        must_pack = not is_packed or norm.max() > 2.0**60 or (span > 64 and 2 * span > 3 * n_live)
        if is_packed and span > 64 and n_scores - scores_at_check > 250 * n_live:
            scores_at_check = n_scores
            must_pack = must_pack or _would_be_nearer(offsets, norm, n_features)
        if must_pack:
            if is_packed:
                live = _still_live(live, squares, first)
                n_blocks = (len(live) + ROWS - 1) // ROWS
                rows, squares, radius = rows[:n_blocks], squares[:n_blocks], radius[:n_blocks]
            _move_reference(points, live, sums, size, not is_packed or last_two, reference)
            scale = _scale(points, live, sums, size, reference)
            _pack(points, live, reference, scale, rows, squares, radius)
            for member in range(n_members):
                had = 2.0 if last_two else 1.0 + (turn + member) // n_members
                _place(sums, had, member, reference, scale, centres, offsets, norm)
            first, is_packed, scores_at_check = 0, True, n_scores
        while squares[first].max() == GONE:
            first += 1
        n = min(n_members, n_turns - turn)
        for member in range(n):
            margin[member] = _margin(radius[first], norm[member], n_features)
        n_scores += find(
            rows, squares, radius, first, offsets, norm, margin, n, n_kept, best, best_row,
            n_best, least, scores, active,
        )  # fmt: skip
        for member in range(n):
            centre = centres[member]
            n_tied = _tied(
                squares, best[member], best_row[member], n_best[member], n_kept, norm[member],
                margin[member], tie_part, tied,
            )  # fmt: skip
            if n_tied == 0:
                n_tied = _tied_of_all(points, live, squares, first, centre, tie_part, tied)
                n_scores += n_tied
            row = _lowest_tied(points, live, tied, n_tied, centre, tie_part)
            point = live[row]
            labels[point] = member
            order[len(seeds) + turn] = point
            turn += 1
            take(points, point, member, last_two, sums, last)
            live[row] = _next_free(point, equal, labels)
            if live[row] < 0:
                squares[row // ROWS, row % ROWS] = GONE
                n_live -= 1
            had = 2.0 if last_two else size + 1
            _place(sums, had, member, reference, scale, centres, offsets, norm)
    return n_scores
