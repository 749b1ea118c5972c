"""Bfloat16 convolutions of training, for matrix units of CPUs; see :mod:`fastmte.ops`."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmte import reference_training as reference
from fastmte._library import define

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
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        half = weight.to(torch.bfloat16, memory_format=torch.channels_last)
        ctx.save_for_backward(x, half)
        ctx.stride, ctx.padding = list(stride), list(padding)
        if _is_product(half, stride, padding):
            return F.linear(x, half.flatten(1))
        return _last(F.conv2d(_second(x), half, None, ctx.stride, ctx.padding))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, half = ctx.saved_tensors
        dx = dweight = None
        if ctx.needs_input_grad[0]:
            dx = _input_gradient(gradient, x, half, ctx.stride, ctx.padding)
        if ctx.needs_input_grad[1]:
            where = list(half.shape[2:]), ctx.stride, ctx.padding
            dweight = _second(torch.ops.fastmte.map_conv_weights(gradient, x, *where))
        return dx, dweight, None, None


def _input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair
) -> Tensor:
    if _is_product(weight, stride, padding):
        return gradient @ weight.flatten(1)
    where = stride, padding, [1, 1], False, [0, 0], 1, [True, False, False]
    maps = _second(gradient), _second(x), weight
    return _last(torch.ops.aten.convolution_backward(*maps, None, *where)[0])


def _is_product(weight: Tensor, stride: Pair, padding: Pair) -> bool:
    return tuple(weight.shape[2:]) == (1, 1) == tuple(stride) and not any(padding)


def _second(x: Tensor) -> Tensor:
    """Return maps (B, H, W, C) as torch's convolutions take them, channels second."""
    return x.permute(0, 3, 1, 2)


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()
