"""A partition beside those other methods make of the same labels."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastmte.partition.make import make_partition
from fastmte.partition.partition import Partition
from fastmte.partition.quality import agreement, co_occurrence, judge

MEASURES = ("r2", "balance", "diversity", "dispersion", "together")
"""What is measured of each partition: of ``Quality``, and ``lift`` of ``Together``."""

CHOSEN = "this partition"


@dataclass(frozen=True)
class Compared:
    """What a method's partitions are like, over seeds.

    Attributes:
        method: its name, or `CHOSEN` for the partition itself.
        n_draws: how many seeds, 1 where chance plays no part.
        sizes: of the smallest and the largest part, over all draws.
        mean: each measure's mean over the draws; NaN where it says nothing.
        spread: its standard deviation; 0 for one draw.
        gain: how far the diversity is on the way from the mean random partition (0) to the
            best one any method drew (1); NaN for parts of unequal sizes.
        stability: mean adjusted Rand index of two seeds, NaN for one draw.
    """

    method: str
    n_draws: int
    sizes: tuple[int, int]
    mean: dict[str, float]
    spread: dict[str, float]
    gain: float
    stability: float


class _Way(NamedTuple):
    """A method of `make_partition`, and how much it takes."""

    name: str
    method: str
    options: dict[str, Any]
    most_work: float = math.inf  # n^2 d up to which it is tried
    is_slow: bool = False  # has ten starts of its own
    is_fixed: bool = False  # chance plays no part


_WAYS = (
    _Way("random", "random", {}),
    _Way("linear", "linear", {}, is_fixed=True),
    _Way("k-means", "kmeans", {}, is_slow=True),
    _Way("dk-means, authors' code", "dkmeans-published", {}, 1e9),
    _Way("dk-means", "dkmeans", {}),
    _Way("dk-means, best of 10", "dkmeans", {"n_init": 10}, is_slow=True),
    _Way("dk-means + exchange, variance", "dkmeans", {"refine": "variance"}, 1e10),
    _Way("dk-means + exchange, diversity", "dkmeans", {"refine": "diversity"}, 1e10),
)


def default_draws(n_points: int) -> int:
    """Return how many seeds take seconds, not minutes."""
    return 200 if n_points <= 200 else 20 if n_points <= 1000 else 3


def compare(
    partition: Partition,
    points: np.ndarray,
    pairs: np.ndarray | None = None,
    n_draws: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> tuple[tuple[Compared, ...], tuple[str, ...]]:
    """Measure a partition, and what every method makes of the same labels with as many members.

    Args:
        partition: of L labels among K members.
        points: (L, D) float, finite.
        pairs: (L, L) int, of ``pair_counts``; without it ``together`` is NaN.
        n_draws: seeds of each method, from ``seed`` on; those of ten starts draw a tenth,
            or ten. By default 200 for at most 200 labels, 20 for at most 1,000, and 3 above.
        seed: the first seed.
        progress: called with each method's name before it starts.

    Returns:
        A row for each, the partition first, and what was left out and why, a sentence each.
    """
    points = np.asarray(points, np.float64)
    n_draws = default_draws(len(points)) if n_draws is None else n_draws
    work = len(points) ** 2 * points.shape[1]
    drawn: dict[str, list[np.ndarray]] = {CHOSEN: [partition.member_of_label]}
    missing = []
    for way in _WAYS:
        progress(way.name)
        if work > way.most_work:
            missing.append(f"{way.name}: takes too long for {len(points)} labels")
            continue
        n_seeds = 1 if way.is_fixed else n_draws
        if way.is_slow:
            n_seeds = max(n_draws // 10, min(n_draws, 10))
        try:
            drawn[way.name] = list(_draw(way, partition, points, range(seed, seed + n_seeds)))
        except ValueError as error:  # k-means of fewer places than members
            missing.append(f"{way.name}: {error}")
    return measure(points, drawn, pairs), tuple(missing)


def measure(
    points: np.ndarray,
    drawn: Mapping[str, Sequence[np.ndarray]],
    pairs: np.ndarray | None = None,
) -> tuple[Compared, ...]:
    """Return a row for each method, of the partitions it drew.

    Args:
        points: (L, D) float, finite.
        drawn: of each method (L,) int partitions; ``"random"``, where the gain begins, is one.
        pairs: (L, L) int, of ``pair_counts``; without it ``together`` is NaN.
    """
    rows = {name: _measured(points, pairs, parts) for name, parts in drawn.items()}
    return tuple(_gains(rows))


def _draw(
    way: _Way, partition: Partition, points: np.ndarray, seeds: Sequence[int]
) -> Iterator[np.ndarray]:
    tags, n_members = partition.tags, partition.n_members
    for seed in seeds:
        made = make_partition(
            way.method, tags, points, n_members, seed % 2**32, elbow=False, **way.options
        )
        yield made.member_of_label


class _Measured(NamedTuple):
    values: np.ndarray  # (draws, measures)
    sizes: tuple[int, int]
    stability: float


def _measured(
    points: np.ndarray, pairs: np.ndarray | None, partitions: Sequence[np.ndarray]
) -> _Measured:
    values, sizes = [], []
    for labels in partitions:
        quality = judge(points, labels)
        lift = math.nan if pairs is None else co_occurrence(pairs, labels).lift
        row = [quality.r2, quality.balance, quality.diversity, quality.dispersion, lift]
        values.append(row)
        sizes += [min(quality.sizes), max(quality.sizes)]
    return _Measured(np.array(values), (min(sizes), max(sizes)), agreement(partitions))


def _gains(rows: dict[str, _Measured]) -> Iterator[Compared]:
    """Finish the rows: diversity is compared among partitions of equal sizes only."""
    at = MEASURES.index("diversity")
    is_even = {name: row.sizes[1] - row.sizes[0] <= 1 for name, row in rows.items()}
    low = rows["random"].values.mean(axis=0)[at]
    best = max(row.values[:, at].max() for name, row in rows.items() if is_even[name])
    for name, row in rows.items():
        with np.errstate(invalid="ignore"):  # infinite where no part has two labels
            mean, spread = row.values.mean(axis=0), row.values.std(axis=0)
        gain = (mean[at] - low) / (best - low) if is_even[name] and best > low else math.nan
        yield Compared(
            name,
            len(row.values),
            row.sizes,
            dict(zip(MEASURES, mean.tolist(), strict=True)),
            dict(zip(MEASURES, spread.tolist(), strict=True)),
            float(gain),
            row.stability,
        )
