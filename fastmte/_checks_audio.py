"""What the operators on samples accept; see :mod:`fastmte._checks`."""

import math

import torch
from torch import Tensor

from fastmte._checks import _check_at_least, _check_equal, _check_range, _check_tensor, _number
from fastmte._places import LARGEST_RATIO


def resample(
    samples: Tensor,
    filter: Tensor | None,
    sample_rate: int,
    target: int,
    first: int,
    start: int,
    stop: int,
) -> None:
    """Check everything."""
    op = "resample"
    _check_tensor(op, "samples", samples, 1, [torch.float32], samples)
    if filter is not None:
        _check_tensor(op, "filter", filter, 1, [torch.float32], samples)
        _check_at_least(op, "filter.size(0)", len(filter), 3)
    _check_at_least(op, "sample_rate", sample_rate, 1)
    _check_at_least(op, "target", target, 1)
    if max(sample_rate, target) > LARGEST_RATIO * min(sample_rate, target):
        want = f"within a factor of {LARGEST_RATIO} of each other"
        raise RuntimeError(
            f"{op}: sample_rate and target must be {want}, got {sample_rate} and {target}"
        )
    _check_at_least(op, "first", first, 0)
    _check_at_least(op, "start", start, 0)
    _check_at_least(op, "stop", stop, start)


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
) -> None:
    """Check everything."""
    op = "mel_db"
    _check_tensor(op, "samples", samples, 2, [torch.float32], samples)
    _check_tensor(op, "window", window, 1, [torch.float32], samples)
    _check_tensor(op, "weights", weights, 1, [torch.float32], samples)
    _check_tensor(op, "first_bins", first_bins, 1, [torch.int64], samples)
    _check_tensor(op, "splits", splits, 1, [torch.int64], samples)
    if len(window) < 4 or len(window) % 2:
        raise RuntimeError(f"{op}: window.size(0) must be even and at least 4, got {len(window)}")
    _check_equal(op, "first_bins.size(0) + 1", len(first_bins) + 1, "splits.size(0)", len(splits))
    _check_at_least(op, "hop", hop, 1)
    _check_at_least(op, "frames", frames, 0)
    for name, value in (("db_per_decade", db_per_decade), ("floor_db", floor_db)):
        if not math.isfinite(value):
            raise RuntimeError(f"{op}: {name} must be finite, got {_number(value)}")
    n_bins = len(window) // 2 + 1
    counts = splits.diff()
    if splits[0] != 0 or bool((counts < 0).any()) or splits[-1] != len(weights):
        raise RuntimeError(f"{op}: splits must rise from 0 to {len(weights)}")
    _check_range(op, "first_bins", first_bins, n_bins)
    _check_range(op, "first_bins + splits.diff()", first_bins + counts, n_bins + 1)
