"""Batch norm over the songs of several processes, by operators that know only their own songs.

Gradients of parameters are those of a process's own songs, to be added up; those of maps
already hold what the statistics owe to the other processes' songs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fastmte import training_ops as ops
from fastmte.exchange import Exchange


def input_moments(x: Tensor, exchange: Exchange | None) -> tuple[Tensor, Tensor, int]:
    """Return mean and biased variance (1,) float64 of all values of all mels, and their number.

    Sums go row by row: then the number of threads does not change their order.

    Args:
        x: (B, M, F), this process's.
        exchange: None for a process alone.
    """
    values = x.double()
    mean = values.sum(2).sum(1).sum(0, keepdim=True) / values.numel()
    square = (values - mean).square_().sum(2).sum(1).sum(0, keepdim=True) / values.numel()
    if exchange is None:
        return mean, square, values.numel()
    return *exchange.moments(mean, square), exchange.count(values.numel())


def own_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, exchange: Exchange, dim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the batch norm of all songs as one of this process's songs.

    With m, s of this process and M, S of all,
    ``w (x - M) / S + b = (w s / S) (x - m) / s + (b + w (m - M) / S)``: operators that know
    only their own statistics, given the weights and biases in brackets, return what the norm
    of all songs does.

    Args:
        x: a map of this process's songs, of 4 dimensions.
        weight: (C,), of the norm of all songs.
        bias: (C,), likewise.
        eps: added to variances, also by the operator.
        exchange: the processes.
        dim: of the channels, 1 or 3.

    Returns:
        x, weight and bias for the operator; mean and biased variance (C,) float64 of all songs.
    """
    return _OwnNorm.apply(x, weight, bias, eps, exchange, dim)  # type: ignore[no-untyped-call]


class _OwnNorm(torch.autograd.Function):
    """Backward, the operator's gradients are those of its own norm.

    Those of weight and bias, D = sum g (x - m) / s and G = sum g, give sum g (x - M) / S; and
    what that of x lacks is a line in x.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        exchange: Exchange,
        dim: int,
    ) -> tuple[Tensor, ...]:
        own_mean, own_variance = _moments(x, dim)
        mean, variance = exchange.moments(own_mean, own_variance)
        own_sigma, sigma = (own_variance + eps).sqrt(), (variance + eps).sqrt()
        gain = weight.double() / sigma
        ctx.exchange, ctx.dim = exchange, dim
        ctx.save_for_backward(x, own_mean, own_sigma, mean, sigma, gain)
        ctx.mark_non_differentiable(mean, variance)
        own_bias = bias.double() + gain * (own_mean - mean)
        return x, (gain * own_sigma).to(weight.dtype), own_bias.to(bias.dtype), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dx: Tensor, of_weight: Tensor, dbias: Tensor, *_: Any) -> tuple:
        x, own_mean, own_sigma, mean, sigma, gain = ctx.saved_tensors
        own = torch.stack([dbias.double(), of_weight.double()])
        dweight = (own_sigma * own[1] + (own_mean - mean) * own[0]) / sigma
        whole = ctx.exchange.of_batch(torch.stack([own[0], dweight]))
        n_own = x.numel() // x.size(ctx.dim)
        own /= n_own
        whole /= ctx.exchange.count(n_own)
        of_x = own[1] / own_sigma - whole[1] / sigma
        constant = own[0] - whole[0] + whole[1] * mean / sigma - own[1] * own_mean / own_sigma
        dx = _with_line(dx, x, gain * constant, gain * of_x, ctx.dim)
        return dx, dweight.to(of_weight.dtype), dbias, None, None, None


def _moments(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance (C,) float64 of the channels of x."""
    if dim == 3:
        return ops.channel_moments(x)
    wide = x if x.dtype == torch.float64 else x.float()
    variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
    return mean.double(), variance.double()


def _with_line(dx: Tensor, x: Tensor, constant: Tensor, of_x: Tensor, dim: int) -> Tensor:
    """Return ``dx + constant + of_x * x``, the factors (C,) along the channels."""
    wide = torch.float64 if dx.dtype == torch.float64 else torch.float32
    shape = [-1 if i == dim else 1 for i in range(4)]
    constant, of_x = constant.to(wide).view(shape), of_x.to(wide).view(shape)
    return torch.addcmul(constant, x.to(wide), of_x).add_(dx).to(dx.dtype)
