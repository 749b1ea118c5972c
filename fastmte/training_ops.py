"""The operators of training, with their gradients; see :mod:`fastmte.ops`.

Maps lie channels last, (B, H, W, C), float32 or bfloat16 with float32 parameters,
or all float64. Batch statistics are float64. There is no numba tier: without the
native library these are plain torch, which is compiled itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmte import _checks_training as _checks
from fastmte import reference_training as reference
from fastmte._library import OPERATORS, define

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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    sizes = [(x.size(1 + i) + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
    shape = (x.size(0), *sizes, x.size(3))
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.uint8), *_fake_statistics(x)


def _fake_bn_act_pool_backward(
    gradient: Tensor, x: Tensor, out: Tensor, argmax: Tensor, weight: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _fake_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    shape = (x.size(3),)
    return x.new_empty(shape, dtype=torch.float64), x.new_empty(shape, dtype=torch.float64)


def _fake_patch_products(x: Tensor) -> Tensor:
    return x.new_empty((9, 9), dtype=torch.float64)


def _fake_vgg_stem_argmax(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    n_members = scale.size(0)
    channels = weight.size(0) // n_members
    shape = (n_members, x.size(0), x.size(1) // 2, x.size(2) // 4, channels)
    return x.new_empty(shape, dtype=dtype), x.new_empty(shape, dtype=torch.uint8)


def _fake_vgg_stem_sums(gradient: Tensor, out: Tensor, argmax: Tensor, x: Tensor) -> Tensor:
    return x.new_empty((out.size(0) * out.size(4), 19), dtype=torch.float64)


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
    "str activation, int[] stride, int[] padding) -> (Tensor, Tensor, Tensor, Tensor)",
    reference.bn_act_pool,
    _fake_bn_act_pool,
    has_numba=False,
    has_cuda=False,
)
define(
    "bn_act_pool_backward(Tensor gradient, Tensor x, Tensor out, Tensor argmax, "
    "Tensor norm_weight, Tensor mean, Tensor variance, float eps, int[] kernel, str activation, "
    "int[] stride, int[] padding) -> (Tensor, Tensor, Tensor)",
    reference.bn_act_pool_backward,
    _fake_bn_act_pool_backward,
    has_numba=False,
    has_cuda=False,
)
define(
    "patch_products(Tensor x) -> Tensor",
    reference.patch_products,
    _fake_patch_products,
    has_numba=False,
    has_cuda=False,
)
define(
    "vgg_stem_argmax(Tensor x, Tensor scale, Tensor shift, Tensor weight, Tensor bias, "
    "ScalarType dtype) -> (Tensor, Tensor)",
    reference.vgg_stem_argmax,
    _fake_vgg_stem_argmax,
    has_numba=False,
    has_cuda=False,
)
define(
    "vgg_stem_sums(Tensor gradient, Tensor out, Tensor argmax, Tensor x) -> Tensor",
    reference.vgg_stem_sums,
    _fake_vgg_stem_sums,
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
    ctx.mark_non_differentiable(mean, variance)


def _bn_add_relu_gradients(ctx: Any, gradient: Tensor, *_: Any) -> tuple:
    x, out, weight, mean, variance = ctx.saved_tensors
    dx, dresidual, dweight, dbias = torch.ops.fastmte.bn_add_relu_backward(
        gradient, x, out, weight, mean, variance, ctx.eps, ctx.activation, ctx.has_residual
    )
    return dx, dresidual if ctx.has_residual else None, dweight, dbias, None, None


def _keep_bn_act_pool(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, _, ctx.eps, ctx.kernel, ctx.activation, ctx.stride, ctx.padding = inputs
    out, argmax, mean, variance = output
    ctx.save_for_backward(x, out, argmax, weight, mean, variance)
    ctx.mark_non_differentiable(argmax, mean, variance)


def _bn_act_pool_gradients(ctx: Any, gradient: Tensor, *_: Any) -> tuple:
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

    Differentiable in x, norm_weight and norm_bias. Keeps x, the result and one byte a window.
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
    out, _, mean, variance = torch.ops.fastmte.bn_act_pool(
        x, norm_weight, norm_bias, eps, kernel, activation, stride, padding
    )
    return out, mean, variance


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


def patch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of the patches a 3x3 convolution of x with padding 1 sees.

    A patch is the 9 values around a point, 0 outside the map, then 9 ones, 0 outside. The
    covariances are those of all convolutions of x and of a constant: batch statistics of a
    first layer follow from them without its output.

    Args:
        x: (B, M, F) float32 or float64.

    Returns:
        mean (18,) and covariance (18, 18) over the B * M * F points, float64.
    """
    n_songs, bands, frames = x.shape
    rows, columns = _seen(bands, x.device), _seen(frames, x.device)
    whole = torch.stack(
        [x.sum(0, dtype=torch.float64), n_songs * x.new_ones(bands, frames).double()]
    )
    # Of x and of ones: the sum over the points where patch values i and j are both in the map.
    sums = torch.einsum("yza,sab,xwb->syxzw", rows, whole, columns).reshape(2, 9, 9)
    products = x.new_empty((18, 18), dtype=torch.float64)
    products[:9, :9] = torch.ops.fastmte.patch_products(x)
    products[:9, 9:], products[9:, :9], products[9:, 9:] = sums[0], sums[0].T, sums[1]
    products /= x.numel()
    mean = products[:, 13].clone()  # with the one in a patch's middle, which is never outside
    return mean, products - torch.outer(mean, mean)


def _seen(size: int, device: torch.device) -> Tensor:
    """Return (3, 3, size): 1 where patch value i lies, if value j of that patch is inside too."""
    at = torch.arange(size, device=device)
    offset = torch.arange(-1, 2, device=device)
    middle = at - offset[:, None, None]  # of the patch, (3, 1, size)
    other = middle + offset[:, None]
    inside = (middle >= 0) & (middle < size) & (other >= 0) & (other < size)
    return inside.double()


def vgg_stem_train(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    mean: Tensor,
    covariance: Tensor,
    eps: float = 1e-5,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the VGG's first block of all members as in training, with its batch statistics.

    ``ELU(maxpool_2x4(batch_norm(conv3x3(scale * x + shift))))``. The map before pooling exists
    nowhere: its statistics follow from those of the patches, and its gradients from sums over
    the windows. Differentiable in scale, shift, weight, norm_weight and norm_bias, not in x. A
    bias of the convolution has no effect before batch norm, but on the mean, which the caller
    adds.

    Args:
        x: (B, M, F) float32 or float64, the input all members share.
        scale: (K,) of x's dtype.
        shift: (K,); the border of zeros is outside of ``scale * x + shift``.
        weight: (K * C, 1, 3, 3).
        norm_weight: (K * C,).
        norm_bias: (K * C,).
        mean: (18,) float64, of ``patch_moments(x)``.
        covariance: (18, 18) float64, likewise.
        eps: added to the variance.
        dtype: of the result: x's, or bfloat16 for float32.

    Returns:
        out (K, B, M // 2, F // 4, C); mean and biased variance, (K * C,) float64.

    Raises:
        RuntimeError: a shape, dtype or device is wrong, or x requires a gradient.
    """
    _checks.vgg_stem_train(x, scale, shift, weight, norm_weight, norm_bias, mean, covariance)
    arguments = (x, scale, shift, weight, norm_weight, norm_bias, mean, covariance, eps, dtype)
    return _VggStem.apply(*arguments)  # type: ignore[no-untyped-call]


class _VggStem(torch.autograd.Function):
    """With phi a patch and theta = [scale w, shift w], the convolution is y = theta . phi.

    Batch mean and variance are theta . E and theta' Cov theta. Of the sums over windows (see
    ``vgg_stem_sums``) S = sum g phi - (sum g) E, the centred one, is all that gradients need:
    dgamma = theta . S / sigma, and dtheta = gamma / sigma (S - dgamma / sigma Cov theta).
    The half of S that belongs to the ones is a difference of small sums over the border, not
    of large ones over the map, which would leave no digit of the gradients of scale and shift.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        x, scale, shift, weight, norm_weight, norm_bias, mean, covariance, eps, dtype = arguments
        taps = weight.double().view(len(scale), -1, 9)  # (K, C, 9)
        theta = torch.cat(
            [scale.double()[:, None, None] * taps, shift.double()[:, None, None] * taps], 2
        )
        batch_mean = theta @ mean  # (K, C)
        variance = ((theta @ covariance) * theta).sum(2).clamp_min(0)
        sigma = (variance + eps).sqrt()
        gain = norm_weight.double().view_as(sigma) / sigma
        folded = (gain[..., None] * taps).view_as(weight).to(weight.dtype)
        offset = (norm_bias.double().view_as(sigma) - gain * batch_mean).flatten()
        out, argmax = torch.ops.fastmte.vgg_stem_argmax(
            x, scale, shift, folded, offset.to(weight.dtype), dtype
        )
        ctx.save_for_backward(x, scale, shift, weight, gain, sigma, mean, covariance, out, argmax)
        batch_mean, variance = batch_mean.flatten(), variance.flatten()
        ctx.mark_non_differentiable(batch_mean, variance)
        return out, batch_mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple:
        x, scale, shift, weight, gain, sigma, mean, covariance, out, argmax = ctx.saved_tensors
        sums = torch.ops.fastmte.vgg_stem_sums(gradients[0], out, argmax, x)
        sums = sums.view(*sigma.shape, 19)
        total = sums[..., 18:]
        # E of the ones is 1 less their share outside the map, which the rounding of 1 would blur.
        centred = torch.cat(
            [sums[..., :9] - total * mean[:9], total * (1 - mean[9:]) - sums[..., 9:18]], 2
        )
        taps = weight.double().view(len(scale), -1, 9)
        a, c = scale.double()[:, None, None], shift.double()[:, None, None]
        theta = torch.cat([a * taps, c * taps], 2)
        dgamma = (theta * centred).sum(2) / sigma
        dtheta = gain[..., None] * (centred - (dgamma / sigma)[..., None] * (theta @ covariance))
        of_x, of_ones = dtheta.split(9, 2)
        like = weight.dtype
        return (
            None,
            (taps * of_x).sum((1, 2)).to(like),
            (taps * of_ones).sum((1, 2)).to(like),
            (a * of_x + c * of_ones).view_as(weight).to(like),
            dgamma.flatten().to(like),
            total.flatten().to(like),
            None,
            None,
            None,
            None,
        )
