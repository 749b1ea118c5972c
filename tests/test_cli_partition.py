"""``fastmte partition`` as a user types it."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fastmte.cli import main
from fastmte.data.descriptors import Descriptors
from fastmte.features import ACOUSTICBRAINZ_KEYS
from fastmte.labels import MOOD_THEME_TAGS
from fastmte.partition import Partition

HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
TAGS = ("calm", "dark", "epic", "film", "sad")


def run(*arguments):
    return CliRunner().invoke(main, ["partition", *map(str, arguments)])


def parts_of(result):
    """Return the parts in the printed lines: number, tag, tag, ..."""
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(i) for i in range(len(lines))]
    return [line[1:] for line in lines]


@pytest.fixture
def collection(tmp_path):
    """Ten training songs, two a tag, one validation and one test song."""
    folder = tmp_path / "collection"
    folder.mkdir()
    rows = [f"t{i}\ta{i}\tb\t0/{i}.mp3\t30\tmood/theme---{TAGS[i % 5]}" for i in range(10)]
    for part, lines in {
        "train": rows,
        "validation": ["v" + rows[0]],
        "test": ["x" + rows[1]],
    }.items():
        (folder / f"s-{part}.tsv").write_text("\n".join([HEADER, *lines]) + "\n")
    return folder


@pytest.fixture
def features(tmp_path, rng):
    path = tmp_path / "features.npz"
    ids = (*(f"t{i}" for i in range(9)), "other")
    Descriptors(ids, ("x", "y"), rng.normal(5, [1, 90], size=(10, 2)), "mel:mtg2019").save(path)
    return path


@pytest.mark.parametrize("name", ["dk4", "dk5", "dk10", "nb10"])
def test_published_lists_in_order(shared, name):
    folder = shared / "data/clustering"
    path = folder / "published_partitions_fixture.json"
    published = json.loads(path.read_text())["runs_dkmeans"][name]
    result = run(
        "--method",
        "dkmeans-published",
        "--centroids",
        folder / "label_space_fixture.csv",
        "--seeds",
        ",".join(part[0] for part in published),
    )
    assert parts_of(result) == published
    assert "elbow of k-means up to 10 members: 4" in result.stderr


def test_kmeans_with_the_elbow(shared):
    folder = shared / "data/clustering"
    path = folder / "published_partitions_fixture.json"
    published = json.loads(path.read_text())["kmeans4"]
    table = folder / "label_space_fixture.csv"
    result = run("--method", "kmeans", "-k", "auto", "--centroids", table)
    assert sorted(parts_of(result)) == sorted(published)


def test_four_members_by_default():
    assert [len(part) for part in parts_of(run("--method", "linear"))] == [14] * 4


def test_file_written_and_read_again(tmp_path):
    path = tmp_path / "p.json"
    first = run("--method", "random", "--seed", 7, "-k", 5, "-o", path)
    assert Partition.load(path, MOOD_THEME_TAGS).n_members == 5
    assert parts_of(run("--method", path)) == parts_of(first)
    assert json.loads(run("--method", path, "--json").stdout)["details"]["seed"] == 7
    assert parts_of(run("--method", "random", "--seed", 8, "-k", 5)) != parts_of(first)


def test_label_space_of_a_collection(collection, features):
    result = run(
        "--method", "dkmeans", "-k", 2, "--data", collection, "--features", features, "--json"
    )
    made = json.loads(result.stdout)
    assert made["tags"] == list(TAGS)
    details = made["details"]
    assert details["features"] == "mel:mtg2019" and details["feature_names"] == ["x", "y"]
    assert details["standardised"] is True
    assert (details["songs"], details["songs_without_features"]) == (9, 1)


def test_acousticbrainz_files_are_the_default_and_stay_as_they_are(collection, tmp_path):
    (collection / "acousticbrainz/0").mkdir(parents=True)
    for song in range(10):
        document = {"lowlevel": {}, "highlevel": {}}
        for i, key in enumerate(ACOUSTICBRAINZ_KEYS):
            inner = document
            *path, last = key.split(".")
            for name in path:
                inner = inner.setdefault(name, {})
            inner[last] = (song % 5) / 10 if i == 0 else 0.25
        file = collection / f"acousticbrainz/0/{song}.json"
        file.write_text(json.dumps(document))
    arguments = ("--method", "kmeans", "-k", 2, "--data", collection, "--json")
    details = json.loads(run(*arguments).stdout)["details"]
    assert details["features"] == "acousticbrainz" and details["standardised"] is False
    # Five labels at 0, .1, .2, .3, .4 along one axis: .1 is their sum of squares.
    assert details["elbow"]["inertia"][0] == pytest.approx(0.1)
    file.write_text("{}")
    result = run(*arguments)
    assert result.exit_code == 1 and "0/9.json: lacks lowlevel.average_loudness" in result.stderr


def test_collection_without_descriptors(collection):
    assert parts_of(run("--method", "linear", "-k", 2, "--data", collection)) == [
        ["calm", "dark", "epic"],
        ["film", "sad"],
    ]
    result = run("--method", "dkmeans", "--data", collection)
    assert result.exit_code == 1
    assert f"run `fastmte features {collection} -o features.npz`" in result.stderr


def test_features_of_other_songs(collection, tmp_path):
    path = tmp_path / "features.npz"
    Descriptors(("u1",), ("x",), np.zeros((1, 1)), "mel:mtg2019").save(path)
    result = run("--method", "kmeans", "--data", collection, "--features", path)
    assert result.exit_code == 1
    assert "has descriptors of none of the training songs" in result.stderr


def test_tables_of_centroids(tmp_path, rng):
    table = tmp_path / "space.csv"
    table.write_text("tag,x,y\ncalm,0,1\nmood/theme---dark,2,3\n\nepic,4,5.5\n")
    made = json.loads(run("--method", "kmeans", "-k", 2, "--centroids", table, "--json").stdout)
    assert made["tags"] == ["calm", "dark", "epic"]
    rows = tmp_path / "space.npy"
    np.save(rows, rng.normal(size=(56, 3)))
    assert len(parts_of(run("--method", "dkmeans", "-k", 3, "--centroids", rows))) == 3
    np.save(rows, rng.normal(size=(55, 3)))
    result = run("--method", "dkmeans", "--centroids", rows)
    assert (
        result.exit_code == 1 and "must have 56 rows of numbers, the task's tags" in result.stderr
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no line of a tag and its numbers"),
        ("tag,x\n", "has no line of a tag and its numbers"),
        ("calm,1,2\ndark,1\n", "space.csv:2: must be a tag and 2 finite numbers"),
        ("calm,1,2\ndark,1,nan\n", "space.csv:2: must be a tag and 2 finite numbers"),
        ("calm,x.6,1\ndark,1,2\n", "space.csv:1: must be a tag and 2 finite numbers, got 'x.6'"),
        ("calm,nan,x\ndark,1,2\n", "space.csv:1: must be a tag and 2 finite numbers, got 'nan'"),
        ("calm,1\ncalm,2\n", "space.csv:2: calm is in it already"),
    ],
)
def test_bad_table_of_centroids(tmp_path, text, message):
    table = tmp_path / "space.csv"
    table.write_text(text)
    result = run("--method", "kmeans", "--centroids", table)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1 and message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Missing option '--method'"),
        (("--method", "dkmeasn"), 2, "must be one of dkmeans, dkmeans-published"),
        (("--method", "."), 2, "must be one of dkmeans, dkmeans-published"),
        (("--method", "linear", "-k", "0"), 2, "must be a number of 1 or more, or auto"),
        (("--method", "linear", "-k", "four"), 2, "must be a number of 1 or more, or auto"),
        (("--method", "linear", "-k", "57"), 1, "must be in [1, 56]"),
        (("--method", "linear", "-k", "auto"), 1, "the elbow needs the labels' centroids"),
        (("--method", "dkmeans"), 1, "dkmeans: needs the labels' centroids"),
        (("--method", "linear", "--data", "/no/such"), 2, "'/no/such' does not exist"),
        (("--method", "linear", "--centroids", "/no/such.csv"), 2, "does not exist"),
        (("--method", "linear", "--data", "."), 1, "no collection of MTG-Jamendo's layout"),
        (("--method", "linear", "--features", __file__), 2, "--features needs --data"),
        (("--method", "linear", "--data", ".", "--centroids", __file__), 2, "exclude each other"),
        (("--method", __file__), 1, "no JSON, so no partition"),
        (("--method", "linear", "--seeds", "calm,sad"), 1, "linear: takes no seeds"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, arguments, code, message):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, "-o", tmp_path / "p.json")
    assert result.exit_code == code, result.output
    assert message in result.stderr and "Traceback" not in result.output
    assert not (tmp_path / "p.json").exists()


def test_table_that_is_no_text(tmp_path):
    (tmp_path / "space.csv").write_bytes(b"calm,1\n\xff\xfe,2\n")
    result = run("--method", "kmeans", "--centroids", tmp_path / "space.csv")
    assert result.exit_code == 1 and "space.csv: no table of text" in result.stderr


def test_folder_that_is_not_there(tmp_path):
    result = run("--method", "linear", "-o", tmp_path / "no/p.json")
    assert result.exit_code == 1 and "No such file or directory" in result.stderr


def test_features_that_are_no_numpy_file(collection, tmp_path):
    (tmp_path / "f.npz").write_text("no numbers\n")
    result = run("--method", "kmeans", "--data", collection, "--features", tmp_path / "f.npz")
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path / 'f.npz'}: not a NumPy array file\n"
