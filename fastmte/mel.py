"""From 12 kHz samples to mel spectrograms in dB, as Essentia computes them."""

import dataclasses
import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastmte._light import light
from fastmte.errors import InputError


@dataclasses.dataclass(frozen=True)
class MelConfig:
    """What a mel spectrogram is made of; a checkpoint keeps the one it was trained on.

    Attributes:
        preset: the name this came from.
        sample_rate: Hz.
        frame_size: samples a frame sees.
        hop: samples between the centres of two frames.
        bands: M.
        resampler: ``"sinc"`` (libsamplerate's medium sinc) or ``"linear"``.
        db_per_decade: 10, the dB of a power, or 20.
        floor_db: the value of every band quieter than that, as digital silence is.
    """

    preset: str
    sample_rate: int = 12000
    frame_size: int = 512
    hop: int = 256
    bands: int = 96
    resampler: Literal["sinc", "linear"] = "sinc"
    db_per_decade: int = 10
    floor_db: float = -100.0

    def __post_init__(self) -> None:
        """Refuse what no spectrogram can be made of.

        Raises:
            InputError: a value is out of range.
        """
        if not isinstance(self.preset, str):
            raise InputError(f"mel config: preset must be a name, got {self.preset!r}")
        for name in ("sample_rate", "frame_size", "hop", "bands"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise InputError(f"mel config: {name} must be a positive integer, got {value!r}")
        if type(self.floor_db) not in (int, float) or not math.isfinite(self.floor_db):
            raise InputError(f"mel config: floor_db must be a finite number, got {self.floor_db!r}")
        if self.frame_size % 2 or self.frame_size < 4:
            raise InputError(f"mel config: frame_size must be even and >= 4, got {self.frame_size}")
        if self.resampler not in ("sinc", "linear"):
            raise InputError(f"mel config: resampler must be sinc or linear, got {self.resampler}")
        if self.db_per_decade not in (10, 20):
            raise InputError(
                f"mel config: db_per_decade must be 10 or 20, got {self.db_per_decade}"
            )

    @staticmethod
    def of(preset: str) -> "MelConfig":
        """Return a preset by its name.

        Raises:
            InputError: there is none of that name.
        """
        if preset not in PRESETS:
            raise InputError(f"mel preset must be one of {', '.join(PRESETS)}, got {preset}")
        return PRESETS[preset]

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(settings: dict[str, Any]) -> "MelConfig":
        """Return the config ``to_dict`` wrote.

        Raises:
            InputError: a setting is unknown, missing or out of range.
        """
        known = {field.name for field in dataclasses.fields(MelConfig)}
        if unknown := sorted(set(settings) - known):
            raise InputError(f"mel config: unknown setting {unknown[0]}, known are {sorted(known)}")
        if "preset" not in settings:
            raise InputError("mel config: the setting preset is missing")
        return MelConfig(**settings)


PRESETS = {
    # What MTG's published mels and weights were made with in 2019: the Essentia of then ignored
    # the factor 2 of `lin2db` and resampled with libsamplerate's medium sinc. Its wheels of that
    # year cut at 1e-10, a source tree of June 2019 at 1e-9 (-90 dB); only near silence differs.
    "mtg2019": MelConfig("mtg2019"),
    # What MTG's script of today gives with today's Essentia: linear resampling, 20 log10(power).
    "mtg2023": MelConfig("mtg2023", resampler="linear", db_per_decade=20, floor_db=-200.0),
}


def n_frames(n_samples: int, config: MelConfig | None = None) -> int:
    """Return T, the frames of a song of ``n_samples`` samples at the config's rate.

    Frames are centred at 0, hop, 2 hop, ... up to the first centre at or behind the
    last sample; a song without samples has none.

    Reference:
        Essentia, ``FrameCutter(startFromZero=False)``.
    """
    hop = config.hop if config else 256
    return -(-n_samples // hop) + 1 if n_samples > 0 else 0


def sample_range(
    first_frame: int, last_frame: int, n_samples: int, config: MelConfig
) -> tuple[int, int]:
    """Return [start, stop) of the samples that frames [first_frame, last_frame) see."""
    half = config.frame_size // 2
    start = first_frame * config.hop - half
    stop = (last_frame - 1) * config.hop + half
    return max(0, min(start, n_samples)), max(0, min(stop, n_samples))


def mel_spectrogram(
    samples: NDArray[np.float32],
    config: MelConfig,
    first_frame: int = 0,
    n_frames: int | None = None,
    first_sample: int = 0,
    n_total: int | None = None,
) -> NDArray[np.float32]:
    """Return mel bands in dB; of a part of a song exactly what the whole song has there.

    Args:
        samples: (S,) float32, mono at ``config.sample_rate``: samples
            [first_sample, first_sample + S) of the song.
        config: what to compute.
        first_frame: the first frame wanted.
        n_frames: F, the frames wanted; None for all that follow.
        first_sample: where in the song ``samples`` begin.
        n_total: the samples of the whole song; None if ``samples`` end with it.

    Returns:
        (M, F) float32, dB, at least ``config.floor_db``. A song without samples has
        no frames.

    Raises:
        ValueError: ``samples`` is not one-dimensional, or lacks samples that the
            frames see, or the frames lie outside the song.

    Reference:
        Essentia: ``FrameGenerator(startFromZero=False)``, ``Windowing(hann, normalized
        =False)``, ``Spectrum``, ``MelBands(slaneyMel, unit_tri, power)``, ``lin2db``.
    """
    if samples.ndim != 1:
        raise ValueError(f"samples must have 1 dimension, got {samples.ndim}")
    if n_total is None:
        n_total = first_sample + len(samples)
    total = _frames_of(n_total, config)
    stop = total if n_frames is None else first_frame + n_frames
    if not 0 <= first_frame <= stop <= total:
        raise ValueError(f"frames must be in [0, {total}], got [{first_frame}, {stop})")
    if first_frame == stop:
        return np.zeros((config.bands, 0), np.float32)
    begin, end = sample_range(first_frame, stop, n_total, config)
    if begin < first_sample or end > first_sample + len(samples):
        have = f"[{first_sample}, {first_sample + len(samples)})"
        raise ValueError(f"samples must cover [{begin}, {end}), got {have}")
    window, *bands = tables(config)
    return light().mel_db(
        np.asarray(samples[: n_total - first_sample], np.float32),
        window,
        *bands,
        config.hop,
        first_frame * config.hop - config.frame_size // 2 - first_sample,
        stop - first_frame,
        config.db_per_decade,
        config.floor_db,
    )


_frames_of = n_frames  # mel_spectrogram has an argument of that name


def tables(
    config: MelConfig,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return what ``ops.mel_db`` asks for: ``window``, ``weights``, ``first_bins``, ``splits``.

    Raises:
        InputError: a band is narrower than a bin and would stay empty.
    """
    return (
        _hann(config.frame_size),
        *_filters(config.sample_rate, config.frame_size, config.bands),
    )


@lru_cache(maxsize=4)
def _hann(size: int) -> NDArray[np.float32]:
    """Return Essentia's Hann window: symmetric, not normalised."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))
    return window.astype(np.float32)


_LINEAR_SLOPE = np.float32(3 / 200)  # mel per Hz below 1 kHz
_KNEE_HZ = np.float32(1000)
_KNEE_MEL = np.float32(_KNEE_HZ * _LINEAR_SLOPE)
_LOG_STEP = np.float32(math.log(6.4) / 27)  # ln(Hz) per mel above


def _to_mel(hz: np.float32) -> np.float32:
    """Return Slaney's mel of a frequency, in float32 as Essentia rounds it."""
    if hz < _KNEE_HZ:
        return np.float32(hz * _LINEAR_SLOPE)
    return np.float32(_KNEE_MEL + np.float32(np.log(np.float32(hz / _KNEE_HZ))) / _LOG_STEP)


def _to_hz(mel: np.float32) -> np.float32:
    """Return the frequency of one of Slaney's mels, in float32 as Essentia rounds it."""
    if mel < _KNEE_MEL:
        return np.float32(mel / _LINEAR_SLOPE)
    ratio = np.float32(np.exp(np.float32((mel - _KNEE_MEL) * _LOG_STEP)))
    return np.float32(_KNEE_HZ * ratio)


def band_edges(sample_rate: int, bands: int) -> NDArray[np.float32]:
    """Return (M + 2,) float32, Hz: band i rises from edge i to i + 1 and falls to i + 2.

    Reference:
        Essentia, ``MelBands`` with ``warpingFormula="slaneyMel"``.
    """
    high = _to_mel(np.float32(sample_rate / 2))
    step = np.float32(high / np.float32(bands + 1))
    mel = np.float32(0)
    edges = []
    for _ in range(bands + 2):
        edges.append(_to_hz(mel))
        mel = np.float32(mel + step)  # summed, not multiplied: rounding as Essentia's
    return np.array(edges, np.float32)


@lru_cache(maxsize=4)
def _filters(
    sample_rate: int, frame_size: int, bands: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return the triangles of all bands, sparse.

    Returns:
        ``weights`` (Z,), triangles of unit area, band after band; ``first_bins`` (M,), the
        first spectrum bin with a weight; ``splits`` (M + 1,), where each band's weights begin.

    Raises:
        InputError: a band is narrower than a bin and would stay empty.
    """
    edges = band_edges(sample_rate, bands)
    width = np.float32(np.float32(sample_rate / 2) / np.float32(frame_size // 2))
    weights: list[np.float32] = []
    first_bins: list[int] = []
    splits = [0]
    for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
        area = np.float32((np.float32(centre - low) + np.float32(high - centre)) / 2)
        last = min(int(np.floor(high / width)), frame_size // 2)
        for j in range(int(np.ceil(low / width)), last + 1):
            hz = np.float32(j * width)
            rising = hz < centre
            height = (hz - low) / (centre - low) if rising else (high - hz) / (high - centre)
            if height > 0:  # for neighbouring bins
                if len(weights) == splits[-1]:
                    first_bins.append(j)
                weights.append(np.float32(np.float32(height) / area))
        if splits[-1] == len(weights):
            raise InputError(f"mel config: {bands} bands are too many for {frame_size} samples")
        splits.append(len(weights))
    return np.array(weights), np.array(first_bins, np.int64), np.array(splits, np.int64)
