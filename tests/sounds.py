"""Sounds for the tests of the songs' way."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import soundfile


def chirps(n: int, rate: int, channels: int = 1) -> np.ndarray:
    """(n, channels) float32: two rising tones and a faint noise, others in each channel.

    Made of sines alone, so that it is the same on every machine and with every numpy to
    about 1e-7.
    """
    k = np.arange(n, dtype=np.float64)
    t = k / rate
    sound = np.empty((n, channels))
    for c in range(channels):
        low = np.sin(2 * np.pi * (110 * (c + 1) + 40 * t) * t)
        high = np.sin(2 * np.pi * (1700 + 300 * c - 25 * t) * t)
        noise = np.sin(0.37 * k * k + c)
        sound[:, c] = 0.3 * low + 0.15 * high + 0.02 * noise
    return sound.astype(np.float32)


class Onward(soundfile.SoundFile):
    """A file that is read on and on; its base class seeks after each read."""

    def seekable(self) -> bool:
        return False


def decoded_prefix(path: Path) -> np.ndarray:
    """(n, channels) float32: all libsndfile decodes from the start, to the very last sample."""
    parts: list[np.ndarray] = []
    for step in (4096, 64, 1):  # a block that ends in damage is lost whole: ask for ever less
        with Onward(path) as file, suppress(soundfile.LibsndfileError):
            file.seek(sum(map(len, parts)))
            while len(part := file.read(step, dtype="float32", always_2d=True)):
                parts.append(part)
    return np.concatenate(parts) if parts else np.zeros((0, 2), np.float32)
