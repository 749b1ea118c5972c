"""Tagging that can be killed at any moment: a part that is there is a shard that is done."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastmte.data.inputs import SongFile, renamed
from fastmte.data.parts import (
    COLUMNS,
    FAILURES,
    VERSION,
    Row,
    check_part,
    part_files,
    path_fields,
    path_from,
    read_manifest,
    read_part,
    schema_of,
    write_part,
)
from fastmte.errors import InputError
from fastmte.files import locked, write_json

SHARD_SIZE = 256
_MADE = ("scores.csv", "tags.csv", "failed.jsonl")


@dataclass(frozen=True)
class Shard:
    """Songs that become one part."""

    number: int
    songs: tuple[SongFile, ...]


@dataclass(frozen=True)
class Held:
    """What a part says of a song: as it was then, and what became of it."""

    size: int | None
    mtime_ns: int | None
    status: str
    has_scores: bool


class TagStore:
    """The folder of a tagged collection while it is written; made by ``open_store``."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.root = path_from(manifest, "root")
        self.damaged: list[str] = []
        self._schema = schema_of(manifest["tags"], manifest["fingerprint"])
        self._numbers: set[int] = set()
        self._held: dict[bytes, Held] = {}
        for number, path in part_files(folder):
            if self._hold(path):
                self._numbers.add(number)
            else:
                self.damaged.append(path.name)
                path.unlink()

    def plan(self, songs: Sequence[SongFile], retry_failed: bool = False) -> list[Shard]:
        """Return the shards of what no part holds.

        It depends on nothing but the songs and the parts that are there. New songs,
        sorted, take the lowest free numbers, so that a run that was killed goes on
        with the shards it would have had; songs that changed since they were tagged
        come after all parts, where they stand above their old rows.

        Args:
            songs: the whole collection as it is now.
            retry_failed: treat songs that failed as changed.
        """
        ours = sorted((renamed(song, self.root) for song in songs), key=lambda song: song.name)
        unique = {song.key: song for song in reversed(ours)}
        new, changed = [], []
        for song in reversed(unique.values()):
            if song.key not in self._held:
                new.append(song)
                continue
            held = self._held[song.key]
            is_other = (held.size, held.mtime_ns) != (song.size, song.mtime_ns)
            if is_other or (retry_failed and held.status in FAILURES):
                changed.append(song)
        shards = []
        number = 0
        for songs_of_part in self._cut(new):
            while number in self._numbers:
                number += 1
            shards.append(Shard(number, songs_of_part))
            number += 1
        number = max([number, *(n + 1 for n in self._numbers)])
        for i, songs_of_part in enumerate(self._cut(changed)):
            shards.append(Shard(number + i, songs_of_part))
        return shards

    def write(self, shard: Shard, rows: Sequence[Row]) -> None:
        """Write the part of a shard; once this returns, it survives a power cut.

        Raises:
            ValueError: rows that are not those of the shard.
            OSError: the part cannot be written; nothing of it stays.
        """
        if [row.file for row in rows] != list(shard.songs):
            raise ValueError(f"rows must be the {len(shard.songs)} songs of the shard, in order")
        write_part(self._part(shard.number), rows, self._schema)
        self._numbers.add(shard.number)
        for row in rows:
            file = row.file
            held = Held(file.size, file.mtime_ns, row.status, row.scores is not None)
            self._held[file.key] = held

    def held(self, songs: Sequence[SongFile]) -> list[Held | None]:
        """Return what the parts say of each song; None where no part holds it."""
        return [self._held.get(song.key) for song in songs]

    def _part(self, number: int) -> Path:
        return self.folder / "parts" / f"part-{number:06d}.parquet"

    def _cut(self, songs: list[SongFile]) -> Iterator[tuple[SongFile, ...]]:
        size = self.manifest["shard_size"]
        for start in range(0, len(songs), size):
            yield tuple(songs[start : start + size])

    def _hold(self, path: Path) -> bool:
        """Note the songs of a part; return False for a part that cannot be read."""
        table = read_part(path)
        if table is None:
            return False
        check_part(path, table, self._schema)
        columns = [table.column(i) for i in ("path", "size", "mtime_ns", "status", len(COLUMNS))]
        columns[-1] = columns[-1].is_valid()
        for name, *held in zip(*(column.to_pylist() for column in columns), strict=True):
            self._held[os.path.abspath(os.path.join(self.root, name))] = Held(*held)
        return True


@contextmanager
def open_store(
    folder: str | Path,
    tags: Sequence[str],
    made_with: dict[str, Any],
    root: bytes,
    thresholds: Sequence[float] | None = None,
    shard_size: int = SHARD_SIZE,
    force: bool = False,
) -> Iterator[TagStore]:
    """Open or begin a tagged collection for writing; nobody else can meanwhile.

    Args:
        folder: made where it is missing.
        tags: L names, in the order of the scores.
        made_with: JSON-able values that the scores depend on: a folder never mixes two.
        root: absolute folder of a new collection; one that is there keeps its own.
        thresholds: (L,) above which a score counts as a tag.
        shard_size: songs a part, of a new collection.
        force: remove what was made with something else, and start anew.

    Raises:
        InputError: another run writes here, the folder was made with something else, a tag
            is named as another column, or a file is in the way.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    check_tags(tags)
    check_way(folder / "parts")
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": "fastmte tagged songs",
        "version": VERSION,
        "fingerprint": _fingerprint({"tags": list(tags), **made_with}),
        "made_with": made_with,
        "shard_size": shard_size,
        **path_fields("root", root),
        "tags": list(tags),
        "thresholds": None if thresholds is None else [float(value) for value in thresholds],
    }
    with locked(folder):
        for left_over in (folder / "parts").glob(".*.tmp"):  # of a run that was killed
            left_over.unlink()
        if force:
            _remove_all(folder)
        elif (folder / "manifest.json").exists():
            old = read_manifest(folder)
            _check_same(folder, old, manifest)
            kept = ("shard_size", "root", "root_b64")
            manifest = {**manifest, **{key: old[key] for key in kept if key in old}}
        write_json(folder / "manifest.json", manifest)
        yield TagStore(folder, manifest)


def check_way(folder: Path) -> None:
    """Refuse a folder that cannot be there, as a file has its name or a parent's.

    Raises:
        InputError: names the file.
    """
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    if there is not None and not there.is_dir():
        raise InputError(
            f"{there}: a file is in the way of the folder; move it, or write elsewhere"
        )


def check_tags(tags: Sequence[str]) -> None:
    """Refuse a tag that is named as another column of tagged songs.

    Raises:
        InputError: names the first one.
    """
    reserved = {name for name, _ in COLUMNS}
    for tag in tags:
        if tag in reserved:
            raise InputError(f"the model's tag {tag!r} is the name of another column; rename it")


def _check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if old["fingerprint"] == new["fingerprint"]:
        return
    ours, theirs = ({"tags": m["tags"], **m["made_with"]} for m in (new, old))
    names = sorted(key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key))
    raise InputError(
        f"{folder}: tagged before with another {', '.join(names)}; tag into another folder, "
        "or start anew with --force"
    )


def _fingerprint(made_with: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()


def _remove_all(folder: Path) -> None:
    """Remove what a run leaves; parts before the manifest, so that a kill leaves a whole folder."""
    for _, path in part_files(folder):
        path.unlink()
    for name in (*_MADE, "manifest.json"):
        (folder / name).unlink(missing_ok=True)
