"""The operators of a VGG's first block in training, which never writes its map.

They belong to :mod:`fastmte.training_ops`, which has their names too.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmte import _checks_training as _checks
from fastmte import reference_training as reference
from fastmte._library import define


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
        ctx.set_materialize_grads(False)
        batch_mean, variance = batch_mean.flatten(), variance.flatten()
        ctx.mark_non_differentiable(batch_mean, variance)
        return out, batch_mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple:
        if gradients[0] is None:
            return (None,) * 10
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
