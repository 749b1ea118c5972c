"""What the operators on feature maps mean; see :mod:`fastmte.reference`.

Maps lie channels last, (B, H, W, C). Those of K members lie one member after
another, (K, B, H, W, C).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmte import _checks_maps as _checks
from fastmte.packing import unpacked


def vgg_stem(
    mels: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> Tensor:
    """See :func:`fastmte.ops.vgg_stem`."""
    _checks.vgg_stem(mels, scale, shift, weight, bias, dtype)
    x = scale[:, None, None] * mels[:, None] + shift[:, None, None]  # (B, K, M, F)
    x = F.conv2d(x, weight, bias, padding=1, groups=len(scale))
    return _member_major(F.elu(F.max_pool2d(x, (2, 4))), len(scale), dtype)


def resnet_stem(
    mels: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype, members: int
) -> Tensor:
    """See :func:`fastmte.ops.resnet_stem`."""
    _checks.resnet_stem(mels, weight, bias, dtype, members)
    x = F.conv2d(mels[:, None], weight, bias, stride=2, padding=3)
    return _member_major(F.relu(F.max_pool2d(x, 3, 2, padding=1)), members, dtype)


def _member_major(x: Tensor, members: int, dtype: torch.dtype) -> Tensor:
    """Return (K, B, H, W, C) of x (B, K * C, H, W)."""
    n_batch, _, rows, columns = x.shape
    x = x.view(n_batch, members, x.size(1) // members, rows, columns)
    return x.permute(1, 0, 3, 4, 2).to(dtype).contiguous()


def pool_act(x: Tensor, pool: Sequence[int], activation: str) -> Tensor:
    """See :func:`fastmte.ops.pool_act`."""
    _checks.pool_act(x, pool, activation)
    pooled = F.max_pool2d(x.permute(0, 3, 1, 2), list(pool)).permute(0, 2, 3, 1)
    return _activated(pooled, activation).contiguous()


def _activated(x: Tensor, activation: str) -> Tensor:
    if activation == "elu":
        return F.elu(x)
    return F.relu(x) if activation == "relu" else x


def conv_pool_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    onto: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    pool: Sequence[int],
    activation: str,
) -> Tensor:
    """See :func:`fastmte.ops.conv_pool_act`."""
    _checks.conv_pool_act(x, weight, bias, onto, stride, padding, pool, activation)
    maps, kernel = x.permute(0, 3, 1, 2).float(), unpacked(weight).float()
    y = F.conv2d(maps, kernel, bias, list(stride), list(padding))
    if onto is not None:
        y = y + onto.permute(0, 3, 1, 2).float()
    y = _activated(F.max_pool2d(y, list(pool)), activation)
    return y.permute(0, 2, 3, 1).to(x.dtype).contiguous()


def residual_blocks(
    x: Tensor,
    weight: Sequence[Tensor],
    project: Sequence[Tensor],
    shortcut: Sequence[Tensor],
    bias: Sequence[Tensor],
    stride: Sequence[int],
) -> Tensor:
    """See :func:`fastmte.ops.residual_blocks`."""
    _checks.residual_blocks(x, weight, project, shortcut, bias, stride)
    maps = x.permute(0, 3, 1, 2)
    for i, step in enumerate(stride):
        kernel, point = unpacked(weight[i]).float(), unpacked(project[i]).float()
        padding = kernel.size(2) // 2, kernel.size(3) // 2
        y = F.relu(F.conv2d(maps.float(), kernel, bias[2 * i], step, padding)).to(x.dtype)
        onto = maps.float()
        if shortcut[i].numel():
            onto = F.conv2d(onto, unpacked(shortcut[i]).float(), stride=step)
        maps = F.relu(F.conv2d(y.float(), point, bias[2 * i + 1]) + onto).to(x.dtype)
    return maps.permute(0, 2, 3, 1).contiguous()
