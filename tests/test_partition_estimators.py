"""The estimators: scikit-learn's own checks, cases worked by hand, names."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastmte.partition import DKMeans, KMeansElbow, LabelCentroids, chord_elbow, judge


def _expected_failures(estimator: object) -> dict[str, str]:
    if isinstance(estimator, DKMeans):
        return {
            "check_clustering": "asks that points lying together share a cluster; "
            "dk-means parts them by definition"
        }
    return {}


@parametrize_with_checks(
    [
        DKMeans(n_clusters=2),
        DKMeans(n_clusters=2, init="k-means++", n_init=3, refine="diversity"),
        DKMeans(n_clusters=2, init="farthest", refine="variance"),
        KMeansElbow(k_max=4),
        LabelCentroids(),
    ],
    expected_failed_checks=_expected_failures,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_dkmeans_by_hand():
    # Seeds 0 and 10. The first takes the farthest of 1 2 8, which is 8 (mean 4); the second
    # the farthest of 1 2 from 10, which is 1; the first the last one.
    model = DKMeans(2, init=[0, 4]).fit(np.array([[0.0], [1.0], [2.0], [8.0], [10.0]]))
    assert model.labels_.tolist() == [0, 1, 0, 0, 1]
    assert model.order_.tolist() == [0, 4, 3, 1, 2]
    assert model.seed_indices_.tolist() == [0, 4]
    np.testing.assert_allclose(model.cluster_centers_, [[10 / 3], [11 / 2]])
    mean = 21 / 5
    between = 3 * (10 / 3 - mean) ** 2 + 2 * (11 / 2 - mean) ** 2
    assert model.between_ss_ == pytest.approx(between)
    total = sum((x - mean) ** 2 for x in (0, 1, 2, 8, 10))
    assert model.balance_ == pytest.approx(4 * between / total)


def test_dkmeans_ties_go_to_the_lowest_index():
    corners = np.array([[0.0, 0], [1, 1], [1, 1], [-1, 1], [1, -1]])
    assert DKMeans(1, init=[0]).fit(corners).order_[:2].tolist() == [0, 1]


def test_balance_of_random_partitions_is_one(rng):
    points = rng.normal(size=(60, 5))
    between = []
    for _ in range(400):
        labels = rng.permutation(60) % 4
        means = np.stack([points[labels == k].mean(axis=0) for k in range(4)])
        between.append(15 * ((means - points.mean(axis=0)) ** 2).sum())
    model = DKMeans(4, random_state=0).fit(points)
    random_balance = model.balance_ * np.mean(between) / model.between_ss_
    assert random_balance == pytest.approx(1, abs=0.1)
    assert model.balance_ < 0.3


def test_more_starts_are_never_worse(rng):
    points = rng.normal(size=(40, 5))
    one = DKMeans(4, random_state=1).fit(points)
    many = DKMeans(4, n_init=20, random_state=1).fit(points)
    assert many.between_ss_ < one.between_ss_
    assert sorted(many.order_) == list(range(40))


def test_best_of_several_starts_is_the_best_of_its_own_draws(rng):
    points = rng.normal(size=(30, 4))
    random = np.random.RandomState(3)
    draws = [random.permutation(30)[:4] for _ in range(12)]
    single = [DKMeans(4, init=draw).fit(points) for draw in draws]
    best = min(single, key=lambda model: model.between_ss_)
    many = DKMeans(4, n_init=12, random_state=3).fit(points)
    assert many.seed_indices_.tolist() == best.seed_indices_.tolist()
    assert many.labels_.tolist() == best.labels_.tolist()
    assert many.order_.tolist() == best.order_.tolist()
    assert many.balance_ == best.balance_
    refined = [DKMeans(4, init=draw, refine="diversity").fit(points) for draw in draws]
    best = max(refined, key=lambda model: judge(points, model.labels_).diversity)
    many = DKMeans(4, n_init=12, refine="diversity", random_state=3).fit(points)
    assert many.labels_.tolist() == best.labels_.tolist()


def test_a_second_fit_forgets_the_first(rng):
    model = DKMeans(4, random_state=0)
    model.fit(rng.normal(size=(40, 3)) / 1e6)
    points = rng.normal(size=(40, 3))
    assert model.fit(points).labels_.tolist() == model.fit(points).labels_.tolist()
    assert len(model.fit(points[:12]).labels_) == 12


def test_refined_clusters_keep_their_sizes(rng):
    points = rng.normal(size=(42, 5))
    plain = DKMeans(4, random_state=1).fit(points)
    for objective in ("variance", "diversity"):
        model = DKMeans(4, refine=objective, random_state=1).fit(points)
        assert np.bincount(model.labels_).tolist() == np.bincount(plain.labels_).tolist()
        assert model.order_.tolist() == plain.order_.tolist()
        means = [points[model.labels_ == k].mean(axis=0) for k in range(4)]
        np.testing.assert_array_equal(model.cluster_centers_, means)
    assert DKMeans(4, refine="variance", random_state=1).fit(points).balance_ < plain.balance_ / 2


def test_farthest_start_by_hand():
    points = np.array([[0.0], [1.0], [9.0], [10.0], [4.0], [4.0]])
    for seed in range(20):
        seeds = DKMeans(3, init="farthest", random_state=seed).fit(points).seed_indices_
        first = points[seeds[0], 0]
        assert seeds[1] == (3 if first < 5 else 0)
        expected = {0: 4, 1: 4, 4: 0, 9: 4, 10: 4}[first]
        assert seeds[2] == expected  # of the two points at 4 the first


@pytest.mark.parametrize("init", ["random", "k-means++", "farthest"])
@pytest.mark.parametrize("kind", ["gaussian", "equal", "two places", "huge", "tiny"])
def test_starts_are_distinct_and_seeded(init, kind, rng):
    points = rng.normal(size=(20, 3))
    points = {
        "gaussian": points,
        "equal": np.ones((20, 3)),
        "two places": np.repeat(points[:2], 10, axis=0),
        "huge": points * 1e200,
        "tiny": points * 1e-200,
    }[kind]
    for seed in range(5):
        seeds = DKMeans(7, init=init, random_state=seed).fit(points).seed_indices_
        assert len(set(seeds)) == 7 and seeds.min() >= 0 and seeds.max() < 20
        again = DKMeans(7, init=init, random_state=seed).fit(points).seed_indices_
        assert seeds.tolist() == again.tolist() and seeds.dtype == np.int64


def test_spread_out_starts_are_those_of_scikit_learn(rng):
    points = rng.normal(size=(30, 3)) + 5
    seeds = DKMeans(6, init="k-means++", random_state=4).fit(points).seed_indices_
    _, expected = kmeans_plusplus(points - points.mean(axis=0), 6, random_state=4)
    assert seeds.tolist() == expected.tolist()


def test_given_starts_allow_for_one_only():
    with pytest.warns(RuntimeWarning, match="so n_init=3 makes one start"):
        DKMeans(2, init=[0, 1], n_init=3).fit(np.arange(6.0)[:, None])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_clusters": 7}, r"n_clusters must be in \[1, 6\], got 7"),
        ({"n_clusters": 2, "init": [0, 0]}, r"init must be 2 distinct indices in \[0, 6\), got"),
        ({"n_clusters": 2, "init": [0, 6]}, "init must be 2 distinct indices"),
        ({"n_clusters": 2, "init": [0.0, 1.0]}, "init must be 2 distinct indices"),
        ({"init": "nearest"}, "The 'init' parameter of DKMeans must be"),
        ({"refine": "balance"}, "The 'refine' parameter of DKMeans must be"),
        ({"n_init": 0}, "The 'n_init' parameter of DKMeans must be"),
    ],
)
def test_dkmeans_refuses(options, text):
    with pytest.raises(ValueError, match=text):
        DKMeans(**options).fit(np.zeros((6, 2)))


def test_one_cluster_and_no_spread_have_balance_zero():
    assert DKMeans(1).fit(np.arange(4.0)[:, None]).balance_ == 0
    assert DKMeans(2).fit(np.ones((4, 1))).balance_ == 0


@pytest.mark.parametrize(
    ("inertia", "elbow", "gap"),
    [
        ([10, 2, 1, 0], 2, 1 - 1 / 3 - 0.2),  # chord at k=2: 6.67 of 10; the curve is at 2
        ([9, 6, 3, 0], 1, 0.0),
        ([5, 5, 5], 1, 0.0),
        ([5], 1, 0.0),
        ([5, 0], 1, 0.0),
        ([8, 4, 4, 0], 2, 1 - 1 / 3 - 0.5),
    ],
)
def test_chord_elbow_by_hand(inertia, elbow, gap):
    found, found_gap = chord_elbow(np.arange(1, len(inertia) + 1), np.array(inertia, float))
    assert found == elbow
    assert found_gap == pytest.approx(gap, abs=1e-12)


def test_elbow_does_not_see_the_scale(rng):
    inertia = np.sort(rng.random(12))[::-1].cumsum()[::-1]
    k = np.arange(1, 13)
    assert chord_elbow(k, inertia)[0] == chord_elbow(k, 1000 * inertia + 7)[0]


def test_elbow_of_three_heaps(rng):
    heaps = np.repeat([[0, 0], [9, 0], [0, 9]], 20, axis=0)
    model = KMeansElbow(random_state=0).fit(heaps + rng.normal(0, 0.3, heaps.shape))
    assert model.n_clusters_ == 3 and model.elbow_gap_ > 0.5
    assert len(set(model.labels_[:20])) == 1
    assert model.curve()["elbow"] == model.elbow_ == 3
    assert model.curve()["k"] == list(range(1, 11)) and model.curve()["k_max"] == 10
    assert model.inertia_curve_[2] == pytest.approx(model.inertia_)
    assert model.transform(heaps).shape == (60, 3)


@pytest.mark.filterwarnings("ignore:the curve of k-means")
def test_curve_ends_at_the_distinct_points():
    model = KMeansElbow(random_state=0).fit(np.repeat(np.eye(3), 5, axis=0))
    assert model.k_values_.tolist() == [1, 2, 3] and model.curve()["k_max"] == 10
    assert KMeansElbow().fit(np.ones((4, 2))).curve()["elbow"] is None


def test_one_heap_has_no_elbow(rng):
    # One Gaussian's curve bends most here and there; that of four heaps always at 4.
    most_bent = set()
    for _ in range(14):
        points = rng.normal(size=(56, 22))
        with pytest.warns(UserWarning, match=r"up to 10 clusters has no elbow: it lies 0\.[12]\d "):
            model = KMeansElbow(random_state=0).fit(points)
        assert model.elbow_ is None and model.curve()["elbow"] is None
        assert set(model.labels_) == set(range(model.n_clusters_))
        most_bent.add(model.n_clusters_)
    assert most_bent >= {3, 4, 5}
    centres = rng.normal(size=(4, 22))
    for _ in range(6):
        points = centres[np.arange(56) % 4] + rng.normal(0, 0.5, size=(56, 22))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert KMeansElbow(random_state=0).fit(points).elbow_ == 4


@pytest.mark.parametrize("scale", [1e-150, 1e150 / 10, np.float32(1e30)])
def test_elbow_at_the_ends_of_the_range(scale, rng):
    heaps = np.repeat([[0, 0], [9, 0], [0, 9]], 20, axis=0) + rng.normal(0, 0.3, size=(60, 2))
    heaps = (heaps * scale).astype(type(scale))
    assert KMeansElbow(random_state=0).fit(heaps).elbow_ == 3
    with pytest.raises(ValueError, match=r"X must be at most 1e\+150, got 1e\+160"):
        KMeansElbow().fit([[1e160], [0.0]])


@pytest.mark.filterwarnings("ignore:the curve of k-means")
def test_curve_is_scikit_learns(rng):
    points = rng.normal(size=(30, 4))
    model = KMeansElbow(k_max=3, random_state=np.random.RandomState(7)).fit(points)
    seed = np.random.RandomState(7).randint(2**31 - 1)
    expected = [KMeans(k, n_init=10, random_state=seed).fit(points).inertia_ for k in (1, 2, 3)]
    assert model.inertia_curve_.tolist() == expected


def test_frames_in_names_out():
    songs = pd.DataFrame({"loud": [0.0, 2.0, 4.0], "fast": [1.0, 3.0, 8.0]})
    labels = pd.DataFrame({"calm": [1, 1, 0], "epic": [0, 1, 1]})
    model = LabelCentroids().fit(songs, labels)
    assert model.label_names_.tolist() == ["calm", "epic"]
    assert model.feature_names_in_.tolist() == ["loud", "fast"]
    assert model.centroids_.tolist() == [[1.0, 2.0], [3.0, 5.5]]
    assert model.n_songs_.tolist() == [2, 2]
    out = model.set_output(transform="pandas").transform(songs)
    assert out.columns.tolist() == ["calm", "epic"]
    assert out.loc[0, "calm"] == pytest.approx(np.sqrt(2))
    points = pd.DataFrame(model.centroids_, columns=songs.columns)
    assert DKMeans(2).fit(points).feature_names_in_.tolist() == ["loud", "fast"]
    elbow = KMeansElbow(k_max=2, random_state=0).set_output(transform="pandas")
    with pytest.warns(UserWarning, match="no elbow"):
        out = elbow.fit(points).transform(points)
    assert elbow.feature_names_in_.tolist() == ["loud", "fast"]
    assert out.columns.tolist() == elbow.get_feature_names_out().tolist() == ["kmeanselbow0"]


def test_one_class_a_song():
    model = LabelCentroids().fit([[0.0], [2.0], [9.0]], ["b", "b", "a"])
    assert model.label_names_.tolist() == ["a", "b"]
    assert model.centroids_.tolist() == [[9.0], [1.0]]


def test_label_without_songs_is_named():
    labels = pd.DataFrame({"calm": [1, 1], "epic": [0, 0]})
    with pytest.raises(ValueError, match="every label must have a song, got none with epic"):
        LabelCentroids().fit([[0.0], [1.0]], labels)
    with pytest.raises(ValueError, match="got none with 1"):
        LabelCentroids().fit([[0.0], [1.0]], labels.to_numpy(bool))
