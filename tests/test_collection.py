"""Where a collection's tables and files are looked for."""

import shutil

import pytest

from fastmte.data.collection import PARTS, Collection
from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS

HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
TAGS = {"train": ["calm", "epic"], "validation": ["calm"], "test": ["epic"]}


def write_tables(folder, prefix="autotagging_moodtheme-", tags=TAGS):
    """Write one song a tag into a table a part."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, names in tags.items():
        rows = [
            f"{part}_{i}\t{part}\talbum\t{i:02}/{part}{i}.mp3\t30\tmood/theme---{tag}"
            for i, tag in enumerate(names)
        ]
        (folder / f"{prefix}{part}.tsv").write_text("\n".join([HEADER, *rows]) + "\n")


@pytest.mark.parametrize(
    "place", ["data/splits/split-0", "splits/split-0", "split-0", "."], ids=str
)
def test_tables_are_found(tmp_path, place):
    write_tables(tmp_path / place)
    assert Collection.is_in(tmp_path)
    collection = Collection.open(tmp_path)
    assert [len(getattr(collection, part)) for part in PARTS] == [2, 1, 1]
    assert collection.leaks() == {}


def test_published_collection(shared):
    collection = Collection.open(shared / "data/mtg-jamendo", split=3)
    assert collection.tags == MOOD_THEME_TAGS and collection.left_out == ()
    assert len(collection.train) == 10920


def test_split_is_the_one_asked_for(tmp_path):
    write_tables(tmp_path / "splits/split-0")
    write_tables(tmp_path / "splits/split-2", tags={**TAGS, "train": ["calm"] * 5 + ["epic"]})
    assert len(Collection.open(tmp_path, split=2).train) == 6
    with pytest.raises(InputError, match=r"no collection .* looked for .*splits/split-1/"):
        Collection.open(tmp_path, split=1)


def test_labels_are_the_tags_of_the_training_songs(tmp_path):
    write_tables(tmp_path, tags={**TAGS, "test": ["epic", "dark"]})
    collection = Collection.open(tmp_path)
    assert collection.tags == ("calm", "epic")
    assert collection.left_out == ("dark",)
    assert collection.test.labels.tolist() == [[False, True], [False, False]]


def test_own_tags(tmp_path):
    write_tables(tmp_path, prefix="mine-", tags={part: ["wobbly"] for part in PARTS})
    with pytest.raises(InputError, match=r"mine-train.tsv:2: unknown tag 'mood/theme---wobbly'"):
        Collection.open(tmp_path)
    (tmp_path / "tags.txt").write_text("mood/theme---wobbly\nshiny\n")
    assert Collection.open(tmp_path).tags == ("wobbly",)
    (tmp_path / "tags.txt").write_text("wobbly\nwobbly\n")
    with pytest.raises(InputError, match=r"tags\.txt: must list distinct tags"):
        Collection.open(tmp_path)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda folder: None, "is no folder"),
        (lambda folder: folder.mkdir(), "is empty"),
        (
            lambda folder: (folder / "audio").mkdir(parents=True),
            r"no collection of MTG-Jamendo's layout; looked for .*data/splits/split-0/\*-train.tsv",
        ),
    ],
)
def test_folder_without_collection(tmp_path, make, text):
    make(tmp_path / "music")
    assert not Collection.is_in(tmp_path / "music")
    with pytest.raises(InputError, match=text):
        Collection.open(tmp_path / "music")


def test_missing_table_is_named(tmp_path):
    write_tables(tmp_path)
    (tmp_path / "autotagging_moodtheme-test.tsv").unlink()
    with pytest.raises(InputError, match=r"\*-test\.tsv missing"):
        Collection.open(tmp_path)


def test_more_than_one_table_is_refused_unless_one_is_the_tasks(tmp_path):
    write_tables(tmp_path, prefix="a-")
    write_tables(tmp_path, prefix="b-")
    with pytest.raises(InputError, match=r"more than one table of train songs: a-train.tsv, b-"):
        Collection.open(tmp_path)
    write_tables(tmp_path)
    assert len(Collection.open(tmp_path).train) == 2


def test_flat_folder_has_one_split(tmp_path):
    write_tables(tmp_path)
    with pytest.raises(InputError, match="has one split only, number 0, got 4"):
        Collection.open(tmp_path, split=4)


def test_files_of_a_song(tmp_path):
    write_tables(tmp_path)
    collection = Collection.open(tmp_path)
    song = collection.train.paths[0]
    finders = (collection.audio_path, collection.mel_path, collection.descriptor_path)
    assert [find(song) for find in finders] == [None, None, None]

    def put(name):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    # Each later one comes before the earlier ones.
    for name in ("00/train0.low.mp3", "audio/00/train0.low.mp3", song, f"audio/{song}"):
        path = put(name)
        assert collection.audio_path(song) == path
    for name in ("mels/00/train0.npy", "melspecs/00/train0.npy"):
        path = put(name)
        assert collection.mel_path(song) == path
    described = put("acousticbrainz/00/train0.json")
    assert collection.descriptor_path(song) == described
    shutil.rmtree(tmp_path / "audio")
    assert collection.audio_path(song) == tmp_path / song
