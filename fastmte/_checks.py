"""What the operators accept, worded as ``csrc/check.h`` words it.

The C++ kernels check the same things in the same order with the same text, so
an error reads alike on every tier. All raise RuntimeError, as torch's own
operators do.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_NAMES = {  # torch's own C++ names, which the compiled checks print
    torch.bool: "Bool",
    torch.uint8: "Byte",
    torch.int8: "Char",
    torch.int16: "Short",
    torch.int32: "Int",
    torch.int64: "Long",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.float32: "Float",
    torch.float64: "Double",
    torch.complex64: "ComplexFloat",
    torch.complex128: "ComplexDouble",
}
_AT_ONCE = 1 << 18  # values looked at for NaN, which takes a copy of them


def crop_mels(
    mels: Tensor,
    offsets: Tensor,
    lengths: Tensor,
    index: Tensor,
    starts: Tensor | None,
    frames: int,
    bands: int,
) -> None:
    """Check all that can be said before the mels themselves are read."""
    op = "crop_mels"
    tables = {"offsets": offsets, "lengths": lengths, "index": index}
    if starts is not None:
        tables["starts"] = starts
    _check_tensor(op, "mels", mels, 1, [torch.float32, torch.float16], mels)
    for name, table in tables.items():
        _check_tensor(op, name, table, 1, [torch.int64], mels)
    _check_equal(op, "offsets.size(0)", len(offsets), "lengths.size(0)", len(lengths))
    if starts is not None:
        _check_equal(op, "index.size(0)", len(index), "starts.size(0)", len(starts))
    _check_at_least(op, "frames", frames, 1)
    _check_at_least(op, "bands", bands, 1)

    _check_range(op, "index", index, len(offsets))
    length, offset = lengths[index], offsets[index]
    if (at := _first(length < 1)) is not None:
        got = f"{int(length[at])} for song {int(index[at])}"
        raise RuntimeError(f"{op}: lengths must be at least 1, got {got}")
    room = torch.div(mels.numel() - offset, bands, rounding_mode="floor")
    if (at := _first((offset < 0) | (length > room))) is not None:
        raise RuntimeError(
            f"{op}: song {int(index[at])} must lie inside mels of {mels.numel()} elements, "
            f"got offset {int(offset[at])} and length {int(length[at])}"
        )
    if starts is None:
        return
    last = torch.where(length < frames, length - 1, length - frames)
    if (at := _first((starts < 0) | (starts > last))) is not None:
        want = f"[0, {int(last[at])}]"
        raise RuntimeError(f"{op}: starts must be in {want}, got {int(starts[at])} at [{at}]")


def crops_to_fill(crops: Tensor, index: Tensor, mels: Tensor) -> tuple[int, int]:
    """Check what is to hold the crops; return its bands and frames."""
    op = "crop_mels"
    _check_tensor(op, "crops", crops, 3, [torch.float32], mels)
    if index.dim() == 1:  # else the rest of the checks says so
        _check_equal(op, "crops.size(0)", len(crops), "index.size(0)", len(index))
    return crops.size(1), crops.size(2)


def finite_crops(
    crops: Tensor, mels: Tensor, offsets: Tensor, lengths: Tensor, index: Tensor, starts: Tensor
) -> None:
    """Raise where a value of ``crops`` is not finite, with its position in the packed mels."""
    if bool(crops.isfinite().all()):
        return
    crop, band, frame = (~crops.isfinite()).nonzero()[0].tolist()
    song = int(index[crop])
    length = int(lengths[song])
    position = int(offsets[song]) + band * length + (int(starts[crop]) + frame) % length
    value = float(mels[position])
    _not_finite("crop_mels", "mels", value, [position], f" (song {song})")


def label_centroids(features: Tensor, labels: Tensor) -> None:
    """Check all that can be said before the features themselves are read."""
    op = "label_centroids"
    _check_tensor(op, "features", features, 2, [torch.float32, torch.float64], features)
    _check_tensor(op, "labels", labels, 2, [torch.bool], features)
    _check_equal(op, "features.size(0)", len(features), "labels.size(0)", len(labels))


def label_centroids_csr(features: Tensor, crow: Tensor, col: Tensor, n_labels: int) -> None:
    """Check all that can be said before the features themselves are read."""
    op = "label_centroids"
    _check_tensor(op, "features", features, 2, [torch.float32, torch.float64], features)
    _check_tensor(op, "crow", crow, 1, [torch.int64], features)
    _check_tensor(op, "col", col, 1, [torch.int64], features)
    _check_equal(op, "features.size(0) + 1", len(features) + 1, "crow.size(0)", len(crow))
    _check_at_least(op, "n_labels", n_labels, 0)
    if crow[0] != 0:
        raise RuntimeError(f"{op}: crow must start at 0, got {int(crow[0])}")
    if (at := _first(crow.diff() < 0)) is not None:
        got = f"{int(crow[at + 1])} after {int(crow[at])} at [{at + 1}]"
        raise RuntimeError(f"{op}: crow must not decrease, got {got}")
    if crow[-1] != len(col):
        raise RuntimeError(f"{op}: crow must end at {len(col)}, got {int(crow[-1])}")
    _check_range(op, "col", col, n_labels)
    falls = torch.zeros_like(col, dtype=torch.bool)
    falls[1:] = col.diff() <= 0
    falls[crow[:-1][crow[:-1] < len(col)]] = False  # the first label of a song follows nothing
    if (at := _first(falls)) is not None:
        got = f"{int(col[at])} after {int(col[at - 1])} at [{at}]"
        raise RuntimeError(f"{op}: col must increase within a song, got {got}")


def label_sums(features: Tensor, n_labels: int, sums: Tensor, counts: Tensor) -> None:
    """Check what the features of labels are added to."""
    op = "label_centroids"
    _check_tensor(op, "sums", sums, 2, [torch.float64], features)
    _check_tensor(op, "counts", counts, 1, [torch.int64], features)
    _check_equal(op, "sums.size(0)", len(sums), "the number of labels", n_labels)
    _check_equal(op, "sums.size(1)", sums.size(1), "features.size(1)", features.size(1))
    _check_equal(op, "counts.size(0)", len(counts), "the number of labels", n_labels)
    for name, tensor in (("sums", sums), ("counts", counts)):
        if not tensor.is_contiguous():
            raise RuntimeError(f"{op}: {name} must be contiguous")


def every_label_has_a_song(counts: Tensor) -> None:
    """Raise where one of the ``counts`` (L,) of songs is zero."""
    if (at := _first(counts == 0)) is not None:
        raise RuntimeError(
            f"label_centroids: labels must give every label a song, got none for label {at}"
        )


def dkmeans_assign(points: Tensor, seeds: Tensor, tie_tol: float, last_two: bool) -> None:
    """Check everything; the points must be finite."""
    op = "dkmeans_assign"
    _check_tensor(op, "points", points, 2, [torch.float64], points)
    if seeds.dim() not in (1, 2):
        raise RuntimeError(f"{op}: seeds must be 1-D or 2-D, got {seeds.dim()}-D")
    _check_tensor(op, "seeds", seeds, seeds.dim(), [torch.int64], points)
    n_points, n_seeds = len(points), seeds.size(-1)
    if not 1 <= n_seeds <= n_points:
        raise RuntimeError(
            f"{op}: seeds.size({seeds.dim() - 1}) must be in [1, {n_points}], the number of "
            f"points, got {n_seeds}"
        )
    if last_two and n_seeds % 2:
        raise RuntimeError(
            f"{op}: seeds must name two points of each member with last_two, got {n_seeds}"
        )
    if not 0 <= tie_tol < 1:
        raise RuntimeError(f"{op}: tie_tol must be in [0, 1), got {_number(tie_tol)}")
    for run, row in enumerate(seeds.reshape(-1, n_seeds).tolist()):
        _check_seeds(op, row, n_points, "" if seeds.dim() == 1 else f"{run}, ")
    finite(op, "points", points)


def _check_seeds(op: str, seeds: list[int], n_points: int, run: str) -> None:
    owner: dict[int, int] = {}
    for at, seed in enumerate(seeds):
        if not 0 <= seed < n_points:
            raise RuntimeError(f"{op}: seeds must be in [0, {n_points}), got {seed} at [{run}{at}]")
        if (earlier := owner.setdefault(seed, at)) != at:
            raise RuntimeError(
                f"{op}: seeds must be distinct, got {seed} at [{run}{earlier}] and [{run}{at}]"
            )


def finite(op: str, name: str, values: Tensor) -> None:
    """Raise where ``values`` (n, m) are not finite, with the first position in row-major order."""
    n_rows = max(1, _AT_ONCE // max(1, values.size(1)))
    for begin, piece in zip(range(0, len(values), n_rows), values.split(n_rows), strict=False):
        if not bool(piece.isfinite().all()):
            row, column = (~piece.isfinite()).nonzero()[0].tolist()
            _not_finite(op, name, float(piece[row, column]), [begin + row, column])


def centre_starts(length: Tensor, frames: int) -> Tensor:
    """Return where the centre crop of each song begins, short ones repeated until it fits."""
    repeats = torch.div(frames + length - 1, length, rounding_mode="floor")
    return torch.div(length * repeats - frames, 2, rounding_mode="floor")


def _check_tensor(
    op: str, name: str, tensor: Tensor, n_dims: int, dtypes: list[torch.dtype], like: Tensor
) -> None:
    if tensor.dim() != n_dims:
        raise RuntimeError(f"{op}: {name} must be {n_dims}-D, got {tensor.dim()}-D")
    if tensor.dtype not in dtypes:
        want = " or ".join(_NAMES[dtype] for dtype in dtypes)
        got = _NAMES.get(tensor.dtype, str(tensor.dtype))
        raise RuntimeError(f"{op}: {name} must be {want}, got {got}")
    if tensor.device != like.device:
        raise RuntimeError(f"{op}: {name} must be on {like.device}, got {tensor.device}")


def _check_equal(op: str, name: str, size: int, other_name: str, other: int) -> None:
    if size != other:
        raise RuntimeError(f"{op}: {name} and {other_name} must be equal, got {size} and {other}")


def _check_at_least(op: str, name: str, value: int, least: int) -> None:
    if value < least:
        raise RuntimeError(f"{op}: {name} must be at least {least}, got {value}")


def _check_range(op: str, name: str, values: Tensor, end: int) -> None:
    """Raise where ``values`` (n,) are not in [0, ``end``)."""
    if (at := _first((values < 0) | (values >= end))) is not None:
        raise RuntimeError(f"{op}: {name} must be in [0, {end}), got {int(values[at])} at [{at}]")


def _not_finite(op: str, name: str, value: float, position: Sequence[int], where: str = "") -> None:
    got = f"{_number(value)} at {list(position)}{where}"
    raise RuntimeError(f"{op}: {name} must be finite, got {got}")


def _first(mask: Tensor) -> int | None:
    """Return the first true position of a (n,) bool tensor."""
    found = mask.nonzero()
    return int(found[0, 0]) if len(found) else None


def _number(value: float) -> str:
    """Write a number as a C++ stream does; NaN has no sign."""
    return "nan" if math.isnan(value) else f"{value:g}"
