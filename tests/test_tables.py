"""The tables made from a tagged folder."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fastmte.audio.opening import CODES
from fastmte.data import tables
from fastmte.data.inputs import SongFile
from fastmte.data.parts import Row, Tagged, read_tagged
from fastmte.data.shards import open_store
from fastmte.data.tables import hint, top_tags

TAGS = ("calm", "dark", "epic", "film", "fun", "happy", "sad")
NAMES = [b'a, "b".mp3', b"new\nline.mp3", b"\xff.mp3", "é.mp3".encode()]
SCORES = {
    NAMES[0]: [0.123456789, 0.5, 0.2, 0.2, 0.9, 1.0, 1e-9],
    NAMES[1]: [0.9] * 7,
    NAMES[3]: [0.01] * 7,
}
THRESHOLDS = [0.1, 0.5, 0.2, 0.1, 0.5, 0.5, 0.5]


@pytest.fixture
def tagged(tmp_path: Path) -> Tagged:
    return make(tmp_path / "tagged", THRESHOLDS)


def make(folder: Path, thresholds: list[float] | None) -> Tagged:
    files = [SongFile(name, b"/m/" + name, 1, 2) for name in NAMES]
    with open_store(folder, TAGS, {}, b"/m", thresholds) as store:
        (shard,) = store.plan(files)
        rows = []
        for song in shard.songs:
            if song.name in SCORES:
                rows.append(Row(song, "ok", scores=np.array(SCORES[song.name], np.float32)))
            else:
                rows.append(Row(song, "timeout", "TIMEOUT", "not decoded within 60 s"))
        store.write(shard, rows)
    return read_tagged(folder)


def by_name(tagged: Tagged, values: list[list[int]]) -> dict[bytes, list[str]]:
    words = [[TAGS[t] for t in row] for row in values]
    return dict(zip(tagged.names, words, strict=True))


def test_tags_above_the_thresholds_at_most_five(tagged: Tagged) -> None:
    assert by_name(tagged, top_tags(tagged)) == {
        # 0.5 and 0.2 are not above 0.5 and 0.2 (float32 0.2 is, by 3e-9)
        NAMES[0]: ["happy", "fun", "epic", "film", "calm"],
        NAMES[1]: ["calm", "dark", "epic", "film", "fun"],
        NAMES[2]: [],
        NAMES[3]: [],
    }


def test_highest_tags(tagged: Tagged, tmp_path: Path) -> None:
    assert by_name(tagged, top_tags(tagged, 2)) == {
        NAMES[0]: ["happy", "fun"],
        NAMES[1]: ["calm", "dark"],
        NAMES[2]: [],
        NAMES[3]: ["calm", "dark"],
    }
    without = make(tmp_path / "without", None)
    assert by_name(without, top_tags(without))[NAMES[0]] == ["happy", "fun", "dark"]


def read_csv(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_scores(tagged: Tagged, tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    assert tables.write_scores(tagged, path, is_all=False) == 3
    header, *rows = read_csv(path)
    assert header == ["path", *TAGS]
    assert [row[0] for row in rows] == ['a, "b".mp3', "new\nline.mp3", "é.mp3"]
    for row, name in zip(rows, SCORES, strict=True):
        assert np.abs(np.array(row[1:], float) - SCORES[name]).max() <= 5.1e-8
    assert tables.write_scores(tagged, path, is_all=True, has_status=True) == 4
    header, *rows = read_csv(path)
    assert header == ["path", *TAGS, "status"]
    assert rows[3] == ["\\xff.mp3", *[""] * 7, "timeout"]
    frame = pd.read_csv(path).set_index("path")
    assert frame.loc["é.mp3", "sad"] == 0.01
    assert np.isnan(frame.loc["\\xff.mp3", "sad"])


def test_tags_table(tagged: Tagged, tmp_path: Path) -> None:
    tables.write_tags(tagged, tmp_path / "t.csv", top=2)
    assert read_csv(tmp_path / "t.csv") == [
        ["path", "tags"],
        ['a, "b".mp3', "happy; fun"],
        ["new\nline.mp3", "calm; dark"],
        ["é.mp3", "calm; dark"],
    ]


def test_failed(tagged: Tagged, tmp_path: Path) -> None:
    assert tables.write_failed(tagged, tmp_path / "f.jsonl") == 1
    assert json.loads((tmp_path / "f.jsonl").read_text()) == {
        "path": "\\xff.mp3",
        "path_b64": "/y5tcDM=",
        "stage": "decode",
        "code": "TIMEOUT",
        "message": "not decoded within 60 s",
        "hint": hint("TIMEOUT"),
    }


@pytest.mark.parametrize(("is_all", "n_songs"), [(True, 4), (False, 3)])
def test_jsonl(tagged: Tagged, tmp_path: Path, is_all: bool, n_songs: int) -> None:
    assert tables.write_jsonl(tagged, tmp_path / "x", is_all) == n_songs
    lines = [json.loads(line) for line in (tmp_path / "x").read_text().splitlines()]
    assert len(lines) == n_songs
    assert lines[0]["path"] == 'a, "b".mp3'
    assert lines[0]["scores"] == pytest.approx(
        dict(zip(TAGS, SCORES[NAMES[0]], strict=True)), abs=5.1e-8
    )
    assert lines[0]["status"] == "ok"
    if is_all:
        assert (lines[3]["path_b64"], lines[3]["scores"]) == ("/y5tcDM=", None)


@pytest.mark.parametrize(("is_all", "n_songs"), [(True, 4), (False, 3)])
def test_parquet(tagged: Tagged, tmp_path: Path, is_all: bool, n_songs: int) -> None:
    assert tables.write_parquet(tagged, tmp_path / "x", is_all) == n_songs
    frame = pd.read_parquet(tmp_path / "x")
    assert frame["path"].tolist()[:3] == ['a, "b".mp3', "new\nline.mp3", "é.mp3"]
    assert frame["path_bytes"].tolist() == tagged.names[:n_songs]
    assert frame["epic"].dtype == np.float32


@pytest.mark.parametrize(("is_all", "n_songs"), [(True, 4), (False, 3)])
def test_npy(tagged: Tagged, tmp_path: Path, is_all: bool, n_songs: int) -> None:
    assert tables.write_npy(tagged, tmp_path / "x.npy", is_all) == n_songs
    scores = np.load(tmp_path / "x.npy")
    np.testing.assert_array_equal(scores, tagged.scores()[:n_songs])
    meaning = json.loads((tmp_path / "x.npy.json").read_text())
    assert meaning["tags"] == list(TAGS)
    assert [song["path"] for song in meaning["songs"]][:2] == ['a, "b".mp3', "new\nline.mp3"]
    assert len(meaning["songs"]) == n_songs


def test_every_code_has_a_hint() -> None:
    for code in [*CODES, "DECODER_CRASH", "TIMEOUT", "OUT_OF_MEMORY", "NONFINITE_SCORE"]:
        assert hint(code) in tables._HINTS.values(), code
