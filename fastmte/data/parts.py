"""A tagged collection as Parquet parts, and one row of it."""

import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastmte.data.inputs import SongFile
from fastmte.errors import InputError
from fastmte.files import atomic_write

VERSION = 1
FAILURES = ("error", "crash", "timeout", "truncated")  # the last has scores all the same
COLUMNS = [
    ("path", pa.binary()),
    ("status", pa.dictionary(pa.int8(), pa.string())),
    ("code", pa.string()),
    ("message", pa.string()),
    ("size", pa.int64()),
    ("mtime_ns", pa.int64()),
    ("duration_s", pa.float32()),
    ("sample_rate", pa.int32()),
    ("channels", pa.int16()),
    ("start_frame", pa.int32()),
]
_PART_NAME = re.compile(r"part-(\d{6,})\.parquet")


@dataclass(frozen=True)
class Row:
    """One song of a tagged collection.

    Attributes:
        file: the song's name, size and last change.
        status: ``ok``, ``ok_short``, ``silent``, ``truncated`` (scored as far as it goes),
            ``error``, ``crash`` or ``timeout``.
        code: stable name of what is wrong with it, or empty.
        message: the same in words, or empty.
        duration_s: seconds; None where nothing could be decoded, as the three below.
        sample_rate: Hz, of the file.
        channels: of the file.
        start_frame: first mel frame of the crop.
        scores: (L,) float32; None for a song without scores.
    """

    file: SongFile
    status: str
    code: str = ""
    message: str = ""
    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    start_frame: int | None = None
    scores: np.ndarray | None = None


@dataclass(frozen=True)
class Tagged:
    """A tagged collection, read.

    Attributes:
        folder: where it lies.
        manifest: what made it: ``tags``, ``thresholds`` (or None), ``made_with``, ...
        root: absolute folder that relative names start from.
        table: one row a song, sorted by path; the fixed columns, then one a tag.
    """

    folder: Path
    manifest: dict[str, Any]
    root: bytes
    table: pa.Table

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags, in the order of the scores."""
        return tuple(self.manifest["tags"])

    @property
    def thresholds(self) -> np.ndarray | None:
        """(L,) float64 above which a score counts as a tag, or None."""
        values = self.manifest["thresholds"]
        return None if values is None else np.asarray(values, np.float64)

    @property
    def names(self) -> list[bytes]:
        """The songs' paths, relative to ``root`` or absolute."""
        return self.table.column("path").to_pylist()

    def scores(self) -> np.ndarray:
        """Return (N, L) float32 scores, NaN in the rows of songs without."""
        scores = np.empty((self.table.num_rows, len(self.tags)), np.float32)
        for i, tag in enumerate(self.tags):
            scores[:, i] = self.table.column(tag).to_numpy()
        return scores


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return what a tagged folder says of itself.

    Raises:
        InputError: not a tagged folder, or one of a later version.
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        is_ours = manifest["format"] == "fastmte tagged songs"
    except FileNotFoundError:
        raise InputError(f"{folder}: not a tagged folder (no manifest.json)") from None
    except (ValueError, TypeError, KeyError):
        is_ours = False
    if not is_ours:
        raise InputError(f"{path}: not the manifest of a tagged folder")
    if manifest.get("version") != VERSION:
        raise InputError(f"{path}: written by another version of fastmte; tag into a new folder")
    return manifest


def read_tagged(folder: str | Path) -> Tagged:
    """Return a tagged collection; of a song in several parts the last row.

    Raises:
        InputError: not a tagged folder, or a part that cannot be read.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    schema = schema_of(manifest["tags"], manifest["fingerprint"])
    tables = [schema.empty_table()]
    for _, path in part_files(folder):
        table = read_part(path)
        if table is None:
            raise InputError(f"{path}: damaged part; the same fastmte tag command redoes it")
        check_part(path, table, schema)
        tables.append(table)
    table = pa.concat_tables(tables).unify_dictionaries()
    last = {name: i for i, name in enumerate(table.column("path").to_pylist())}
    order = [last[name] for name in sorted(last)]
    table = table.take(pa.array(order, pa.int64())).combine_chunks()
    return Tagged(folder, manifest, path_from(manifest, "root"), table)


def shown_path(name: bytes) -> str:
    """Return a path as text; bytes that are no UTF-8 become backslash escapes."""
    return name.decode("utf-8", "backslashreplace")


def path_fields(field: str, path: bytes) -> dict[str, str]:
    """Return a path as JSON fields: text, and exact bytes where the text is not exact."""
    text = shown_path(path)
    if text.encode() == path:
        return {field: text}
    return {field: text, f"{field}_b64": b64encode(path).decode()}


def path_from(fields: dict[str, Any], field: str) -> bytes:
    """Return the path that ``path_fields`` made fields of."""
    exact = fields.get(f"{field}_b64")
    return b64decode(exact) if exact else fields[field].encode()


def schema_of(tags: Sequence[str], fingerprint: str) -> pa.Schema:
    """Return the one schema of all parts made with the same thing; null columns keep their type."""
    columns = [pa.field(name, kind) for name, kind in COLUMNS]
    columns += [pa.field(tag, pa.float32()) for tag in tags]
    return pa.schema(columns, metadata={"fastmte.fingerprint": fingerprint})


def write_part(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    """Write rows as one part that is whole or not there; once this returns, it stays.

    The same rows give the same bytes.

    Raises:
        OSError: the part cannot be written.
    """
    with atomic_write(path, "wb") as file:
        pq.write_table(
            _table(rows, schema),
            file,
            compression="zstd",
            use_dictionary=["status", "code", "message"],
            use_byte_stream_split=schema.names[len(COLUMNS) :],
            write_page_checksum=True,
        )
    _sync_folder(path.parent)


def part_files(folder: Path) -> list[tuple[int, Path]]:
    """Return number and path of the parts, in the order of the numbers."""
    matches = ((_PART_NAME.fullmatch(path.name), path) for path in (folder / "parts").iterdir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def read_part(path: Path) -> pa.Table | None:
    """Return a part, every page of it checked; None where it cannot be read."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return file.read()
    except (pa.ArrowException, OSError):
        return None


def check_part(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    """Check that a part has the columns and the fingerprint of its folder.

    Raises:
        InputError: it has not.
    """
    if not table.schema.equals(schema, check_metadata=True):
        raise InputError(
            f"{path}: not made with what manifest.json names; tag into another folder, "
            "or start anew with --force"
        )


def _table(rows: Sequence[Row], schema: pa.Schema) -> pa.Table:
    columns = [
        [row.file.name for row in rows],
        [row.status for row in rows],
        [row.code for row in rows],
        [row.message for row in rows],
        [row.file.size for row in rows],
        [row.file.mtime_ns for row in rows],
        [row.duration_s for row in rows],
        [row.sample_rate for row in rows],
        [row.channels for row in rows],
        [row.start_frame for row in rows],
    ]
    arrays = [
        pa.array(values, pa_type) for values, (_, pa_type) in zip(columns, COLUMNS, strict=True)
    ]
    n_tags = len(schema) - len(COLUMNS)
    none = np.zeros(n_tags, np.float32)
    scores = np.array([none if row.scores is None else row.scores for row in rows], np.float32)
    is_missing = np.array([row.scores is None for row in rows])
    arrays += [pa.array(scores[:, i], mask=is_missing) for i in range(n_tags)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _sync_folder(folder: Path) -> None:
    """Make a rename last; where folders cannot be synced, there is nothing to do."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
