"""``fastmte export``: the scores as one file."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from fastmte.cli import main
from fastmte.data.inputs import SongFile
from fastmte.data.parts import Row
from fastmte.data.shards import open_store

TAGS = ("calm", "dark")


@pytest.fixture
def tagged(tmp_path: Path) -> Path:
    files = [SongFile(b"a/%d.ogg" % i, b"/m/a/%d.ogg" % i, 1, 1) for i in range(3)]
    with open_store(tmp_path / "tagged", TAGS, {}, b"/m") as store:
        (shard,) = store.plan(files)
        rows = [
            Row(song, "ok", scores=np.array([i, 1], np.float32) / 3)
            for i, song in enumerate(shard.songs)
        ]
        rows[2] = Row(files[2], "error", "DAMAGED", "lost sync")
        store.write(shard, rows)
    return tmp_path / "tagged"


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, args)])


@pytest.mark.parametrize(("options", "n_songs"), [([], 2), (["--all"], 3)])
def test_csv(tagged: Path, tmp_path: Path, options: list[str], n_songs: int) -> None:
    result = run(tagged, "--to", "csv", "-o", tmp_path / "s.csv", *options)
    assert result.exit_code == 0, result.output
    assert (result.stdout, result.stderr) == ("", f"{n_songs} songs: {tmp_path}/s.csv\n")
    with open(tmp_path / "s.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert (
        rows
        == [
            ["path", "calm", "dark"],
            ["a/0.ogg", "0.0000000", "0.3333333"],
            ["a/1.ogg", "0.3333333", "0.3333333"],
            ["a/2.ogg", "", ""],
        ][: n_songs + 1]
    )


def test_other_formats(tagged: Path, tmp_path: Path) -> None:
    for kind in ("jsonl", "npy", "parquet"):
        assert run(tagged, "--to", kind, "-o", tmp_path / f"s.{kind}").exit_code == 0
    first = json.loads((tmp_path / "s.jsonl").read_text().splitlines()[1])
    assert (first["path"], first["scores"]["calm"]) == ("a/1.ogg", pytest.approx(1 / 3, abs=1e-7))
    assert np.load(tmp_path / "s.npy").shape == (2, 2)
    assert json.loads((tmp_path / "s.npy.json").read_text())["tags"] == ["calm", "dark"]
    assert pd.read_parquet(tmp_path / "s.parquet")["path"].tolist() == ["a/0.ogg", "a/1.ogg"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["MISSING", "-o", "OUT"], 2, "does not exist"),
        (["TAGGED"], 2, "Missing option '-o'"),
        (["TAGGED", "-o", "OUT", "--to", "xls"], 2, "'csv', 'jsonl', 'npy', 'parquet'"),
        (["TAGGED/parts", "-o", "OUT"], 1, "not a tagged folder (no manifest.json)"),
        (["TAGGED", "-o", "TAGGED/no/such/s.csv"], 2, "there is no such folder"),
    ],
)
def test_usage(tagged: Path, tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    named = [
        a.replace("TAGGED", str(tagged)).replace("OUT", str(tmp_path / "s")) for a in arguments
    ]
    result = run(*named)
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert code == 2 or result.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


def test_damaged_part(tagged: Path, tmp_path: Path) -> None:
    os.truncate(tagged / "parts" / "part-000000.parquet", 100)
    result = run(tagged, "-o", tmp_path / "s.csv")
    assert result.exit_code == 1
    assert "part-000000.parquet: damaged part; the same fastmte tag command redoes it" in (
        result.stderr
    )
    assert not (tmp_path / "s.csv").exists()
