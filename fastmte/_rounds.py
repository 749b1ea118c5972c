"""dkmeans_assign in numpy: the plain tier's, with one matrix product for a round of turns.

Within a round no member's centroid depends on another's choice. A float64 product narrows the
choice to what its rounding cannot tell apart; those few are told apart as the reference does.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastmte import _checks
from fastmte.reference import unit_points

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
_EPSILON = 2.0**-52


def dkmeans_assign(
    points: Tensor, seeds: Tensor, tie_tol: float, last_two: bool = False
) -> tuple[Tensor, Tensor]:
    """See :func:`fastmte.ops.dkmeans_assign`. Tensors of other devices are worked on by the CPU."""
    return dkmeans_assign_counted(points, seeds, tie_tol, last_two)[:2]


def dkmeans_assign_counted(
    points: Tensor, seeds: Tensor, tie_tol: float, last_two: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`dkmeans_assign`; the third is how many distances were computed, (R,)."""
    _checks.dkmeans_assign(points, seeds, tie_tol, last_two)
    unit = unit_points(points.detach().cpu()).numpy()
    equal = equal_points(unit)
    rows = seeds.detach().cpu().reshape(-1, seeds.size(-1)).numpy()
    runs = [_Deal(unit, equal, row, 1 - tie_tol, last_two).run() for row in rows]
    labels = np.array([run[0] for run in runs], np.int64).reshape(*seeds.shape[:-1], len(unit))
    order = np.array([run[1] for run in runs], np.int64).reshape(labels.shape)
    counts = np.array([run[2] for run in runs], np.int64).reshape(seeds.shape[:-1])
    device = seeds.device
    return (
        torch.from_numpy(labels).to(device),
        torch.from_numpy(order).to(device),
        torch.from_numpy(counts).to(device),
    )


def equal_points(points: Floats) -> Integers:
    """Return for each point the next one with the same features, or -1: (n,) int64."""
    following = np.full(len(points), -1, np.int64)
    last: dict[bytes, int] = {}
    for i, point in enumerate(points):
        key = point.tobytes()
        if key in last:
            following[last[key]] = i
        last[key] = i
    return following


class _Deal:
    """One run over the points (n, D)."""

    def __init__(
        self, points: Floats, equal: Integers, seeds: Integers, tie_part: float, last_two: bool
    ) -> None:
        self.points, self.equal, self.seeds = points, equal, seeds
        self.tie_part, self.last_two = tie_part, last_two
        n_of_member = 2 if last_two else 1
        self.n_members = len(seeds) // n_of_member
        self.labels = np.full(len(points), -1, np.int64)
        self.labels[seeds] = np.arange(len(seeds)) // n_of_member
        self.last = seeds[n_of_member - 1 :: n_of_member].copy()
        self.sums = points[seeds[::n_of_member]]
        if last_two:
            self.sums = self.sums + points[self.last]
        self.size = n_of_member
        self.order = seeds.tolist()
        self.n_scores = 0

        is_first = np.ones(len(points), bool)
        is_first[equal[equal >= 0]] = False
        free = [self._next_free(point) for point in np.flatnonzero(is_first).tolist()]
        self.free = np.array([point for point in free if point >= 0], np.int64)
        self.middle = points[self.free].mean(axis=0) if len(self.free) else 0.0
        self._pack()

    def run(self) -> tuple[Integers, list[int], int]:
        """Return the member of each point, the order, and how many distances were computed."""
        while len(self.order) < len(self.points):
            if 3 * np.count_nonzero(self.free >= 0) < 2 * len(self.free):
                self.free = self.free[self.free >= 0]
                self._pack()
            self._round()
        return self.labels, self.order, self.n_scores

    def _next_free(self, point: int) -> int:
        while point >= 0 and self.labels[point] >= 0:
            point = self.equal[point]
        return point

    def _pack(self) -> None:
        """Keep the free points around the middle, by which products are accurate."""
        self.rows = self.points[self.free] - self.middle
        self.squares = np.einsum("nd,nd->n", self.rows, self.rows)

    def _round(self) -> None:
        n = min(self.n_members, len(self.points) - len(self.order))
        centres = self.sums[:n] / self.size
        offsets = centres - self.middle
        scores = self.squares - (2 * offsets) @ self.rows.T  # (n, free): squared distance - |o|^2
        self.n_scores += scores.size
        square = np.einsum("kd,kd->k", offsets, offsets)
        scale = (np.sqrt(square) + np.sqrt(self.squares.max(initial=0.0))) ** 2
        margin = 4 * _EPSILON * (self.points.shape[1] + 8) * scale
        best = scores.argmax(axis=1)
        top = scores[np.arange(n), best]
        n_near = np.count_nonzero(scores >= self._floor(top, square, margin)[:, None], axis=1)
        chosen = []
        for member in range(n):
            row = int(best[member])
            if n_near[member] > 1 or self.free[row] < 0:
                score = np.where(self.free >= 0, scores[member], -np.inf)
                floor = self._floor(score.max(), square[member], margin[member])
                row = self._lowest_tied(np.flatnonzero(score >= floor), centres[member])
            chosen.append(self._take(row, member))
        self._move(chosen)

    def _floor(self, top: Floats, square: Floats, margin: Floats) -> Floats:
        """Return the least score of a row that may tie with the row that scores ``top``."""
        return np.maximum(top + square - margin, 0.0) * self.tie_part - square - margin

    def _lowest_tied(self, rows: Integers, centre: Floats) -> int:
        """Return of the rows as far as the farthest, in float64, the one with the lowest index."""
        if len(rows) == 1:
            return int(rows[0])
        squares = np.square(self.points[self.free[rows]] - centre)
        distance = np.add.accumulate(squares, axis=1)[:, -1]  # in the order of the features
        tied = rows[distance >= distance.max() * self.tie_part]
        return int(tied[self.free[tied].argmin()])

    def _take(self, row: int, member: int) -> int:
        point = int(self.free[row])
        self.labels[point] = member
        self.order.append(point)
        self.free[row] = self._next_free(point)
        if self.free[row] < 0:
            self.squares[row] = -np.inf
        return point

    def _move(self, chosen: list[int]) -> None:
        """Give each member the centroid that its choice makes."""
        taken, n = self.points[chosen], len(chosen)
        if self.last_two:
            self.sums[:n] = self.points[self.last[:n]] + taken
            self.last[:n] = chosen
        else:
            self.sums[:n] += taken
            self.size += 1
