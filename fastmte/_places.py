"""Where the outputs of ``resample`` lie among its inputs; ``csrc/resample_places.h`` in Python."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

STEPS = 491  # of the filter's table, an input sample at full bandwidth
LARGEST_RATIO = 1024  # between the two rates
_FIXED_POINT = 4096.0  # libsamplerate rounds the spacing of the taps to 1 / 4096 step
_CHUNK = 20480  # outputs from one exact filter to the next; linear in between
_MIN_ROWS = 16


@dataclass(frozen=True)
class Places:
    """Where output samples lie among input samples.

    The ratio is a float32 in Essentia, so that positions drift from the exact rational
    by up to 6e-8 of the song's length: half an input sample in five minutes.

    P outputs are a row, and ``chunk_rows`` rows a chunk. All that a chunk's filters
    depend on is the chunk itself, so that an output has the same bits in every window.

    Attributes:
        n_phases: P.
        advance: inputs from one row to the next.
        ratio: outputs an input.
        drift: inputs that a step is longer than ``advance / n_phases``.
        cut: steps of the filter's table that an input sample is.
        spacing: steps of the table from one tap to the next.
        half: taps on one side of an output.
        chunk_rows: rows of a chunk.
    """

    n_phases: int
    advance: int
    ratio: float
    drift: float
    cut: float
    spacing: float
    half: int
    chunk_rows: int

    @staticmethod
    def of(sample_rate: int, target: int, n_filter: int) -> "Places":
        """Return the places for a filter whose table has ``n_filter`` values; 0 for none."""
        divisor = math.gcd(sample_rate, target)
        n_phases, advance = target // divisor, sample_rate // divisor
        ratio = float(np.float32(target) / np.float32(sample_rate))
        cut = STEPS * min(ratio, 1.0)
        spacing = round(cut * _FIXED_POINT) / _FIXED_POINT
        return Places(
            n_phases=n_phases,
            advance=advance,
            ratio=ratio,
            drift=1.0 / ratio - advance / n_phases,
            cut=cut,
            spacing=spacing,
            half=math.ceil((n_filter - 2) / spacing) + 1 if n_filter else 0,
            chunk_rows=max(_MIN_ROWS, _CHUNK // n_phases),
        )

    @property
    def step(self) -> float:
        """Inputs an output."""
        return 1.0 / self.ratio

    @property
    def n_taps(self) -> int:
        """Taps of an output."""
        return 2 * self.half + 2

    @property
    def chunk_size(self) -> int:
        """Outputs of a chunk."""
        return self.chunk_rows * self.n_phases

    def chunks(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield each chunk of outputs [start, stop), and [begin, end) of those it has."""
        for begin in range(start - start % self.chunk_size, stop, self.chunk_size):
            if start < stop:
                end = min(stop, begin + self.chunk_size)
                yield begin // self.chunk_size, max(start, begin), end

    def phases(self, chunk: int, begin: int, end: int) -> list[tuple[int, int, float, int, int]]:
        """Return the filters that outputs [begin, end) of a chunk need.

        Returns:
            For each phase p: p; the first input of its filter in the chunk's row 0; where
            the filter is centred there, in taps from that input; and [low, high) of the
            rows, counted from the chunk's, whose output p is in [begin, end).
        """
        first = chunk * self.chunk_size
        drifted = first * self.drift
        origin = chunk * self.chunk_rows * self.advance
        found = []
        for p in range(self.n_phases):
            low = max(0, -(-(begin - first - p) // self.n_phases))
            high = max(0, -(-(end - first - p) // self.n_phases))
            if low >= high:
                continue
            place = p * (self.advance / self.n_phases) + p * self.drift + drifted
            base = math.floor(place) - self.half
            found.append((p, origin + base, place - base, low, high))
        return found
