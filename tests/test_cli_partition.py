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
        ("", "has no row of a name and its numbers"),
        ("tag,x\n", "has no row of a name and its numbers"),
        ("calm,1,2\ndark,1\n", "space.csv:2: must have 3 cells, got 2"),
        ("calm,1,2\ndark,1,nan\n", "space.csv:2 (dark), column 3: must be a finite number"),
        ("calm,x.6,1\ndark,1,2\n", "space.csv:1 (calm), column 2: must be a finite number"),
        ("calm,nan,x\ndark,1,2\n", "space.csv:1 (calm), column 2: must be a finite number"),
        ("calm,1\ncalm,2\n", "space.csv:2: calm is in line 1 already"),
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
        (("--method", "linear", "--data", ".", "--labels", __file__), 2, "exclude each other"),
        (("--method", "linear", "--labels", __file__), 2, "--labels needs --features"),
        (("--method", "linear", "--name-column", "x"), 2, "--name-column needs --points"),
        (("--method", "linear", "--standardise"), 2, "--standardise needs --points"),
        (("--method", "linear", "--draws", "9"), 2, "--draws needs --report"),
        (("--method", "linear", "--report", "r"), 2, "--report needs the labels as points"),
        (("--method", "linear", "--refine", "both"), 2, "'both' is not one of 'variance'"),
        (("--method", "linear", "--refine", "variance"), 1, "linear: takes no refinement"),
        (("--method", "linear", "--n-init", "3"), 1, "linear: takes no number of starts"),
        (("--method", "linear", "--k-max", "2"), 2, "2 is not in the range x>=3"),
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


@pytest.fixture
def artists(tmp_path, rng):
    """Forty artists around four places, a column of hertz among columns of 0 to 1."""
    points = np.repeat(rng.random((4, 3)) * [1, 1, 1000], 10, axis=0)
    points += rng.normal(0, [0.02, 0.02, 20], size=(40, 3))
    lines = [f"{x:.4f},artist {i},{y:.4f},{z:.2f}" for i, (x, y, z) in enumerate(points)]
    path = tmp_path / "artists.csv"
    path.write_text("\n".join(["loud,artist,fast,hertz", *lines]) + "\n")
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "json"])
def test_groups_of_any_table(artists, tmp_path, ending):
    output = tmp_path / f"groups.{ending}"
    result = run(
        *("--method", "dkmeans", "-k", 16, "--points", artists, "--name-column", "artist"),
        *("--standardise", "-o", output, "--json"),
    )
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout)
    assert made["tags"] == [f"artist {i}" for i in range(40)]
    assert made["details"]["feature_names"] == ["loud", "fast", "hertz"]
    assert made["details"]["standardised"] is True
    assert sorted(map(len, made["parts"])) == [2] * 8 + [3] * 8
    if ending == "json":
        assert json.loads(output.read_text()) == made
        return
    lines = output.read_text().splitlines()
    delimiter = "," if ending == "csv" else "\t"
    assert lines[0].split(delimiter) == ["artist", "member"]
    members = {name: int(member) for name, member in (x.split(delimiter) for x in lines[1:])}
    assert members == dict(zip(made["tags"], made["member_of_label"], strict=True))


def test_standardise_gives_the_columns_one_unit(artists):
    arguments = ("--method", "kmeans", "-k", 4, "--points", artists, "--name-column", "artist")
    found = [
        json.loads(run(*arguments, *more, "--json").stdout) for more in ((), ("--standardise",))
    ]
    curves = [made["details"]["elbow"]["inertia"] for made in found]
    assert curves[1][0] == pytest.approx(40 * 3)  # n d where every variance is 1
    assert curves[0][0] > 1000 * curves[1][0]


def test_names_with_spaces_are_parted_by_commas(artists):
    result = run("--method", "linear", "-k", 10, "--points", artists, "--name-column", "artist")
    assert result.stdout.splitlines()[1] == "1  artist 4, artist 5, artist 6, artist 7"


def test_column_that_is_not_there(artists):
    result = run("--method", "dkmeans", "--points", artists, "--name-column", "who")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {artists}: has no column 'who'; its columns are loud, artist, fast, hertz\n"
    )


def test_more_members_than_names(artists):
    result = run("--method", "dkmeans", "-k", 41, "--points", artists, "--name-column", "artist")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "number of members must be in [1, 40], the number of labels" in result.stderr


def test_songs_of_a_file_of_features(features):
    result = run("--method", "dkmeans", "-k", 2, "--points", features, "--json")
    assert json.loads(result.stdout)["tags"] == [*(f"t{i}" for i in range(9)), "other"]
    result = run("--method", "dkmeans", "--points", features, "--name-column", "song")
    assert result.exit_code == 1 and "has no columns with names" in result.stderr


@pytest.fixture
def arrays(tmp_path, rng):
    labels = np.zeros((120, 56), np.uint8)
    labels[np.arange(120), np.arange(120) % 56] = labels[::3, 0] = 1
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "rows.npy", rng.normal(size=(120, 4)).astype(np.float32))
    return tmp_path / "rows.npy", tmp_path / "labels.npy"


def test_label_space_of_two_arrays(arrays):
    rows, labels = arrays
    made = json.loads(
        run("--method", "dkmeans", "--features", rows, "--labels", labels, "--json").stdout
    )
    assert made["tags"] == list(MOOD_THEME_TAGS)
    assert made["details"]["songs"] == 120 and made["details"]["labels"] == "labels.npy"


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (np.zeros((120, 4)), np.zeros((120, 55)), "0 or 1 for each of the 120 songs of"),
        (np.zeros((120, 4)), np.zeros((119, 56)), "0 or 1 for each of the 120 songs of"),
        (np.zeros((120, 4)), np.full((120, 56), 0.5), "0 or 1 for each of the 120 songs of"),
        (np.zeros((120, 4)), np.zeros((120, 56)), "no song has the label action"),
        (np.zeros(120), np.ones((120, 56)), "must have a row of numbers a song, got float64"),
        (np.zeros((120, 0)), np.ones((120, 56)), "must have a row of numbers a song"),
        (np.full((120, 2), np.nan), np.ones((120, 56)), "features must be finite, got nan in"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, rows, labels, message):
    np.save(tmp_path / "rows.npy", rows)
    np.save(tmp_path / "labels.npy", labels)
    result = run(
        *("--method", "dkmeans", "--features", tmp_path / "rows.npy"),
        *("--labels", tmp_path / "labels.npy"),
    )
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert message in result.stderr


def test_refined_and_best_of_several_starts(artists):
    arguments = ("--method", "dkmeans", "--points", artists, "--name-column", "artist", "--json")
    balance = [
        json.loads(run(*arguments, *more).stdout)["details"]["balance"]
        for more in ((), ("--n-init", 20), ("--refine", "variance"))
    ]
    assert balance[1] < balance[0] and balance[2] < balance[0]


def test_auto_without_an_elbow_says_so(tmp_path, rng):
    lines = [",".join([f"p{i}", *map(str, row)]) for i, row in enumerate(rng.normal(size=(56, 22)))]
    (tmp_path / "heap.csv").write_text("\n".join(lines) + "\n")
    result = run("--method", "dkmeans", "-k", "auto", "--points", tmp_path / "heap.csv")
    assert result.exit_code == 0
    warning, elbow = result.stderr.splitlines()
    assert warning.startswith("Warning: the curve of k-means up to 10 clusters has no elbow: it")
    assert elbow == "elbow of k-means up to 10 members: none"
    shorter = run("--method", "linear", "--points", tmp_path / "heap.csv", "--k-max", 5)
    assert shorter.stderr == "elbow of k-means up to 5 members: none\n"


REPORT = ("--method", "dkmeans", "--draws", 3, "--name-column", "artist")


def test_report_is_a_folder(artists, tmp_path):
    result = run(*REPORT, "--points", artists, "--report", tmp_path / "r/deep")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "r/deep"
    names = ["report.html", "figure1.png", "elbow.png", "comparison.json"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert result.stderr.splitlines()[-4:] == [str(folder / name) for name in names]
    rows = json.loads((folder / "comparison.json").read_text())
    assert rows[0]["method"] == "this partition" and rows[0]["stability"] is None
    assert [row["n_draws"] for row in rows] == [1, 3, 1, 3, 3, 3, 3, 3, 3]
    for row in rows:
        assert row["method"] in result.stderr
    page = (folder / "report.html").read_text()
    assert "40 labels split by dkmeans into 4" in page and "k-means" in page
    assert page.count("data:image/png;base64,") == 2


def test_report_is_a_page(artists, tmp_path):
    made = tmp_path / "mine.json"
    assert run(*REPORT[:2], *REPORT[4:], "--points", artists, "-o", made).exit_code == 0
    before = set(tmp_path.iterdir())
    arguments = ("--method", made, "--draws", 2, "--name-column", "artist", "--points", artists)
    result = run(*arguments, "--report", tmp_path / "mine.HTML", "--json")
    assert result.exit_code == 0, result.output
    assert set(tmp_path.iterdir()) - before == {tmp_path / "mine.HTML"}
    assert json.loads(result.stdout)["method"] == "dkmeans"
    first, second = (
        run(*arguments, "--report", tmp_path / name) and (tmp_path / name).read_bytes()
        for name in ("a.html", "b.html")
    )
    assert first == second


def test_report_of_a_collection_tells_labels_of_one_song(collection, features, tmp_path):
    page = tmp_path / "r.html"
    result = run(
        *("--method", "linear", "-k", 2, "--data", collection, "--features", features),
        *("--report", page, "--draws", 2),
    )
    assert result.exit_code == 0, result.output
    assert "Labels of one song" not in page.read_text()  # each song has one label only
    result = run("--method", "linear", "--data", collection, "--report", page)
    assert result.exit_code == 1 and "has no AcousticBrainz files" in result.stderr


def test_report_without_matplotlib(artists, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    result = run(*REPORT, "--points", artists, "--report", tmp_path / "r")
    assert result.exit_code == 0
    left_out = [line for line in result.stderr.splitlines() if line.startswith("left out")]
    assert left_out == [
        "left out: Figure 1 and the elbow: pictures need matplotlib: pip install 'fastmte[plot]'"
    ]
    assert not (tmp_path / "r/figure1.png").exists()


def test_report_where_no_folder_can_be(artists, tmp_path):
    result = run(*REPORT, "--points", artists, "--report", artists / "r")
    assert result.exit_code == 1 and "Not a directory" in result.stderr
    result = run(*REPORT, "--points", artists, "--report", tmp_path / "no/r.html")
    assert result.exit_code == 2 and "there is no such folder; make it first" in result.stderr


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
