"""What the operators on samples mean; see :mod:`fastmte.reference`.

In float64, one order of additions for every output and frame: the same bits in every window.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmte import _checks_audio
from fastmte._places import STEPS, Places

_CHUNK = 1024  # frames transformed at once; bounds the memory of a whole song


def resample(
    samples: Tensor,
    filter: Tensor | None,
    sample_rate: int,
    target: int,
    first: int,
    start: int,
    stop: int,
) -> Tensor:
    """See :func:`fastmte.ops.resample`."""
    _checks_audio.resample(samples, filter, sample_rate, target, first, start, stop)
    places = Places.of(sample_rate, target, 0 if filter is None else len(filter))
    if filter is None:
        return _linear(samples, places, first, start, stop)
    out = samples.new_empty(stop - start)
    for chunk, begin, end in places.chunks(start, stop):
        _sinc(samples, filter, places, first, chunk, begin, end, out[begin - start : end - start])
    return out


def _linear(samples: Tensor, places: Places, first: int, start: int, stop: int) -> Tensor:
    """Return outputs between the two inputs before their place, one input late."""
    place = torch.arange(start, stop, device=samples.device, dtype=torch.float64) * places.step
    right = place.long()
    padded = F.pad(samples, (0, 1))  # the zero that is outside the samples

    def at(index: Tensor) -> Tensor:
        index = index - first
        is_outside = (index < 0) | (index >= len(samples))
        return padded[torch.where(is_outside, len(samples), index)]

    low, high = at((right - 1).clamp(min=0)), at(right)
    return (low + (place - right) * (high - low)).float()


def _sinc(
    samples: Tensor,
    filter: Tensor,
    places: Places,
    first: int,
    chunk: int,
    begin: int,
    end: int,
    out: Tensor,
) -> None:
    """Write outputs [begin, end), which lie within one chunk."""
    table, n_taps = filter.double(), places.n_taps
    phases = places.phases(chunk, begin, end)
    drift = places.chunk_size * places.drift
    origin = min(base + low * places.advance for _, base, _, low, _ in phases)
    reach = max(base + (high - 1) * places.advance for _, base, _, _, high in phases) + n_taps
    local = _cut(samples, origin - first, reach - first)
    is_bad = ~local.isfinite()
    local = local.masked_fill(is_bad, 0).double()
    n_bad = F.pad(is_bad.cumsum(0), (1, 0))
    for p, base, centre, low, high in phases:
        at = base + low * places.advance - origin
        rows = local[at:].unfold(0, n_taps, places.advance)[: high - low]
        near = _taps(table, places, centre)
        far = _taps(table, places, centre + drift)
        along = torch.arange(low, high, device=local.device) / places.chunk_rows
        # A sum over the last dimension adds in one order for each row, unlike a matrix product.
        total = (rows * near).sum(1) + along * (rows * (far - near)).sum(1)
        edges = at + torch.arange(high - low, device=local.device) * places.advance
        total[n_bad[edges + n_taps] > n_bad[edges]] = torch.nan
        position = (chunk * places.chunk_rows + low) * places.n_phases + p - begin
        out[position :: places.n_phases] = (total * (places.cut / STEPS)).float()


def _cut(samples: Tensor, start: int, stop: int) -> Tensor:
    """Return samples [start, stop) of the last dimension with zeros where there are none."""
    low, high = max(start, 0), min(stop, samples.size(-1))
    if low >= high:
        return samples.new_zeros((*samples.shape[:-1], stop - start))
    return F.pad(samples[..., low:high], (low - start, stop - high))


def _taps(table: Tensor, places: Places, centre: float) -> Tensor:
    """Return (J,) the filter centred at ``centre``, linear between the steps of its table."""
    whole = float(int(centre))  # which is positive
    taps = torch.arange(places.n_taps, device=table.device, dtype=torch.float64)
    at = ((taps - whole) * places.spacing - (centre - whole) * places.cut).abs()
    step = at.long().clamp(max=len(table) - 2)
    value = table[step] + (at - step) * (table[step + 1] - table[step])
    return value * (at < len(table) - 1)


def mel_db(
    samples: Tensor,
    window: Tensor,
    weights: Tensor,
    first_bins: Tensor,
    splits: Tensor,
    hop: int,
    offset: int,
    frames: int,
    db_per_decade: float,
    floor_db: float,
) -> Tensor:
    """See :func:`fastmte.ops.mel_db`."""
    _checks_audio.mel_db(
        samples, window, weights, first_bins, splits, hop, offset, frames, db_per_decade, floor_db
    )
    out = samples.new_empty((len(samples), len(first_bins), frames))
    for t in range(0, frames if len(samples) else 0, _CHUNK):
        last = min(t + _CHUNK, frames)
        start = offset + t * hop
        stop = start + (last - 1 - t) * hop + len(window)
        cut = _cut(samples, start, stop).unfold(1, len(window), hop)
        power = _power(cut, window, weights, first_bins, splits)
        out[:, :, t:last] = (db_per_decade * power.log10()).clamp(min=floor_db).mT
    return out


def _power(
    frames: Tensor, window: Tensor, weights: Tensor, first_bins: Tensor, splits: Tensor
) -> Tensor:
    """Return (B, F, M) float64, the power in every band of ``frames`` (B, F, size)."""
    is_bad = ~frames.isfinite().all(2)
    frames = frames.masked_fill(is_bad[..., None], 0).double() * window.double()
    spectrum = torch.fft.rfft(frames)
    power = spectrum.real.square() + spectrum.imag.square()
    counts = splits.diff()
    total = power.new_zeros((*is_bad.shape, len(first_bins)))
    # Bin after bin in its own order: a matrix product adds in one that depends on the frames.
    for j in range(int(counts.max()) if len(counts) else 0):
        has = counts > j
        weight = weights[torch.where(has, splits[:-1] + j, 0)].double() * has
        total += power[..., torch.where(has, first_bins + j, 0)] * weight
    return total.masked_fill(is_bad[..., None], torch.nan)
