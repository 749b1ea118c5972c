"""Partitions: the published ones, every method, their file."""

import csv
import json
import warnings

import numpy as np
import pytest

from fastmte.errors import InputError
from fastmte.labels import MOOD_TAGS, MOOD_THEME_TAGS, THEME_TAGS
from fastmte.partition import METHODS, Partition, dkmeans_published, label_space, make_partition

LETTERS = tuple("abcdefghij")


@pytest.fixture(scope="session")
def space(shared):
    """The synthetic label space from which the authors' code gives their partitions."""
    with open(shared / "data/clustering/label_space_fixture.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert tuple(row[0] for row in rows) == MOOD_THEME_TAGS
    return np.array([row[1:] for row in rows], np.float64)


@pytest.fixture(scope="session")
def published(shared):
    path = shared / "data/clustering/published_partitions_fixture.json"
    return json.loads(path.read_text())


@pytest.fixture
def points(rng):
    return rng.normal(size=(10, 3))


@pytest.mark.parametrize("name", ["dk4", "dk5", "dk10", "nb10"])
def test_published_dkmeans_in_order(space, published, name):
    parts = published["runs_dkmeans"][name]
    seeds = [part[0] for part in parts]
    made = make_partition("dkmeans-published", MOOD_THEME_TAGS, space, len(parts), seeds=seeds)
    assert made.parts() == parts
    assert made.details["seeds"] == seeds
    # The paper's text is another algorithm.
    text = make_partition("dkmeans", MOOD_THEME_TAGS, space, len(parts), seeds=seeds)
    assert text.details["seeds"] == seeds and text.parts() != parts


@pytest.mark.parametrize("seed", range(5))
def test_published_kmeans_and_its_elbow(space, published, seed):
    made = make_partition("kmeans", MOOD_THEME_TAGS, space, "auto", seed=seed)
    assert made.details["elbow"]["elbow"] == 4
    assert sorted(made.parts()) == sorted(published["kmeans4"])


@pytest.mark.parametrize("n_members", [2, 3, 4])
def test_published_linear(shared, n_members):
    plans = json.loads((shared / "data/clustering/all_published_partitions.json").read_text())
    made = make_partition("linear", MOOD_THEME_TAGS, n_members=n_members)
    assert made.parts() == plans[f"2021/fixed_ensemble_vggish_linear_{n_members}"]


def test_published_kmeans_of_the_notebook(space, published):
    made = make_partition("kmeans", MOOD_THEME_TAGS, space, 8)
    stored = np.array(published["kmeans8_notebook"])
    expected = [[MOOD_THEME_TAGS[i] for i in np.flatnonzero(stored == k)] for k in range(8)]
    assert sorted(made.parts()) == sorted(expected)


def test_every_published_plan(shared, space, published):
    plans = json.loads((shared / "data/clustering/all_published_partitions.json").read_text())
    made = {}
    for name in ("dk4", "dk5", "dk10"):
        seeds = [part[0] for part in published["runs_dkmeans"][name]]
        options = {"n_members": len(seeds), "seeds": seeds}
        made[name] = make_partition("dkmeans-published", MOOD_THEME_TAGS, space, **options)
    for n in (2, 3, 4):
        made[f"linear {n}"] = make_partition("linear", MOOD_THEME_TAGS, n_members=n)
    made["moodtheme"] = make_partition("moodtheme", MOOD_THEME_TAGS)
    made["single"] = make_partition("single", MOOD_THEME_TAGS)
    in_order = {json.dumps(partition.parts()): name for name, partition in made.items()}
    by_hand = {}
    for plan, parts in plans.items():
        if "variation" in plan:  # 10 labels twice, 10 missing
            with pytest.raises(
                InputError, match=r"more than once: .* and 5 more; missing: .* and 5"
            ):
                Partition.of_parts(parts, MOOD_THEME_TAGS)
        elif "kmeans" in plan and "dikmeans" not in plan:
            assert sorted(parts) == sorted(
                make_partition("kmeans", MOOD_THEME_TAGS, space, 4, elbow=False).parts()
            )
        elif plan.endswith("_all"):  # themes first, then moods
            assert Partition.of_parts(parts, MOOD_THEME_TAGS) == made["single"]
        elif json.dumps(parts) not in in_order:
            by_hand[plan] = Partition.of_parts(parts, MOOD_THEME_TAGS).parts() == parts
    assert all(by_hand.values())
    kinds = {plan.rpartition("20_")[2] for plan in by_hand if plan.startswith("2020")}
    assert kinds == {"f1_2", "pr_auc_2", "manually_3"}
    others = [plan for plan in by_hand if plan.startswith("2021")]
    assert others == ["2021/fixed_ensemble_vggish_manually_3"]


def test_moodtheme_is_the_split_by_hand():
    assert make_partition("moodtheme", MOOD_THEME_TAGS).parts() == [
        list(THEME_TAGS),
        list(MOOD_TAGS),
    ]
    assert make_partition("moodtheme", ["film", "sad", "space"]).parts() == [
        ["film", "space"],
        ["sad"],
    ]


def test_as_many_members_as_seeds(points):
    made = make_partition("dkmeans", LETTERS, points, "auto", seeds=["c", "f", "a"])
    assert [part[0] for part in made.parts()] == ["c", "f", "a"]


def test_single_has_one_member():
    made = make_partition("single", LETTERS, n_members=4)
    assert made.n_members == 1 and made.parts() == [list(LETTERS)]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_seeded_and_covers_the_labels(method):
    tags = MOOD_THEME_TAGS
    points = np.random.default_rng(5).normal(size=(56, 6))
    made = make_partition(method, tags, points, 5, seed=3)
    assert made == make_partition(method, tags, points, 5, seed=3)
    assert made.method == method
    assert sorted(tag for part in made.parts() for tag in part) == sorted(tags)
    assert made.n_members == {"single": 1, "moodtheme": 2}.get(method, 5)
    assert made.details["elbow"]["k"] == list(range(1, 11))
    json.dumps(made.to_json(), allow_nan=False)


def test_refined_and_best_of_several_starts(points):
    plain = make_partition("dkmeans", LETTERS, points, 3)
    best = make_partition("dkmeans", LETTERS, points, 3, n_init=20)
    assert best.details["balance"] < plain.details["balance"]
    assert (best.details["n_init"], best.details["refine"]) == (20, None)
    refined = make_partition("dkmeans", LETTERS, points, 3, refine="variance")
    assert refined.details["balance"] < plain.details["balance"]
    assert refined.details["refine"] == "variance"
    assert sorted(map(len, refined.parts())) == [3, 3, 4]


def test_the_curve_is_made_where_it_is_wanted(rng):
    few = rng.normal(size=(10, 3))
    many = rng.normal(size=(501, 2)) + 20 * (np.arange(501) % 2)[:, None]  # two heaps
    names = tuple(map(str, range(501)))
    assert "elbow" not in make_partition("linear", LETTERS, few, elbow=False).details
    assert "elbow" not in make_partition("linear", names, many).details
    made = make_partition("linear", names, many, "auto", k_max=5)
    assert made.details["elbow"]["k"] == [1, 2, 3, 4, 5] and made.details["elbow"]["k_max"] == 5
    assert made.n_members == made.details["elbow"]["elbow"] == 2


def test_auto_without_an_elbow_warns_and_only_auto(rng):
    heap = rng.normal(size=(56, 22))
    with pytest.warns(UserWarning, match="up to 10 clusters has no elbow"):
        made = make_partition("linear", MOOD_THEME_TAGS, heap, "auto")
    assert made.details["elbow"]["elbow"] is None and 2 < made.n_members < 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_partition("linear", MOOD_THEME_TAGS, heap, 4)


@pytest.mark.parametrize("method", ["random", "dkmeans", "dkmeans-published"])
def test_sizes_differ_by_one_at_most_and_seeds_matter(method, points):
    made = {make_partition(method, LETTERS, points, 4, seed) for seed in range(3)}
    assert all(sorted(map(len, one.parts())) == [2, 2, 3, 3] for one in made)
    assert len(made) > 1


@pytest.mark.parametrize("method", ["linear", "random", "dkmeans", "dkmeans-published", "kmeans"])
@pytest.mark.parametrize("n_members", [1, 7, 10])
def test_any_number_of_members(method, n_members, points):
    made = make_partition(method, LETTERS, points, n_members)
    assert made.n_members == n_members


def _published_by_hand(points, seeds):
    """The authors' cell, written as loops over lists."""
    free = list(range(len(points)))
    clusters = [[] for _ in seeds]
    for cluster, seed in zip(clusters, seeds, strict=True):
        free.remove(seed)
        farthest = max(free, key=lambda i: (np.linalg.norm(points[i] - points[seed]), -i))
        free.remove(farthest)
        cluster += [seed, farthest]
    turn = 0
    while free:
        cluster = clusters[turn % len(clusters)]
        centre = (points[cluster[-2]] + points[cluster[-1]]) / 2
        farthest = max(free, key=lambda i: (np.linalg.norm(points[i] - centre), -i))
        free.remove(farthest)
        cluster.append(farthest)
        turn += 1
    return clusters


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("grid", [False, True], ids=["continuous", "ties"])
def test_dkmeans_published_is_the_authors_loop(seed, grid):
    points = np.random.default_rng(seed).normal(size=(23, 3))
    points = np.round(points) if grid else points
    labels, order = dkmeans_published(points, 4, random_state=seed)
    drawn = [int(order[labels[order] == cluster][0]) for cluster in range(4)]
    expected = _published_by_hand(points, drawn)
    assert [order[labels[order] == cluster].tolist() for cluster in range(4)] == expected
    again, again_order = dkmeans_published(points, 4, seeds=np.array(drawn))
    np.testing.assert_array_equal(again_order, order)
    np.testing.assert_array_equal(again, labels)


@pytest.mark.parametrize("n_clusters", [5, 6, 7, 9, 10])
def test_dkmeans_published_where_two_each_are_too_many(points, n_clusters):
    for seeds in (None, np.arange(n_clusters)[::-1]):
        labels, order = dkmeans_published(points, n_clusters, seeds=seeds, random_state=0)
        assert sorted(order) == list(range(10))
        sizes = np.bincount(labels, minlength=n_clusters)
        assert sizes.min() == 10 // n_clusters and sizes.max() <= 2


@pytest.mark.parametrize(
    ("points", "n_clusters", "seeds", "text"),
    [
        (np.zeros((3, 2)), 4, None, r"n_clusters must be in \[1, 3\], got 4"),
        (np.zeros((3, 2)), 0, None, r"n_clusters must be in \[1, 3\], got 0"),
        (np.full((3, 2), np.nan), 2, None, "points must be a finite matrix"),
        (np.zeros(3), 2, None, "points must be a finite matrix"),
        (
            np.zeros((3, 2)),
            2,
            [0, 0],
            r"seeds must be 2 distinct indices in \[0, 3\), got \[0, 0\]",
        ),
        (np.zeros((3, 2)), 2, [0, 3], "seeds must be 2 distinct indices"),
        (np.zeros((3, 2)), 2, [0], "seeds must be 2 distinct indices"),
    ],
)
def test_dkmeans_published_refuses(points, n_clusters, seeds, text):
    with pytest.raises(ValueError, match=text):
        dkmeans_published(points, n_clusters, seeds=seeds)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"method": "dkmeasn"}, "partition must be one of dkmeans, .* or a file, got 'dkmeasn'"),
        ({"method": "dkmeans"}, "dkmeans: needs the labels' centroids"),
        ({"n_members": 11}, r"number of members must be in \[1, 10\].*, got 11"),
        ({"n_members": 0}, r"number of members must be in \[1, 10\].*, got 0"),
        ({"n_members": "auto"}, "auto: the elbow needs the labels' centroids"),
        ({"method": "moodtheme"}, "neither mood nor theme of the task: a, b"),
        ({"method": "moodtheme", "tags": ["sad", "calm"]}, "all 2 tags are moods; use single"),
        ({"method": "moodtheme", "tags": ["film"]}, "all 1 tags are themes"),
        ({"seeds": ["a"]}, "linear: takes no seeds"),
        ({"refine": "variance"}, "linear: takes no refinement; only dkmeans does"),
        ({"n_init": 2}, "linear: takes no number of starts; only dkmeans does"),
        (
            {"centroids": np.zeros((9, 2))},
            r"one row of numbers for each of the 10 labels, got shap",
        ),
        ({"centroids": np.zeros((10, 0))}, "centroids must be one row of numbers"),
        ({"centroids": np.full((10, 2), -1e200)}, r"at most 1e\+150, .*, got 1e\+200"),
        ({"centroids": np.full((10, 2), np.inf)}, "centroids must be finite, got inf at"),
        (
            {"method": "kmeans", "centroids": np.zeros((10, 2))},
            "kmeans: the labels have only 1 distinct centroids, too few for 4 members",
        ),
        (
            {"method": "dkmeans", "centroids": np.zeros((10, 2)), "seeds": ["a", "b", "c", "z"]},
            "seeds must be labels, got z",
        ),
        (
            {"method": "dkmeans", "centroids": np.zeros((10, 2)), "seeds": ["a", "b", "c", "c"]},
            "seeds must be 4 distinct labels, got a, b, c, c",
        ),
    ],
)
def test_refused_in_one_line(arguments, text):
    with pytest.raises(InputError, match=text):
        make_partition(**{"method": "linear", "tags": LETTERS, **arguments})


def test_file_goes_round(tmp_path, points):
    made = make_partition("dkmeans", LETTERS, points, 3)
    made.save(tmp_path / "p.json")
    back = Partition.load(tmp_path / "p.json")
    assert back == made and back.parts() == made.parts()
    assert (back.method, back.details) == (made.method, made.details)
    other = Partition.load(tmp_path / "p.json", LETTERS[::-1])
    assert other.tags == LETTERS[::-1]
    assert other.parts() == made.parts()
    assert other.member_of_label.tolist() == made.member_of_label[::-1].tolist()
    assert make_partition(str(tmp_path / "p.json"), LETTERS) == made


def test_list_of_lists_written_by_hand(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('[["c", "mood/theme---a"], ["b"]]')
    made = make_partition(str(path), ["a", "b", "c"], n_members=17)
    assert made.member_of_label.tolist() == [0, 1, 0]
    assert made.parts() == [["c", "a"], ["b"]] and made.method == "file"
    assert Partition.load(path).tags == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"p\.json: no JSON"),
        ('{"a": 1}', "no partition: must be a list of lists of tags"),
        ('["a", "b"]', "no partition: must be a list of lists"),
        ("[[1, 2]]", "no partition: must be a list of lists"),
        ("[" * 100_000, r"p\.json: no JSON"),
        ("[]", "every part must have a tag"),
        ('[["a", "b", "c"], []]', r"every part must have a tag, got \[3, 0\]"),
        ('[["a"], ["b"]]', r"no partition of the 3 labels \(missing: c\)"),
        ('[["a", "c"], ["b", "c"]]', r"\(more than once: c\)"),
        ('[["a", "d"], ["b", "b"]]', r"\(unknown: d; more than once: b; missing: c\)"),
        (
            '{"format": "fastmte-partition-9"}',
            "must be fastmte-partition-1, got fastmte-partition-9",
        ),
        ('{"format": "fastmte-partition-1", "parts": []}', "tags must be a list of strings"),
        (
            '{"format": "fastmte-partition-1", "tags": ["a", "b", "c"], '
            '"parts": [["a"], ["b", "c"]], "member_of_label": [0, 1, 0]}',
            "member_of_label and parts disagree",
        ),
        (
            '{"format": "fastmte-partition-1", "tags": ["a"], "parts": [["a"]], "details": 3}',
            "details must be a JSON object",
        ),
    ],
)
def test_file_that_is_no_partition(tmp_path, text, message):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        Partition.load(path, ["a", "b", "c"])


def test_of_many_missing_tags_the_first_five_are_named(tmp_path):
    with pytest.raises(InputError, match=r"\(missing: b, c, d, e, f and 4 more\)"):
        Partition.of_parts([["a"]], LETTERS)


def test_file_with_a_byte_order_mark(tmp_path):
    (tmp_path / "p.json").write_text('[["a"], ["b"]]', encoding="utf-8-sig")
    assert Partition.load(tmp_path / "p.json").tags == ("a", "b")


@pytest.mark.parametrize(
    ("tags", "member", "details", "text"),
    [
        (("a", "b"), [0], {}, r"must be 2 integers, one a tag, got shape \(1,\)"),
        (("a", "b"), [0.0, 1.0], {}, "must be 2 integers"),
        (("a", "a"), [0, 1], {}, r"tags must be distinct, got \['a'\]"),
        (("a", "b"), [0, 2], {}, r"each at least once, got \[0, 2\]"),
        (("a", "b"), [-1, 0], {}, "each at least once"),
        ((), [], {}, "must be 0 integers|each at least once"),
        (("a", "b"), [0, 1], {"order": [0]}, "must hold every label index once"),
    ],
)
def test_no_partition_can_be_made_of(tags, member, details, text):
    with pytest.raises(ValueError, match=text):
        Partition(tags, np.array(member), "by hand", details)


def test_partition_does_not_change():
    member = np.array([0, 1, 0])
    made = Partition(("a", "b", "c"), member, "by hand")
    member[0] = 1
    assert made.member_of_label.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="read-only"):
        made.member_of_label[0] = 1
    assert made != "a" and made == Partition(("a", "b", "c"), np.array([0, 1, 0]), "other")


def test_label_space_by_hand():
    features = np.array([[0, 10], [2, 30], [4, 20]], np.float32)
    labels = np.array([[1, 0], [1, 0], [0, 1]], bool)
    plain = label_space(features, labels, ["a", "b"], standardise=False)
    assert plain.dtype == np.float64
    np.testing.assert_array_equal(plain, [[1, 20], [4, 20]])
    scaled = label_space(features, labels, ["a", "b"], standardise=True)
    np.testing.assert_allclose(scaled, [[-1 / np.sqrt(8 / 3), 0], [2 / np.sqrt(8 / 3), 0]])


def test_constant_descriptor_becomes_zero():
    features, labels = np.full((3, 1), 7.0), np.ones((3, 1), bool)
    assert label_space(features, labels, ["a"], standardise=True).tolist() == [[0.0]]


def test_label_space_refuses():
    features, labels = np.zeros((3, 2)), np.array([[1, 0, 0]] * 3, bool)
    with pytest.raises(InputError, match="no song has the label b, c, so it has no centroid"):
        label_space(features, labels, ["a", "b", "c"], standardise=False)
    features[1, 0] = np.nan
    with pytest.raises(
        InputError, match="features must be finite, got nan in song 1, descriptor 0"
    ):
        label_space(features, labels[:, :1], ["a"], standardise=False)
