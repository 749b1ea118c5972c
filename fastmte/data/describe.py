"""Descriptors of songs from their sound, many at a time."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fastmte.crop import FRAMES, crop_mel
from fastmte.data.songs import SongMel, load_mel
from fastmte.data.workers import Decoders
from fastmte.errors import InputError
from fastmte.features import FRAME_RATE, mel_descriptors
from fastmte.mel import MelConfig

DEADLINE = 120.0  # seconds the decoding of one song may take


def describe_songs(
    paths: Sequence[Path], config: MelConfig, n_workers: int | None = None
) -> Iterator[np.ndarray | str]:
    """Yield one song's mel descriptors, (22,) float64, or why it has none, in the paths' order.

    Args:
        paths: audio files, or MTG's mels as .npy (96, T).
        config: the mel's definition; of a .npy only the dB matter.
        n_workers: processes that decode; one a core by default, 0 for none.

    Raises:
        RuntimeError: a process cannot even start.
    """
    n_workers = _n_cores() if n_workers is None else n_workers
    load = partial(_load, config=config)
    shape = (config.bands, FRAMES)
    with Decoders(load, min(n_workers, len(paths)), DEADLINE, shape) as decoders:
        for outcome in decoders.map(os.fsencode(path) for path in paths):
            if outcome.song is None:
                yield f"{outcome.message} [{outcome.code}]"
            else:
                yield mel_descriptors(outcome.song.mel, config.db_per_decade)


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _load(path: bytes, config: MelConfig) -> SongMel:
    return _load_npy(path) if path.endswith(b".npy") else load_mel(path, config)


def _load_npy(path: bytes) -> SongMel:
    """Return the centre of one of MTG's published mels."""
    name = os.fsdecode(path)
    try:
        mel = np.load(name, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{name}: no array of numbers ({error})") from error
    if mel.ndim != 2 or mel.shape[0] != 96 or not mel.shape[1] or mel.dtype.kind != "f":
        raise InputError(f"{name}: must be a mel of shape (96, frames), got {mel.shape}")
    crop = crop_mel(mel)
    if not np.isfinite(crop).all():
        raise InputError(f"{name}: has values that are not finite")
    n_frames = mel.shape[1]
    return SongMel(
        mel=crop,
        n_samples=n_frames * 256,
        n_frames=n_frames,
        start_frame=max(0, (n_frames - FRAMES) // 2),
        duration_s=n_frames / FRAME_RATE,
        sample_rate=12000,
        channels=1,
        status="ok" if n_frames >= FRAMES else "ok_short",
        warnings=(),
    )
