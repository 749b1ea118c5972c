"""dkmeans_assign for many points in numba: the scan of ``csrc/cpu/dkmeans_scan.h``.

Rows are the free points by falling distance from a reference, float32, in blocks of 16. Scores
|y|^2 - 2 y.o only narrow the choice; what they cannot tell apart is told apart in float64.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
_ROWS = 16  # side by side in a block
_GROUP = 4  # centroids side by side in a group
_KEPT = 16  # rows kept of a centroid
_ROUNDING = 2.0**-24
_GONE = np.float32(-np.inf)


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


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _score(rows: Array, squares: Array, offsets: Array, scores: Array):  # type: ignore[no-untyped-def]
    """Score a block (D, 16) for a group of offsets (D, 4), which hold -2 o: (4, 16)."""
    a, b, c, e = scores[0], scores[1], scores[2], scores[3]
    for i in range(_ROWS):
        a[i] = b[i] = c[i] = e[i] = np.float32(0)
    n = rows.shape[0]
    for d in range(0, n - n % 2, 2):  # two at a time: half the loads and stores of the sums
        for i in range(_ROWS):
            x, y = rows[d, i], rows[d + 1, i]
            a[i] += x * offsets[d, 0] + y * offsets[d + 1, 0]
            b[i] += x * offsets[d, 1] + y * offsets[d + 1, 1]
            c[i] += x * offsets[d, 2] + y * offsets[d + 1, 2]
            e[i] += x * offsets[d, 3] + y * offsets[d + 1, 3]
    if n % 2:
        for i in range(_ROWS):
            x = rows[n - 1, i]
            a[i] += x * offsets[n - 1, 0]
            b[i] += x * offsets[n - 1, 1]
            c[i] += x * offsets[n - 1, 2]
            e[i] += x * offsets[n - 1, 3]
    for i in range(_ROWS):
        a[i] += squares[i]
        b[i] += squares[i]
        c[i] += squares[i]
        e[i] += squares[i]


@njit(cache=True, nogil=True)
def _keep(scores: Array, first: int, best: Array, best_row: Array, n_best: int) -> int:
    """Insert a block's scores (16,) into the falling list of a centroid; return its length."""
    largest = _GONE
    for i in range(_ROWS):
        largest = max(largest, scores[i])
    if n_best == _KEPT and not largest > best[_KEPT - 1]:
        return n_best
    for i in range(_ROWS):
        score = scores[i]
        if score == _GONE or (n_best == _KEPT and not score > best[_KEPT - 1]):
            continue
        at = min(n_best, _KEPT - 1)
        n_best = min(n_best + 1, _KEPT)
        while at > 0 and best[at - 1] < score:
            best[at] = best[at - 1]
            best_row[at] = best_row[at - 1]
            at -= 1
        best[at] = score
        best_row[at] = first + i
    return n_best


@njit(cache=True, nogil=True)
def _find(  # type: ignore[no-untyped-def]
    rows: Array,  # IN  (blocks, D, 16) float32
    squares: Array,  # IN  (blocks, 16) float32
    radius: Array,  # IN  (blocks,) float64, at least that of every row from here on
    first: int,  # IN  the first block
    offsets: Array,  # IN  (groups, D, 4) float32
    norm: Array,  # IN  (K,) float64
    margin: Array,  # IN  (K,) float64
    n: int,  # IN  how many centroids
    best: Array,  # OUT (K, 16) float32, falling
    best_row: Array,  # OUT (K, 16) int64
    n_best: Array,  # OUT (K,) int64
    scores: Array,  # TMP (4, 16) float32
    active: Array,  # TMP (groups,) int64
):
    """Find the farthest rows of n centroids; return how many scores that took."""
    n_active = (n + _GROUP - 1) // _GROUP
    n_scores = 0
    n_best[:] = 0
    for group in range(n_active):
        active[group] = group
    for block in range(first, len(radius)):
        still = 0
        for at in range(n_active):
            begin = active[at] * _GROUP
            end = min(begin + _GROUP, n)
            can = False
            for k in range(begin, end):
                bound = radius[block] * (radius[block] + 2 * norm[k]) + margin[k]
                can = can or n_best[k] < _KEPT or bound >= best[k, _KEPT - 1]
            if not can:
                continue
            active[still] = active[at]
            still += 1
            _score(rows[block], squares[block], offsets[begin // _GROUP], scores)
            n_scores += (end - begin) * _ROWS
            for k in range(begin, end):
                row = block * _ROWS
                n_best[k] = _keep(scores[k - begin], row, best[k], best_row[k], n_best[k])
        n_active = still
        if n_active == 0:
            break
    return n_scores


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
    squares[:] = _GONE
    for row in range(len(live)):
        block, lane = row // _ROWS, row % _ROWS
        square = distance[order[row]] ** 2
        squares[block, lane] = square
        if lane == 0:
            radius[block] = distance[order[row]] * (1 + 4 * _ROUNDING) + 2.0**-125
        for d in range(points.shape[1]):
            rows[block, d, lane] = (points[live[row], d] - reference[d]) * scale


@njit(cache=True, nogil=True)
def _place(  # type: ignore[no-untyped-def]
    centre: Array, reference: Array, scale: float, member: int, offsets: Array, norm: Array
):
    """Bring a member's centroid into the offsets."""
    square = 0.0
    for d in range(len(centre)):
        offset = (centre[d] - reference[d]) * scale
        square += offset * offset
        offsets[member // _GROUP, d, member % _GROUP] = -2 * offset
    norm[member] = np.sqrt(square) * (1 + 2.0**-52 * (len(centre) + 8))


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
    norm: float,  # IN
    margin: float,  # IN
    tie_part: float,  # IN
    tied: Array,  # OUT rows that may be the farthest, or tie with it
):
    """Return how many rows of a list may be the farthest; 0 where others may be, too."""
    n_tied, floor = 0, 0.0
    for i in range(n_best):
        row = best_row[i]
        if squares[row // _ROWS, row % _ROWS] == _GONE:
            continue
        if n_tied == 0:
            floor = _floor(best[i], norm, margin, tie_part)
        if best[i] < floor:
            break
        tied[n_tied] = row
        n_tied += 1
    is_all = n_tied > 0 and (n_best < _KEPT or best[n_best - 1] < floor)
    return n_tied if is_all else 0


@njit(cache=True, nogil=True)
def _tied_of_all(  # type: ignore[no-untyped-def]
    points: Array, live: Array, squares: Array, first: int, centre: Array, tie_part: float,
    tied: Array,
):  # fmt: skip
    """Fill ``tied`` with all live rows that may be the farthest or tie with it; return their n."""
    n_tied, floor = 0, -1.0
    slack = 1 - 2.0**-50 * (len(centre) + 8)  # this sum and the one that decides differ by less
    for row in range(first * _ROWS, len(live)):
        if squares[row // _ROWS, row % _ROWS] == _GONE:
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
            mean += offsets[member // _GROUP, d, member % _GROUP] / (2.0 * len(norm))
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
    for row in range(first * _ROWS, len(live)):
        if squares[row // _ROWS, row % _ROWS] != _GONE:
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
    n_groups = (n_members + _GROUP - 1) // _GROUP
    offsets = np.zeros((n_groups, n_features, _GROUP), np.float32)
    norm, margin = np.zeros(n_members), np.zeros(n_members)
    best = np.empty((n_members, _KEPT), np.float32)
    best_row = np.empty((n_members, _KEPT), np.int64)
    n_best, active = np.empty(n_members, np.int64), np.empty(n_groups, np.int64)
    scores, reference = np.empty((_GROUP, _ROWS), np.float32), np.zeros(n_features)
    live = _free_rows(equal, labels)
    n_blocks, n_live = (len(live) + _ROWS - 1) // _ROWS, len(live)
    rows = np.zeros((n_blocks, n_features, _ROWS), np.float32)
    squares, radius = np.empty((n_blocks, _ROWS), np.float32), np.empty(n_blocks)
    tied = np.empty(n_live, np.int64)

    turn, n_turns, scale = 0, len(points) - len(seeds), 1.0
    n_scores = scores_at_check = first = 0
    is_packed = False
    while turn < n_turns:
        size = 2.0 if last_two else 1.0 + turn // n_members
        span = len(live) - first * _ROWS
        must_pack = not is_packed or norm.max() > 2.0**60 or (span > 64 and 2 * span > 3 * n_live)
        if is_packed and span > 64 and n_scores - scores_at_check > 250 * n_live:
            scores_at_check = n_scores
            must_pack = must_pack or _would_be_nearer(offsets, norm, n_features)
        if must_pack:
            if is_packed:
                live = _still_live(live, squares, first)
                n_blocks = (len(live) + _ROWS - 1) // _ROWS
                rows, squares, radius = rows[:n_blocks], squares[:n_blocks], radius[:n_blocks]
            _move_reference(points, live, sums, size, not is_packed or last_two, reference)
            scale = _scale(points, live, sums, size, reference)
            _pack(points, live, reference, scale, rows, squares, radius)
            for member in range(n_members):
                had = 2.0 if last_two else 1.0 + (turn + member) // n_members
                _place(sums[member] / had, reference, scale, member, offsets, norm)
            first, is_packed, scores_at_check = 0, True, n_scores
        while squares[first].max() == _GONE:
            first += 1
        n = min(n_members, n_turns - turn)
        for member in range(n):
            margin[member] = _margin(radius[first], norm[member], n_features)
        n_scores += _find(
            rows, squares, radius, first, offsets, norm, margin, n, best, best_row, n_best,
            scores, active,
        )  # fmt: skip
        for member in range(n):
            centre = sums[member] / size
            n_tied = _tied(
                squares, best[member], best_row[member], n_best[member], norm[member],
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
                squares[row // _ROWS, row % _ROWS] = _GONE
                n_live -= 1
            had = 2.0 if last_two else size + 1
            _place(sums[member] / had, reference, scale, member, offsets, norm)
    return n_scores
