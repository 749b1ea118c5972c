"""The reader of MTG-Jamendo's tables: the published splits, and rows that are not of the form."""

from functools import cache

import numpy as np
import pytest

from fastmte.data.jamendo import artist_leaks, read_split
from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS

COUNTS = {  # songs of train, validation, test in each published split
    0: (9949, 3802, 4231),
    1: (10190, 3594, 4198),
    2: (10484, 4085, 3413),
    3: (10920, 3500, 3562),
    4: (10241, 3706, 4035),
}
HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
ROWS = (
    "track_01\tartist_1\talbum_1\t01/1.ogg\t30.5\tmood/theme---calm",
    "track_02\tartist_2\talbum_2\t02/2.ogg\t40\tmood/theme---dark\tmood/theme---calm",
    "track_03\tartist_2\talbum_2\t03/3.ogg\t50.25\tmood/theme---epic",
)


def write(folder, *lines, newline="\r\n", name="songs-train.tsv"):
    path = folder / name
    path.write_bytes("".join(line + newline for line in lines).encode())
    return path


@cache
def of_split(shared, split):
    folder = shared / f"data/mtg-jamendo/splits/split-{split}"
    names = ("train", "validation", "test")
    return {name: read_split(folder / f"autotagging_moodtheme-{name}.tsv") for name in names}


@pytest.mark.parametrize("split", COUNTS)
def test_published_splits(shared, split):
    parts = of_split(shared, split)
    assert tuple(len(songs) for songs in parts.values()) == COUNTS[split]
    assert artist_leaks(parts) == {}
    for songs in parts.values():
        assert songs.tags == MOOD_THEME_TAGS
        assert songs.labels.any(axis=0).all() and songs.labels.any(axis=1).all()


def test_labels_of_the_test_songs_are_the_published_truth(shared):
    truth = np.load(shared / "data/mediaeval2021/groundtruth.npy")
    labels = of_split(shared, 0)["test"].labels
    assert labels.dtype == truth.dtype
    np.testing.assert_array_equal(labels, truth)


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_rows_become_songs(tmp_path, newline):
    songs = read_split(write(tmp_path, HEADER, *ROWS, newline=newline), ["calm", "dark", "epic"])
    assert songs.ids == ("track_01", "track_02", "track_03")
    assert songs.artists == ("artist_1", "artist_2", "artist_2")
    assert songs.paths == ("01/1.ogg", "02/2.ogg", "03/3.ogg")
    assert songs.durations.tolist() == [30.5, 40.0, 50.25]
    assert songs.labels.astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_blank_lines_byte_order_mark_and_trailing_tabs_do_no_harm(tmp_path):
    path = write(tmp_path, "\ufeff" + HEADER, ROWS[0] + "\t\t", "", ROWS[1])
    assert len(read_split(path)) == 2


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("track_04\tartist_1", "must have 6 or more columns, the last ones tags, got 2"),
        (ROWS[0].rsplit("\t", 1)[0] + "\t", "must have 6 or more columns"),
        (ROWS[0].replace("track_01", ""), "TRACK_ID must not be empty"),
        (ROWS[0].replace("30.5", "long"), "DURATION must be seconds, got 'long'"),
        (ROWS[0].replace("30.5", "-1"), "DURATION must be seconds, got '-1'"),
        (ROWS[0].replace("30.5", "nan"), "DURATION must be seconds, got 'nan'"),
        (ROWS[0].replace("01/1", "../1"), r"PATH must lie in the collection, got \.\./1\.ogg"),
        (ROWS[0].replace("01/1", "/1"), "PATH must lie in the collection, got /1.ogg"),
        (ROWS[0].replace("---calm", "---clam"), "unknown tag 'mood/theme---clam'; did you mean ca"),
        (ROWS[0].replace("mood/theme---calm", "genre---rock"), "unknown tag 'genre---rock'$"),
        (ROWS[1], "track_02 is in line 3 already"),
    ],
)
def test_bad_row_is_named_by_its_line(tmp_path, row, text):
    path = write(tmp_path, HEADER, ROWS[2], ROWS[1], row)
    with pytest.raises(InputError, match=rf"songs-train\.tsv:4: {text}"):
        read_split(path)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((), r"tsv:1: must be the header TRACK_ID"),
        ((ROWS[0],), r"tsv:1: must be the header TRACK_ID"),
        ((HEADER.replace("\t", ","), ROWS[0]), "tsv:1: must be the header"),
        ((HEADER,), "has no songs"),
        ((HEADER, "", ""), "has no songs"),
    ],
)
def test_table_without_songs(tmp_path, lines, text):
    with pytest.raises(InputError, match=text):
        read_split(write(tmp_path, *lines))


def test_text_that_is_not_utf8_is_named_by_its_line(tmp_path):
    path = write(tmp_path, HEADER, ROWS[0])
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"tsv:3: is not UTF-8 text"):
        read_split(path)


def test_some_songs_and_some_tags(tmp_path):
    songs = read_split(write(tmp_path, HEADER, *ROWS))
    some = songs.with_tags(["epic", "calm"]).only(np.array([True, False, True]))
    assert some.ids == ("track_01", "track_03") and some.tags == ("epic", "calm")
    assert some.labels.astype(int).tolist() == [[0, 1], [1, 0]]
    assert some.durations.tolist() == [30.5, 50.25]


def test_artists_in_two_parts_leak(tmp_path):
    train = read_split(write(tmp_path, HEADER, ROWS[0], ROWS[1]))
    test = read_split(write(tmp_path, HEADER, ROWS[2], name="songs-test.tsv"))
    assert artist_leaks({"train": train, "test": test}) == {"artist_2": ("train", "test")}
