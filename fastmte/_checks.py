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


def vgg_stem(
    mels: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> None:
    """Check everything."""
    op = "vgg_stem"
    _check_tensor(op, "mels", mels, 3, [torch.float32, torch.float64], mels)
    _check_tensor(op, "scale", scale, 1, [mels.dtype], mels)
    _check_tensor(op, "shift", shift, 1, [mels.dtype], mels)
    _check_at_least(op, "scale.size(0)", len(scale), 1)
    _check_equal(op, "scale.size(0)", len(scale), "shift.size(0)", len(shift))
    _check_at_least(op, "mels.size(1)", mels.size(1), 2)
    _check_at_least(op, "mels.size(2)", mels.size(2), 4)
    _check_stem(op, mels, weight, bias, len(scale), 3, dtype)


def resnet_stem(
    mels: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, members: int
) -> None:
    """Check everything."""
    op = "resnet_stem"
    _check_tensor(op, "mels", mels, 3, [torch.float32, torch.float64], mels)
    _check_at_least(op, "members", members, 1)
    _check_at_least(op, "mels.size(1)", mels.size(1), 1)
    _check_at_least(op, "mels.size(2)", mels.size(2), 1)
    _check_stem(op, mels, weight, bias, members, 7, dtype)


def _check_stem(
    op: str,
    mels: Tensor,
    weight: Tensor,
    bias: Tensor,
    members: int,
    side: int,
    dtype: torch.dtype,
) -> None:
    """Check the arguments that both stems have; ``side`` of the square kernel."""
    _check_tensor(op, "weight", weight, 4, [mels.dtype], mels)
    _check_tensor(op, "bias", bias, 1, [mels.dtype], mels)
    if weight.shape[1:] != (1, side, side):
        got = ", ".join(str(size) for size in weight.shape[1:])
        raise RuntimeError(f"{op}: weight must be (n, 1, {side}, {side}), got (n, {got})")
    if len(weight) == 0 or len(weight) % members:
        want = f"a multiple of {members}, the number of members"
        raise RuntimeError(f"{op}: weight.size(0) must be {want}, got {len(weight)}")
    _check_equal(op, "weight.size(0)", len(weight), "bias.size(0)", len(bias))
    is_double = mels.dtype == torch.float64
    if dtype not in ([torch.float64] if is_double else [torch.float32, torch.bfloat16]):
        want = "Double for Double" if is_double else "Float or BFloat16 for Float"
        got = _NAMES.get(dtype, str(dtype))
        raise RuntimeError(f"{op}: dtype must be {want} mels, got {got}")


ACTIVATIONS = ("elu", "none", "relu")


def pool_act(x: Tensor, pool: Sequence[int], activation: str) -> None:
    """Check everything."""
    op = "pool_act"
    _check_tensor(op, "x", x, 4, [torch.float32, torch.bfloat16, torch.float64], x)
    _check_two(op, "pool", pool, 1)
    _check_at_least(op, "x.size(1)", x.size(1), pool[0])
    _check_at_least(op, "x.size(2)", x.size(2), pool[1])
    _check_at_least(op, "x.size(3)", x.size(3), 1)
    _check_activation(op, activation)


def conv_pool_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    onto: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    pool: Sequence[int],
    activation: str,
) -> None:
    """Check everything."""
    op = "conv_pool_act"
    _check_tensor(op, "x", x, 4, [torch.bfloat16], x)
    _check_tensor(op, "weight", weight, 8, [torch.bfloat16], x)
    _check_tensor(op, "bias", bias, 1, [torch.float32], x)
    if tuple(weight.shape[4:]) != (2, 16, 16, 2):
        raise RuntimeError(f"{op}: weight must be that of fastmte.packing.packed")
    _check_at_least(op, "weight.size(1)", weight.size(1), 1)
    _check_at_least(op, "weight.size(2)", weight.size(2), 1)
    _check_equal(op, "x.size(3)", x.size(3), "the weight's inputs", weight.size(3) * 32)
    _check_equal(op, "bias.size(0)", len(bias), "the weight's outputs", weight.size(0) * 32)
    for name, sizes, least in (("stride", stride, 1), ("padding", padding, 0), ("pool", pool, 1)):
        _check_two(op, name, sizes, least)
    if pool[1] > 32:
        raise RuntimeError(f"{op}: pool[1] must be at most 32, got {pool[1]}")
    for i in range(2):
        least = (pool[i] - 1) * stride[i] + weight.size(1 + i) - 2 * padding[i]
        _check_at_least(op, f"x.size({1 + i})", x.size(1 + i), least)
    if onto is not None:
        _check_tensor(op, "onto", onto, 4, [torch.bfloat16], x)
        if tuple(pool) != (1, 1):
            raise RuntimeError(f"{op}: onto must be None where there is a pool")
        rows, columns = (
            (x.size(1 + i) + 2 * padding[i] - weight.size(1 + i)) // stride[i] + 1 for i in range(2)
        )
        for i, size in enumerate((len(x), rows, columns, len(bias))):
            _check_equal(op, f"onto.size({i})", onto.size(i), "the output's", size)
    _check_activation(op, activation)


def residual_blocks(
    x: Tensor,
    weight: Sequence[Tensor],
    project: Sequence[Tensor],
    shortcut: Sequence[Tensor],
    bias: Sequence[Tensor],
    stride: Sequence[int],
) -> None:
    """Check everything."""
    op, n = "residual_blocks", len(weight)
    _check_tensor(op, "x", x, 4, [torch.bfloat16], x)
    _check_at_least(op, "blocks", n, 1)
    for i in range(1, 4):
        _check_at_least(op, f"x.size({i})", x.size(i), 1)
    for name, values in (("project", project), ("shortcut", shortcut), ("stride", stride)):
        _check_equal(op, name, len(values), "weight", n)
    _check_equal(op, "bias", len(bias), "twice weight", 2 * n)
    channels = x.size(3)
    for i in range(n):
        channels = _check_residual_block(
            op, f"[{i}]", channels, weight[i], project[i], shortcut[i], stride[i], x
        )
        for j, outputs in enumerate((weight[i].size(0) * 32, channels)):
            name = f"bias[{2 * i + j}]"
            _check_tensor(op, name, bias[2 * i + j], 1, [torch.float32], x)
            _check_equal(op, f"{name}.size(0)", len(bias[2 * i + j]), "the outputs", outputs)


def _check_residual_block(
    op: str,
    at: str,
    channels: int,
    weight: Tensor,
    project: Tensor,
    shortcut: Tensor,
    stride: int,
    x: Tensor,
) -> int:
    """Return the channels of a block's output."""
    _check_packed(op, f"weight{at}", weight, x, is_point=False)
    _check_packed(op, f"project{at}", project, x, is_point=True)
    _check_at_least(op, f"stride{at}", stride, 1)
    outputs, maps = project.size(0) * 32, "the maps' channels"
    _check_equal(op, f"inputs of weight{at}", weight.size(3) * 32, maps, channels)
    middle = weight.size(0) * 32
    _check_equal(op, f"inputs of project{at}", project.size(3) * 32, "the weight's outputs", middle)
    if not shortcut.numel():
        if stride != 1 or outputs != channels:
            raise RuntimeError(f"{op}: shortcut{at} must not be empty where the shape changes")
        return outputs
    _check_packed(op, f"shortcut{at}", shortcut, x, is_point=True)
    _check_equal(op, f"inputs of shortcut{at}", shortcut.size(3) * 32, maps, channels)
    of_project = "the project's outputs"
    _check_equal(op, f"outputs of shortcut{at}", shortcut.size(0) * 32, of_project, outputs)
    return outputs


def _check_packed(op: str, name: str, weight: Tensor, x: Tensor, is_point: bool) -> None:
    _check_tensor(op, name, weight, 8, [torch.bfloat16], x)
    if tuple(weight.shape[4:]) != (2, 16, 16, 2):
        raise RuntimeError(f"{op}: {name} must be that of fastmte.packing.packed")
    for i in (1, 2):
        size, want = weight.size(i), "1" if is_point else "odd"
        if size != 1 if is_point else size % 2 != 1:
            raise RuntimeError(f"{op}: {name}.size({i}) must be {want}, got {size}")


def _check_two(op: str, name: str, sizes: Sequence[int], least: int) -> None:
    if len(sizes) != 2:
        raise RuntimeError(f"{op}: {name} must be 2 sizes, got {len(sizes)}")
    for i, size in enumerate(sizes):
        _check_at_least(op, f"{name}[{i}]", size, least)


def _check_activation(op: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise RuntimeError(f"{op}: activation must be one of {known}, got {activation}")


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
