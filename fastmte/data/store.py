"""The mel store: the mels of many songs, ready to be cut into batches."""

import mmap
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastmte import ops
from fastmte.crop import BANDS, FRAMES, centre_start
from fastmte.errors import InputError
from fastmte.files import read_object
from fastmte.mel import MelConfig

MELS, SIDECAR = "mels.npy", "store.json"
FORMAT = "fastmte mel store 2"
MOST_MAPPED = 1 << 30  # bytes of a store that count as this process's memory at a time
Starts = Tensor | Literal["centre"] | None
Index = Tensor | np.ndarray | Sequence[int]
Progress = Callable[[int, int], None]


class MelStore:
    """Songs' mels in one ``(N, 96, F)`` float16 file, with a sidecar that says what they are.

    The slot of a song of at least ``F`` frames holds its middle ``F`` frames. A shorter
    song lies packed as ``(96, T)`` at the beginning of its slot, the rest is zero and
    never read: it is repeated only when it is cut (``ops.crop_mels``). A song that could
    not be decoded has no entry here; ``failed`` lists it.

    Attributes:
        ids: one id a song, in the order of ``gather``'s index.
        mel: the definition of the mels.
        lengths: (N,) int64, frames stored of each song.
        starts: (N,) int64, the stored part's first frame in its song.
        n_frames: (N,) int64, frames of each whole song.
        width: frames kept of a song that is long enough.
        failed: ``{"id", "path", "code", "message"}`` of each song that is left out.
        hash: changes when the songs, their files or the mels' definition change.
    """

    def __init__(
        self,
        mels: Tensor,
        offsets: Tensor,
        songs: dict[str, list[Any]],
        mel: MelConfig,
        failed: Sequence[dict[str, str]] = (),
        digest: str = "",
    ) -> None:
        self._mels, self._offsets = mels, offsets
        self.ids: tuple[str, ...] = tuple(songs["id"])
        self.lengths = np.array(songs["length"], dtype=np.int64)
        self.starts = np.array(songs["start"], dtype=np.int64)
        self.n_frames = np.array(songs["n_frames"], dtype=np.int64)
        self.width = int(self.lengths.max(initial=0))
        self.mel, self.failed, self.hash = mel, tuple(failed), digest
        self._mapping: mmap.mmap | None = None  # of a file too large to stay mapped
        self._n_mapped = 0
        self._row = {id_: row for row, id_ in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def build(
        cls,
        paths: Sequence[str | Path],
        ids: Sequence[str],
        folder: str | Path,
        config: MelConfig,
        frames: int = FRAMES,
        workers: int | None = None,
        progress: Progress | None = None,
        is_checked: bool = False,
        retry_failed: bool = False,
    ) -> "MelStore":
        """Decode songs into ``folder`` and open it; see ``store_build.build_store``."""
        from fastmte.data.store_build import build_store

        folder, how = Path(folder), (workers, progress, is_checked, retry_failed)
        build_store(paths, ids, folder, config, frames, *how)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "MelStore":
        """Open a finished store; the mels are mapped, not read.

        Raises:
            InputError: the folder holds no finished store, or a damaged one.
        """
        folder = Path(folder)
        sidecar = read_sidecar(folder)
        path, frames, rows = folder / MELS, sidecar["frames"], sidecar["songs"]["row"]
        try:
            mels = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: not the mels of this store ({error}); build it again") from (
                error
            )
        if mels.dtype != np.float16 or mels.shape[1:] != (BANDS, frames):
            raise InputError(
                f"{path}: must be (N, {BANDS}, {frames}) float16, "
                f"got {mels.shape} {mels.dtype}; build the store again"
            )
        offsets = torch.tensor(rows, dtype=torch.int64) * (BANDS * frames)
        config = MelConfig.from_dict(sidecar["mel"])
        keys = ("id", "path", "code", "message")
        failed = [{key: str(one[key]) for key in keys} for one in sidecar["failed"]]
        store = cls(flat(mels), offsets, sidecar["songs"], config, failed, sidecar["hash"])
        if mels.nbytes > MOST_MAPPED and isinstance(mels.base, mmap.mmap):
            store._mapping = mels.base
        return store

    @classmethod
    def from_npy(
        cls,
        paths: Sequence[str | Path],
        ids: Sequence[str] | None = None,
        config: MelConfig | None = None,
        is_lenient: bool = False,
    ) -> "MelStore":
        """Use mels that lie as one ``.npy`` a song, as MTG publishes them, where they are.

        Args:
            paths: files of (96, T) float32 or float16, dB.
            ids: one id a file  [default: the file's name without its ending].
            config: what the mels are  [default: ``mtg2019``, as the published ones].
            is_lenient: a file that is no such array goes to ``failed`` instead.

        Raises:
            InputError: a file is no such array, or none is.
        """
        from fastmte.data.npy_mels import open_npy

        names = [Path(path).stem for path in paths] if ids is None else list(ids)
        config = config or MelConfig.of("mtg2019")
        return open_npy(names, [Path(path) for path in paths], config, is_lenient)

    def index_of(self, ids: Sequence[str]) -> np.ndarray:
        """Return (len(ids),) int64 positions of songs in this store.

        Raises:
            InputError: a song is not in the store.
        """
        missing = [id_ for id_ in ids if id_ not in self._row]
        if missing:
            raise InputError(
                f"{missing[0]}: not in the mel store ({len(missing)} songs of {len(ids)} are not)"
            )
        return np.array([self._row[id_] for id_ in ids], dtype=np.int64)

    def has(self, id_: str) -> bool:
        """Whether a song is in this store."""
        return id_ in self._row

    def require(self, config: MelConfig) -> None:
        """Refuse to be used where mels of another definition are expected.

        Raises:
            InputError: the store's mels are of another preset.
        """
        if config != self.mel:
            raise InputError(
                f"mel store of preset {self.mel.preset} where {config.preset} is wanted: their "
                "levels and resampling differ, so that they must not be mixed; prepare the songs "
                f"with --mel {config.preset}, or use --mel {self.mel.preset}"
            )

    def gather(
        self, index: Index, frames: int, starts: Starts = "centre", out: Tensor | None = None
    ) -> Tensor:
        """Return ``(B, 96, frames)`` float32, dB, cut from the songs at ``index``.

        Args:
            index: (B,) int64 positions, in the order of ``ids``.
            frames: width of the crops; a shorter song is repeated.
            starts: (B,) int64 first frames, counted from the stored part of each song;
                ``"centre"`` or None takes the middle of the whole song.
            out: (B, 96, frames) float32 that is to hold them, ``batch_room`` for example; new
                memory by default, whose first use costs more than the crops.
        """
        index = torch.as_tensor(index, dtype=torch.int64)
        if starts is None or isinstance(starts, str):
            starts = self._centres(index.numpy(), frames)
        if out is not None and out.shape != (len(index), BANDS, frames):
            want = (len(index), BANDS, frames)
            raise ValueError(f"out must be {want}, got {tuple(out.shape)}")
        return self._cut(index, frames, starts, out)

    def check_width(self, frames: int, rows: np.ndarray | slice = slice(None)) -> None:
        """Refuse crops wider than what is kept of longer songs.

        Raises:
            InputError: the store holds too little of a song.
        """
        is_cut = self.lengths[rows] < self.n_frames[rows]
        if (self.lengths[rows][is_cut] < frames).any():
            raise InputError(
                f"mel store: holds {self.width} frames a song, {frames} are wanted; "
                f"prepare the songs with --frames {frames}"
            )

    def _centres(self, rows: np.ndarray, frames: int) -> Tensor:
        """Return the starts of the songs' centre crops, exact to the frame.

        Centring in the stored part instead would be a frame off where both roundings meet.
        """
        self.check_width(frames, rows)
        pairs = zip(self.n_frames[rows].tolist(), self.starts[rows].tolist(), strict=True)
        starts = [centre_start(whole, frames) - first for whole, first in pairs]
        return torch.tensor(starts, dtype=torch.int64)

    def _cut(self, index: Tensor, frames: int, starts: Tensor, out: Tensor | None) -> Tensor:
        lengths = torch.from_numpy(self.lengths)
        if self._mapping is not None:
            self._n_mapped += len(index) * BANDS * frames * self._mels.element_size()
            if self._n_mapped > MOST_MAPPED:
                # The system keeps the file in memory as long as it can; this process need not.
                self._mapping.madvise(mmap.MADV_DONTNEED)
                self._n_mapped = 0
        return ops.crop_mels(self._mels, self._offsets, lengths, index, starts, frames, BANDS, out)


def batch_room(n_crops: int, frames: int) -> Tensor:
    """Return memory (n_crops, 96, frames) float32 for the crops of batches to come, unset.

    It is numpy's, which asks for pages of 2 MB where it is large: they are faster to fill.
    """
    return torch.from_numpy(np.empty((n_crops, BANDS, frames), np.float32))


def read_sidecar(folder: Path) -> dict[str, Any]:
    """Return what the sidecar of a finished store says.

    Raises:
        InputError: there is none, or it is not of this format.
    """
    path = folder / SIDECAR
    if not path.is_file():
        raise InputError(f"{folder}: no finished mel store; make one with fastmte prepare")
    return read_object(path, FORMAT, "build the store again")


def load_npy(path: Path) -> np.ndarray:
    """Map one song's mel, (96, T) float32 or float16.

    Raises:
        InputError: the file is no such array.
    """
    try:
        # A mapping refuses a header that claims more than the file holds.
        mel = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: not a mel in .npy ({error})") from error
    if mel.ndim != 2 or mel.shape[0] != BANDS or not mel.shape[1]:
        raise InputError(f"{path}: must be ({BANDS}, frames), got {mel.shape}")
    if mel.dtype not in (np.float32, np.float16):
        raise InputError(f"{path}: must be float32 or float16, got {mel.dtype}")
    return mel


def flat(mels: np.ndarray) -> Tensor:
    """Return a mapped array as a 1-D tensor that is only ever read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.ascontiguousarray(mels).reshape(-1))
