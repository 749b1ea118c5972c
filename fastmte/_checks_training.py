"""What the operators of training accept; see :mod:`fastmte._checks`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastmte._checks import _check_at_least as at_least
from fastmte._checks import _check_equal as equal
from fastmte._checks import _check_tensor as tensor
from fastmte._checks_maps import ACTIVATIONS
from fastmte._checks_maps import _check_two as two
from fastmte.packing import SIDE

_MAPS = [torch.float32, torch.bfloat16, torch.float64]


def bn_add_relu(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, activation: str
) -> None:
    """Check everything."""
    op = "bn_add_relu"
    _norm(op, x, weight, bias)
    if residual is not None:
        _like(op, "residual", residual, x)
    _activation(op, activation)


def bn_add_relu_backward(
    gradient: Tensor,
    x: Tensor,
    out: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    activation: str,
) -> None:
    """Check everything."""
    op = "bn_add_relu_backward"
    _norm(op, x, weight, weight)
    _like(op, "gradient", gradient, x)
    _like(op, "out", out, x)
    _statistics(op, mean, variance, x)
    _activation(op, activation)


def bn_act_pool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    kernel: Sequence[int],
    activation: str,
    stride: Sequence[int],
    padding: Sequence[int],
) -> None:
    """Check everything."""
    op = "bn_act_pool"
    _norm(op, x, weight, bias)
    _windows(op, x, kernel, stride, padding)
    _activation(op, activation)


def bn_act_pool_backward(
    gradient: Tensor,
    x: Tensor,
    out: Tensor,
    argmax: Tensor,
    winner: Tensor,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    kernel: Sequence[int],
    activation: str,
    stride: Sequence[int],
    padding: Sequence[int],
) -> None:
    """Check everything but the values of argmax, which only the operator itself makes."""
    op = "bn_act_pool_backward"
    _norm(op, x, weight, weight)
    shape = _windows(op, x, kernel, stride, padding)
    tensor(op, "out", out, 4, [x.dtype], x)
    _shape(op, "out", out, shape)
    _like(op, "gradient", gradient, out)
    _like(op, "winner", winner, out)
    tensor(op, "argmax", argmax, 4, [torch.uint8], x)
    _shape(op, "argmax", argmax, shape)
    _statistics(op, mean, variance, x)
    _activation(op, activation)


def channel_moments(x: Tensor) -> None:
    """Check everything."""
    tensor("channel_moments", "x", x, 4, _MAPS, x)
    _filled("channel_moments", x)


def map_conv_weights(
    gradient: Tensor,
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> None:
    """Check everything."""
    op = "map_conv_weights"
    tensor(op, "x", x, 4, [torch.bfloat16], x)
    tensor(op, "gradient", gradient, 4, [torch.bfloat16], x)
    _places(op, kernel, stride, padding)
    _blocks(op, x.size(3), gradient.size(3))
    room = [x.size(1 + i) + 2 * padding[i] for i in range(2)]
    for i in range(2):
        if room[i] < kernel[i]:
            raise RuntimeError(f"{op}: kernel[{i}] must be at most {room[i]}, got {kernel[i]}")
    sizes = [(room[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
    for dim, want in enumerate((x.size(0), *sizes)):
        _size(op, f"gradient.size({dim})", gradient.size(dim), want)


def map_conv_pack(weight: Tensor) -> None:
    """Check everything."""
    op = "map_conv_pack"
    tensor(op, "weight", weight, 4, [torch.float32], weight)
    _blocks(op, weight.size(3), weight.size(0))
    for dim in (1, 2):
        at_least(op, f"weight.size({dim})", weight.size(dim), 1)


def _blocks(op: str, inputs: int, outputs: int) -> None:
    for name, channels in (("inputs", inputs), ("outputs", outputs)):
        if channels == 0 or channels % SIDE:
            raise RuntimeError(f"{op}: {name} must be a multiple of {SIDE}, got {channels}")


def patch_products(x: Tensor) -> None:
    """Check everything."""
    _stem_maps("patch_products", x)


def vgg_stem_argmax(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> None:
    """Check everything."""
    op = "vgg_stem_argmax"
    _stem_maps(op, x)
    tensor(op, "scale", scale, 1, [x.dtype], x)
    tensor(op, "shift", shift, 1, [x.dtype], x)
    tensor(op, "weight", weight, 4, [x.dtype], x)
    tensor(op, "bias", bias, 1, [x.dtype], x)
    at_least(op, "scale.size(0)", len(scale), 1)
    equal(op, "shift.size(0)", len(shift), "scale.size(0)", len(scale))
    equal(op, "bias.size(0)", len(bias), "weight.size(0)", len(weight))
    at_least(op, "weight.size(0)", len(weight), len(scale))
    _size(op, "weight.size(0) % scale.size(0)", len(weight) % len(scale), 0)
    for dim, want in enumerate((1, 3, 3), start=1):
        _size(op, f"weight.size({dim})", weight.size(dim), want)
    if dtype != x.dtype and (dtype, x.dtype) != (torch.bfloat16, torch.float32):
        name = {torch.float32: "Float", torch.float64: "Double", torch.bfloat16: "BFloat16"}
        raise RuntimeError(
            f"{op}: dtype must be that of x, or BFloat16 for Float, got {name.get(dtype, dtype)}"
        )


def vgg_stem_train(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    mean: Tensor,
    covariance: Tensor,
) -> None:
    """Check all but the sizes of x and ``dtype``, which ``vgg_stem_argmax`` does."""
    op = "vgg_stem_train"
    tensor(op, "x", x, 3, [torch.float32, torch.float64], x)
    if x.requires_grad:
        raise RuntimeError(f"{op}: x must not require a gradient, as none is computed")
    tensor(op, "scale", scale, 1, [x.dtype], x)
    at_least(op, "scale.size(0)", len(scale), 1)
    tensor(op, "shift", shift, 1, [x.dtype], x)
    equal(op, "scale.size(0)", len(scale), "shift.size(0)", len(shift))
    tensor(op, "weight", weight, 4, [x.dtype], x)
    if weight.shape[1:] != (1, 3, 3) or len(weight) == 0 or len(weight) % len(scale):
        want = f"({len(scale)} * C, 1, 3, 3)"
        raise RuntimeError(f"{op}: weight must be {want}, got {tuple(weight.shape)}")
    for name, value in {"norm_weight": norm_weight, "norm_bias": norm_bias}.items():
        tensor(op, name, value, 1, [x.dtype], x)
        equal(op, "weight.size(0)", len(weight), f"{name}.size(0)", len(value))
    tensor(op, "mean", mean, 1, [torch.float64], x)
    tensor(op, "covariance", covariance, 2, [torch.float64], x)
    if mean.shape != (18,) or covariance.shape != (18, 18):
        got = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        raise RuntimeError(f"{op}: mean and covariance must be (18,) and (18, 18), got {got}")


def vgg_stem_sums(gradient: Tensor, out: Tensor, argmax: Tensor, x: Tensor) -> None:
    """Check everything but the values of argmax, which only the operator itself makes."""
    op = "vgg_stem_sums"
    _stem_maps(op, x)
    is_double = x.dtype == torch.float64
    tensor(op, "out", out, 5, [torch.float64] if is_double else _MAPS[:2], x)
    tensor(op, "gradient", gradient, 5, [out.dtype], x)
    tensor(op, "argmax", argmax, 5, [torch.uint8], x)
    for dim, want in enumerate((x.size(0), x.size(1) // 2, x.size(2) // 4), start=1):
        _size(op, f"out.size({dim})", out.size(dim), want)
    for dim in range(5):
        equal(op, f"gradient.size({dim})", gradient.size(dim), "out's", out.size(dim))
        equal(op, f"argmax.size({dim})", argmax.size(dim), "out's", out.size(dim))


def member_adam_(
    parameter: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, sizes: Tensor
) -> None:
    """Check everything."""
    op = "member_adam_"
    if parameter.dim() < 1:
        raise RuntimeError(f"{op}: parameter must have a dimension, of rows, got 0-D")
    tensor(op, "parameter", parameter, parameter.dim(), [torch.float32, torch.float64], parameter)
    others = {"gradient": gradient, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    for name, other in others.items():
        tensor(op, name, other, parameter.dim(), [parameter.dtype], parameter)
        for dim in range(parameter.dim()):
            equal(
                op,
                f"parameter.size({dim})",
                parameter.size(dim),
                f"{name}.size({dim})",
                other.size(dim),
            )
    tensor(op, "sizes", sizes, 1, [torch.float64], parameter)
    equal(op, "parameter.size(0)", parameter.size(0), "sizes.size(0)", len(sizes))


def _norm(op: str, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    tensor(op, "x", x, 4, _MAPS, x)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    for name, value in (("norm_weight", weight), ("norm_bias", bias)):
        tensor(op, name, value, 1, [dtype], x)
    equal(op, "norm_weight.size(0)", len(weight), "x.size(3)", x.size(3))
    equal(op, "norm_bias.size(0)", len(bias), "x.size(3)", x.size(3))
    _filled(op, x)
    n_values = x.size(0) * x.size(1) * x.size(2)
    if n_values < 2:
        raise RuntimeError(f"{op}: x must have 2 values a channel or more, got {n_values}")


def _filled(op: str, x: Tensor) -> None:
    for dim in range(4):
        at_least(op, f"x.size({dim})", x.size(dim), 1)


def _statistics(op: str, mean: Tensor, variance: Tensor, maps: Tensor) -> None:
    for name, value in (("mean", mean), ("variance", variance)):
        tensor(op, name, value, 1, [torch.float64], maps)
    equal(op, "mean.size(0)", len(mean), "x.size(3)", maps.size(3))
    equal(op, "variance.size(0)", len(variance), "x.size(3)", maps.size(3))


def _places(op: str, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> None:
    two(op, "kernel", kernel, 1)
    two(op, "stride", stride, 1)
    two(op, "padding", padding, 0)


def _windows(
    op: str, x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> list[int]:
    """Return the shape of the pooled maps."""
    _places(op, kernel, stride, padding)
    sizes = []
    for i in range(2):
        room = x.size(1 + i) + 2 * padding[i]
        if 2 * padding[i] > kernel[i]:
            raise RuntimeError(
                f"{op}: padding[{i}] must be at most half the kernel, "
                f"got {padding[i]} of {kernel[i]}"
            )
        if room < kernel[i]:
            raise RuntimeError(f"{op}: kernel[{i}] must be at most {room}, got {kernel[i]}")
        sizes.append((room - kernel[i]) // stride[i] + 1)
    if kernel[0] * kernel[1] > 256:
        n_points = kernel[0] * kernel[1]
        raise RuntimeError(f"{op}: kernel must have at most 256 points, got {n_points}")
    return [x.size(0), *sizes, x.size(3)]


def _activation(op: str, activation: str) -> None:
    if activation not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise RuntimeError(f"{op}: activation must be one of {known}, got {activation}")


def _stem_maps(op: str, x: Tensor) -> None:
    tensor(op, "x", x, 3, [torch.float32, torch.float64], x)
    for dim, least in enumerate((1, 2, 4)):
        at_least(op, f"x.size({dim})", x.size(dim), least)


def _like(op: str, name: str, x: Tensor, maps: Tensor) -> None:
    tensor(op, name, x, 4, [maps.dtype], maps)
    _shape(op, name, x, maps.shape)


def _shape(op: str, name: str, x: Tensor, shape: Sequence[int]) -> None:
    for dim, want in enumerate(shape):
        _size(op, f"{name}.size({dim})", x.size(dim), want)


def _size(op: str, name: str, size: int, want: int) -> None:
    if size != want:
        raise RuntimeError(f"{op}: {name} must be {want}, got {size}")
