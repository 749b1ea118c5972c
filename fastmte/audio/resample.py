"""From the sample rate of a file to that of the mels, as Essentia's libsamplerate does it."""

import math
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fastmte._light import light
from fastmte._places import LARGEST_RATIO, STEPS, Places

Method = Literal["sinc", "linear"]

# libsamplerate's SRC_SINC_MEDIUM_QUALITY is a Kaiser-windowed sinc; these three numbers give its
# table of 22437 coefficients to 1.5e-7, so no table is shipped.
_BANDWIDTH = 0.91906309
_BETA = 12.24978962
_HALF_WIDTH = 45.69717385  # zero crossings of the sinc at full bandwidth, on one side
_N_FILTER = 22438  # values of its table, two of them zero


def n_resampled(n_samples: int, sample_rate: int, target: int, method: Method = "sinc") -> int:
    """Return how many samples ``n_samples`` at ``sample_rate`` become at ``target`` Hz.

    Raises:
        ValueError: the method is unknown, or a rate is not positive or too far from the other.
    """
    _check(method, sample_rate, target)
    if sample_rate == target or n_samples <= 0:
        return max(n_samples, 0)
    places = Places.of(sample_rate, target, _N_FILTER)
    n = math.floor(n_samples * places.ratio) + 2
    if method == "sinc":
        # libsamplerate stops where the next output but one would reach the end
        while n > 0 and n * places.step >= n_samples:
            n -= 1
    else:
        while n > 0 and (n - 1) * places.step >= n_samples:
            n -= 1
    return n


def source_range(
    start: int, stop: int, n_samples: int, sample_rate: int, target: int, method: Method = "sinc"
) -> tuple[int, int]:
    """Return [start, stop) of the input samples that outputs [start, stop) depend on.

    Args:
        start: first output.
        stop: one behind the last output.
        n_samples: input samples of the whole song.
        sample_rate: Hz of the input.
        target: Hz of the output.
        method: the resampler.

    Raises:
        ValueError: the method is unknown, or a rate is not positive or too far from the other.
    """
    _check(method, sample_rate, target)
    if stop <= start:
        return 0, 0
    if sample_rate == target:
        low, high = start, stop
    else:
        places = Places.of(sample_rate, target, _N_FILTER)
        reach = places.half + 2 if method == "sinc" else 2
        low = math.floor(start * places.step) - reach
        high = math.ceil((stop - 1) * places.step) + reach + 1
    return max(0, min(low, n_samples)), max(0, min(high, n_samples))


def resample(
    samples: NDArray[np.float32],
    sample_rate: int,
    target: int,
    method: Method = "sinc",
    start: int = 0,
    stop: int | None = None,
    first_sample: int = 0,
    n_samples: int | None = None,
) -> NDArray[np.float32]:
    """Return output samples [start, stop), the same bits whichever part is asked for.

    Args:
        samples: (S,) float32: input samples [first_sample, first_sample + S) of the song.
        sample_rate: Hz of the input.
        target: Hz of the output.
        method: ``"sinc"`` (Essentia's ``Resample(quality=1)``) or ``"linear"``
            (``quality=4``, which lets everything above half the target rate alias).
        start: first output wanted.
        stop: one behind the last output wanted; None for all that follow.
        first_sample: where in the song ``samples`` begin.
        n_samples: input samples of the whole song; None if ``samples`` end with it.

    Returns:
        (stop - start,) float32.

    Raises:
        ValueError: ``samples`` is not one-dimensional, lacks samples of
            ``source_range``, or the outputs lie outside the song.

    Reference:
        libsamplerate, ``src_sinc.c`` and ``src_linear.c``; Essentia, ``Resample``.
    """
    if samples.ndim != 1:
        raise ValueError(f"samples must have 1 dimension, got {samples.ndim}")
    if n_samples is None:
        n_samples = first_sample + len(samples)
    total = n_resampled(n_samples, sample_rate, target, method)
    stop = total if stop is None else stop
    if not 0 <= start <= stop <= total:
        raise ValueError(f"outputs must be in [0, {total}], got [{start}, {stop})")
    low, high = source_range(start, stop, n_samples, sample_rate, target, method)
    if stop > start and not first_sample <= low <= high <= first_sample + len(samples):
        have = f"[{first_sample}, {first_sample + len(samples)})"
        raise ValueError(f"samples must cover [{low}, {high}), got {have}")
    if sample_rate == target:
        return samples[start - first_sample : stop - first_sample].astype(np.float32)
    filter = low_pass() if method == "sinc" else None
    part = np.asarray(samples[: n_samples - first_sample], np.float32)
    return light().resample(part, filter, sample_rate, target, first_sample, start, stop)


def _check(method: str, sample_rate: int, target: int) -> None:
    if method not in ("sinc", "linear"):
        raise ValueError(f"method must be sinc or linear, got {method}")
    if min(sample_rate, target) < 1:
        raise ValueError(f"sample rates must be positive, got {sample_rate} and {target}")
    if max(sample_rate, target) > LARGEST_RATIO * min(sample_rate, target):
        want = f"within a factor of {LARGEST_RATIO}"
        raise ValueError(f"sample rates must be {want}, got {sample_rate} and {target}")


@lru_cache(maxsize=1)
def low_pass() -> NDArray[np.float32]:
    """Return half of libsamplerate's filter, ``STEPS`` steps an input sample.

    h(t) = B sinc(B t) kaiser(t / T) with B the bandwidth and T the half width.
    """
    t = np.arange(_N_FILTER) / STEPS
    window = np.i0(_BETA * np.sqrt(np.maximum(1 - (t / _HALF_WIDTH) ** 2, 0))) / np.i0(_BETA)
    table = _BANDWIDTH * np.sinc(_BANDWIDTH * t) * window
    table[t >= _HALF_WIDTH] = 0
    return table.astype(np.float32)
