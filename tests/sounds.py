"""Sounds for the tests of the songs' way."""

import numpy as np


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
