"""What the operators of training mean; see :mod:`fastmte.reference`.

Maps lie channels last, (B, H, W, C). Statistics are float64 for every dtype.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

from fastmte import _checks_training as _checks
from fastmte.packing import packed

Pair = Sequence[int]


def bn_add_relu(
    x: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`fastmte.training_ops.bn_add_relu`."""
    _checks.bn_add_relu(x, residual, norm_weight, norm_bias, activation)
    mean, variance = _statistics(x)
    y = _normalised(x, mean, variance, norm_weight, norm_bias, eps)
    if residual is not None:
        y = y + residual.to(y.dtype)
    return _activated(y, activation).to(x.dtype).contiguous(), mean, variance


def bn_add_relu_backward(
    gradient: Tensor,
    x: Tensor,
    out: Tensor,
    norm_weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    activation: str,
    has_residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of x, the residual (empty unless it has one), weight and bias."""
    _checks.bn_add_relu_backward(gradient, x, out, norm_weight, mean, variance, activation)
    before = _before_activation(gradient, out, activation)
    sums = _gradient_sums(before, _wide(x), mean)
    dx, dweight, dbias = _norm_gradients(before, x, sums, norm_weight, mean, variance, eps)
    dresidual = before.to(x.dtype) if has_residual else x.new_empty((0, *x.shape[1:]))
    return dx, dresidual, dweight, dbias


def bn_act_pool(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    kernel: Pair,
    activation: str,
    stride: Pair,
    padding: Pair,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`fastmte.training_ops.bn_act_pool`.

    Its third and second output are the x that won each window, and the point where it lies.
    """
    _checks.bn_act_pool(x, norm_weight, norm_bias, kernel, activation, stride, padding)
    mean, variance = _statistics(x)
    y = _normalised(x, mean, variance, norm_weight, norm_bias, eps).permute(0, 3, 1, 2)
    pooled, index = F.max_pool2d(y, list(kernel), list(stride), list(padding), return_indices=True)
    first = _origins(pooled.shape[2:], stride, padding, x.device)
    row, column = index // x.size(2) - first[0], index % x.size(2) - first[1]
    argmax = (row * kernel[1] + column).to(torch.uint8)
    out = _activated(pooled, activation).to(x.dtype)
    winner = x.permute(0, 3, 1, 2).flatten(2).gather(2, index.flatten(2)).view(index.shape)
    return _last(out), _last(argmax), _last(winner), mean, variance


def bn_act_pool_backward(
    gradient: Tensor,
    x: Tensor,
    out: Tensor,
    argmax: Tensor,
    winner: Tensor,
    norm_weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
    kernel: Pair,
    activation: str,
    stride: Pair,
    padding: Pair,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias."""
    _checks.bn_act_pool_backward(
        *(gradient, x, out, argmax, winner, norm_weight, mean, variance),
        *(kernel, activation, stride, padding),
    )
    pooled = _before_activation(gradient, out, activation)
    first = _origins(out.shape[1:3], stride, padding, x.device)
    point = argmax.long().permute(0, 3, 1, 2)
    index = (point // kernel[1] + first[0]) * x.size(2) + point % kernel[1] + first[1]
    index = index.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H' W', C)
    before = pooled.new_zeros((x.size(0), x.size(1) * x.size(2), x.size(3)))
    before = before.scatter_add(1, index, pooled.flatten(1, 2)).view(x.shape)
    sums = _gradient_sums(pooled, _wide(winner), mean)
    return _norm_gradients(before, x, sums, norm_weight, mean, variance, eps)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`fastmte.training_ops.channel_moments`."""
    _checks.channel_moments(x)
    return _statistics(x)


def patch_products(x: Tensor) -> Tensor:
    """Return the sums (9, 9) float64, over all points of x, of products of values around a point.

    Values outside the map (B, M, F) are 0.
    """
    _checks.patch_products(x)
    sums = x.new_zeros((9, 9), dtype=torch.float64)
    for song in x:  # a song at a time: the patches are nine times as large, and float64
        patches = F.unfold(F.pad(song.double(), (1, 1, 1, 1))[None, None], 3)[0]
        sums += patches @ patches.T
    return sums


def vgg_stem_argmax(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the stem's pooled maps (K, B, M // 2, F // 4, C) and the point that won each window.

    Arguments as :func:`fastmte.training_ops.vgg_stem_train`, the norm folded into weight and
    bias (K * C,).
    """
    _checks.vgg_stem_argmax(x, scale, shift, weight, bias, dtype)
    n_members = scale.size(0)
    outs, points = [], []
    for k in range(n_members):
        w, b = weight.chunk(n_members)[k], bias.chunk(n_members)[k]
        y = F.conv2d((scale[k] * x + shift[k])[:, None], w, None, padding=1)
        pooled, index = F.max_pool2d(y, (2, 4), return_indices=True)
        first = _origins(pooled.shape[2:], (2, 4), (0, 0), x.device)
        row, column = index // y.size(3) - first[0], index % y.size(3) - first[1]
        outs.append(_last(F.elu(pooled + b[:, None, None]).to(dtype)))
        points.append(_last((row * 4 + column).to(torch.uint8)))
    return torch.stack(outs), torch.stack(points)


def vgg_stem_sums(gradient: Tensor, out: Tensor, argmax: Tensor, x: Tensor) -> Tensor:
    """Return what the stem's gradients follow from, (K * C, 19) float64.

    With g the gradient before the ELU and p the point that won, sums over all windows: of
    g times x at each of the 9 points around p, 0 outside the map; of g where that point is
    outside; and of g.
    """
    _checks.vgg_stem_sums(gradient, out, argmax, x)
    n_members, n_songs, n_rows, n_columns, n_channels = out.shape
    around = F.unfold(F.pad(x.double(), (1, 1, 1, 1))[:, None], 3)  # (B, 9, M F)
    outside = 1 - F.unfold(F.pad(torch.ones_like(x[:1]).double(), (1, 1, 1, 1))[:, None], 3)
    first = _origins((n_rows, n_columns), (2, 4), (0, 0), x.device)
    winner = argmax.long().permute(0, 1, 4, 2, 3)  # (K, B, C, H, W)
    index = (winner // 4 + first[0]) * x.size(2) + winner % 4 + first[1]
    g = _before_activation(gradient, out, "elu").double().permute(0, 1, 4, 2, 3).flatten(3)
    sums = g.new_zeros((n_members, n_channels, 19))
    for song in range(n_songs):
        at = index[:, song].flatten(2)  # (K, C, H W)
        for tap in range(9):
            sums[:, :, tap] += (g[:, song] * around[song, tap][at]).sum(2)
            sums[:, :, 9 + tap] += (g[:, song] * outside[0, tap][at]).sum(2)
        sums[:, :, 18] += g[:, song].sum(2)
    return sums.flatten(0, 1)


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
    """See :func:`fastmte.training_ops.member_adam_`."""
    _checks.member_adam_(parameter, gradient, exp_avg, exp_avg_sq, sizes)
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # The order of operations is torch's, so that the results are its bits.
    denominator = exp_avg_sq.sqrt().div_(correction).add_(eps)
    rows = sizes.to(parameter).view(-1, *[1] * (parameter.dim() - 1))
    parameter.addcdiv_(exp_avg * rows, denominator)


def _wide(x: Tensor) -> Tensor:
    """Return x in the precision it is computed in."""
    return x if x.dtype == torch.float64 else x.float()


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    # In one order of memory, whose values torch adds in one order: the same bits for any strides.
    variance, mean = torch.var_mean(x.contiguous().double(), (0, 1, 2), correction=0)
    return mean, variance


def _normalised(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    wide = _wide(x)
    gain, centre = weight.double() / (variance + eps).sqrt(), mean.to(wide.dtype)
    # The mean's rounding counts where it is large beside the deviation.
    offset = (bias - (mean - centre) * gain).to(wide.dtype)
    return (wide - centre) * gain.to(wide.dtype) + offset


def _activated(x: Tensor, activation: str) -> Tensor:
    if activation == "elu":
        return F.elu(x)
    return F.relu(x) if activation == "relu" else x


def _before_activation(gradient: Tensor, out: Tensor, activation: str) -> Tensor:
    """Return the gradient before an activation that returned ``out``."""
    g, y = _wide(gradient), _wide(out)
    if activation == "elu":
        return torch.where(y <= 0, g * (y + 1), g)
    return torch.where(y <= 0, 0, g) if activation == "relu" else g


def _origins(
    size: Pair, stride: Pair, padding: Pair, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the row (H', 1) and the column (W',) at which each window begins."""
    rows = torch.arange(size[0], device=device) * stride[0] - padding[0]
    return rows[:, None], torch.arange(size[1], device=device) * stride[1] - padding[1]


def _gradient_sums(g: Tensor, x: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sums (C,) of g and of g (x - mean), float64."""
    g = g.double()
    dims = list(range(g.dim() - 1))
    return g.sum(dims), (g * (x.double() - mean)).sum(dims)


def _norm_gradients(
    g: Tensor,
    x: Tensor,
    sums: tuple[Tensor, Tensor],
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return batch norm's gradients of x, weight and bias; g is that of its output."""
    n = x.numel() // x.size(-1)
    scale = (variance + eps).rsqrt()
    dbias, dweight = sums[0], sums[1] * scale
    of_g = weight.double() * scale
    of_x, constant = -of_g * scale * dweight / n, -of_g * dbias / n
    wide = g.dtype
    centre = mean.to(wide)
    constant = (constant - of_x * (mean - centre)).to(wide)
    dx = g * of_g.to(wide) + ((_wide(x) - centre) * of_x.to(wide) + constant)
    return dx.to(x.dtype), dweight.to(weight.dtype), dbias.to(weight.dtype)


def map_conv_weights(
    gradient: Tensor, x: Tensor, kernel: Pair, stride: Pair, padding: Pair
) -> Tensor:
    """Return the gradient (O, h, w, I) float32 of weights; see ``training_conv.map_conv``."""
    _checks.map_conv_weights(gradient, x, kernel, stride, padding)
    shape = gradient.size(3), x.size(3), *kernel
    g, x = gradient.permute(0, 3, 1, 2).float(), x.permute(0, 3, 1, 2).float()
    dweight = conv2d_weight(x, shape, g, list(stride), list(padding))
    return dweight.permute(0, 2, 3, 1).contiguous()


def map_conv_pack(weight: Tensor) -> tuple[Tensor, Tensor]:
    """See :func:`fastmte.training_conv.map_conv_pack`."""
    _checks.map_conv_pack(weight)
    plain = weight.permute(0, 3, 1, 2).to(torch.bfloat16)
    return packed(plain), packed(plain.transpose(0, 1).flip(2, 3))
