import json
import os

import pytest

from fastmte.errors import InputError
from fastmte.files import atomic_write, read_object, whole_folder, write_json


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write("new\r\n")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == b"new\r\n"
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_write(path, "wb") as file:
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_a_link_stays_one_and_a_device_too(tmp_path):
    path, link = tmp_path / "x.txt", tmp_path / "link"
    link.symlink_to(path)
    for text in ("first", "second"):
        with atomic_write(link) as file:
            file.write(text)
        assert link.is_symlink() and path.read_text() == text
    with atomic_write(os.devnull, "wb") as file:
        file.write(b"gone")
    assert not os.path.isfile(os.devnull)
    assert sorted(os.listdir(tmp_path)) == ["link", "x.txt"]


def test_errors_name_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "no" / "x"
    message = "make the folder first"
    with pytest.raises(FileNotFoundError, match=message) as caught, atomic_write(path):
        pass
    assert caught.value.filename == str(path)
    with pytest.raises(IsADirectoryError) as caught, atomic_write(tmp_path):
        pass
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "y"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "y")
    assert os.listdir(tmp_path) == []


def test_write_json_keeps_text_readable(tmp_path):
    write_json(tmp_path / "x.json", {"näme": [1, 2.5]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "näme" in text
    assert json.loads(text) == {"näme": [1, 2.5]}


def test_a_whole_folder_appears_at_the_end(tmp_path):
    folder = tmp_path / "deep" / "folder"
    with whole_folder(folder) as new:
        (new / "file").write_text("1")
        assert not folder.exists()
    assert (folder / "file").read_text() == "1"
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_a_failure_leaves_no_folder(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "folder") as new:
        (new / "file").write_text("1")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    long = tmp_path / ("n" * 250)  # the temporary name is longer than names may be
    with pytest.raises(OSError, match="nnn") as caught, whole_folder(long):
        pass
    assert caught.value.filename == str(long)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"x.json: not JSON \(.*\); do it again$"),
        (b"\xff\xfe{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "x.json: not of the format 'mine 1'; do it again$"),
        (b'{"format": "mine 2"}', "not of the format 'mine 1'"),
    ],
)
def test_an_object_of_another_format_is_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_object(tmp_path / "x.json", "mine 1", "do it again")


def test_an_object_of_its_format_is_read(tmp_path):
    write_json(tmp_path / "x.json", {"format": "mine 1", "tag": "épique"})
    assert read_object(tmp_path / "x.json", "mine 1")["tag"] == "épique"
    (tmp_path / "y.json").write_text("{")
    with pytest.raises(InputError, match=r"y.json: not JSON \(.*\)$"):
        read_object(tmp_path / "y.json", "mine 1")
