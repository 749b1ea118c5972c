"""Mels that lie as one .npy a song, as MTG publishes them, cut where they are."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from io import FileIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastmte.crop import BANDS, crop_mel
from fastmte.data.store import MelStore, batch_room, load_npy
from fastmte.errors import InputError
from fastmte.mel import MelConfig

_AT_ONCE = 64  # files open at a time
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f([24])', 'fortran_order': False, "
    rb"'shape': \((\d+), (\d+)\), \} *\n",
    re.DOTALL,
)


@dataclass(frozen=True)
class _Layout:
    """Where in a file its values are.

    Attributes:
        offset: bytes before the first value; -1 where bands do not follow one another.
        item_size: bytes a value.
        n_frames: T.
    """

    offset: int
    item_size: int
    n_frames: int


def open_npy(
    names: Sequence[str], paths: Sequence[Path], config: MelConfig, is_lenient: bool
) -> "NpyMels":
    """See ``MelStore.from_npy``."""
    songs, failed = [], []
    for id_, path in zip(names, paths, strict=True):
        try:
            songs.append((id_, path, _layout(path)))
        except InputError as error:
            if not is_lenient:
                raise
            message = str(error).removeprefix(f"{path}: ")
            failed.append({"id": id_, "path": str(path), "code": "DAMAGED", "message": message})
    if not songs:
        raise InputError(f"no mels: {len(failed)} files, none of them readable")
    return NpyMels(songs, config, failed)


class NpyMels(MelStore):
    """A store over files of one song each, opened only for the batch that needs them."""

    def __init__(
        self,
        songs: Sequence[tuple[str, Path, _Layout]],
        config: MelConfig,
        failed: Sequence[dict[str, str]],
    ) -> None:
        names = [id_ for id_, _, _ in songs]
        lengths = [layout.n_frames for _, _, layout in songs]
        self._paths = [path for _, path, _ in songs]
        self._layouts = [layout for _, _, layout in songs]
        digest = hashlib.sha256(json.dumps([names, lengths, config.to_dict()]).encode())
        table: dict[str, list] = {"id": names, "length": lengths, "n_frames": lengths}
        table["start"] = [0] * len(names)
        none = torch.empty(0)
        super().__init__(none, none.long(), table, config, failed, digest.hexdigest())

    def _cut(self, index: Tensor, frames: int, starts: Tensor, out: Tensor | None) -> Tensor:
        if out is None:
            out = batch_room(len(index), frames)
        wanted = list(zip(index.tolist(), starts.tolist(), out, strict=True))
        for first in range(0, len(wanted), _AT_ONCE):
            some = wanted[first : first + _AT_ONCE]
            with ExitStack() as stack:
                files = [stack.enter_context(_open(self._paths[row])) for row, _, _ in some]
                for file, (row, start, _) in zip(files, some, strict=True):
                    _fetch(file.fileno(), self._layouts[row], start, frames)
                for file, (row, start, crop) in zip(files, some, strict=True):
                    self._read(file.fileno(), row, start, crop)
        return out

    def _read(self, descriptor: int, row: int, start: int, crop: Tensor) -> None:
        """Fill a crop (96, F) with the frames from ``start`` on.

        Raises:
            InputError: the file is another one by now, or a value is not finite.
        """
        layout, path, frames = self._layouts[row], self._paths[row], crop.size(1)
        target = crop.numpy()
        n_frames, size = layout.n_frames, layout.item_size
        if layout.offset < 0 or n_frames < frames:
            mel = load_npy(path)
            if mel.shape[1] != n_frames:
                raise InputError(f"{path}: had {n_frames} frames, has {mel.shape[1]} now")
            values = crop_mel(mel, frames, start)
            is_finite = bool(np.isfinite(values).all())
        else:
            is_half = size == 2
            values = np.empty(crop.shape, np.float16) if is_half else target
            bits = values.view(np.uint16 if is_half else np.uint32)
            place = layout.offset + start * size, n_frames * size, 0x7C00 if is_half else 0x7F800000
            n_rows, is_finite = _reader()(descriptor, *place, bits)
            if n_rows < BANDS:
                raise InputError(f"{path}: ends too early; it has been cut off since it was found")
        if not is_finite:
            raise InputError(f"{path}: has values that are not finite")
        if values is not target:
            target[:] = values


def _layout(path: Path) -> _Layout:
    """Return where the values of a mel are; of what is not plain, numpy is asked.

    Raises:
        InputError: the file is no mel.
    """
    with _open(path) as file:
        found = _HEADER.match(file.read(256))
        if found:
            size, bands, n_frames = (int(text) for text in found.groups())
            there = os.fstat(file.fileno()).st_size
            if bands == BANDS and 0 < n_frames * BANDS * size <= there - found.end():
                return _Layout(found.end(), size, n_frames)
    mel = load_npy(path)
    return _Layout(-1, mel.itemsize, mel.shape[1])


def _open(path: Path) -> FileIO:
    try:
        return open(path, "rb", buffering=0)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _fetch(descriptor: int, layout: _Layout, start: int, frames: int) -> None:
    """Let the system read a crop's part of a file ahead, as one piece, unless it has it."""
    if layout.offset < 0 or not hasattr(os, "RWF_NOWAIT"):
        return
    stride = layout.n_frames * layout.item_size
    first = layout.offset + start * layout.item_size
    with suppress(OSError):  # a file system that cannot tell whether it would wait
        try:
            os.preadv(descriptor, [bytearray(1)], first, os.RWF_NOWAIT)
        except BlockingIOError:
            length = (BANDS - 1) * stride + frames * layout.item_size
            os.posix_fadvise(descriptor, first, length, os.POSIX_FADV_WILLNEED)


@cache
def _reader() -> Callable[[int, int, int, int, np.ndarray], tuple[int, bool]]:
    """Return the fastest way to read rows there is."""
    try:
        from fastmte.data._kernels import read_rows
    except ImportError:
        return read_rows_plainly
    return read_rows


def read_rows_plainly(
    descriptor: int, offset: int, stride: int, exponent: int, rows: np.ndarray
) -> tuple[int, bool]:
    """Read rows of a file; return how many it has, and whether all values are finite.

    Args:
        descriptor: of the file.
        offset: bytes before the first row.
        stride: bytes from one row to the next.
        exponent: the bits that NaN and infinity have all of.
        rows: (M, F) uint16 or uint32, filled with the bits of the file's floats.
    """
    for row, values in enumerate(rows):
        target = values.view(np.uint8)
        done = 0
        while done < len(target):
            got = os.preadv(descriptor, [target[done:]], offset + row * stride + done)
            if not got:
                return row, True
            done += got
    return len(rows), not bool(((rows & exponent) == exponent).any())
