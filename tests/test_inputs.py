"""Which files are meant by the paths a user gives, and what they are called."""

import os
from pathlib import Path

import numpy as np
import pytest

from fastmte.data import inputs
from fastmte.data.inputs import SongFile, find_songs, read_list, renamed


def touch(root: Path, *names: str | bytes) -> None:
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass


def names(*paths: str | bytes | Path, listed: list[bytes] = []) -> list[bytes]:  # noqa: B006
    return [song.name for song in find_songs(paths, listed).songs]


def test_folder_is_searched_to_the_bottom(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.mp3", "a/z.FLAC", "a/b/c.Ogg", "cover.jpg", "notes", "a/x.m4a", "d.mp3/e.wav"
    )
    expected = [b"a/b/c.Ogg", b"a/x.m4a", b"a/z.FLAC", b"b.mp3", b"d.mp3/e.wav"]
    found = find_songs([tmp_path])
    assert [song.name for song in found.songs] == expected
    assert found.root == os.fsencode(tmp_path)
    assert all(os.path.isfile(song.path) for song in found.songs)


def test_hidden_and_appledouble_files_are_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp3", "._a.mp3", ".hidden.mp3", ".git/b.mp3", "__MACOSX/._c.mp3")
    assert names(tmp_path) == [b"a.mp3"]


def test_named_file_is_tried_whatever_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "song", ".hidden", "text.txt", "album/a.mp3")
    monkeypatch.chdir(tmp_path)
    assert names("song", ".hidden", "text.txt") == [b".hidden", b"song", b"text.txt"]
    assert names("song", "album") == [b"album/a.mp3", b"song"]
    assert find_songs(["song"]).root == os.fsencode(tmp_path)


def test_names_of_several_paths_are_as_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "x/a.mp3", "y/a.mp3")
    monkeypatch.chdir(tmp_path)
    far = os.fsencode(tmp_path / "y")
    assert names("x", far) == sorted([b"x/a.mp3", far + b"/a.mp3"])
    assert names("x/a.mp3", listed=[b"missing.mp3"]) == [b"missing.mp3", b"x/a.mp3"]


def test_every_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "x/a.mp3")
    monkeypatch.chdir(tmp_path)
    assert len(names("x", "x/a.mp3", "./x/a.mp3", tmp_path / "x" / "a.mp3")) == 1


def test_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "music", tmp_path / "other"
    touch(inside, "z/a.mp3")
    touch(outside, "b.mp3")
    (inside / "a").symlink_to(inside / "z")  # the same songs under a second name
    (inside / "z" / "loop").symlink_to(inside)
    (inside / "out").symlink_to(outside)
    (inside / "out2").symlink_to(outside)
    (outside / "back").symlink_to(tmp_path)
    (inside / "self.mp3").symlink_to("self.mp3")
    (inside / "gone.mp3").symlink_to("nowhere")
    (inside / "link.mp3").symlink_to(outside / "b.mp3")
    found = find_songs([inside])
    by_name = {song.name: song for song in found.songs}
    assert sorted(by_name) == [b"gone.mp3", b"link.mp3", b"out/b.mp3", b"self.mp3", b"z/a.mp3"]
    assert by_name[b"gone.mp3"].size is None
    assert by_name[b"link.mp3"].size == 0
    assert found.unreadable == []


def test_names_of_any_bytes_come_back(tmp_path: Path, rng: np.random.Generator) -> None:
    given = {b"new\nline.mp3", b'quote".mp3', b"-x.wav", b"\xff\xfe.ogg", "é☃.mp3".encode()}
    for _ in range(200):
        letters = rng.integers(1, 256, rng.integers(1, 60)).astype(np.uint8).tobytes()
        given.add(b"n" + letters.replace(b"/", b"_") + b".mp3")
    touch(tmp_path, *given)
    assert set(names(tmp_path)) == given


def test_fifo_is_found_without_opening_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp3")
    assert names(tmp_path) == [b"pipe.mp3"]


def test_folder_that_cannot_be_listed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.mp3", "closed/b.mp3")
    scandir = os.scandir

    def refuse(path: bytes) -> object:
        if path.endswith(b"closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(inputs.os, "scandir", refuse)
    found = find_songs([tmp_path])
    assert [song.name for song in found.songs] == [b"a.mp3"]
    assert found.unreadable == [(os.fsencode(tmp_path / "closed"), "Permission denied")]


def test_renamed_for_another_root() -> None:
    song = SongFile(b"x/a.mp3", b"/music/x/a.mp3", 1, 2)
    assert renamed(song, b"/music/x").name == b"a.mp3"
    assert renamed(song, b"/").name == b"music/x/a.mp3"
    assert renamed(song, b"/mus").name == b"/music/x/a.mp3"


@pytest.mark.parametrize(
    ("content", "is_nul", "expected"),
    [
        (b"a.mp3\nb c.mp3\n", False, [b"a.mp3", b"b c.mp3"]),
        (b"a.mp3\r\n\r\n#1.mp3", False, [b"a.mp3", b"#1.mp3"]),
        (b"a\nb.mp3\0\xff.mp3\0", True, [b"a\nb.mp3", b"\xff.mp3"]),
        (b"", False, []),
    ],
)
def test_lists(content: bytes, is_nul: bool, expected: list[bytes]) -> None:
    assert read_list(content, is_nul) == expected
