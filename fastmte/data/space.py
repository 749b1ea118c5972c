"""The label space of a collection, or from a table."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.data.collection import Collection
from fastmte.data.descriptors import Descriptors, describe_json
from fastmte.data.jamendo import Songs
from fastmte.data.points import NamedPoints, read_points
from fastmte.data.task_files import read_array, read_truth
from fastmte.errors import InputError
from fastmte.features import ACOUSTICBRAINZ_KEYS
from fastmte.labels import MOOD_THEME_TAGS
from fastmte.partition import label_space, pair_counts
from fastmte.partition.centroids import standardised
from fastmte.partition.sums import is_indicator


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """Labels as points.

    Attributes:
        tags: the L labels' texts.
        centroids: (L, D) float64; None where a collection has no descriptors.
        details: what it was made of, for the partition's file.
        pairs: (L, L) int64, how many songs have both of two labels; None where no songs are
            known.
    """

    tags: tuple[str, ...]
    centroids: np.ndarray | None
    details: dict[str, Any] = field(default_factory=dict)
    pairs: np.ndarray | None = None


def read_space(
    path: str | Path, name_column: str | None = None, standardise: bool = False
) -> LabelSpace:
    """Return the points of a table as a label space.

    Args:
        path: a table as ``read_points`` reads; a .npz of ``fastmte features``, whose points are
            songs; or a .npy (56, D) whose rows are the task's tags.
        name_column: the table's column of names, by default its first.
        standardise: shift and scale each column to mean 0 and variance 1 over the rows, for
            columns of different units. One that is constant becomes 0.

    Raises:
        InputError: the file is of another form; row and column are named.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if path.suffix.lower() in (".npy", ".npz"):
        if name_column is not None:
            raise InputError(f"{path}: has no columns with names, so no {name_column!r}")
        found = _of_songs(path) if path.suffix.lower() == ".npz" else _of_tags(path)
    else:
        found = read_points(path, name_column)
    details = {
        "points": path.name,
        "name_column": found.name_column,
        "feature_names": list(found.features),
        "standardised": standardise,
    }
    points = standardised(found.points) if standardise else found.points
    return LabelSpace(found.names, points, details)


def _of_songs(path: Path) -> NamedPoints:
    songs = Descriptors.load(path)
    return NamedPoints(songs.ids, songs.features, "song", songs.names)


def _of_tags(path: Path) -> NamedPoints:
    points = read_array(path)
    if points.ndim != 2 or len(points) != len(MOOD_THEME_TAGS) or points.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: must have {len(MOOD_THEME_TAGS)} rows of numbers, the task's tags, got "
            f"{points.dtype} {points.shape}; a .csv can name other tags"
        )
    return NamedPoints(MOOD_THEME_TAGS, points.astype(np.float64), "tag")


def space_of_arrays(features: str | Path, labels: str | Path) -> LabelSpace:
    """Return the label space of songs in two files, one row a song in both.

    The arrays stay where they are, so that they may be larger than memory.

    Args:
        features: a .npy (N, D) of numbers, taken as they are.
        labels: which song has which of the task's 56 tags: a .npy (N, 56) of 0 and 1, or a
            split's .tsv.

    Raises:
        InputError: a file is of another form, their rows differ in number, or a label has no
            song.
        OSError: a file cannot be read.
    """
    rows, truth = read_array(features, is_mapped=True), read_truth(labels, is_mapped=True)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not rows.shape[1]:
        raise InputError(
            f"{features}: must have a row of numbers a song, got {rows.dtype} {rows.shape}"
        )
    if truth.shape != (len(rows), len(MOOD_THEME_TAGS)) or not is_indicator(truth):
        raise InputError(
            f"{labels}: must be 0 or 1 for each of the {len(rows)} songs of {features} and the "
            f"task's {len(MOOD_THEME_TAGS)} tags, got {truth.dtype} {truth.shape}"
        )
    return LabelSpace(
        MOOD_THEME_TAGS,
        label_space(rows, truth, MOOD_THEME_TAGS, standardise=False),
        {"features": Path(features).name, "labels": Path(labels).name, "songs": len(rows)},
        pair_counts(truth),
    )


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
        return LabelSpace(collection.tags, None, pairs=pair_counts(collection.train.labels))
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
        pair_counts(used.labels),
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
