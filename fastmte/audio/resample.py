"""From the sample rate of a file to that of the mels, as Essentia's libsamplerate does it."""

import math
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["sinc", "linear"]

# libsamplerate's SRC_SINC_MEDIUM_QUALITY is a Kaiser-windowed sinc; these three numbers give its
# table of 22437 coefficients to 1.5e-7, so no table is shipped.
_BANDWIDTH = 0.91906309
_BETA = 12.24978962
_HALF_WIDTH = 45.69717385  # zero crossings of the sinc at full bandwidth, on one side
_STEPS = 491  # table steps an input sample
_N_STEPS = 22436  # table steps a side
_FIXED_POINT = 4096.0  # libsamplerate rounds the spacing of the taps to 1 / 4096 step

_CHUNK = 16384  # outputs between two exact filter positions; drift is interpolated between
_MIN_ROWS = 16


class _Ratio:
    """Where output samples lie among input samples.

    The ratio is a float32 in Essentia, so that positions drift from the exact rational
    by up to 6e-8 of the song's length: half an input sample in five minutes.
    """

    def __init__(self, sample_rate: int, target: int) -> None:
        if sample_rate < 1 or target < 1:
            raise ValueError(f"sample rates must be positive, got {sample_rate} and {target}")
        divisor = math.gcd(sample_rate, target)
        self.n_phases = target // divisor  # P
        self.advance = sample_rate // divisor  # M: P outputs later are M inputs later
        self.ratio = float(np.float32(np.float32(target) / np.float32(sample_rate)))
        self.step = 1.0 / self.ratio
        self.drift = self.step - self.advance / self.n_phases  # input samples an output
        self.cut = _STEPS * min(self.ratio, 1.0)
        self.spacing = round(self.cut * _FIXED_POINT) / _FIXED_POINT
        self.half = math.ceil(_N_STEPS / self.spacing) + 1
        self.chunk_rows = max(_MIN_ROWS, _CHUNK // self.n_phases)


def n_resampled(n_samples: int, sample_rate: int, target: int, method: Method = "sinc") -> int:
    """Return how many samples ``n_samples`` at ``sample_rate`` become at ``target`` Hz.

    Raises:
        ValueError: the method is unknown or a rate is not positive.
    """
    _check(method)
    if sample_rate == target or n_samples <= 0:
        return max(n_samples, 0)
    ratio = _Ratio(sample_rate, target)
    n = math.floor(n_samples * ratio.ratio) + 2
    if method == "sinc":
        # libsamplerate stops where the next output but one would reach the end
        while n > 0 and n * ratio.step >= n_samples:
            n -= 1
    else:
        while n > 0 and (n - 1) * ratio.step >= n_samples:
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
        ValueError: the method is unknown or a rate is not positive.
    """
    _check(method)
    if stop <= start:
        return 0, 0
    if sample_rate == target:
        low, high = start, stop
    else:
        ratio = _Ratio(sample_rate, target)
        reach = ratio.half + 2 if method == "sinc" else 2
        low = math.floor(start * ratio.step) - reach
        high = math.ceil((stop - 1) * ratio.step) + reach + 1
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
    ratio = _Ratio(sample_rate, target)
    with np.errstate(over="ignore"):  # samples near the largest float become infinite
        if method == "linear":
            return _linear(samples, ratio, start, stop, first_sample)
        out = np.empty(stop - start, np.float32)
        size = ratio.chunk_rows * ratio.n_phases
        for chunk in range(start // size, -(-stop // size)):
            begin, end = max(start, chunk * size), min(stop, (chunk + 1) * size)
            part = _sinc(samples, ratio, chunk, begin, end, first_sample)
            out[begin - start : end - start] = part
        return out


def _check(method: str) -> None:
    if method not in ("sinc", "linear"):
        raise ValueError(f"method must be sinc or linear, got {method}")


def _linear(
    samples: NDArray[np.float32], ratio: _Ratio, start: int, stop: int, first_sample: int
) -> NDArray[np.float32]:
    """Return outputs between the two inputs *before* their place, one sample late."""
    place = np.arange(start, stop) * ratio.step
    index = np.floor(place).astype(np.int64)
    right = samples[index - first_sample]
    left = samples[np.maximum(index - 1, 0) - first_sample]
    return (left + (place - index) * (right - left)).astype(np.float32)


def _sinc(
    samples: NDArray[np.float32],
    ratio: _Ratio,
    chunk: int,
    start: int,
    stop: int,
    first_sample: int,
) -> NDArray[np.float64]:
    """Return outputs [start, stop), which lie within one chunk.

    A row is P outputs. All that a chunk's filters depend on is the chunk itself, so that an
    output has the same bits in every window around it.
    """
    first_row = chunk * ratio.chunk_rows
    drifted = first_row * ratio.n_phases * ratio.drift
    phases = np.arange(ratio.n_phases)
    place = phases * (ratio.advance / ratio.n_phases) + phases * ratio.drift + drifted
    base = np.floor(place).astype(np.int64) - ratio.half
    low = start // ratio.n_phases - first_row
    high = -(-stop // ratio.n_phases) - first_row
    along = np.arange(low, high) / ratio.chunk_rows

    n_taps = 2 * ratio.half + 2
    origin = (first_row + low) * ratio.advance + int(base.min())
    length = (high - low) * ratio.advance + int(base.max() - base.min()) + n_taps
    local = _cut(samples, origin - first_sample, length + ratio.advance)
    out = _polyphase()(
        local,
        ratio.advance,
        base - base.min(),
        n_taps,
        place - base,
        ratio.chunk_rows * ratio.n_phases * ratio.drift,
        along,
        ratio.cut,
        ratio.spacing,
        _table(),
    )
    out *= ratio.cut / _STEPS
    skip = start - (first_row + low) * ratio.n_phases
    return out.T.reshape(-1)[skip : skip + stop - start]


def _cut(samples: NDArray[np.float32], start: int, length: int) -> NDArray[np.float32]:
    """Return ``samples[start:start + length]`` with zeros where there are none."""
    if start >= 0 and start + length <= len(samples):
        return samples[start : start + length]
    out = np.zeros(length, np.float32)
    low, high = max(start, 0), min(start + length, len(samples))
    if high > low:
        out[low - start : high - start] = samples[low:high]
    return out


@lru_cache(maxsize=1)
def _table() -> NDArray[np.float32]:
    """Return half of the filter, ``_STEPS`` steps an input sample, as libsamplerate tabulates it.

    h(t) = B sinc(B t) kaiser(t / T) with B the bandwidth and T the half width.
    """
    t = np.arange(_N_STEPS + 2) / _STEPS
    window = np.i0(_BETA * np.sqrt(np.maximum(1 - (t / _HALF_WIDTH) ** 2, 0))) / np.i0(_BETA)
    table = _BANDWIDTH * np.sinc(_BANDWIDTH * t) * window
    table[t >= _HALF_WIDTH] = 0
    return table.astype(np.float32)


@lru_cache(maxsize=1)
def _polyphase() -> Callable[..., NDArray[np.float64]]:
    """Return the fastest implementation there is: numba's, or numpy's without numba."""
    if os.environ.get("FASTMTE_TIER") == "reference":
        return polyphase_numpy
    try:
        from fastmte.audio import _kernels  # noqa: F401
    except ImportError:
        return polyphase_numpy
    return polyphase_numba


def polyphase_numba(
    local: NDArray[np.float32],
    advance: int,
    base: NDArray[np.int64],
    n_taps: int,
    first: NDArray[np.float64],
    drift: float,
    along: NDArray[np.float64],
    cut: float,
    spacing: float,
    table: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return what ``polyphase_numpy`` returns, up to rounding, several times as fast."""
    from fastmte.audio._kernels import polyphase

    width = len(local) // advance
    rows = np.ascontiguousarray(local[: width * advance].reshape(width, advance).T)
    out = np.empty((len(base), len(along)))
    taps = np.empty((2, n_taps))
    polyphase(rows, base, taps, first, drift, along, cut, spacing, table, out)
    return out


def polyphase_numpy(
    local: NDArray[np.float32],
    advance: int,
    base: NDArray[np.int64],
    n_taps: int,
    first: NDArray[np.float64],
    drift: float,
    along: NDArray[np.float64],
    cut: float,
    spacing: float,
    table: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Return (P, B) float64: outputs of every phase p in every row b, before scaling.

    Args:
        local: (S,) float32, input samples from the first one needed.
        advance: M, input samples from one row to the next.
        base: (P,) int64, index in ``local`` of each phase's first tap in the first row.
        n_taps: J.
        first: (P,) where each phase's filter is centred, in taps from its base, in the
            first row of the chunk.
        drift: how far the centre moves through the chunk.
        along: (B,) each row's place in the chunk, 0 to 1.
        cut: table steps a fraction of an input sample is worth.
        spacing: table steps between two taps.
        table: half of the filter.
    """
    samples = local.astype(np.float64)
    out = np.empty((len(base), len(along)))
    for p in range(len(base)):
        view = np.lib.stride_tricks.as_strided(
            samples[base[p] :],
            (len(along), n_taps),
            (advance * samples.strides[0], samples.strides[0]),
            writeable=False,
        )
        near = _taps(first[p], n_taps, cut, spacing, table)
        far = _taps(first[p] + drift, n_taps, cut, spacing, table)
        # einsum adds in one order for each row, unlike a matrix product
        out[p] = np.einsum("bj,j->b", view, near)
        if drift:
            out[p] += along * np.einsum("bj,j->b", view, far - near)
    return out


def _taps(
    centre: float, n_taps: int, cut: float, spacing: float, table: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return (J,) the filter centred at ``centre``, linear between table steps."""
    whole = np.floor(centre)
    at = np.abs((np.arange(n_taps) - whole) * spacing - (centre - whole) * cut)
    step = np.minimum(at.astype(np.int64), len(table) - 2)
    value = table[step] + (at - step) * (table[step + 1] - table[step])
    return np.where(at < len(table) - 1, value, 0.0)
