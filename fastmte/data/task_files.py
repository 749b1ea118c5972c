"""The task's files: arrays of scores, truth and decisions, and thresholds."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.data.jamendo import read_split
from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS, strip_prefix


def check_regular(path: str | Path) -> None:
    """Refuse what is there but is no file of bytes: a folder, a pipe, a device.

    Raises:
        InputError: it is none; a pipe would be waited for without end.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise InputError(f"{path}: not a regular file")


def load_numpy(path: str | Path, is_mapped: bool = False) -> Any:
    """Return what ``np.load`` gives for a .npy or .npz file; pickled objects are never read.

    Args:
        path: the file.
        is_mapped: leave a .npy where it is, as an array that cannot be written to.

    Raises:
        InputError: the file is neither, is cut off, or needs more memory than there is.
        OSError: the file cannot be read.
    """
    check_regular(path)
    with open(path, "rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise InputError(f"{path}: not a NumPy array file")
    try:
        return np.load(path, mmap_mode="r" if is_mapped else None, allow_pickle=False)
    except MemoryError as error:
        raise InputError(f"{path}: its header asks for more memory than there is") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no plain .npy array ({error})") from error


def read_array(path: str | Path, is_mapped: bool = False) -> np.ndarray:
    """Return the array in a .npy file of numbers or truth values.

    Args:
        path: the file.
        is_mapped: as ``load_numpy``.

    Raises:
        InputError: as ``load_numpy``, or the file is an archive.
        OSError: the file cannot be read.
    """
    array = load_numpy(path, is_mapped)
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: must be one array (.npy), got an archive of several")
    return array


def read_truth(
    path: str | Path, tags: Sequence[str] | None = None, is_mapped: bool = False
) -> np.ndarray:
    """Return which song has which tag, (N, L) bool: of a .npy, or of a split's .tsv.

    Args:
        path: the file; every name that does not end in ``.tsv`` is taken for a .npy.
        tags: the columns wanted of a .tsv, the task's 56 by default.
        is_mapped: as ``load_numpy``.

    Raises:
        InputError: as ``read_array`` and ``read_split``.
        OSError: the file cannot be read.
    """
    if Path(path).suffix.lower() == ".tsv":
        return read_split(path, MOOD_THEME_TAGS if tags is None else tags).labels
    return read_array(path, is_mapped)


def read_thresholds(path: str | Path, tags: Sequence[str]) -> np.ndarray:
    """Return the threshold of each tag, (L,) float64, from lines of tag, tab, number.

    Args:
        path: the file, in MTG's form; a tag's ``mood/theme---`` is dropped.
        tags: the labels, in the order wanted.

    Raises:
        InputError: a line is of another form, a number is not finite, or a tag is missing,
            unknown or repeated.
        OSError: the file cannot be read.
    """
    found: dict[str, float] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        tag, _, value = line.partition("\t")
        tag, threshold = strip_prefix(tag.strip()), _number(value)
        if not math.isfinite(threshold):
            raise InputError(
                f"{path}:{number}: must be a tag, a tab and a finite number, got {line!r}"
            )
        if tag not in tags:
            raise InputError(f"{path}:{number}: {tag!r} is none of the {len(tags)} tags")
        if tag in found:
            raise InputError(f"{path}:{number}: {tag!r} has a threshold already")
        found[tag] = threshold
    if missing := [tag for tag in tags if tag not in found]:
        raise InputError(f"{path}: has no threshold for {missing[0]!r} ({len(missing)} missing)")
    return np.array([found[tag] for tag in tags])


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a UTF-8 text file, without a byte order mark.

    Raises:
        InputError: the file is no such text.
        OSError: the file cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a UTF-8 text file") from error


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
