"""Songs and labels from the split files of MTG-Jamendo."""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS, strip_prefix

COLUMNS = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
"""The header; a row has as many columns as it has tags after the fifth."""


@dataclass(frozen=True, eq=False)
class Songs:
    """Songs of one part of a split, in the order of its file.

    Attributes:
        ids: N names of songs, ``track_0003524``; distinct.
        artists: N names of artists.
        paths: N audio files, relative to the collection, with ``/``.
        durations: (N,) float64, seconds.
        labels: (N, L) bool, which song has which tag.
        tags: the L labels' texts.
    """

    ids: tuple[str, ...]
    artists: tuple[str, ...]
    paths: tuple[str, ...]
    durations: np.ndarray
    labels: np.ndarray
    tags: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def with_tags(self, tags: Sequence[str]) -> "Songs":
        """Return the same songs with these of their tags only, in this order."""
        columns = [self.tags.index(tag) for tag in tags]
        return replace(self, tags=tuple(tags), labels=self.labels[:, columns])

    def only(self, keep: np.ndarray) -> "Songs":
        """Return the songs where ``keep``, (N,) bool, is true."""
        index = np.flatnonzero(keep)
        return Songs(
            ids=tuple(self.ids[i] for i in index),
            artists=tuple(self.artists[i] for i in index),
            paths=tuple(self.paths[i] for i in index),
            durations=self.durations[index],
            labels=self.labels[index],
            tags=self.tags,
        )


@dataclass(frozen=True)
class _Row:
    id: str
    artist: str
    path: str
    duration: float
    tags: list[int]


def read_split(tsv: str | Path, tags: Sequence[str] = MOOD_THEME_TAGS) -> Songs:
    """Return the songs of one split file.

    Args:
        tsv: a table in MTG-Jamendo's form: tab-separated, one header line, one song a row, as
            many columns of tags as the song has. A tag's ``mood/theme---`` is dropped.
        tags: the labels there are, in the order of the columns of ``labels``.

    Raises:
        InputError: the file has no songs, or a row is not of the form, has a tag that is not
            in ``tags``, or repeats a song; the line is named, counted from 1.
        OSError: the file cannot be read.

    Reference: D. Bogdanov et al., The MTG-Jamendo Dataset for Automatic Music Tagging, 2019.
    """
    lines = _lines(Path(tsv))
    if tuple(lines[0].split("\t")[:6]) != COLUMNS:
        raise InputError(f"{tsv}:1: must be the header {' '.join(COLUMNS)}, tab-separated")
    column = {tag: index for index, tag in enumerate(tags)}
    rows: list[_Row] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        try:
            row = _row(line, column)
        except ValueError as error:
            raise InputError(f"{tsv}:{number}: {error}") from error
        if row.id in seen:
            raise InputError(f"{tsv}:{number}: {row.id} is in line {seen[row.id]} already")
        seen[row.id] = number
        rows.append(row)
    if not rows:
        raise InputError(f"{tsv}: has no songs")
    labels = np.zeros((len(rows), len(column)), bool)
    for song, row in enumerate(rows):
        labels[song, row.tags] = True
    return Songs(
        ids=tuple(row.id for row in rows),
        artists=tuple(row.artist for row in rows),
        paths=tuple(row.path for row in rows),
        durations=np.array([row.duration for row in rows]),
        labels=labels,
        tags=tuple(tags),
    )


def artist_leaks(parts: Mapping[str, Songs]) -> dict[str, tuple[str, ...]]:
    """Return the artists that more than one part has, each with the names of those parts.

    A model that knows an artist's voice from training is flattered by the test.
    """
    where: dict[str, list[str]] = {}
    for name, songs in parts.items():
        for artist in dict.fromkeys(songs.artists):
            where.setdefault(artist, []).append(name)
    return {artist: tuple(names) for artist, names in sorted(where.items()) if len(names) > 1}


def _lines(path: Path) -> list[str]:
    # The published files end their lines with CR LF, which text mode reads as LF.
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: is not UTF-8 text") from error


def _row(line: str, column: Mapping[str, int]) -> _Row:
    fields = [field.strip() for field in line.split("\t")]
    texts = [text for text in fields[5:] if text]
    if not texts:
        raise ValueError(f"must have 6 or more columns, the last ones tags, got {len(fields)}")
    empty = [name for name, text in zip(COLUMNS, fields, strict=False) if not text]
    if empty and empty != ["ALBUM_ID"]:
        raise ValueError(f"{', '.join(empty)} must not be empty")
    path = PurePosixPath(fields[3])
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"PATH must lie in the collection, got {fields[3]}")
    return _Row(fields[0], fields[1], fields[3], _duration(fields[4]), _labels(texts, column))


def _duration(text: str) -> float:
    try:
        duration = float(text)
    except ValueError:
        duration = math.nan
    if not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"DURATION must be seconds, got {text!r}")
    return duration


def _labels(texts: Sequence[str], column: Mapping[str, int]) -> list[int]:
    labels = []
    for text in texts:
        tag = strip_prefix(text)
        if tag not in column:
            close = difflib.get_close_matches(tag, column, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise ValueError(f"unknown tag {text!r}{hint}")
        labels.append(column[tag])
    return labels
