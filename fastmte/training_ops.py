"""The operators of training, with their gradients; see :mod:`fastmte.ops`.

Maps lie channels last, (B, H, W, C), float32 or bfloat16 with float32 parameters,
or all float64. Batch statistics are float64. There is no numba tier: without the
native library these are plain torch, which is compiled itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmte import reference_training as reference
from fastmte._library import OPERATORS, define
from fastmte.training_conv import map_conv
from fastmte.training_stem import patch_moments, vgg_stem_train

__all__ = [
    "bn_act_pool",
    "bn_add_relu",
    "map_conv",
    "member_adam_",
    "patch_moments",
    "vgg_stem_train",
]

Pair = Sequence[int]


def _fake_bn_add_relu(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, activation: str
) -> tuple[Tensor, Tensor, Tensor]:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, *_fake_statistics(x)


def _fake_bn_add_relu_backward(
    gradient: Tensor, x: Tensor, out: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    has_residual = rest[-1]
    dresidual = x.new_empty((x.size(0) if has_residual else 0, *x.shape[1:]))
    return (
        x.new_empty(x.shape),
        dresidual,
        weight.new_empty(weight.shape),
        weight.new_empty(weight.shape),
    )


def _fake_bn_act_pool(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    kernel: Pair,
    activation: str,
    stride: Pair,
    padding: Pair,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    sizes = [(x.size(1 + i) + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
    shape = (x.size(0), *sizes, x.size(3))
    argmax = x.new_empty(shape, dtype=torch.uint8)
    return x.new_empty(shape), argmax, x.new_empty(shape), *_fake_statistics(x)


def _fake_bn_act_pool_backward(
    gradient: Tensor,
    x: Tensor,
    out: Tensor,
    argmax: Tensor,
    winner: Tensor,
    weight: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _fake_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    shape = (x.size(3),)
    return x.new_empty(shape, dtype=torch.float64), x.new_empty(shape, dtype=torch.float64)


define(
    "bn_add_relu(Tensor x, Tensor? residual, Tensor norm_weight, Tensor norm_bias, float eps, "
    "str activation) -> (Tensor, Tensor, Tensor)",
    reference.bn_add_relu,
    _fake_bn_add_relu,
    has_numba=False,
    has_cuda=False,
)
define(
    "bn_add_relu_backward(Tensor gradient, Tensor x, Tensor out, Tensor norm_weight, Tensor mean, "
    "Tensor variance, float eps, str activation, bool has_residual) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    reference.bn_add_relu_backward,
    _fake_bn_add_relu_backward,
    has_numba=False,
    has_cuda=False,
)
define(
    "bn_act_pool(Tensor x, Tensor norm_weight, Tensor norm_bias, float eps, int[] kernel, "
    "str activation, int[] stride, int[] padding) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.bn_act_pool,
    _fake_bn_act_pool,
    has_numba=False,
    has_cuda=False,
)
define(
    "bn_act_pool_backward(Tensor gradient, Tensor x, Tensor out, Tensor argmax, "
    "Tensor winner, Tensor norm_weight, Tensor mean, Tensor variance, float eps, int[] kernel, "
    "str activation, int[] stride, int[] padding) -> (Tensor, Tensor, Tensor)",
    reference.bn_act_pool_backward,
    _fake_bn_act_pool_backward,
    has_numba=False,
    has_cuda=False,
)
define(
    "channel_moments(Tensor x) -> (Tensor, Tensor)",
    reference.channel_moments,
    _fake_statistics,
    has_numba=False,
    has_cuda=False,
)
define(
    "member_adam_(Tensor(a!) parameter, Tensor gradient, Tensor(b!) exp_avg, "
    "Tensor(c!) exp_avg_sq, Tensor sizes, float beta1, float beta2, float correction, float eps) "
    "-> ()",
    reference.member_adam_,
    lambda *_: None,
    has_numba=False,
    has_cuda=False,
)


def _keep_bn_add_relu(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, residual, weight, _, ctx.eps, ctx.activation = inputs
    out, mean, variance = output
    ctx.has_residual = residual is not None
    ctx.save_for_backward(x, out, weight, mean, variance)
    ctx.set_materialize_grads(False)  # of what has none there would be zeros
    ctx.mark_non_differentiable(mean, variance)


def _bn_add_relu_gradients(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple:
    if gradient is None:
        return (None,) * 6
    x, out, weight, mean, variance = ctx.saved_tensors
    dx, dresidual, dweight, dbias = torch.ops.fastmte.bn_add_relu_backward(
        gradient, x, out, weight, mean, variance, ctx.eps, ctx.activation, ctx.has_residual
    )
    return dx, dresidual if ctx.has_residual else None, dweight, dbias, None, None


def _keep_bn_act_pool(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, _, ctx.eps, ctx.kernel, ctx.activation, ctx.stride, ctx.padding = inputs
    out, argmax, winner, mean, variance = output
    ctx.save_for_backward(x, out, argmax, winner, weight, mean, variance)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(argmax, winner, mean, variance)


def _bn_act_pool_gradients(ctx: Any, gradient: Tensor | None, *_: Any) -> tuple:
    if gradient is None:
        return (None,) * 8
    pool = (ctx.kernel, ctx.activation, ctx.stride, ctx.padding)
    gradients = torch.ops.fastmte.bn_act_pool_backward(gradient, *ctx.saved_tensors, ctx.eps, *pool)
    return *gradients, None, None, None, None, None


torch.library.register_autograd(
    "fastmte::bn_add_relu",
    _bn_add_relu_gradients,
    setup_context=_keep_bn_add_relu,
    lib=OPERATORS,
)
torch.library.register_autograd(
    "fastmte::bn_act_pool",
    _bn_act_pool_gradients,
    setup_context=_keep_bn_act_pool,
    lib=OPERATORS,
)


def _refuse(ctx: Any, *_: Any) -> None:
    raise RuntimeError("the gradient of a fused operator has itself no gradient")


for _name in ("bn_add_relu_backward", "bn_act_pool_backward"):
    torch.library.register_autograd(f"fastmte::{_name}", _refuse, lib=OPERATORS)


def bn_add_relu(
    x: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float = 1e-5,
    activation: str = "relu",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``activation(batch_norm(x) + residual)`` as in training, with the statistics.

    Differentiable in x, residual, norm_weight and norm_bias. Keeps x and the result alone.

    Args:
        x: (B, H, W, C) float32, bfloat16 or float64; copied unless contiguous.
        residual: like x, or None.
        norm_weight: (C,) float32, float64 for float64 maps.
        norm_bias: (C,), likewise.
        eps: added to the variance.
        activation: "relu", "elu" (alpha 1) or "none".

    Returns:
        out (B, H, W, C) of x's dtype; mean and biased variance of the batch, (C,) float64.

    Raises:
        RuntimeError: a shape, dtype or device is wrong, a size is 0, a channel has one value, or
            the activation is unknown.

    Reference:
        torch.nn.functional.batch_norm; He et al. 2016, figure 2.
    """
    return torch.ops.fastmte.bn_add_relu(x, residual, norm_weight, norm_bias, eps, activation)


def bn_act_pool(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    kernel: Pair,
    activation: str,
    stride: Pair | None = None,
    padding: Pair = (0, 0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the max-pool of ``activation(batch_norm(x))`` as in training, with the statistics.

    Differentiable in x, norm_weight and norm_bias. Keeps x, the result, and of each
    window the x that won and its place, a byte.
    Of several largest values in a window the first wins, and NaN is larger than any number.

    Args:
        x: (B, H, W, C) float32, bfloat16 or float64; copied unless contiguous.
        norm_weight: (C,) float32, float64 for float64 maps.
        norm_bias: (C,), likewise.
        eps: added to the variance.
        kernel: (h, w) of a window, at most 256 points.
        activation: "elu" (alpha 1), "relu" or "none".
        stride: step of the windows; the kernel by default.
        padding: rows and columns around the map that never win, at most half the kernel.

    Returns:
        out (B, H', W', C) of x's dtype; mean and biased variance of the batch, (C,) float64.

    Raises:
        RuntimeError: a shape, dtype or device is wrong, a size is 0, a channel has one value, the
            window is larger than the map, or the activation is unknown.

    Reference:
        torch.nn.functional.batch_norm and max_pool2d.
    """
    stride = kernel if stride is None else stride
    if tuple(kernel) == (1, 1) == tuple(stride) and not any(padding):
        return bn_add_relu(x, None, norm_weight, norm_bias, eps, activation)
    out, _, _, mean, variance = torch.ops.fastmte.bn_act_pool(
        x, norm_weight, norm_bias, eps, kernel, activation, stride, padding
    )
    return out, mean, variance


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance, (C,) float64, of the channels of x, which has no gradient.

    Args:
        x: (B, H, W, C) float32, bfloat16 or float64; copied unless contiguous.

    Raises:
        RuntimeError: the shape or dtype is wrong, or a size is 0.

    Reference:
        torch.var_mean with a correction of 0.
    """
    return torch.ops.fastmte.channel_moments(x)


def member_adam_(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    sizes: Tensor,
    beta1: float,
    beta2: float,
    correction: float,
    eps: float,
) -> None:
    """Make one step of Adam on a parameter whose rows move at rates of their own, in place.

    The bits are those of torch's operators one after another.

    Args:
        parameter: (R, ...) float32 or float64, changed.
        gradient: of its shape and dtype.
        exp_avg: likewise, the running mean of the gradient; changed.
        exp_avg_sq: likewise, of its square; changed.
        sizes: (R,) float64, each row's step: minus its rate, over 1 - beta1 ** steps.
        beta1: decay of ``exp_avg``.
        beta2: decay of ``exp_avg_sq``.
        correction: square root of 1 - beta2 ** steps.
        eps: added to the denominator.

    Raises:
        RuntimeError: a shape, dtype or device is wrong.

    Reference:
        Kingma and Ba 2015, "Adam", algorithm 1; torch.optim.Adam.
    """
    torch.ops.fastmte.member_adam_(
        parameter, gradient, exp_avg, exp_avg_sq, sizes, beta1, beta2, correction, eps
    )
