"""The label space of a collection, or from a table."""

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.data.collection import Collection
from fastmte.data.descriptors import Descriptors, describe_json
from fastmte.data.jamendo import Songs
from fastmte.data.task_files import read_array
from fastmte.errors import InputError
from fastmte.features import ACOUSTICBRAINZ_KEYS
from fastmte.labels import MOOD_THEME_TAGS, strip_prefix
from fastmte.partition import label_space


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """Labels as points.

    Attributes:
        tags: the L labels' texts.
        centroids: (L, D) float64; None where a collection has no descriptors.
        details: what it was made of, for the partition's file.
    """

    tags: tuple[str, ...]
    centroids: np.ndarray | None
    details: dict[str, Any] = field(default_factory=dict)


def read_space(path: str | Path) -> LabelSpace:
    """Return the label space in a table.

    Args:
        path: a .csv with a line of tag, number, number, ... for each label, after a header or
            none; or a .npy (56, D) whose rows are the task's tags.

    Raises:
        InputError: the file is of another form, or repeats a tag.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() != ".npy":
        tags, centroids = _read_table(path)
    else:
        tags, centroids = MOOD_THEME_TAGS, read_array(path)
        if centroids.ndim != 2 or len(centroids) != len(tags) or centroids.dtype.kind not in "fiu":
            raise InputError(
                f"{path}: must have {len(tags)} rows of numbers, the task's tags, got "
                f"{centroids.dtype} {centroids.shape}; a .csv can name other tags"
            )
    return LabelSpace(tags, centroids.astype(np.float64), {"centroids": path.name})


def space_of(folder: str | Path, split: int = 0, features: str | Path | None = None) -> LabelSpace:
    """Return the label space of a collection's training songs.

    Descriptors of different units are standardised over these songs; AcousticBrainz's, all in
    [0, 1], stay as they are, as in the paper. Songs without descriptors are left out.

    Args:
        folder: a collection of MTG-Jamendo's layout.
        split: which of its splits.
        features: a file of ``fastmte features``; by default the collection's AcousticBrainz
            files, and no centroids where it has none.

    Raises:
        InputError: there is no collection, no song of it has descriptors, or a label has no
            song with descriptors.
        OSError: a file cannot be read.
    """
    collection = Collection.open(folder, split)
    descriptors = acousticbrainz(collection) if features is None else Descriptors.load(features)
    if descriptors is None:
        return LabelSpace(collection.tags, None)
    space = space_from(collection.train, descriptors, features or folder)
    return replace(space, details={**space.details, "split": split})


def space_from(songs: Songs, descriptors: Descriptors, source: str | Path) -> LabelSpace:
    """Return the label space of songs with these descriptors; as ``space_of``.

    Args:
        songs: training songs; those without descriptors are left out.
        descriptors: of these songs, others are not looked at.
        source: what the descriptors are from, for errors.

    Raises:
        InputError: no song has descriptors, or a label has no song with descriptors.
    """
    has_row = descriptors.has(songs)
    if not has_row.any():
        raise InputError(f"{source}: has descriptors of none of the training songs")
    used = songs.only(has_row)
    centroids = label_space(
        descriptors.of(used), used.labels, used.tags, standardise=not descriptors.is_uniform
    )
    return LabelSpace(
        songs.tags,
        centroids,
        {
            "features": descriptors.source,
            "feature_names": list(descriptors.names),
            "standardised": not descriptors.is_uniform,
            "songs": len(used),
            "songs_without_features": len(songs) - len(used),
        },
    )


def acousticbrainz(collection: Collection) -> Descriptors | None:
    """Return the descriptors of the training songs that have AcousticBrainz files, if any has.

    Raises:
        InputError: a file is damaged or lacks descriptors.
    """
    pairs = zip(collection.train.ids, collection.train.paths, strict=True)
    files = {name: collection.descriptor_path(path) for name, path in pairs}
    there = {name: path for name, path in files.items() if path is not None}
    if not there:
        return None
    rows = list(describe_json(list(there.values())))
    bad = [
        f"{path}: {row}"
        for path, row in zip(there.values(), rows, strict=True)
        if isinstance(row, str)
    ]
    if bad:
        raise InputError(f"{bad[0]} (and {len(bad) - 1} more files)" if bad[1:] else bad[0])
    return Descriptors(tuple(there), ACOUSTICBRAINZ_KEYS, np.stack(rows), "acousticbrainz")


def _read_table(path: Path) -> tuple[tuple[str, ...], np.ndarray]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: no table of text ({error})") from error
    if lines and all(_number(text) is None for text in lines[0][1][1:]):
        lines = lines[1:]  # the header
    tags: list[str] = []
    rows: list[list[float]] = []
    for number, row in lines:
        numbers, tag = [_number(text) for text in row[1:]], strip_prefix(row[0].strip())
        width = len(rows[0]) if rows else len(numbers) or "some"
        for text, value in zip(row[1:], numbers, strict=True):
            if value is None or not np.isfinite(value):
                raise InputError(
                    f"{path}:{number}: must be a tag and {width} finite numbers, got {text!r}"
                )
        if len(numbers) != width:
            raise InputError(
                f"{path}:{number}: must be a tag and {width} finite numbers, got {len(numbers)}"
            )
        if tag in tags:
            raise InputError(f"{path}:{number}: {tag} is in it already")
        tags.append(tag)
        rows.append([value for value in numbers if value is not None])
    if not rows:
        raise InputError(f"{path}: has no line of a tag and its numbers")
    return tuple(tags), np.array(rows)


def _number(text: str) -> float | None:
    """Return the number in a cell, NaN and infinities too, or None where there is none."""
    try:
        return float(text)
    except ValueError:
        return None
