"""Short sounds beside the notes of the demo: drums, bells and birds."""

import numpy as np

from fastmte.data.demo.voices import SAMPLE_RATE


def drum(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return one stroke of a drum: (T,) float32, about 1 at its peak."""
    return _DRUMS[name](rng).astype(np.float32)


def _time(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _falling_sine(start: float, end: float, speed: float, time: np.ndarray) -> np.ndarray:
    """Return a sine whose frequency, in Hz, falls exponentially from start to end."""
    cycles = end * time + (start - end) / speed * (1 - np.exp(-speed * time))
    return np.sin(2 * np.pi * cycles)


def _kick(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.28)
    return 1.4 * _falling_sine(165, 45, 30, time) * np.exp(-11 * time)


def _snare(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.2)
    rattle = 0.45 * rng.standard_normal(len(time)) * np.exp(-22 * time)
    return rattle + 0.6 * np.sin(2 * np.pi * 190 * time) * np.exp(-28 * time)


def _clap(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.18)
    # Hands never meet at once: three bursts, then the room.
    hands = sum(np.where(time >= at, np.exp(-90 * (time - at)), 0) for at in (0, 0.012, 0.024))
    return 0.25 * rng.standard_normal(len(time)) * (hands + np.exp(-25 * time))


def _hat(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.07)
    hiss = np.diff(rng.standard_normal(len(time)), prepend=0.0)  # a difference is a high-pass
    return 0.3 * hiss * np.exp(-60 * time)


def _open_hat(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.25)
    hiss = np.diff(rng.standard_normal(len(time)), prepend=0.0)
    return 0.25 * hiss * np.exp(-12 * time)


def _tom(rng: np.random.Generator) -> np.ndarray:
    return _skin(90.0, rng)


def _low_tom(rng: np.random.Generator) -> np.ndarray:
    return _skin(60.0, rng)


def _skin(low: float, rng: np.random.Generator) -> np.ndarray:
    time = _time(0.5)
    stick = 0.1 * rng.standard_normal(len(time)) * np.exp(-40 * time)
    return 1.3 * _falling_sine(1.5 * low, low, 12, time) * np.exp(-6 * time) + stick


def _sleigh_bells(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.16)
    # All below 6 kHz, where the mel spectrogram ends.
    rings = sum(np.sin(2 * np.pi * pitch * time) for pitch in (3120, 3710, 4230, 4870, 5390))
    return (0.16 * rings + 0.08 * rng.standard_normal(len(time))) * np.exp(-18 * time)


def _bird(rng: np.random.Generator) -> np.ndarray:
    time = _time(0.3)
    # Three chirps, each swooping down from 5.2 kHz.
    chirp = time % 0.1
    return 0.8 * np.sin(2 * np.pi * (5200 * chirp - 9000 * chirp**2)) * np.exp(-25 * chirp)


_DRUMS = {
    "bird": _bird,
    "clap": _clap,
    "hat": _hat,
    "kick": _kick,
    "low tom": _low_tom,
    "open hat": _open_hat,
    "sleigh bells": _sleigh_bells,
    "snare": _snare,
    "tom": _tom,
}
