import json
import os

import pytest

from fastmte.files import atomic_write, write_json


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


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "no" / "x"):
        pass


def test_write_json_keeps_text_readable(tmp_path):
    write_json(tmp_path / "x.json", {"näme": [1, 2.5]})
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert "näme" in text
    assert json.loads(text) == {"näme": [1, 2.5]}
