"""What the operators on maps of an ensemble accept; see :mod:`fastmte._checks`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmte._checks import _NAMES, _check_at_least, _check_equal, _check_tensor


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
    _check_maps(op, x)
    _check_tiles(op, "weight", weight)
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
    _check_maps(op, x)
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
    _check_tiles(op, name, weight)
    _check_at_least(op, f"{name}.size(0)", weight.size(0), 1)
    for i in (1, 2):
        size, want = weight.size(i), "1" if is_point else "odd"
        if size != 1 if is_point else size % 2 != 1:
            raise RuntimeError(f"{op}: {name}.size({i}) must be {want}, got {size}")


def _check_tiles(op: str, name: str, weight: Tensor) -> None:
    """Check the order of a weight of 8 dimensions."""
    if tuple(weight.shape[4:]) != (2, 16, 16, 2):
        raise RuntimeError(f"{op}: {name} must be that of fastmte.packing.packed")


def _check_maps(op: str, x: Tensor) -> None:
    """Refuse maps (B, H, W, C) without points; there may be no songs."""
    for i in range(1, 4):
        _check_at_least(op, f"x.size({i})", x.size(i), 1)


def _check_two(op: str, name: str, sizes: Sequence[int], least: int) -> None:
    if len(sizes) != 2:
        raise RuntimeError(f"{op}: {name} must be 2 sizes, got {len(sizes)}")
    for i, size in enumerate(sizes):
        _check_at_least(op, f"{name}[{i}]", size, least)


def _check_activation(op: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise RuntimeError(f"{op}: activation must be one of {known}, got {activation}")
