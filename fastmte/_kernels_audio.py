"""The numba tier of the operators on samples, on arrays: decoder processes load it without torch.

See :mod:`fastmte._kernels`, whose tensors it serves too.
"""

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from fastmte._places import STEPS, Places

Array = NDArray[Any]
_pread = types.ExternalFunction(
    "pread", types.intp(types.intc, types.uintp, types.uintp, types.int64)
)
_LANES = 16  # frames transformed side by side: vector instructions, no sum reordered


def resample(
    samples: Array,
    filter: Array | None,
    sample_rate: int,
    target: int,
    first: int,
    start: int,
    stop: int,
) -> Array:
    """See :func:`fastmte.ops.resample`."""
    places = Places.of(sample_rate, target, 0 if filter is None else len(filter))
    out = np.empty(stop - start, np.float32)
    if filter is None:
        _linear(samples, places.step, first, start, out)
        return out
    for chunk, begin, end in places.chunks(start, stop):
        _sinc(samples, filter, places, first, chunk, begin, end, out[begin - start : end - start])
    return out


@njit(cache=True, nogil=True)
def _linear(  # type: ignore[no-untyped-def]
    samples: Array,  # IN  (S,) float32
    step: float,  # IN
    first: int,  # IN
    start: int,  # IN
    out: Array,  # OUT (n,) float32
):
    for k in range(len(out)):
        place = (start + k) * step
        right = int(place)
        left = max(right - 1, 0)
        low = high = np.float32(0)
        if 0 <= left - first < len(samples):
            low = samples[left - first]
        if 0 <= right - first < len(samples):
            high = samples[right - first]
        out[k] = low + (place - right) * np.float32(high - low)


def _sinc(
    samples: Array,
    filter: Array,
    places: Places,
    first: int,
    chunk: int,
    begin: int,
    end: int,
    out: Array,
) -> None:
    """Write outputs [begin, end), which lie within one chunk."""
    phases = places.phases(chunk, begin, end)
    origin = min(base + low * places.advance for _, base, _, low, _ in phases)
    reach = max(base + high * places.advance for _, base, _, _, high in phases) + places.n_taps
    width = -(-(reach - origin) // places.advance)
    local = np.zeros(width * places.advance, np.float32)
    low, high = max(origin - first, 0), min(origin - first + len(local), len(samples))
    if low < high:
        local[low - (origin - first) : high - (origin - first)] = samples[low:high]
    n_bad = np.zeros(0, np.int64)
    is_bad = ~np.isfinite(local)
    if is_bad.any():
        local[is_bad] = 0
        n_bad = np.concatenate([[0], is_bad.cumsum()])
    rows = np.ascontiguousarray(local.reshape(width, places.advance).T)
    taps = np.empty((2, places.n_taps))
    drift = places.chunk_size * places.drift
    scale = places.cut / STEPS
    for p, base, centre, low, high in phases:
        _fill_taps(taps[0], filter, centre, places.cut, places.spacing)
        _fill_taps(taps[1], filter, centre + drift, places.cut, places.spacing)
        position = (chunk * places.chunk_rows + low) * places.n_phases + p - begin
        at = base + low * places.advance - origin
        along = np.arange(low, high) / places.chunk_rows
        to = out[position :: places.n_phases]
        _filter_phase(rows, at, taps, drift, along, scale, n_bad, to)


@njit(cache=True, nogil=True)
def _fill_taps(  # type: ignore[no-untyped-def]
    taps: Array,  # OUT (J,) float64
    table: Array,  # IN  (H,) float32, half of the filter
    centre: float,  # IN  in taps
    cut: float,  # IN  steps of the table a fraction of an input sample is
    spacing: float,  # IN  steps of the table between two taps
):
    whole = np.floor(centre)
    for j in range(len(taps)):
        at = abs((j - whole) * spacing - (centre - whole) * cut)
        step = int(at)
        taps[j] = 0.0
        if step + 1 < len(table):
            low, high = np.float64(table[step]), np.float64(table[step + 1])
            taps[j] = low + (at - step) * (high - low)


@njit(cache=True, nogil=True)
def _add_taps(  # type: ignore[no-untyped-def]
    near: Array,  # IN, OUT (B,) float64
    tap: float,  # IN
    far: Array,  # IN, OUT (B,) float64
    slope: float,  # IN
    x: Array,  # IN  (B,) float32
):
    """Add ``tap * x`` to ``near`` and ``slope * x`` to ``far``, side by side."""
    for b in range(len(near)):
        near[b] += tap * x[b]
        far[b] += slope * x[b]


@njit(cache=True, nogil=True)
def _filter_phase(  # type: ignore[no-untyped-def]
    rows: Array,  # IN  (M, W) float32: input q * M + m of the chunk at [m, q]
    base: int,  # IN  first input that the filter of the first row covers
    taps: Array,  # IN  (2, J) float64: the filter in the chunk's first row, and one chunk later
    drift: float,  # IN  0 where the two are the same
    along: Array,  # IN  (B,) float64, where each row is between the two
    scale: float,  # IN
    n_bad: Array,  # IN  (M W + 1,) int64, samples before each that are not finite; or (0,)
    out: Array,  # OUT (B,) float32, strided
):
    """Write the outputs of one phase, a row each; the innermost loop walks the rows."""
    n_rows, n_taps, advance = len(along), taps.shape[1], rows.shape[0]
    near, far = np.zeros(n_rows), np.zeros(n_rows)
    for j in range(n_taps):
        q = (base + j) // advance
        x = rows[(base + j) % advance, q : q + n_rows]
        _add_taps(near, taps[0, j], far, taps[1, j] - taps[0, j], x)
    for b in range(n_rows):
        out[b] = (near[b] + along[b] * far[b]) * scale
        if len(n_bad):
            at = base + b * advance
            if n_bad[at + n_taps] > n_bad[at]:
                out[b] = np.nan


def mel_db(
    samples: Array,
    window: Array,
    weights: Array,
    first_bins: Array,
    splits: Array,
    hop: int,
    offset: int,
    frames: int,
    db_per_decade: float,
    floor_db: float,
) -> Array:
    """Return (M, F) of one song (S,); see :func:`fastmte.ops.mel_db`."""
    size = len(window)
    out = np.empty((len(first_bins), frames), np.float32)
    turn = np.exp(-2j * np.pi * np.arange(size) / size)
    room = np.empty((2, size, _LANES))
    bands = (window.astype(np.float64), weights, first_bins, splits)
    bounds = (float(db_per_decade), float(floor_db))
    _mel_frames(samples, *bands, hop, offset, turn.real.copy(), turn.imag.copy(), bounds, room, out)
    return out


@njit(cache=True, nogil=True)
def _mel_frames(  # type: ignore[no-untyped-def]
    samples: Array,  # IN  (S,) float32
    window: Array,  # IN  (N,) float64
    weights: Array,  # IN  (Z,) float32
    first_bins: Array,  # IN  (M,) int64
    splits: Array,  # IN  (M + 1,) int64
    hop: int,  # IN
    offset: int,  # IN
    cosine: Array,  # IN  (N,) float64, of -2 pi i / N
    sine: Array,  # IN  (N,) float64
    bounds: tuple[float, float],  # IN  dB per decade, floor in dB
    room: Array,  # TMP (2, N, lanes) float64
    out: Array,  # OUT (M, F) float32
):
    db_per_decade, floor_db = bounds
    lanes, n_frames = room.shape[2], out.shape[1]
    is_bad = np.empty(lanes, np.bool_)
    total = np.empty(lanes)
    for group in range(0, n_frames, lanes):
        _gather(samples, window, hop, offset + group * hop, room[0], is_bad)
        power = _transform(room, cosine, sine)
        for band in range(len(first_bins)):
            total[:] = 0.0
            for j in range(splits[band], splits[band + 1]):
                row = power[first_bins[band] + j - splits[band]]
                for lane in range(lanes):
                    total[lane] += row[lane] * weights[j]
            for lane in range(min(lanes, n_frames - group)):
                db = floor_db
                if is_bad[lane]:
                    db = np.nan
                elif total[lane] > 0:
                    db = max(floor_db, db_per_decade * np.log10(total[lane]))
                out[band, group + lane] = db


@njit(cache=True, nogil=True)
def _gather(  # type: ignore[no-untyped-def]
    samples: Array,  # IN  (S,) float32
    window: Array,  # IN  (N,) float64
    hop: int,  # IN
    offset: int,  # IN  where lane 0 begins
    to: Array,  # OUT (N, lanes) float64
    is_bad: Array,  # OUT (lanes,) bool, NaN or infinite somewhere
):
    size, lanes = to.shape
    is_bad[:] = False
    for lane in range(lanes):
        for i in range(size):
            at = offset + lane * hop + i
            x = np.float64(samples[at]) if 0 <= at < len(samples) else 0.0
            if not np.isfinite(x):
                is_bad[lane] = True
                x = 0.0
            to[i, lane] = x * window[i]


@njit(cache=True, nogil=True)
def _transform(  # type: ignore[no-untyped-def]
    room: Array,  # TMP (2, N, lanes) float64, the real frames in the first part
    cosine: Array,  # IN  (N,)
    sine: Array,  # IN  (N,)
):
    """Return the power (N / 2 + 1, lanes), in a part of ``room``."""
    size = room.shape[1]
    half = size // 2
    x, y = room[0], room[1]
    stride = 1
    while stride < half:
        n = half // stride
        radix = 2 if n % 2 == 0 else n
        _pass(x, y, n, stride, radix, cosine, sine)
        x, y = y, x
        stride *= radix
    # z_k and z_(H-k) of the complex transform of even + i odd samples make the real one's k, H-k.
    for lane in range(room.shape[2]):
        y[0, lane] = (x[0, lane] + x[1, lane]) ** 2
        y[half, lane] = (x[0, lane] - x[1, lane]) ** 2
    for k in range(1, half // 2 + 1):
        a, b = 2 * k, 2 * (half - k)
        for lane in range(room.shape[2]):
            even_re, even_im = x[a, lane] + x[b, lane], x[a + 1, lane] - x[b + 1, lane]
            odd_re, odd_im = x[a + 1, lane] + x[b + 1, lane], x[b, lane] - x[a, lane]
            re = odd_re * cosine[k] - odd_im * sine[k]
            im = odd_re * sine[k] + odd_im * cosine[k]
            y[k, lane] = ((even_re + re) ** 2 + (even_im + im) ** 2) / 4
            y[half - k, lane] = ((even_re - re) ** 2 + (even_im - im) ** 2) / 4
    return y


@njit(cache=True, nogil=True)
def _pass(  # type: ignore[no-untyped-def]
    x: Array,  # IN  (N, lanes): value i is at [2 i] and, imaginary, [2 i + 1]
    y: Array,  # OUT (N, lanes)
    n: int,  # IN  see csrc/mel_places.h
    stride: int,  # IN
    radix: int,  # IN
    cosine: Array,  # IN  (N,)
    sine: Array,  # IN  (N,)
):
    size, lanes = x.shape
    for p in range(n // radix):
        for q in range(stride):
            for k in range(radix):
                to = 2 * (q + stride * (radix * p + k))
                y[to] = 0.0
                y[to + 1] = 0.0
                for r in range(radix):
                    at = 2 * (q + stride * (p + r * (n // radix)))
                    turn = (2 * stride * p * k + r * k % radix * (size // radix)) % size
                    c, s = cosine[turn], sine[turn]
                    for lane in range(lanes):
                        y[to, lane] += x[at, lane] * c - x[at + 1, lane] * s
                        y[to + 1, lane] += x[at, lane] * s + x[at + 1, lane] * c


def read_rows(
    descriptor: int, offset: int, stride: int, dtype: type, out: Array
) -> tuple[bool, bool]:
    """See :func:`fastmte._light.read_rows`."""
    rows = np.empty(out.shape, dtype) if dtype != out.dtype else out
    is_half = rows.itemsize == 2
    bits = rows.view(np.uint16 if is_half else np.uint32)
    exponent = 0x7C00 if is_half else 0x7F800000
    n_rows, is_finite = _read_bits(descriptor, offset, stride, exponent, bits)
    if rows is not out:
        out[:] = rows
    return n_rows == len(rows), is_finite


@njit(cache=True, nogil=True)
def _read_bits(  # type: ignore[no-untyped-def]
    descriptor: int,  # IN
    offset: int,  # IN  bytes before the first row
    stride: int,  # IN  bytes from one row to the next
    exponent: int,  # IN  the bits that NaN and infinity have all of
    rows: Array,  # OUT (M, F) uint16 or uint32, the bits of floats
):
    """Return (whole rows that the file has, whether all their values are finite)."""
    n_rows, n_values = rows.shape
    n_bytes = n_values * rows.itemsize
    address = rows.ctypes.data
    is_bad = False
    for row in range(n_rows):
        done = 0
        while done < n_bytes:
            at = address + row * n_bytes + done
            got = _pread(descriptor, at, n_bytes - done, offset + row * stride + done)
            if got <= 0:
                return row, not is_bad
            done += got
        n_bad = 0
        for i in range(n_values):  # while the row is in the cache
            n_bad += (rows[row, i] & exponent) == exponent
        is_bad |= n_bad > 0
    return n_rows, not is_bad
