"""The task's files: arrays of scores, truth and decisions, and thresholds."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastmte.data.jamendo import read_split
from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS, strip_prefix


def read_array(path: str | Path) -> np.ndarray:
    """Return the array in a .npy file of numbers or truth values.

    Raises:
        InputError: the file is no .npy, is cut off, or holds pickled objects, which are
            never read.
        OSError: the file cannot be read.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path}: no plain .npy array ({error})") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: must be one array (.npy), got an archive of several")
    return array


def read_truth(path: str | Path, tags: Sequence[str] | None = None) -> np.ndarray:
    """Return which song has which tag, (N, L) bool: of a .npy, or of a split's .tsv.

    Args:
        path: the file; every name that does not end in ``.tsv`` is taken for a .npy.
        tags: the columns wanted of a .tsv, the task's 56 by default.

    Raises:
        InputError: as ``read_array`` and ``read_split``.
        OSError: the file cannot be read.
    """
    if Path(path).suffix.lower() == ".tsv":
        return read_split(path, MOOD_THEME_TAGS if tags is None else tags).labels
    return read_array(path)


def read_thresholds(path: str | Path, tags: Sequence[str]) -> np.ndarray:
    """Return the threshold of each tag, (L,) float64, from lines of tag, tab, number.

    Args:
        path: the file, in MTG's form; a tag's ``mood/theme---`` is dropped.
        tags: the labels, in the order wanted.

    Raises:
        InputError: a line is of another form, or a tag is missing, unknown or repeated.
        OSError: the file cannot be read.
    """
    found: dict[str, float] = {}
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        tag, _, value = line.rstrip("\r").partition("\t")
        tag = strip_prefix(tag.strip())
        try:
            threshold = float(value)
        except ValueError:
            threshold = math.nan
        if math.isnan(threshold):
            raise InputError(f"{path}:{number}: must be a tag, a tab and a number, got {line!r}")
        if tag not in tags:
            raise InputError(f"{path}:{number}: {tag!r} is none of the {len(tags)} tags")
        if tag in found:
            raise InputError(f"{path}:{number}: {tag} has a threshold already")
        found[tag] = threshold
    missing = [tag for tag in tags if tag not in found]
    if missing:
        raise InputError(f"{path}: has no threshold for {', '.join(missing)}")
    return np.array([found[tag] for tag in tags])
