"""Tables of points with names, and tables of their members."""

import csv
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastmte.data.points import read_points, write_members
from fastmte.errors import InputError
from fastmte.partition import Partition

HEADED = 'artist,tempo,energy\nAbba,120,0.5\n  Beck ,90,1e-1\n\n"C, D",-3,7\n'


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name_column", [None, "artist"])
@pytest.mark.parametrize("form", ["plain", "mark", "crlf", "tabs"])
def test_text(tmp_path, name_column, form):
    text, name = HEADED, "p.csv"
    if form == "mark":
        text = "\ufeff" + text
    elif form == "crlf":
        text = text.replace("\n", "\r\n")
    elif form == "tabs":
        text, name = text.replace('"C, D"', "C; D").replace(",", "\t").replace(";", ","), "p.TSV"
    found = read_points(write(tmp_path / name, text), name_column)
    assert found.names == ("Abba", "Beck", "C, D")
    assert found.points.tolist() == [[120, 0.5], [90, 0.1], [-3, 7]]
    assert found.points.dtype == np.float64
    assert (found.name_column, found.features) == ("artist", ("tempo", "energy"))


def test_text_without_a_header(tmp_path):
    found = read_points(write(tmp_path / "p", "mood/theme---calm,1,2\ndark,3,4\n"))
    assert found.names == ("calm", "dark") and found.points.tolist() == [[1, 2], [3, 4]]
    assert (found.name_column, found.features) == (None, ())
    # Where a column is asked for, the first line is one of names even if they are numbers.
    found = read_points(write(tmp_path / "p", "who,1,2\ndark,3,4\n"), "who")
    assert found.names == ("dark",) and found.features == ("1", "2")


def test_names_in_another_column(tmp_path):
    found = read_points(write(tmp_path / "p.csv", "x,who,y\n1,a,2\n3,b,4\n"), "who")
    assert found.names == ("a", "b") and found.points.tolist() == [[1, 2], [3, 4]]
    assert (found.name_column, found.features) == ("who", ("x", "y"))


def test_parquet(tmp_path):
    columns = {
        "i": pa.array([1, 2], pa.int8()),
        "who": pa.array(["a", "mood/theme---b"]),
        "f": pa.array([0.5, 1.5], pa.float32()),
        "d": pa.array([Decimal("1.25"), Decimal("2.50")]),
        "large": pa.array([2**62, 3], pa.int64()),
    }
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    found = read_points(tmp_path / "p.parquet", "who")
    assert found.names == ("a", "b")
    assert found.points.tolist() == [[1, 0.5, 1.25, 2.0**62], [2, 1.5, 2.5, 3]]
    assert (found.name_column, found.features) == ("who", ("i", "f", "d", "large"))
    pq.write_table(pa.table({"id": [7, 8], "x": [1.0, 2.0]}), tmp_path / "p.pq")
    assert read_points(tmp_path / "p.pq").names == ("7", "8")


@pytest.mark.parametrize(
    ("text", "name_column", "message"),
    [
        ("", None, "p.csv: has no row of a name and its numbers"),
        ("", "who", "p.csv: has no row of a name and its numbers"),
        ("who,x\n", None, "p.csv: has no row of a name and its numbers"),
        ("who\na\n", None, "p.csv: has no numbers beside the names; a .tsv is split at tabs"),
        ("who;x\na;1\n", "who", "all else at commas"),
        ("who,x\na,1\n", "artist", "p.csv: has no column 'artist'; its columns are who, x"),
        ("who,x,who\na,1,b\n", "who", "p.csv: has more than one column 'who'"),
        (
            "who," + ",".join("abcdefghij") + "\nx" + ",1" * 10 + "\n",
            "z",
            "its columns are who, a, b, c, d, e, f, g ...",
        ),
        (
            "who,x,y\na,1,2\nb,3,fast\n",
            "who",
            "p.csv:3 (b), column y: must be a finite number, got 'fast'",
        ),
        ("x,who,y\n,a,2\n", "who", "p.csv:2 (a), column x: must be a finite number, got ''"),
        ("a,1,2\nb,3,nan\n", None, "p.csv:2 (b), column 3: must be a finite number, got 'nan'"),
        ("who,x\na,-inf\n", "who", "p.csv:2 (a), column x: must be a finite number, got '-inf'"),
        ("who,x\na,1e999\n", "who", "p.csv:2 (a), column x: must be a finite number, got '1e999'"),
        ("who,x\na,1\nb,2\na,3\n", "who", "p.csv:4: a is in line 2 already"),
        ("who,x\n ,1\n", "who", "p.csv:2: has no name"),
        ("who,x\na,1,2\n", "who", "p.csv:2: must have 2 cells, got 3"),
        ("who,x\na\n", "who", "p.csv:2: must have 2 cells, got 1"),
        (b"who,x\n\xff,1\n", "who", "p.csv: no table of text"),
    ],
)
def test_bad_text(tmp_path, text, name_column, message):
    with pytest.raises(InputError) as caught:
        read_points(write(tmp_path / "p.csv", text), name_column)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "name_column", "message"),
    [
        ({}, None, "p.parquet: has no row of a name and its numbers"),
        ({"who": pa.array([], pa.string())}, "who", "has no row of a name and its numbers"),
        ({"who": ["a"]}, "who", "p.parquet: has no numbers beside the names"),
        ({"who": ["a"], "x": [1]}, "artist", "has no column 'artist'; its columns are who, x"),
        (
            {"who": ["a", "b"], "x": [1.0, None]},
            "who",
            "p.parquet: row 2 (b), column x: must be a finite number, got None",
        ),
        (
            {"who": ["a", "b"], "x": [1.0, float("nan")]},
            "who",
            "p.parquet: row 2 (b), column x: must be a finite number, got nan",
        ),
        (
            {"x": ["fast", "slow"], "who": ["a", "b"]},
            "who",
            "p.parquet: row 1 (a), column x: must be a finite number, got 'fast'",
        ),
        ({"who": ["a"], "x": [True]}, "who", "column x: must be a finite number, got True"),
        ({"who": ["a"], "x": [[1.0, 2.0]]}, "who", "must be a finite number, got [1.0, 2.0]"),
        ({"who": ["a", None], "x": [1, 2]}, "who", "p.parquet: row 2: has no name"),
        ({"who": ["a", "a"], "x": [1, 2]}, "who", "p.parquet: row 2: a is in row 1 already"),
    ],
)
def test_bad_parquet(tmp_path, columns, name_column, message):
    pq.write_table(pa.table(columns), tmp_path / "p.parquet")
    with pytest.raises(InputError) as caught:
        read_points(tmp_path / "p.parquet", name_column)
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"who,x\na,1\n", b"PAR1" + bytes(30) + b"PAR1"])
def test_file_that_is_no_parquet(tmp_path, content):
    path = write(tmp_path / "p.parquet", content)
    with pytest.raises(InputError, match=r"p\.parquet: no Parquet table"):
        read_points(path)


def test_folder(tmp_path):
    with pytest.raises(InputError, match="not a regular file"):
        read_points(tmp_path)


@pytest.mark.parametrize(
    ("name_column", "columns"), [(None, "tag"), ("artist", "artist"), ("member", "member")]
)
@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_members_are_written_as_a_table(tmp_path, ending, name_column, columns):
    made = Partition(("a", "b, c", "d"), np.array([1, 0, 1]), "by hand")
    path = tmp_path / f"g.{ending}"
    write_members(made, path, name_column)
    header = [columns, "part" if columns == "member" else "member"]
    if ending == "parquet":
        table = pq.read_table(path)
        assert table.column_names == header
        assert table.column(0).to_pylist() == ["a", "b, c", "d"]
        assert table.column(1).to_pylist() == [1, 0, 1]
        return
    with open(path, newline="") as file:
        rows = list(csv.reader(file, delimiter="\t" if ending == "tsv" else ","))
    assert rows == [header, ["a", "1"], ["b, c", "0"], ["d", "1"]]
    assert b"\r" not in path.read_bytes()
