"""Tables of names: points of labels, playlists or artists come in, their members go out."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastmte.data.task_files import check_regular
from fastmte.errors import InputError
from fastmte.files import atomic_write
from fastmte.labels import strip_prefix
from fastmte.partition import Partition

PARQUET = (".parquet", ".pq")
TABBED = (".tsv", ".tab")


@dataclass(frozen=True, eq=False)
class NamedPoints:
    """Rows of numbers with names.

    Attributes:
        names: n distinct texts.
        points: (n, d) float64, finite.
        name_column: the name of the column of names, where the table gives one.
        features: the names of the other columns, likewise.
    """

    names: tuple[str, ...]
    points: np.ndarray
    name_column: str | None
    features: tuple[str, ...] = ()


def read_points(path: str | Path, name_column: str | None = None) -> NamedPoints:
    """Return the points in a table: one column of names, all others numbers.

    Args:
        path: Parquet where it ends in ``.parquet`` or ``.pq``, tab-separated text in ``.tsv`` or
            ``.tab``, and comma-separated text else, in UTF-8.
        name_column: the column of names; the first by default. Text then need not have a line
            of column names: the first line is one where none of its other cells is a number.

    Raises:
        InputError: there is no such column, a cell is no finite number, or a name is empty or
            there twice; row and column are named. Or there are no rows, or no numbers.
        OSError: the file cannot be read.
    """
    path = Path(path)
    check_regular(path)
    if path.suffix.lower() in PARQUET:
        return _read_parquet(path, name_column)
    return _read_text(path, name_column)


def _read_text(path: Path, name_column: str | None) -> NamedPoints:
    lines = _lines(path)
    header = _header(lines, name_column)
    if header is not None:
        lines = lines[1:]
    if not lines:
        raise InputError(f"{path}: has no row of a name and its numbers")
    width = len(lines[0][1] if header is None else header)
    if width < 2:
        raise InputError(
            f"{path}: has no numbers beside the names; a .tsv is split at tabs, all else at commas"
        )
    at = 0 if name_column is None or header is None else _place(path, header, name_column)
    columns = [f"{place + 1}" for place in range(width)] if header is None else header
    features = columns[:at] + columns[at + 1 :]
    names, points = _Names(path), np.empty((len(lines), width - 1))
    for row, (number, cells) in zip(points, lines, strict=True):
        if len(cells) != width:
            raise InputError(f"{path}:{number}: must have {width} cells, got {len(cells)}")
        names.add(cells[at], f"{path}:{number}", f"line {number}")
        numbers = cells[:at] + cells[at + 1 :]
        try:
            row[:] = [float(cell) for cell in numbers]
        except ValueError:
            row[:] = [_number(cell) for cell in numbers]
        if not np.isfinite(row).all():
            bad = int(np.flatnonzero(~np.isfinite(row))[0])
            _refuse(f"{path}:{number}", names.last, features[bad], numbers[bad])
    is_named = header is not None
    return NamedPoints(
        names.all(),
        points,
        columns[at] if is_named else None,
        tuple(features) if is_named else (),
    )


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows that are not empty, each with the number of its last line."""
    delimiter = "\t" if path.suffix.lower() in TABBED else ","
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            table = csv.reader(file, delimiter=delimiter)
            return [(table.line_num, row) for row in table if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no table of text ({error})") from error


def _header(lines: Sequence[tuple[int, list[str]]], name_column: str | None) -> list[str] | None:
    """Return the columns' names, or None where the first line has a row."""
    if not lines:
        return None
    first = [cell.strip() for cell in lines[0][1]]
    if name_column is not None:
        return first
    return first if all(_number(cell) is None for cell in first[1:]) else None


def _read_parquet(path: Path, name_column: str | None) -> NamedPoints:
    with open(path, "rb") as file:
        try:
            table = pq.ParquetFile(file).read()
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: no Parquet table ({error})") from error
    columns = table.column_names
    if table.num_rows == 0 or not columns:
        raise InputError(f"{path}: has no row of a name and its numbers")
    at = 0 if name_column is None else _place(path, columns, name_column)
    features = columns[:at] + columns[at + 1 :]
    if not features:
        raise InputError(f"{path}: has no numbers beside the names")
    names = _Names(path)
    for row, name in enumerate(table.column(at).to_pylist(), start=1):
        names.add("" if name is None else str(name), f"{path}: row {row}", f"row {row}")
    points = np.empty((table.num_rows, len(features)))
    for index, feature in enumerate(features):
        column = table.column(index + (index >= at))
        points[:, index] = _numbers(column)
        bad = np.flatnonzero(~np.isfinite(points[:, index]))
        if len(bad):
            row = int(bad[0])
            _refuse(f"{path}: row {row + 1}", names.all()[row], feature, column[row].as_py())
    return NamedPoints(names.all(), points, columns[at], tuple(features))


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as float64, NaN where it holds no number."""
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    if not any(is_kind(column.type) for is_kind in kinds):
        return np.full(len(column), np.nan)
    return column.cast(pa.float64(), safe=False).to_numpy()


def write_members(partition: Partition, path: str | Path, name_column: str | None = None) -> None:
    """Write a table of each label and its member, in the order of the labels.

    Args:
        partition: what is written.
        path: a table in the form its ending says, as ``read_points``.
        name_column: the name of the column of labels, ``tag`` by default.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    names = name_column or "tag"
    columns = (names, "part" if names == "member" else "member")
    members = partition.member_of_label.tolist()
    if path.suffix.lower() in PARQUET:
        table = pa.table([pa.array(partition.tags), pa.array(members, pa.int64())], columns)
        with atomic_write(path, "wb") as file:
            pq.write_table(table, file)
        return
    delimiter = "\t" if path.suffix.lower() in TABBED else ","
    with atomic_write(path) as file:
        rows = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        rows.writerow(columns)
        rows.writerows(zip(partition.tags, members, strict=True))


class _Names:
    """Names in the order of their rows, none empty and none twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, str] = {}
        self.last = ""

    def add(self, text: str, where: str, place: str) -> None:
        name = strip_prefix(text.strip())
        if not name:
            raise InputError(f"{where}: has no name")
        if name in self._places:
            raise InputError(f"{where}: {name} is in {self._places[name]} already")
        self._places[name] = place
        self.last = name

    def all(self) -> tuple[str, ...]:
        return tuple(self._places)


def _place(path: Path, columns: Sequence[str], name: str) -> int:
    """Return where a column is."""
    if columns.count(name) != 1:
        fault = "no column" if name not in columns else "more than one column"
        listed = ", ".join(columns[:8]) + (" ..." if len(columns) > 8 else "")
        raise InputError(f"{path}: has {fault} {name!r}; its columns are {listed}")
    return list(columns).index(name)


def _refuse(where: str, name: str, column: str, value: Any) -> NoReturn:
    raise InputError(f"{where} ({name}), column {column}: must be a finite number, got {value!r}")


def _number(text: str) -> float | None:
    """Return the number in a cell, NaN and infinities too, or None where there is none."""
    try:
        return float(text)
    except ValueError:
        return None
