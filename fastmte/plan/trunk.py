"""The folded trunk of some members, which runs a few songs at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fastmte import ops
from fastmte.models.layers import SharedInputNorm
from fastmte.models.stages import Activation, Pool, activate
from fastmte.plan.convolution import Convolution, convolution
from fastmte.plan.fold import Folded, FoldedConv, FoldedResidual
from fastmte.plan.tiled import TiledBlocks, TiledConvolution, is_tiled, is_tiled_block


class Trunk:
    """Members from the mels to their last maps, side by side in grouped convolutions.

    Args:
        stages: folded, of the members it runs; the first reads the mels.
        dtype: of maps and weights; the first stage computes in float32 unless it is float64.
    """

    def __init__(self, stages: Sequence[Folded], dtype: torch.dtype) -> None:
        first, *others = stages
        if not isinstance(first, FoldedConv):
            raise TypeError("a trunk must begin with a convolution, got a residual block")
        self._stem = _stem(first, dtype)
        self._stages = _blocks(others, dtype)

    def __call__(self, mels: Tensor) -> Tensor:
        """Return the last maps (B, K * C, H, W), channels-last, of mels (B, 96, F) float32."""
        x = self._stem(mels)
        for stage in self._stages:
            x = stage(x)
        return x


_VGG = ((3, 3), (1, 1), (1, 1), Pool((2, 4)), "elu")  # what ``ops.vgg_stem`` computes
_RESNET = ((7, 7), (2, 2), (3, 3), Pool((3, 3), (2, 2), (1, 1)), "relu")


def _stem(stage: FoldedConv, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    kernel = tuple(stage.weight.shape[3:])
    kind = kernel, stage.stride, stage.padding, stage.pool, stage.activation
    if stage.weight.shape[2] == 1 and (
        (kind == _VGG and stage.affine is not None) or (kind == _RESNET and stage.affine is None)
    ):
        return _FusedStem(stage, dtype)
    return _PlainStem(stage, dtype)


class _FusedStem:
    """The first stage of a VGG or a ResNet by one operator, which never stores the full map."""

    def __init__(self, stage: FoldedConv, dtype: torch.dtype) -> None:
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        self._dtype, self._members = dtype, stage.members
        weight = stage.weight.flatten(0, 1)
        if dtype == torch.bfloat16:  # as those of all other convolutions; half of the products
            weight = weight.to(dtype)
        self._weight = weight.to(exact).contiguous()
        self._bias = stage.bias.flatten().to(exact).contiguous()
        self._affine = None if stage.affine is None else stage.affine.to(exact).contiguous()

    def __call__(self, mels: Tensor) -> Tensor:
        """Return (B, K * C, H, W) of mels (B, 96, F)."""
        if self._affine is not None:
            factor, summand = self._affine
            maps = ops.vgg_stem(mels, factor, summand, self._weight, self._bias, self._dtype)
        else:
            maps = ops.resnet_stem(mels, self._weight, self._bias, self._dtype, self._members)
        return maps.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


class _PlainStem:
    """The first stage of any backbone, whose members share their input.

    ``w * (a x + c)`` is ``[a w, c w] * [x, 1]``: the channel of ones is padded with zeros
    like x, which keeps the border exact.
    """

    def __init__(self, stage: FoldedConv, dtype: torch.dtype) -> None:
        self._dtype, self._has_affine = dtype, stage.affine is not None
        weight = stage.weight
        if stage.affine is not None:
            factor, summand = stage.affine[:, :, None, None, None, None]
            summand = summand + SharedInputNorm.ORIGIN * factor
            weight = torch.cat([weight * factor * SharedInputNorm.SPREAD, weight * summand], 2)
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        self._conv = _convolution(weight, stage, 1, exact)
        self._after = _after(stage)

    def __call__(self, mels: Tensor) -> Tensor:
        """Return (B, K * C, H, W) of mels (B, 96, F)."""
        x = mels[:, None].to(torch.float64 if self._dtype == torch.float64 else torch.float32)
        if self._has_affine:
            x = (x - SharedInputNorm.ORIGIN) / SharedInputNorm.SPREAD
            x = torch.cat([x, torch.ones_like(x)], 1)
        x = self._conv(x.contiguous(memory_format=torch.channels_last))
        return self._after(x).to(self._dtype, memory_format=torch.channels_last)


class _ConvBlock:
    """A convolution, then pooling and activation."""

    def __init__(self, stage: FoldedConv, dtype: torch.dtype) -> None:
        self._conv: Convolution | TiledConvolution
        self._after: Callable[[Tensor], Tensor]
        if is_tiled(stage, dtype):
            self._conv, self._after = TiledConvolution(stage), _nothing
        else:
            self._conv = _convolution(stage.weight, stage, stage.members, dtype)
            self._after = _after(stage)

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """Return (B, K * C, H, W); ``onto`` as for a convolution."""
        return self._after(self._conv(x, onto))


class _ResidualBlock:
    """A branch added to a shortcut, which the last convolution overwrites."""

    def __init__(self, stage: FoldedResidual, dtype: torch.dtype) -> None:
        *branch, last = stage.branch
        self._branch = [_ConvBlock(conv, dtype) for conv in branch]
        self._shortcut = None if stage.shortcut is None else _ConvBlock(stage.shortcut, dtype)
        self._last: Convolution | TiledConvolution
        if is_tiled(last, dtype):
            self._last = TiledConvolution.with_relu(last)
        else:
            self._last = _convolution(last.weight, last, last.members, dtype, is_relu=True)

    def __call__(self, x: Tensor) -> Tensor:
        """Return (B, K * C, H, W); x is overwritten."""
        y = x
        for conv in self._branch:
            y = conv(y)
        if self._shortcut is not None:
            return self._last(y, self._shortcut(x))
        return self._last(y, x if self._branch else x.clone(memory_format=torch.preserve_format))


def _blocks(stages: Sequence[Folded], dtype: torch.dtype) -> list[Callable[[Tensor], Tensor]]:
    """Return what runs the stages; residual blocks that can be run together are."""
    blocks: list[Callable[[Tensor], Tensor]] = []
    tiled: list[FoldedResidual] = []
    for stage in stages:
        if isinstance(stage, FoldedResidual) and is_tiled_block(stage, dtype):
            tiled.append(stage)
            continue
        if tiled:
            blocks.append(TiledBlocks(tiled))
            tiled = []
        blocks.append(_block(stage, dtype))
    return [*blocks, TiledBlocks(tiled)] if tiled else blocks


def _block(stage: Folded, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    if isinstance(stage, FoldedResidual):
        return _ResidualBlock(stage, dtype)
    return _ConvBlock(stage, dtype)


def _convolution(
    weight: Tensor, stage: FoldedConv, groups: int, dtype: torch.dtype, is_relu: bool = False
) -> Convolution:
    return convolution(
        weight.flatten(0, 1).to(dtype),
        stage.bias.flatten().to(dtype),
        stage.stride,
        stage.padding,
        groups,
        is_relu or _is_fused_relu(stage),
    )


def _is_fused_relu(stage: FoldedConv) -> bool:
    return stage.activation == "relu" and stage.pool is None


def _after(stage: FoldedConv) -> Callable[[Tensor], Tensor]:
    """Return what follows a stage's convolution; the activation does not if it is part of it."""
    activation = "none" if _is_fused_relu(stage) else stage.activation
    return _After(stage.pool, activation)


def _nothing(x: Tensor) -> Tensor:
    return x


class _After:
    """Max-pool, then activation: none falls, so their order is free and there is less to do."""

    def __init__(self, pool: Pool | None, activation: Activation) -> None:
        self._pool, self._activation = pool, activation

    def __call__(self, x: Tensor) -> Tensor:
        """Return the maps after it; x may be overwritten."""
        if self._pool is None:
            return activate(x, self._activation)
        if self._pool.is_plain:
            x = x.permute(0, 2, 3, 1).contiguous()
            return ops.pool_act(x, self._pool.kernel, self._activation).permute(0, 3, 1, 2)
        return activate(self._pool(x), self._activation)
