"""Bfloat16 convolutions of training, for matrix units of CPUs; see :mod:`fastmte.ops`."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmte import ops
from fastmte import reference_training as reference
from fastmte._library import define
from fastmte.packing import SIDE

Pair = Sequence[int]


def _fake_weights(gradient: Tensor, x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    return x.new_empty((gradient.size(3), *kernel, x.size(3)), dtype=torch.float32)


define(
    "map_conv_weights(Tensor gradient, Tensor x, int[] kernel, int[] stride, int[] padding) "
    "-> Tensor",
    reference.map_conv_weights,
    _fake_weights,
    has_numba=False,
    has_cuda=False,
)


def _fake_pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    outputs, height, width, inputs = weight.shape
    tiles = (2, 16, 16, 2)
    ahead = (outputs // SIDE, height, width, inputs // SIDE, *tiles)
    back = (inputs // SIDE, height, width, outputs // SIDE, *tiles)
    half = torch.bfloat16
    return weight.new_empty(ahead, dtype=half), weight.new_empty(back, dtype=half)


define(
    "map_conv_pack(Tensor weight) -> (Tensor, Tensor)",
    reference.map_conv_pack,
    _fake_pack,
    has_numba=False,
    has_cuda=False,
)


def map_conv_pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights rounded to bfloat16 as the convolutions of both passes read them.

    Args:
        weight: (O, h, w, I) float32; O and I multiples of 32.

    Returns:
        ``packing.packed`` of the weights, and of those by which the input's gradient is a
        convolution of the output's: turned by half a turn, inputs and outputs exchanged.

    Raises:
        RuntimeError: a shape or dtype is wrong.
    """
    return torch.ops.fastmte.map_conv_pack(weight)


def map_conv(x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Return the convolution of bfloat16 maps with float32 weights, rounded to bfloat16.

    Differentiable in both. The weights' gradient is never rounded to bfloat16, nor copied: it
    leaves its sums in float32.

    Args:
        x: (B, H, W, I) bfloat16, contiguous; I a multiple of 32.
        weight: (O, I, h, w) float32; O a multiple of 32.
        stride: down and right.
        padding: rows and columns of zeros around the map.

    Returns:
        (B, H', W', O) bfloat16, contiguous.

    Raises:
        RuntimeError: in the backward pass, a shape or dtype is wrong.

    Reference:
        torch.nn.functional.conv2d.
    """
    return _MapConv.apply(x, weight, stride, padding)  # type: ignore[no-untyped-call]


class _MapConv(torch.autograd.Function):
    """``weight`` is kept as the backward pass reads it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.kernel, ctx.stride, ctx.padding = map(list, (weight.shape[2:], stride, padding))
        is_within = all(p < k for p, k in zip(ctx.padding, ctx.kernel, strict=True))
        ctx.is_dense = ctx.stride == [1, 1] and ctx.kernel != [1, 1] and is_within
        if ctx.is_dense:
            ahead, back = map_conv_pack(_last(weight))
            ctx.save_for_backward(x, back)
            return _dense(x, ahead, ctx.padding)
        half = weight.to(torch.bfloat16, memory_format=torch.channels_last)
        ctx.save_for_backward(x, half)
        if _is_product(half, ctx):
            return F.linear(x, half.flatten(1))
        return _last(F.conv2d(_second(x), half, None, ctx.stride, ctx.padding))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        dx = _input_gradient(ctx, gradient, x, weight) if ctx.needs_input_grad[0] else None
        dweight = None
        if ctx.needs_input_grad[1]:
            where = ctx.kernel, ctx.stride, ctx.padding
            dweight = _second(torch.ops.fastmte.map_conv_weights(gradient, x, *where))
        return dx, dweight, None, None


def _input_gradient(ctx: Any, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    if ctx.is_dense:
        around = [k - 1 - p for k, p in zip(ctx.kernel, ctx.padding, strict=True)]
        return _dense(gradient, weight, around)
    if _is_product(weight, ctx):
        return gradient @ weight.flatten(1)
    where = ctx.stride, ctx.padding, [1, 1], False, [0, 0], 1, [True, False, False]
    maps = _second(gradient), _second(x), weight
    return _last(torch.ops.aten.convolution_backward(*maps, None, *where)[0])


def _dense(x: Tensor, packed: Tensor, padding: Pair) -> Tensor:
    """Return a convolution of stride 1."""
    bias = x.new_zeros(packed.size(0) * SIDE, dtype=torch.float32)
    return ops.conv_pool_act(x, packed, bias, None, [1, 1], padding, [1, 1], "none")


def _is_product(weight: Tensor, ctx: Any) -> bool:
    return ctx.kernel == [1, 1] == ctx.stride and ctx.padding == [0, 0]


def _second(x: Tensor) -> Tensor:
    """Return maps (B, H, W, C) as torch's convolutions take them, channels second."""
    return x.permute(0, 3, 1, 2)


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()
