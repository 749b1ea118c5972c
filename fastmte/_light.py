"""The operators on samples for arrays, on the fastest tier there is, without loading torch.

Decoder processes need two operators, and importing torch would take each of them a second and
200 MB. ``libfastmte_audio.so`` has the same kernels as plain functions, and what reads files.
"""

import ctypes
import os
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmte import _tiers
from fastmte._tiers import build_note, find, lacks

Array = NDArray[Any]
LIBRARY = "libfastmte_audio.so"
_FUNCTIONS = ("fastmte_resample", "fastmte_mel_db", "fastmte_mix", "fastmte_read_rows")


class Light(NamedTuple):
    """The operators of one tier; arguments as in :mod:`fastmte.ops`, checked by the caller."""

    tier: str
    reason: str  # why it is no faster one; "" where it is the fastest
    resample: Callable[..., Array]
    mel_db: Callable[..., Array]
    mix: Callable[..., bool]
    read_rows: Callable[..., tuple[bool, bool]]


def mix(block: Array, least: float, most: float, out: Array) -> bool:
    """Write the mean of the channels of ``block``, clipped, into ``out``.

    Args:
        block: (n, channels) float32, contiguous; may be changed.
        least: what is below becomes this; NaN stays.
        most: what is above becomes this.
        out: (n,) float32, contiguous.

    Returns:
        Whether all of ``out`` is finite.
    """
    if least > -np.inf or most < np.inf:
        np.clip(block, np.float32(least), np.float32(most), out=block)
    with np.errstate(over="ignore", invalid="ignore"):
        if block.shape[1] == 1:
            out[:] = block[:, 0]
        elif block.shape[1] == 2:
            np.add(block[:, 0], block[:, 1], out=out)
            out *= np.float32(0.5)
        else:
            out[:] = block.mean(axis=1, dtype=np.float64)
    return bool(np.isfinite(out).all())


def read_rows(
    descriptor: int, offset: int, stride: int, dtype: type, out: Array
) -> tuple[bool, bool]:
    """Read rows of numbers from a file; return whether it has them all, and all are finite.

    Args:
        descriptor: of the file.
        offset: bytes before the first row.
        stride: bytes from one row to the next.
        dtype: of the file's numbers, ``np.float32`` or ``np.float16``.
        out: (M, F) float32, contiguous; filled, as far as the file goes.
    """
    rows = np.empty(out.shape, dtype) if dtype != out.dtype else out
    for row, values in enumerate(rows):
        target = values.view(np.uint8)
        done = 0
        while done < len(target):
            got = os.preadv(descriptor, [target[done:]], offset + row * stride + done)
            if not got:
                return False, True
            done += got
    if rows is not out:
        out[:] = rows
    return True, bool(np.isfinite(out).all())


@lru_cache(maxsize=1)
def light() -> Light:
    """Return the operators on the tier chosen for this process.

    Raises:
        TierError: the tier that was asked for is not there, or is none.
    """
    return choose()


def choose() -> Light:
    """Make the choice; see :func:`light`."""
    tier, found, reason = _tiers.choose(_load, lambda: import_module("fastmte._kernels_audio"))
    if tier == "native":
        return _native(found)
    if tier == "numba":
        functions = found.resample, found.mel_db, mix, found.read_rows
        return Light("numba", reason, *functions)
    functions = _reference_resample, _reference_mel_db, mix, read_rows
    return Light("reference", reason, *functions)


def _load() -> tuple[ctypes.CDLL | None, str]:
    """Return the library, or why it is not there."""
    path = find(LIBRARY)
    if path is None:
        return None, f"{LIBRARY} is not installed: {build_note()['cpu_reason'] or 'it is gone'}"
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:  # built for another machine
        return None, f"{path} cannot be loaded: {error}"
    absent = [name for name in _FUNCTIONS if not hasattr(library, name)]
    if absent:
        return None, lacks(path, *absent)
    return library, ""


_POINTER, _C_INT, _INT, _FLOAT, _DOUBLE = (
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_float,
    ctypes.c_double,
)


def _native(library: ctypes.CDLL) -> Light:
    resample_of, mel_db_of, mix_of, read_rows_of = (getattr(library, f) for f in _FUNCTIONS)
    resample_of.argtypes = [_POINTER, _INT, _POINTER, *[_INT] * 6, _POINTER]
    mel_db_of.argtypes = [_POINTER, _INT, _POINTER, _INT, *[_POINTER] * 3]
    mel_db_of.argtypes += [*[_INT] * 4, _DOUBLE, _DOUBLE, _POINTER]

    def resample(
        samples: Array,
        filter: Array | None,
        rate: int,
        target: int,
        first: int,
        start: int,
        stop: int,
    ) -> Array:
        samples = np.ascontiguousarray(samples)
        out = np.empty(stop - start, np.float32)
        table = (None, 0) if filter is None else (filter.ctypes.data, len(filter))
        given = (samples.ctypes.data, len(samples), *table)
        _check_memory(resample_of(*given, rate, target, first, start, stop, out.ctypes.data))
        return out

    def mel_db(
        samples: Array,
        window: Array,
        weights: Array,
        first_bins: Array,
        splits: Array,
        hop: int,
        offset: int,
        frames: int,
        db_per_decade: float,
        floor_db: float,
    ) -> Array:
        samples = np.ascontiguousarray(samples)
        out = np.empty((len(first_bins), frames), np.float32)
        tables = (weights.ctypes.data, first_bins.ctypes.data, splits.ctypes.data)
        given = (samples.ctypes.data, len(samples), window.ctypes.data, len(window), *tables)
        sizes = (len(first_bins), hop, offset, frames)
        _check_memory(mel_db_of(*given, *sizes, db_per_decade, floor_db, out.ctypes.data))
        return out

    mix_of.argtypes = [_POINTER, _INT, _INT, _FLOAT, _FLOAT, _POINTER]

    def mix_native(block: Array, least: float, most: float, out: Array) -> bool:
        n, channels = block.shape
        if channels > 2:
            return mix(block, least, most, out)
        return bool(mix_of(block.ctypes.data, n, channels, least, most, out.ctypes.data))

    read_rows_of.argtypes = [_C_INT, _INT, _INT, _C_INT, _INT, _INT, _POINTER]

    def read_rows_native(
        descriptor: int, offset: int, stride: int, dtype: type, out: Array
    ) -> tuple[bool, bool]:
        place = (descriptor, offset, stride, dtype == np.float16)
        outcome = read_rows_of(*place, *out.shape, out.ctypes.data)
        _check_memory(outcome == 3)
        return outcome != 1, outcome != 2

    return Light("native", "", resample, mel_db, mix_native, read_rows_native)


def _check_memory(is_short: int) -> None:
    if is_short:
        raise MemoryError


def _reference_resample(samples: Array, filter: Array | None, *rest: int) -> Array:
    import torch

    from fastmte import reference

    table = None if filter is None else torch.tensor(filter)
    return reference.resample(torch.tensor(samples), table, *rest).numpy()


def _reference_mel_db(samples: Array, *rest: Any) -> Array:
    import torch

    from fastmte import reference

    tables = [torch.tensor(table) for table in rest[:4]]
    songs = torch.tensor(samples)[None]
    return reference.mel_db(songs, *tables, *rest[4:])[0].numpy()  # type: ignore[arg-type]
