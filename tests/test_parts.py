"""The Parquet parts of a tagged folder, and the plan that they are."""

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastmte.data import parts
from fastmte.data.inputs import SongFile
from fastmte.data.parts import Row, read_manifest, read_tagged
from fastmte.data.shards import Shard, TagStore, open_store
from fastmte.errors import InputError

TAGS = ("calm", "dark")
MADE_WITH = {"model": "abc", "frames": 64}


def songs(*numbers: int, size: int = 10) -> list[SongFile]:
    return [SongFile(b"%03d.mp3" % i, b"/music/%03d.mp3" % i, size, 5) for i in numbers]


def rows_of(shard: Shard) -> list[Row]:
    return [row_of(song) for song in shard.songs]


def row_of(song: SongFile) -> Row:
    number = int(song.name[:3])
    if number % 5 == 3:
        return Row(song, "error", "DAMAGED", "lost sync")
    scores = np.array([number, song.size], np.float32) / 1000
    return Row(song, "ok", "", "", 31.5, 44100, 2, 7, scores)


def opened(folder: Path, tags: tuple[str, ...] = TAGS, **options: Any) -> Any:
    options = {"made_with": MADE_WITH, "root": b"/music", "shard_size": 4, **options}
    return open_store(folder, tags, **options)


def tag(store: TagStore, files: list[SongFile], most: int = 99, **options: Any) -> list[Shard]:
    plan = store.plan(files, **options)
    for shard in plan[:most]:
        store.write(shard, rows_of(shard))
    return plan


def numbers(plan: list[Shard]) -> list[tuple[int, list[int]]]:
    return [(shard.number, [int(song.name[:3]) for song in shard.songs]) for shard in plan]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "parts").iterdir())}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """Ten songs in three parts."""
    with opened(tmp_path / "whole") as store:
        tag(store, songs(*range(10)))
    return tmp_path / "whole"


def test_plan_is_sorted_and_cut(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        plan = store.plan([*songs(4, 2, 3, 0, 1), *songs(2, 2)])
        assert numbers(plan) == [(0, [0, 1, 2, 3]), (1, [4])]
        assert store.plan([]) == []


def test_rows_come_back(whole: Path) -> None:
    tagged = read_tagged(whole)
    assert tagged.names == [b"%03d.mp3" % i for i in range(10)]
    assert (tagged.tags, tagged.root, tagged.thresholds) == (TAGS, b"/music", None)
    scores = tagged.scores()
    assert scores.dtype == np.float32
    expected = np.array([[i, 10] for i in range(10)], np.float32) / 1000
    expected[[3, 8]] = np.nan
    np.testing.assert_array_equal(scores, expected)
    row = tagged.table.slice(4, 1).to_pylist()[0]
    assert row == {
        "path": b"004.mp3",
        "status": "ok",
        "code": "",
        "message": "",
        "size": 10,
        "mtime_ns": 5,
        "duration_s": 31.5,
        "sample_rate": 44100,
        "channels": 2,
        "start_frame": 7,
        "calm": pytest.approx(0.004),
        "dark": pytest.approx(0.01),
    }


def test_files_are_what_they_promise(whole: Path) -> None:
    part = pq.ParquetFile(whole / "parts" / "part-000000.parquet")
    column = part.metadata.row_group(0).column(part.schema_arrow.get_field_index("calm"))
    assert column.compression == "ZSTD"
    assert "BYTE_STREAM_SPLIT" in column.encodings
    assert part.schema_arrow.field("path").type == pa.binary()
    assert part.schema_arrow.field("calm").type == pa.float32()


def test_part_of_failures_only_has_the_same_schema(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        tag(store, songs(3, 8, 13, 18, 20))
    schemas = {str(pq.read_schema(p)) for p in (tmp_path / "parts").iterdir()}
    assert len(schemas) == 1
    assert np.isnan(read_tagged(tmp_path).scores()[:4]).all()


@pytest.mark.parametrize("n_done", [0, 1, 2, 3])
def test_continued_run_makes_the_same_bytes(whole: Path, tmp_path: Path, n_done: int) -> None:
    with opened(tmp_path / "again") as store:
        tag(store, songs(*range(10)), most=n_done)
    with opened(tmp_path / "again") as store:
        assert len(tag(store, songs(*range(10)))) == 3 - n_done
        assert store.plan(songs(*range(10))) == []
    assert contents(tmp_path / "again") == contents(whole)


def test_grown_folder_plans_only_the_new(whole: Path) -> None:
    with opened(whole) as store:
        assert numbers(tag(store, songs(*range(13)))) == [(3, [10, 11, 12])]
    assert len(read_tagged(whole).names) == 13


def test_changed_song_is_done_again_and_its_last_row_counts(whole: Path) -> None:
    files = [*songs(*range(5)), *songs(5, size=20), *songs(*range(6, 11))]
    with opened(whole) as store:
        assert numbers(tag(store, files)) == [(3, [10]), (4, [5])]
    with opened(whole) as store:
        assert store.plan(files) == []
    tagged = read_tagged(whole)
    assert tagged.names == [b"%03d.mp3" % i for i in range(11)]
    assert tagged.scores()[5, 1] == np.float32(0.02)


def test_failed_songs_are_tried_again_when_asked(whole: Path) -> None:
    with opened(whole) as store:
        assert store.plan(songs(*range(10))) == []
        assert numbers(tag(store, songs(*range(10)), retry_failed=True)) == [(3, [3, 8])]
        assert [held.status for held in store.held(songs(2, 3))] == ["ok", "error"]
        assert store.held(songs(99)) == [None]


@pytest.mark.parametrize("damage", ["cut", "empty", "one bit"])
def test_damaged_part_is_done_again(whole: Path, damage: str) -> None:
    before = contents(whole)
    path = whole / "parts" / "part-000001.parquet"
    data = bytearray(path.read_bytes())
    if damage == "one bit":
        data[60] ^= 1
    path.write_bytes({"cut": data[: len(data) // 2], "empty": b""}.get(damage, data))
    with pytest.raises(InputError, match=r"part-000001.parquet: damaged part; the same"):
        read_tagged(whole)
    with opened(whole) as store:
        assert store.damaged == ["part-000001.parquet"]
        assert numbers(tag(store, songs(*range(10)))) == [(1, [4, 5, 6, 7])]
    assert contents(whole) == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"made_with": {**MADE_WITH, "model": "other"}}, "another model;"),
        ({"made_with": {"model": "other", "frames": 65}}, "another frames, model;"),
        ({"tags": ("dark", "calm")}, "another tags;"),
    ],
)
def test_folder_never_mixes_two_models(whole: Path, options: dict[str, Any], named: str) -> None:
    before = contents(whole)
    with pytest.raises(InputError, match=named) as error, opened(whole, **options):
        pass
    assert "--force" in str(error.value)
    assert contents(whole) == before
    with opened(whole, **options, force=True) as store:
        assert contents(whole) == {}
        assert numbers(store.plan(songs(1))) == [(0, [1])]
    assert read_tagged(whole).names == []


def test_part_of_another_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "other", made_with={"model": "other"}) as store:
        tag(store, songs(90))
    stray = whole / "parts" / "part-000007.parquet"
    stray.write_bytes((tmp_path / "other" / "parts" / "part-000000.parquet").read_bytes())
    with pytest.raises(InputError, match=r"part-000007.parquet: not made with"), opened(whole):
        pass
    with pytest.raises(InputError, match=r"part-000007.parquet: not made with"):
        read_tagged(whole)


def test_second_run_is_refused_while_the_first_writes(tmp_path: Path) -> None:
    with (
        opened(tmp_path),
        pytest.raises(InputError, match="another fastmte is writing here"),
        opened(tmp_path),
    ):
        pass
    with opened(tmp_path) as store:
        assert store.plan([]) == []


def test_left_overs_of_a_killed_run_go(whole: Path) -> None:
    left_over = whole / "parts" / ".part-000003.parquet.77.tmp"
    left_over.write_bytes(b"half")
    with opened(whole):
        assert not left_over.exists()


def test_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(table: pa.Table, file: Any, **options: Any) -> None:
        file.write(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    with opened(tmp_path) as store:
        monkeypatch.setattr(parts.pq, "write_table", fill)
        with pytest.raises(OSError, match="No space left"):
            tag(store, songs(1))
        assert contents(tmp_path) == {}
        monkeypatch.undo()
        tag(store, songs(1))
    assert read_tagged(tmp_path).names == [b"001.mp3"]


def test_rows_must_be_those_of_the_shard(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        (shard,) = store.plan(songs(1, 2))
        with pytest.raises(ValueError, match="rows must be the 2 songs of the shard"):
            store.write(shard, rows_of(shard)[:1])


def test_names_of_any_bytes_come_back(tmp_path: Path) -> None:
    given = [b'000\xff\n".mp3', "001é☃.mp3".encode(), b"002 -x,.mp3"]
    files = [SongFile(name, b"/m\xffsic/" + name, None, None) for name in given]
    with opened(tmp_path, root=b"/m\xffsic") as store:
        plan = store.plan(files)
        store.write(plan[0], [Row(song, "error", "VANISHED") for song in plan[0].songs])
        assert store.plan(files) == []
    tagged = read_tagged(tmp_path)
    assert tagged.names == given
    assert tagged.root == b"/m\xffsic"


def test_songs_are_the_same_under_another_root(whole: Path) -> None:
    elsewhere = [SongFile(b"music/001.mp3", b"/music/001.mp3", 10, 5), *songs(2)]
    far = SongFile(b"far.mp3", b"/far.mp3", 1, 1)
    with opened(whole, root=b"/") as store:
        assert store.root == b"/music"
        (shard,) = store.plan([*elsewhere, far])
        assert [song.name for song in shard.songs] == [b"/far.mp3"]


def test_shard_size_of_a_folder_stays(whole: Path) -> None:
    with opened(whole, shard_size=2) as store:
        assert numbers(store.plan(songs(*range(10, 15)))) == [(3, [10, 11, 12, 13]), (4, [14])]


def test_tag_that_is_the_name_of_a_column(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="'path' is the name of another column"),
        opened(tmp_path / "out", tags=("calm", "path")),
    ):
        pass
    assert not (tmp_path / "out").exists()


def test_file_in_the_way_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file: a file is in the way"), opened(tmp_path / "file/x"):
        pass


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a tagged folder"),
        ("{", "not the manifest of a tagged folder"),
        ("[]", "not the manifest of a tagged folder"),
        ('{"format": "x"}', "not the manifest of a tagged folder"),
        ('{"format": "fastmte tagged songs", "version": 99}', "written by another version"),
    ],
)
def test_folder_that_is_none(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_tagged(tmp_path)


def test_manifest_says_what_made_it(whole: Path) -> None:
    manifest = read_manifest(whole)
    assert manifest == json.loads((whole / "manifest.json").read_text())
    assert manifest["made_with"] == MADE_WITH
    assert (manifest["shard_size"], manifest["root"]) == (4, "/music")
