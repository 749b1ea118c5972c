"""Descriptors of a song: the paper's 22 of AcousticBrainz, and 22 from its mel."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.errors import InputError

ACOUSTICBRAINZ_KEYS: tuple[str, ...] = (
    "lowlevel.average_loudness",
    "highlevel.danceability.all.danceable",
    *(
        f"highlevel.genre_tzanetakis.all.{genre}"
        for genre in ("blu", "cla", "cou", "dis", "hip", "jaz", "met", "pop", "reg", "roc")
    ),
    "highlevel.mood_acoustic.all.acoustic",
    "highlevel.mood_aggressive.all.aggressive",
    "highlevel.mood_electronic.all.electronic",
    "highlevel.mood_happy.all.happy",
    "highlevel.mood_party.all.party",
    "highlevel.mood_relaxed.all.relaxed",
    "highlevel.mood_sad.all.sad",
    "highlevel.timbre.all.bright",
    "highlevel.timbre.all.dark",
    "highlevel.tonal_atonal.all.tonal",
)
"""The paper's descriptors, all in [0, 1], in the paper's order.

Reference: dbis-uibk/MediaEval2021, dataloaders/acousticbrainz.py.
"""

MEL_DESCRIPTORS: tuple[str, ...] = (
    "level_mean",
    "level_deviation",
    "level_range",
    "quiet_share",
    "bass",
    "low_middle",
    "high_middle",
    "brightness",
    "centroid_mean",
    "centroid_deviation",
    "spread_mean",
    "spread_deviation",
    "flatness_mean",
    "flatness_deviation",
    "rolloff_mean",
    "rolloff_deviation",
    "contrast_mean",
    "flux_mean",
    "flux_deviation",
    "onset_density",
    "pulse_strength",
    "pulse_rate",
)
"""What ``mel_descriptors`` measures, in its order."""

FRAME_RATE = 12000 / 256  # frames a second of the task's mels
_QUARTERS = (0, 12, 32, 64)  # first mel band of bass, low middle, high middle, brightness
_SLOWEST, _FASTEST = 40.0, 240.0  # beats a minute that count as a pulse


def read_acousticbrainz(path: str | Path) -> np.ndarray:
    """Return the paper's 22 descriptors of one song, (22,) float64, as ``ACOUSTICBRAINZ_KEYS``.

    Args:
        path: ``ID.json`` of AcousticBrainz. ``ID.json.highlevel.json`` beside it, where the
            classifiers' results are by themselves, is read too.

    Raises:
        InputError: a file is no JSON, or descriptors are missing or no numbers; they are named.
        OSError: the file cannot be read.
    """
    documents = [_read_json(Path(path))]
    beside = Path(f"{path}.highlevel.json")
    if beside.is_file():
        documents.append(_read_json(beside))
    values = [_look_up(documents, key) for key in ACOUSTICBRAINZ_KEYS]
    missing = [key for key, value in zip(ACOUSTICBRAINZ_KEYS, values, strict=True) if value is None]
    if missing:
        hint = "" if len(documents) == 2 else f" (there is no {beside.name} beside it)"
        raise InputError(f"{path}: lacks {', '.join(missing)}{hint}")
    return np.array(values, np.float64)


def mel_descriptors(mel: np.ndarray, db_per_decade: float = 10.0) -> np.ndarray:
    """Return 22 numbers that tell what a song sounds like, (22,) float64, finite.

    They are ``MEL_DESCRIPTORS``; dB are 10 log10 of a power, bands are counted from 0.

    * level: mean, deviation and the 5-95 % range of the frames' level, dB; share of the frames
      that are 20 dB or more below the loudest;
    * bass (bands 0-11), low_middle (12-31), high_middle (32-63), brightness (64 and up): level
      of the average spectrum there, relative to all of it, dB;
    * centroid, spread, roll-off (85 % of the power), in bands, and flatness in [0, 1]: mean and
      deviation over the frames;
    * contrast: the loudest twentieth of a frame's bands above its quietest fifth, dB;
    * flux: how much a frame's bands rise over the last frame's, dB, mean and deviation;
    * onset_density: peaks of the flux a second;
    * pulse: the strongest period of the flux between 40 and 240 beats a minute, in [0, 1], and
      its rate in beats a second; both 0 where nothing repeats.

    Shapes are of the frames within 40 dB of the loudest. Silence and constant sound have
    deviations, contrast, flux and pulse of 0.

    Args:
        mel: (96, F) float, dB, F at least 1.
        db_per_decade: 10, or 20 for the mels of preset ``mtg2023``.

    Raises:
        ValueError: another shape, or a value is not finite.
    """
    mel = np.asarray(mel, np.float64)
    if mel.ndim != 2 or mel.shape[0] != 96 or not mel.shape[1]:
        raise ValueError(f"mel must have shape (96, frames), got {mel.shape}")
    bad = np.argwhere(~np.isfinite(mel))
    if len(bad):
        band, frame = bad[0]
        raise ValueError(f"mel must be finite, got {mel[band, frame]} in band {band} frame {frame}")
    peak = mel.max()
    # dB below the loudest band; 200 dB is far below any recording, and powers stay above 0.
    below = np.maximum((mel - peak) * (10.0 / db_per_decade), -200.0)
    power = 10.0 ** (below / 10.0)
    level = 10.0 * np.log10(power.mean(axis=0))
    is_heard = level >= level.max() - 40.0
    return np.concatenate(
        [
            _level(level, peak * (10.0 / db_per_decade)),
            _balance(power.mean(axis=1)),
            _shape(power[:, is_heard], below[:, is_heard]),
            _rhythm(below),
        ]
    )


def _level(level: np.ndarray, peak: float) -> np.ndarray:
    low, high = np.percentile(level, [5, 95])
    is_quiet = level <= level.max() - 20.0
    return np.array([level.mean() + peak, level.std(), high - low, is_quiet.mean()])


def _balance(spectrum: np.ndarray) -> np.ndarray:
    quarters = [part.mean() for part in np.split(spectrum, _QUARTERS[1:])]
    return 10.0 * np.log10(np.array(quarters) / spectrum.mean())


def _shape(power: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Return mean and deviation of what each frame's spectrum looks like."""
    band = np.arange(len(power), dtype=np.float64)
    total = power.sum(axis=0)
    # einsum and not a BLAS product: the same bits on any number of threads.
    centroid = np.einsum("b,bf->f", band, power) / total
    square = np.einsum("b,bf->f", band**2, power) / total
    spread = np.sqrt(np.maximum(square - centroid**2, 0.0))
    flatness = 10.0 ** (below.mean(axis=0) / 10.0) / power.mean(axis=0)
    rolloff = (power.cumsum(axis=0) < 0.85 * total).sum(axis=0)
    frames = np.stack([centroid, spread, flatness, rolloff])
    quiet, loud = np.percentile(below, [20, 95], axis=0)
    moments = np.stack([frames.mean(axis=1), frames.std(axis=1)], axis=1)
    return np.append(moments.ravel(), (loud - quiet).mean())


def _rhythm(below: np.ndarray) -> np.ndarray:
    """Return mean and deviation of the flux, its peaks a second, its pulse."""
    # Below -60 dB is noise, whose ups and downs are no music.
    rise = np.maximum(np.diff(np.maximum(below, -60.0), axis=1), 0.0)
    flux = rise.mean(axis=0) if rise.size else np.zeros(1)
    seconds = below.shape[1] / FRAME_RATE
    density = _n_peaks(flux) / seconds
    return np.array([flux.mean(), flux.std(), density, *_pulse(flux)])


def _n_peaks(flux: np.ndarray, reach: int = 3) -> int:
    """Return the number of frames that stand out: a deviation above the mean, highest around."""
    padded = np.pad(flux, reach, constant_values=-np.inf)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    stands_out = (flux > flux.mean() + flux.std()) & (flux == around.max(axis=1))
    return int(stands_out.sum())


def _pulse(flux: np.ndarray) -> tuple[float, float]:
    """Return the strength of the flux's strongest period and its rate a second."""
    lags = np.arange(math.ceil(FRAME_RATE * 60.0 / _FASTEST), int(FRAME_RATE * 60.0 / _SLOWEST) + 1)
    # A beat seldom falls on a frame: a blur of 5 frames lets beats meet that are one apart.
    centred = np.convolve(flux - flux.mean(), np.array([1, 3, 4, 3, 1]) / 12, mode="same")
    energy = (centred**2).sum()
    if len(flux) < 2 * lags[-1] or energy <= 1e-12:
        return 0.0, 0.0
    # Zero-padded to twice the length, so that the end does not meet the beginning.
    spectrum = np.abs(np.fft.rfft(centred, 2 * len(flux))) ** 2
    correlation = np.fft.irfft(spectrum)[lags] * len(flux) / (len(flux) - lags) / energy
    # A pulse repeats at its multiples too; listeners hear the one nearest 120 beats a minute.
    preference = np.exp(-0.5 * np.log2(FRAME_RATE / lags / 2.0) ** 2)
    best = int(np.argmax(correlation * preference))
    strength = float(np.clip(correlation[best], 0.0, 1.0))
    return (strength, float(FRAME_RATE / lags[best])) if strength > 0 else (0.0, 0.0)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: no JSON ({error})") from error


def _look_up(documents: list[Any], key: str) -> float | None:
    """Return a number under its dotted key in the first document that has it."""
    for document in documents:
        value = document
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None
