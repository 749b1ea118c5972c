"""A partition beside others: the table, the sections of the page, the published label space."""

import json
import math

import numpy as np
import pytest

from bench import label_space as study
from fastmte.partition import Partition, agreement, co_occurrence, judge, make_partition
from fastmte.partition.compare import _WAYS, CHOSEN, compare, default_draws
from fastmte.report import _markup, comparison, tables
from fastmte.report.partition import write_report

TAGS = tuple(f"tag {i}" for i in range(24))


@pytest.fixture
def points(rng):
    return rng.normal(size=(24, 5))


@pytest.fixture
def pairs(rng):
    counts = np.triu(rng.integers(0, 9, size=(24, 24)), 1)
    return counts + counts.T


def test_rows_are_the_measures_of_what_the_methods_draw(points, pairs):
    partition = make_partition("dkmeans", TAGS, points, 3, seed=9)
    rows, missing = compare(partition, points, pairs, n_draws=12, seed=5)
    assert missing == ()
    by_name = {row.method: row for row in rows}
    options = {"random": {}, "dkmeans": {"refine": "diversity"}}
    for name, method in (("random", "random"), ("dk-means + exchange, diversity", "dkmeans")):
        made = [
            make_partition(method, TAGS, points, 3, seed, **options[method]).member_of_label
            for seed in range(5, 17)
        ]
        row = by_name[name]
        assert row.n_draws == 12 and row.sizes == (8, 8)
        diversity = [judge(points, labels).diversity for labels in made]
        assert row.mean["diversity"] == pytest.approx(np.mean(diversity))
        assert row.spread["diversity"] == pytest.approx(np.std(diversity))
        lifts = [co_occurrence(pairs, labels).lift for labels in made]
        assert row.mean["together"] == pytest.approx(np.mean(lifts))
        assert row.stability == pytest.approx(agreement(made))
    chosen = by_name[CHOSEN]
    assert (chosen.n_draws, rows[0]) == (1, chosen) and math.isnan(chosen.stability)
    assert chosen.mean["balance"] == partition.details["balance"]
    assert set(chosen.spread.values()) == {0.0}


def test_gain_is_the_way_from_random_to_the_best(points):
    rows, _ = compare(make_partition("linear", TAGS, points, 4), points, n_draws=10)
    by_name = {row.method: row for row in rows}
    assert by_name["random"].gain == 0
    assert by_name["linear"].gain == by_name[CHOSEN].gain
    refined = by_name["dk-means + exchange, diversity"]
    assert 0.8 < refined.gain <= 1
    assert by_name["dk-means"].gain < refined.gain
    assert math.isnan(by_name["k-means"].gain) or by_name["k-means"].sizes == (6, 6)
    assert all(math.isnan(row.mean["together"]) for row in rows)


def test_draws():
    assert [default_draws(n) for n in (4, 200, 201, 1000, 1001)] == [200, 200, 20, 20, 3]


def test_slow_methods_draw_fewer(points):
    seen = []
    partition = make_partition("random", TAGS, points, 2)
    rows, _ = compare(partition, points, n_draws=40, progress=seen.append)
    assert [row.n_draws for row in rows] == [1, 40, 1, 10, 40, 40, 10, 40, 40]
    assert seen == [row.method for row in rows[1:]]


def test_what_cannot_be_compared_is_named(points, monkeypatch):
    places = np.repeat(points[:2], 12, axis=0)
    partition = make_partition("dkmeans", TAGS, places, 3)
    rows, missing = compare(partition, places, n_draws=2)
    assert missing == (
        "k-means: kmeans: the labels have only 2 distinct centroids, too few for 3 members",
    )
    assert len(rows) == 8
    ways = (_WAYS[0], *(way._replace(most_work=24 * 24 * 5 - 1) for way in _WAYS[-2:]))
    monkeypatch.setattr("fastmte.partition.compare._WAYS", ways)
    rows, missing = compare(make_partition("random", TAGS, points, 3), points, n_draws=2)
    assert missing == (
        "dk-means + exchange, variance: takes too long for 24 labels",
        "dk-means + exchange, diversity: takes too long for 24 labels",
    )
    assert len(rows) == 2


@pytest.mark.parametrize("n_members", [1, 24])
def test_one_member_and_one_label_each(points, pairs, n_members):
    partition = make_partition("dkmeans", TAGS, points, n_members)
    rows, missing = compare(partition, points, pairs, n_draws=2)
    assert len(rows) == 9 and missing == ()
    shown = tables.comparison_rows(rows)
    assert shown[1]["dispersion" if n_members == 24 else "balance"] in ("none", "0.000 ± 0.000")


# What is shown


def test_table_as_text(points, pairs):
    rows, _ = compare(make_partition("linear", TAGS, points, 4), points, pairs, n_draws=3)
    shown = {row["method"]: row for row in tables.comparison_rows(rows)}
    random = next(row for row in rows if row.method == "random")
    mean, spread = random.mean["balance"], random.spread["balance"]
    assert shown["random"]["balance"] == f"{mean:.3f} ± {spread:.3f}"
    assert shown["random"]["agreement"] == f"{random.stability:.3f}"
    assert shown[CHOSEN]["agreement"] == "-" and "±" not in shown[CHOSEN]["balance"]
    assert shown["random"]["sizes"] == "6"
    bare = tables.comparison_rows(rows, has_spread=False)
    assert bare[1]["balance"] == f"{mean:.3f}"
    without = compare(make_partition("linear", TAGS, points, 4), points, n_draws=2)[0]
    assert "together" not in tables.comparison_rows(without)[0]


@pytest.mark.parametrize(
    ("mean", "spread", "text"),
    [
        (0.14, 0.02, "0.140 ± 0.020"),
        (0.14, None, "0.140"),
        (1234567.8, 12.3, "1,234,568 ± 12"),
        (0.00021, 0.00001, "0.00021 ± 1e-05"),
        (0.0, 0.0, "0.000 ± 0.000"),
        (1e-17, None, "0.000"),
        (3e12, None, "3e+12"),
        (math.nan, None, "-"),
        (math.inf, math.nan, "none"),
    ],
)
def test_numbers_of_the_table(mean, spread, text):
    assert tables._mean(mean, 3, spread) == text


def test_pairs_of_one_song_are_the_most_frequent():
    partition = Partition(("a", "b", "<c>", "d"), np.array([0, 0, 1, 1]), "by hand")
    counts = np.zeros((4, 4), int)
    for i, j, n in ((0, 1, 5), (2, 3, 9), (0, 2, 7), (1, 3, 7), (1, 2, 1)):
        counts[i, j] = counts[j, i] = n
    section = comparison.together(partition, counts)
    assert "48 % of the pairs" in section and "chance would give 33 %" in section
    kept, parted = section.split("Parted")
    cells = [text for text in ("&lt;c&gt;, d", "a, b") if text in kept]
    assert cells == ["&lt;c&gt;, d", "a, b"] and kept.index(cells[0]) < kept.index(cells[1])
    assert parted.index("a, &lt;c&gt;") < parted.index("b, d") < parted.index("b, &lt;c&gt;")
    assert comparison.together(partition, np.zeros((4, 4), int)) == ""
    assert comparison.together(partition, None) == comparison.comparison(()) == ""
    assert _markup.text("<c>") == "&lt;c&gt;"


def test_report_of_a_partition_without_a_curve(points, pairs, tmp_path):
    partition = make_partition("linear", TAGS, None, 3)
    written, rows, missing = write_report(partition, points, pairs, tmp_path / "r", 2)
    assert missing == () and [path.name for path in written][2] == "elbow.png"
    page = (tmp_path / "r/report.html").read_text()
    assert all(f'<section id="{name}">' in page for name in ("comparison", "together", "elbow"))
    saved = json.loads((tmp_path / "r/comparison.json").read_text())
    assert [row["method"] for row in saved] == [row.method for row in rows]
    assert saved[1]["mean"]["balance"] == rows[1].mean["balance"]


def test_report_leaves_out_a_long_curve(points, tmp_path, monkeypatch):
    monkeypatch.setattr("fastmte.report.partition.MOST_FOR_ELBOW", 23)
    partition = make_partition("linear", TAGS, None, 3)
    written, _, missing = write_report(partition, points, None, tmp_path / "r.html", 2)
    assert written == [tmp_path / "r.html"]
    assert missing == ("the elbow: takes long for 24 labels; -k auto makes it",)
    assert "takes long for 24 labels" in written[0].read_text()


# The published predictions as label space


# Mean and deviation of R2, balance and diversity, and the agreement of two seeds, of 200 seeds
# each, by a program that shares no code with this one.
MEASURED = {
    "random": (0.0532, 0.0216, 0.98, 46.93, 0.0),
    "linear": (0.0399, 0.0, 0.73, 47.35, None),
    "plan dikmeans_4": (0.0204, 0.0, 0.37, 47.95, None),
    "plan kmeans": (0.476, 0.0, None, None, None),
    "dk-means, authors' code": (0.0160, 0.003, 0.29, 48.18, 0.03),
    "dk-means": (0.0075, 0.0013, 0.14, 48.28, 0.0325),
    "dk-means, k-means++ starts": (0.0074, 0.0013, 0.14, 48.30, None),
    "dk-means, farthest starts": (0.0073, 0.0013, 0.13, 48.37, None),
    "dk-means + exchange, variance": (0.0035, 0.0005, 0.066, 48.31, 0.05),
    "dk-means + exchange, diversity": (0.0066, 0.0007, 0.12, 48.65, 0.05),
}


@pytest.fixture(scope="module")
def table(shared):
    """The label space of the published predictions, 200 seeds a method."""
    return {row.method: row for row in study.table(shared)}


@pytest.mark.parametrize("name", MEASURED)
def test_balance_of_the_real_labels(table, name):
    row, (r2, spread, balance, diversity, stability) = table[name], MEASURED[name]
    error = 4 * spread * math.sqrt(2 / 200)  # of the difference of two means of 200
    assert row.mean["r2"] == pytest.approx(r2, abs=error + 0.0005)
    if balance is not None:
        assert row.mean["balance"] == pytest.approx(balance, abs=error * 55 / 3 + 0.005)
        assert row.mean["diversity"] == pytest.approx(diversity, abs=0.2 if spread > 0.01 else 0.04)
    if stability is not None:
        assert row.stability == pytest.approx(stability, abs=0.03)


def test_what_is_better_than_what_on_the_real_labels(table):
    order = [
        *("random", "linear", "plan dikmeans_4", "dk-means, authors' code", "dk-means"),
        *("dk-means, best of 10", "dk-means + exchange, variance"),
    ]
    balance = [table[name].mean["balance"] for name in order]
    assert balance == sorted(balance, reverse=True)
    assert table["dk-means + exchange, diversity"].gain > 0.95
    # dk-means parts what songs have together, k-means keeps it together.
    assert table["dk-means"].mean["together"] < 0.95 < 1.5 < table["plan kmeans"].mean["together"]


def test_one_seed_of_dkmeans_is_one_draw(table, shared):
    space = study.space(shared)
    made = [
        make_partition("dkmeans", space.tags, space.centroids, 4, seed, elbow=False)
        for seed in range(200)
    ]
    assert len({frozenset(map(frozenset, partition.parts())) for partition in made}) == 200
    assert agreement([partition.member_of_label for partition in made]) == pytest.approx(
        table["dk-means"].stability
    )
    assert 0.02 < table["dk-means"].stability < 0.045
    assert abs(table["random"].stability) < 0.005
    assert 0.75 < table["k-means, 10 starts"].stability < 0.95


def test_elbow_of_the_real_labels_depends_on_where_the_curve_ends(shared):
    space = study.space(shared)
    found = {}
    for k_max in (10, 19, 30):
        made = make_partition("kmeans", space.tags, space.centroids, 4, k_max=k_max)
        found[k_max] = made.details["elbow"]["elbow"]
    assert found[10] == 4 and found[19] in (5, 6) and found[30] in (6, 7, 8)
    together = space.pairs + np.diag(space.pairs.sum(axis=1) + 1)
    profiles = together / together.sum(axis=1, keepdims=True)
    curve = make_partition("kmeans", space.tags, profiles, 4).details["elbow"]
    assert curve["elbow"] is None and curve["gap"] < 0.25


def test_study_prints_markdown(shared, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["label_space", str(shared)])
    monkeypatch.setattr(study.table, "__defaults__", (3,))
    study.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 12 and len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| random | 3 | 14 |")
