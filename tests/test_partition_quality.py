"""Measures of a partition, and exchanges that improve it, beside plain loops."""

import math
from itertools import combinations

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.metrics import adjusted_rand_score

from fastmte.partition import (
    DKMeans,
    agreement,
    co_occurrence,
    judge,
    pair_counts,
    refine,
    stability,
)
from fastmte.partition.quality import _pairs


def by_hand(points, labels):
    """Every measure, by its definition."""
    mean = points.mean(axis=0)
    parts = [points[labels == part] for part in range(labels.max() + 1)]
    between = sum(len(part) * ((part.mean(axis=0) - mean) ** 2).sum() for part in parts)
    total = ((points - mean) ** 2).sum()
    distances = [np.linalg.norm(a - b) for part in parts for a, b in combinations(part, 2)]
    return {
        "sizes": tuple(len(part) for part in parts),
        "between_ss": between,
        "r2": between / total,
        "balance": (len(points) - 1) * between / total / (len(parts) - 1),
        "diversity": sum(distances),
        "dispersion": min(distances, default=math.inf),
    }


@pytest.mark.parametrize(("n", "d", "k"), [(4, 1, 2), (23, 3, 4), (56, 22, 4), (60, 200, 16)])
def test_measures_are_their_definitions(n, d, k, rng):
    points = rng.normal(3, 2, size=(n, d))
    for labels in (rng.permutation(n) % k, np.r_[np.arange(k), rng.integers(k, size=n - k)]):
        for name, value in by_hand(points, labels).items():
            assert getattr(judge(points, labels), name) == pytest.approx(value, rel=1e-9), name


def test_measures_by_hand():
    # Parts {0, 4} and {1, 3}: both have the mean 2. Parts {0, 1} and {3, 4}: 0.5 and 3.5.
    points = np.array([[0.0], [1.0], [3.0], [4.0]])
    quality = judge(points, np.array([0, 1, 1, 0]))
    assert (quality.between_ss, quality.r2, quality.balance) == (0, 0, 0)
    assert (quality.diversity, quality.dispersion) == (6, 2)
    quality = judge(points, np.array([0, 0, 1, 1]))
    assert (quality.between_ss, quality.r2, quality.balance) == (9, 0.9, 2.7)
    assert (quality.diversity, quality.dispersion, quality.sizes) == (2, 1, (2, 2))


def test_measures_at_the_ends():
    points = np.arange(6.0).reshape(3, 2)
    apart = judge(points, np.arange(3))
    assert (apart.diversity, apart.dispersion, apart.r2) == (0, math.inf, 1)
    assert judge(points, np.zeros(3, int)).balance == 0
    equal = judge(np.ones((4, 2)), np.array([0, 1, 0, 1]))
    assert (equal.r2, equal.balance, equal.dispersion) == (0, 0, 0)
    assert judge(np.ones((1, 1)), np.zeros(1, int)).sizes == (1,)


@pytest.mark.parametrize("scale", [1e-300, 1e-150, 1e150, 1e300])
def test_ratios_do_not_see_the_scale(scale, rng):
    points, labels = rng.normal(size=(20, 3)), np.arange(20) % 4
    plain, scaled = judge(points, labels), judge(points * scale, labels)
    assert scaled.balance == pytest.approx(plain.balance)
    assert scaled.diversity == pytest.approx(plain.diversity * scale)
    far = judge(points + 1e9, labels)
    assert far.balance == pytest.approx(plain.balance, rel=1e-5)


def test_pairs_in_several_blocks(rng, monkeypatch):
    points = rng.normal(size=(50, 2))
    whole = _pairs(points)
    monkeypatch.setattr("fastmte.partition.quality._AT_ONCE", 170)
    total, least = _pairs(points)
    assert total == pytest.approx(whole[0]) and least == whole[1]


@pytest.mark.parametrize(
    ("points", "labels", "text"),
    [
        (np.zeros((3, 2)), [0, 1], r"labels must be 3 integers, one a point, got shape \(2,\)"),
        (np.zeros((3, 2)), [0.0, 1, 1], "labels must be 3 integers"),
        (np.zeros((3, 2)), [0, 2, 2], r"labels must use 0, 1, ... each at least once, got \[0, 2"),
        (np.full((3, 2), np.nan), [0, 1, 1], "points must be a finite matrix with a row"),
        (np.zeros((0, 2)), [], "points must be a finite matrix with a row"),
        (np.zeros(3), [0, 1, 1], "points must be a finite matrix with a row"),
    ],
)
def test_no_partition_of_the_points(points, labels, text):
    with pytest.raises(ValueError, match=text):
        judge(points, np.array(labels))
    with pytest.raises(ValueError, match=text):
        refine(points, np.array(labels), "variance")


def test_agreement_is_scikit_learns(rng):
    partitions = [rng.integers(k, size=40) for k in (1, 2, 4, 4, 9, 40)] + [np.arange(40)] * 2
    pairs = combinations(partitions, 2)
    assert agreement(partitions) == pytest.approx(
        np.mean([adjusted_rand_score(a, b) for a, b in pairs])
    )
    for a, b in combinations(partitions, 2):
        assert agreement([a, b]) == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)


def test_agreement_at_the_ends(rng):
    labels = rng.permutation(40) % 4
    assert agreement([labels, (labels + 1) % 4, labels * 7]) == pytest.approx(1)
    assert agreement([rng.permutation(60) % 4 for _ in range(60)]) == pytest.approx(0, abs=0.005)
    assert math.isnan(agreement([labels]))
    assert agreement([np.zeros(1, int)] * 2) == 1


def test_stability_of_an_estimator(rng):
    points = rng.normal(size=(56, 22))
    heaps = np.repeat(rng.normal(size=(4, 22)), 14, axis=0) + rng.normal(0, 0.01, size=(56, 22))
    estimator = DKMeans(4, random_state=7)
    assert stability(estimator, points) == pytest.approx(0.03, abs=0.05)
    assert estimator.random_state == 7 and not hasattr(estimator, "labels_")
    assert stability(KMeans(4, n_init=3), heaps, 4) == pytest.approx(1)
    seeds = np.random.RandomState(5).randint(2**31 - 1, size=6)
    made = [DKMeans(4, random_state=int(seed)).fit(points).labels_ for seed in seeds]
    assert stability(DKMeans(4), points, 6, random_state=5) == agreement(made)
    pairs = [adjusted_rand_score(a, b) for a, b in combinations(made, 2)]
    assert agreement(made) == pytest.approx(np.mean(pairs))


def test_stability_refuses(rng):
    points = rng.normal(size=(9, 2))
    with pytest.raises(ValueError, match="n_seeds must be 2 or more, got 1"):
        stability(DKMeans(2), points, 1)
    with pytest.raises(ValueError, match=r"must have a random_state, got AgglomerativeClustering"):
        stability(AgglomerativeClustering(2), points)


def test_labels_that_songs_have_together():
    songs = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]], bool)
    counts = pair_counts(songs)
    assert counts.tolist() == [[0, 2, 1, 0], [2, 0, 1, 0], [1, 1, 0, 1], [0, 0, 1, 0]]
    kept = co_occurrence(counts, np.array([0, 0, 1, 1]))  # 3 of the 5 pairs
    assert (kept.share, kept.expected) == (3 / 5, 1 / 3)
    assert kept.lift == pytest.approx(9 / 5)
    assert co_occurrence(counts, np.array([0, 1, 1, 0])).share == 1 / 5
    assert co_occurrence(counts, np.zeros(4, int)).lift == 1


def test_co_occurrence_of_random_partitions_is_the_expected(rng):
    counts = pair_counts(rng.random((300, 20)) < 0.1)
    shares = [co_occurrence(counts, rng.permutation(20) % 3).share for _ in range(2000)]
    expected = co_occurrence(counts, np.arange(20) % 3).expected
    assert np.mean(shares) == pytest.approx(expected, abs=0.005)


def test_co_occurrence_at_the_ends():
    none = co_occurrence(np.zeros((3, 3), int), np.array([0, 1, 1]))
    assert math.isnan(none.share) and math.isnan(none.lift) and none.expected == 1 / 3
    single = co_occurrence(np.ones((2, 2), int) - np.eye(2, dtype=int), np.array([0, 1]))
    assert single.share == 0 and math.isnan(single.lift)
    many = np.ones((70_000, 2), bool)  # more than one block of songs
    assert pair_counts(many).tolist() == [[0, 70_000], [70_000, 0]]


# Exchanges


def objective_of(points, labels, objective):
    quality = judge(points, labels)
    return -quality.between_ss if objective == "variance" else quality.diversity


def exchanged_by_hand(points, labels, objective):
    """Every swap tried, and the objective computed anew each time."""
    labels, since = labels.copy(), 0
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    distances = distances**2 if objective == "variance" else distances
    sizes = np.bincount(labels)

    def value(labels):
        parts = [distances[np.ix_(labels == part, labels == part)] for part in range(len(sizes))]
        weights = 1 / sizes if objective == "variance" else np.ones(len(sizes))
        return sum(w * part.sum() / 2 for w, part in zip(weights, parts, strict=True))

    largest = max(distances[:, labels == part].sum(axis=1).max() for part in range(len(sizes)))
    least = 1e-10 * largest * (1 / sizes.min() if objective == "variance" else 1)
    while since < len(points):
        for i in range(len(points)):
            gains = np.zeros(len(points))
            for j in np.flatnonzero(labels != labels[i]):
                swapped = labels.copy()
                swapped[[i, j]] = labels[[j, i]]
                gains[j] = value(swapped) - value(labels)
            since += 1
            if gains.max() > least:
                j = np.flatnonzero(gains >= gains.max() - least)[0]
                labels[[i, j]] = labels[[j, i]]
                since = 0
    return labels


@pytest.mark.parametrize("objective", ["variance", "diversity"])
@pytest.mark.parametrize("kind", ["gaussian", "grid", "duplicates", "unequal", "line", "far"])
def test_exchange_is_the_plain_loop(objective, kind, rng):
    points, labels = rng.normal(size=(18, 3)), np.arange(18) % 3
    points = {
        "grid": np.round(points),
        "duplicates": np.repeat(points[:6], 3, axis=0),
        "line": points[:, :1] * [1.0, 2.0],
        "far": points + 1e6,
    }.get(kind, points)
    if kind == "unequal":
        labels = np.array([0] * 3 + [1] * 5 + [2] * 10)
    labels = rng.permutation(labels)
    refined = refine(points, labels, objective)
    assert refined.tolist() == exchanged_by_hand(points, labels, objective).tolist()
    before, after = (objective_of(points, part, objective) for part in (labels, refined))
    assert after >= before - 1e-9 * abs(before)
    assert np.bincount(refined).tolist() == np.bincount(labels).tolist()


@pytest.mark.parametrize("objective", ["variance", "diversity"])
def test_nothing_is_left_to_exchange(objective, rng):
    points = rng.normal(size=(60, 22))
    refined = refine(points, rng.permutation(60) % 5, objective)
    assert refine(points, refined, objective).tolist() == refined.tolist()
    best = objective_of(points, refined, objective)
    for i, j in combinations(range(60), 2):
        swapped = refined.copy()
        swapped[[i, j]] = refined[[j, i]]
        assert objective_of(points, swapped, objective) <= best + 1e-7 * abs(best)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_exchange_does_not_see_the_scale(scale, rng):
    points, labels = rng.normal(size=(30, 4)), rng.permutation(30) % 4
    for objective in ("variance", "diversity"):
        expected = refine(points, labels, objective)
        assert refine(points * scale, labels, objective).tolist() == expected.tolist()


def test_exchange_leaves_its_arguments(rng):
    points, labels = rng.normal(size=(20, 2)), np.arange(20) % 4
    points.flags.writeable = labels.flags.writeable = False
    refined = refine(points[:, ::-1], labels, "variance")
    assert labels.tolist() == (np.arange(20) % 4).tolist() and refined.dtype == np.int64


def test_exchange_where_there_is_nothing_to_do():
    assert refine(np.ones((6, 2)), np.arange(6) % 2, "diversity").tolist() == [0, 1] * 3
    assert refine(np.arange(3.0)[:, None], np.zeros(3, int), "variance").tolist() == [0] * 3
    assert refine(np.arange(3.0)[:, None], np.arange(3), "variance").tolist() == [0, 1, 2]


def test_unknown_objective():
    with pytest.raises(ValueError, match="must be one of variance, diversity, got 'balance'"):
        refine(np.zeros((2, 1)), np.array([0, 1]), "balance")
