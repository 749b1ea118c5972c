"""Tables of a tagged collection for other programs; each appears whole or not at all."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fastmte.data.parts import COLUMNS, FAILURES, Tagged, path_fields, shown_path
from fastmte.files import atomic_write, write_json

MOST_TAGS = 5  # a song rarely has more in MTG-Jamendo: 1.8 on average
DEFAULT_TOP = 3
_DETAILS = [name for name, _ in COLUMNS if name != "path"]
_HINTS = {
    "NOT_AUDIO": "see whether it plays anywhere; convert it to FLAC, Ogg, Opus, MP3 or WAV",
    "EMPTY": "fetch or rip it again",
    "TRUNCATED": "fetch or rip it again",
    "DAMAGED": "fetch or rip it again",
    "NONFINITE": "convert it to integer samples",
    "NOT_REGULAR": "name a file",
    "PERMISSION": "make it readable, then run again with --retry-failed",
    "VANISHED": "once it is back, the next run takes it",
    "UNSUPPORTED": "convert it to FLAC, Ogg, Opus, MP3 or WAV",
    "TOO_SHORT": "there is nothing in it to judge",
    "OUT_OF_MEMORY": "run again with --retry-failed and fewer --workers",
    "UNREADABLE": "see whether its disk works, then run again with --retry-failed",
    "DECODER_CRASH": "convert it with another program",
    "TIMEOUT": "run again with --retry-failed and a longer --timeout",
    "NONFINITE_SCORE": "see whether it is music; other songs are not affected",
}


def hint(code: str) -> str:
    """Return what a user can do about a failure."""
    return _HINTS.get(code, "convert it to FLAC, Ogg, Opus, MP3 or WAV")


def top_tags(tagged: Tagged, top: int | None = None) -> list[list[int]]:
    """Return for every song the indices of its tags, the highest score first.

    Without ``top`` these are the tags above the model's thresholds, at most five (a
    song can have none), or the highest three where the model has no thresholds. A
    song without scores has no tags; of equal scores the first tag comes first.

    Args:
        tagged: the collection.
        top: as many tags a song, whatever the thresholds.
    """
    scores, thresholds = tagged.scores(), tagged.thresholds
    order = np.argsort(-scores, axis=1, kind="stable")
    most = top or (DEFAULT_TOP if thresholds is None else MOST_TAGS)
    is_tag = np.isfinite(scores)
    if top is None and thresholds is not None:
        is_tag &= scores > thresholds
    ranked = np.take_along_axis(is_tag, order, axis=1)
    return [row[is_in].tolist()[:most] for row, is_in in zip(order, ranked, strict=True)]


def write_scores(tagged: Tagged, path: Path, is_all: bool, has_status: bool = False) -> int:
    """Write CSV: ``path`` and a column a tag with 7 decimals; return its songs.

    Args:
        tagged: the collection.
        path: the file.
        is_all: also songs without scores, whose cells are empty.
        has_status: add the column ``status``.
    """
    rows = _with_scores(tagged, is_all)
    statuses = tagged.table.column("status").to_pylist()
    scores, names = tagged.scores(), tagged.names
    with atomic_write(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", *tagged.tags, *(["status"] if has_status else [])])
        form, blank = "%.7f " * len(tagged.tags), [""] * len(tagged.tags)
        for i in rows:
            has_scores = not np.isnan(scores[i]).any()
            cells = (form % tuple(scores[i].tolist())).split() if has_scores else blank
            last = [statuses[i]] if has_status else []
            table.writerow([shown_path(names[i]), *cells, *last])
    return len(rows)


def write_tags(tagged: Tagged, path: Path, top: int | None = None) -> None:
    """Write CSV: ``path``, and ``tags`` separated by ``; ``, for the songs with scores."""
    rows = _with_scores(tagged, False)
    tags = top_tags(tagged, top)
    names = tagged.names
    with atomic_write(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "tags"])
        for i in rows:
            table.writerow([shown_path(names[i]), "; ".join(tagged.tags[t] for t in tags[i])])


def write_failed(tagged: Tagged, path: Path) -> int:
    """Write JSON lines about the songs that failed; return their number."""
    with atomic_write(path) as file:
        n_failed = 0
        for failure in _failures(tagged):
            file.write(json.dumps(failure, ensure_ascii=False) + "\n")
            n_failed += 1
    return n_failed


def write_jsonl(tagged: Tagged, path: Path, is_all: bool) -> int:
    """Write JSON lines: every fixed column, ``scores`` by tag (null without); return the songs.

    A path that is no UTF-8 has its exact bytes in ``path_b64`` beside it.
    """
    rows = _with_scores(tagged, is_all)
    columns = {
        name: tagged.table.column(name).to_pylist() for name in ("status", "code", "message")
    }
    columns |= {name: tagged.table.column(name).to_pylist() for name in _DETAILS}
    scores, names = tagged.scores(), tagged.names
    with atomic_write(path) as file:
        for i in rows:
            values = [round(float(score), 7) for score in scores[i]]
            record = {
                **path_fields("path", names[i]),
                **{name: column[i] for name, column in columns.items()},
                "scores": None
                if np.isnan(values).any()
                else dict(zip(tagged.tags, values, strict=True)),
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return len(rows)


def write_parquet(tagged: Tagged, path: Path, is_all: bool) -> int:
    """Write one Parquet file with the columns of the parts, the path as text; return the songs.

    ``path_bytes`` beside it has the exact bytes.
    """
    rows = _with_scores(tagged, is_all)
    table = tagged.table.take(pa.array(rows, pa.int64()))
    names = table.column("path")
    text = pa.array([shown_path(name) for name in names.to_pylist()], pa.string())
    table = table.set_column(0, "path", text).append_column("path_bytes", names)
    with atomic_write(path, "wb") as file:
        pq.write_table(table, file, compression="zstd")
    return len(rows)


def write_npy(tagged: Tagged, path: Path, is_all: bool) -> int:
    """Write scores (N, L) float32, and their paths and tags as ``FILE.json``; return the songs."""
    rows = _with_scores(tagged, is_all)
    paths = [path_fields("path", tagged.names[i]) for i in rows]
    with atomic_write(path, "wb") as file:
        np.save(file, tagged.scores()[rows])
    write_json(path.with_name(f"{path.name}.json"), {"tags": list(tagged.tags), "songs": paths})
    return len(rows)


def _with_scores(tagged: Tagged, is_all: bool) -> list[int]:
    """Return the rows of all songs, or of those with scores."""
    n_songs = tagged.table.num_rows
    if is_all:
        return list(range(n_songs))
    return np.flatnonzero(~np.isnan(tagged.scores()).any(axis=1)).tolist()


def _failures(tagged: Tagged) -> Iterator[dict[str, Any]]:
    is_failed = pc.is_in(tagged.table.column("status").cast(pa.string()), pa.array(FAILURES))
    for row in tagged.table.select(["path", "code", "message"]).filter(is_failed).to_pylist():
        yield {
            **path_fields("path", row["path"]),
            "stage": "score" if row["code"] == "NONFINITE_SCORE" else "decode",
            "code": row["code"],
            "message": row["message"],
            "hint": hint(row["code"]),
        }
