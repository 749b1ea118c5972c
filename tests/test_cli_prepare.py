"""``fastmte prepare`` makes a store of what it can read, and says what it cannot."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from test_cli_train import write_collection
from test_store import write_songs

from fastmte.cli import main
from fastmte.crop import crop_mel
from fastmte.data.store import MelStore

OPTIONS = ("-o", "store", "--frames", "40", "--workers", "0")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["prepare", *map(str, args)])


def test_a_collection_is_prepared_with_its_ids(place: Path) -> None:
    result = run(write_collection(place / "data"), *OPTIONS)
    assert result.exit_code == 0, result.output
    assert result.stdout == "24 songs of preset mtg2019: store\n"
    store = MelStore.open("store")
    assert store.ids[0] == "track_0000001"
    assert len(store) == 24


def test_a_folder_of_songs_is_prepared_with_their_names(place: Path) -> None:
    songs = write_songs(place / "music" / "a b")
    songs[1].write_bytes(b"")
    (place / "music" / "notes.txt").write_text("no song")
    result = run("music", *OPTIONS, "--mel", "mtg2023")
    assert result.exit_code == 3
    assert "song-1.wav: " in result.stderr
    assert "(EMPTY)" in result.stderr
    assert result.stdout == "3 songs of preset mtg2023, 1 left out: store\n"
    store = MelStore.open("store")
    assert store.ids == ("a b/song-0.wav", "a b/song-2.wav", "a b/song-3.wav")
    assert json.loads(Path("store/store.json").read_text())["failed"][0]["code"] == "EMPTY"


def test_mels_are_prepared_too(place: Path, rng: np.random.Generator) -> None:
    (place / "mels" / "00").mkdir(parents=True)
    mels = [rng.normal(-30, 9, (96, n)).astype(np.float32) for n in (20, 70)]
    for i, mel in enumerate(mels):
        np.save(place / "mels" / "00" / f"{i}.npy", mel)
    np.save(place / "mels" / "00" / "2.npy", np.full((96, 50), np.nan, np.float32))
    np.save(place / "mels" / "00" / "3.npy", np.zeros((50, 96), np.float32))
    result = run("mels", *OPTIONS)
    assert result.exit_code == 3
    assert "2.npy: has values that are not finite" in result.stderr
    assert "3.npy: must be (96, frames), got (50, 96)" in result.stderr
    store = MelStore.open("store")
    assert store.ids == ("00/0.npy", "00/1.npy")
    for row, mel in enumerate(mels):
        got = store.gather([row], 40)[0].numpy()
        np.testing.assert_array_equal(got, crop_mel(mel.astype(np.float16), 40))


def test_many_failures_are_counted(place: Path) -> None:
    songs = write_songs(place / "music", (0.5,) * 26)
    for path in songs[1:]:
        path.write_bytes(b"")
    result = run("music", *OPTIONS)
    assert result.exit_code == 3
    assert result.stderr.count("(EMPTY)") == 20
    assert "... and 5 more, in store.json" in result.stderr


def test_a_store_is_not_replaced_unasked(place: Path) -> None:
    write_songs(place / "music")
    assert run("music", *OPTIONS).exit_code == 0
    assert run("music", *OPTIONS).exit_code == 0
    other = ("--mel", "mtg2023")
    result = run("music", *OPTIONS, *other)
    assert result.exit_code == 1
    assert "mel preset was mtg2019, got mtg2023" in result.stderr
    assert MelStore.open("store").mel.preset == "mtg2019"
    assert run("music", *OPTIONS, *other, "--force").exit_code == 0
    assert MelStore.open("store").mel.preset == "mtg2023"


@pytest.mark.parametrize("name", ["empty", "texts"])
def test_no_audio_is_exit_code_4(place: Path, name: str) -> None:
    (place / name).mkdir()
    if name == "texts":
        (place / name / "a.txt").write_text("no song")
    result = run(name, *OPTIONS)
    assert result.exit_code == 4
    assert result.stderr == f"Error: {name}: no audio found\n"
    assert not Path("store").exists()


def test_a_folder_that_does_not_exist_is_a_usage_error() -> None:
    result = run("nowhere", *OPTIONS)
    assert result.exit_code == 2
    assert "Directory 'nowhere' does not exist" in result.stderr


def test_an_output_that_is_a_file_is_one_line(place: Path) -> None:
    write_songs(place / "music")
    (place / "file").write_text("")
    result = run("music", "-o", "file/store")
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert result.stderr.startswith("Error: ")


def test_a_finished_store_is_checked_and_mended(place: Path) -> None:
    songs = write_songs(place / "music")
    songs[0].write_bytes(b"")
    assert run("music", *OPTIONS).exit_code == 3
    mels = np.load("store/mels.npy", mmap_mode="r+")
    good = mels[2].copy()
    mels[2] = 0
    mels.flush()
    write_songs(place / "music", (0.3,))
    result = run("music", *OPTIONS, "--retry-failed")
    assert result.exit_code == 0, result.output
    assert result.stdout == "4 songs of preset mtg2019: store\n"
    np.testing.assert_array_equal(np.load("store/mels.npy")[2], good)


def test_without_a_terminal_lines_tell_the_time_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs = write_songs(place / "music")
    assert run("music", *OPTIONS).exit_code == 0
    for path in songs[2:]:
        os.utime(path, (1, 1))
    monkeypatch.setattr("fastmte.cli._training_display._PLAIN_SECONDS", -1.0)
    result = run("music", *OPTIONS)  # two songs are ready: they say nothing about the speed
    assert result.stderr.splitlines() == [
        "3 of 4 songs, about 0 s left",
        "4 of 4 songs, about 0 s left",
    ]


def test_ctrl_c_keeps_what_is_ready(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastmte.data import describe

    write_songs(place / "music")
    whole, seen = describe.load_mel, []

    def load(path: bytes, *args: object) -> object:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(path)
        return whole(path, *args)

    monkeypatch.setattr(describe, "load_mel", load)
    result = run("music", *OPTIONS)
    assert result.exit_code == 130
    assert "songs that are ready are kept" in result.stderr
    monkeypatch.setattr(describe, "load_mel", lambda *a: seen.append(a[0]) or whole(*a))
    assert run("music", *OPTIONS).exit_code == 0
    assert len(seen) == 4
