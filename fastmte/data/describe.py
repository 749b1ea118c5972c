"""Descriptors of songs from their sound, many at a time."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fastmte.crop import FRAMES, centre_start, crop_mel
from fastmte.data.songs import SongMel, load_mel
from fastmte.data.store import load_npy
from fastmte.data.workers import Decoders, Load, n_cores
from fastmte.errors import InputError
from fastmte.features import mel_descriptors
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
    load = partial(load_middle, config=config)
    for song in loaded(paths, load, n_workers, DEADLINE, (config.bands, FRAMES)):
        yield song if isinstance(song, str) else mel_descriptors(song.mel, config.db_per_decade)


def loaded(
    paths: Sequence[Path],
    load: Load,
    n_workers: int | None,
    deadline: float,
    shape: tuple[int, int],
) -> Iterator[SongMel | str]:
    """Yield what ``load`` makes of each song, or why it makes nothing, in the paths' order.

    Args:
        paths: of the songs.
        load: as for ``Decoders``.
        n_workers: processes; one a core by default, 0 for none.
        deadline: seconds a song may take.
        shape: of the largest mel of a song.

    Raises:
        RuntimeError: a process cannot even start.
    """
    n_workers = n_cores() if n_workers is None else n_workers
    with Decoders(load, min(n_workers, len(paths)), deadline, shape) as decoders:
        for outcome in decoders.map(os.fsencode(path) for path in paths):
            if outcome.song is None:
                yield f"{outcome.message} [{outcome.code}]"
            else:
                yield outcome.song


def load_middle(path: bytes, config: MelConfig, frames: int = FRAMES) -> SongMel:
    """Return the middle of a song, from its audio or from its mel as a .npy.

    Raises:
        InputError: the file is no song.
    """
    if not path.lower().endswith(b".npy"):
        return load_mel(path, config, frames)
    mel = load_npy(Path(os.fsdecode(path)))
    crop = crop_mel(mel, frames)
    if not np.isfinite(crop).all():
        raise InputError(f"{os.fsdecode(path)}: has values that are not finite")
    total = mel.shape[1]
    return SongMel(
        mel=crop,
        n_samples=total * config.hop,
        n_frames=total,
        start_frame=centre_start(total, frames),
        duration_s=total * config.hop / config.sample_rate,
        sample_rate=config.sample_rate,
        channels=1,
        status="ok" if total >= frames else "ok_short",
        warnings=(),
    )
