"""Convolutions of a folded trunk on the matrix units of the CPU, by one operator each."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fastmte import ops
from fastmte._library import has_kernel
from fastmte.packing import SIDE, packed
from fastmte.plan.fold import FoldedConv, FoldedResidual
from fastmte.plan.precision import has_bf16


class TiledConvolution:
    """A convolution, then max-pool and activation, in bfloat16, of one member.

    Args:
        stage: one that ``is_tiled``.
    """

    def __init__(self, stage: FoldedConv) -> None:
        self._weight = _packed(stage)
        self._bias = stage.bias[0].float().contiguous()
        pool = (1, 1) if stage.pool is None else stage.pool.kernel
        self._where = stage.stride, stage.padding, pool, stage.activation

    @classmethod
    def with_relu(cls, stage: FoldedConv) -> "TiledConvolution":
        """Return the last convolution of a residual block."""
        return cls(replace(stage, activation="relu"))

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """Return (B, C, H, W) channels-last of x channels-last.

        Args:
            x: the maps.
            onto: to which the convolution is added before the activation; without a pool only.
        """
        maps = None if onto is None else onto.permute(0, 2, 3, 1)
        y = ops.conv_pool_act(x.permute(0, 2, 3, 1), self._weight, self._bias, maps, *self._where)
        return y.permute(0, 3, 1, 2)


class TiledBlocks:
    """Residual blocks one after another, in bfloat16, of one member.

    Args:
        stages: those that are ``is_tiled_block``.
    """

    def __init__(self, stages: Sequence[FoldedResidual]) -> None:
        branches = [stage.branch for stage in stages]
        shortcuts = [stage.shortcut for stage in stages]
        nothing = torch.empty(0, dtype=torch.bfloat16)
        self._weights = (
            [_packed(conv) for conv, _ in branches],
            [_packed(project) for _, project in branches],
            [nothing if shortcut is None else _packed(shortcut) for shortcut in shortcuts],
        )
        self._biases = []
        for (conv, project), shortcut in zip(branches, shortcuts, strict=True):
            bias = project.bias if shortcut is None else project.bias + shortcut.bias
            self._biases += [conv.bias[0].float().contiguous(), bias[0].float().contiguous()]
        self._strides = [conv.stride[0] for conv, _ in branches]

    def __call__(self, x: Tensor) -> Tensor:
        """Return (B, C, H, W) channels-last of x channels-last."""
        maps = x.permute(0, 2, 3, 1)
        y = ops.residual_blocks(maps, *self._weights, self._biases, self._strides)
        return y.permute(0, 3, 1, 2)


def _packed(stage: FoldedConv) -> Tensor:
    return packed(stage.weight[0].to(torch.bfloat16))


def is_tiled_block(stage: FoldedResidual, dtype: torch.dtype) -> bool:
    """Tell whether a block can be one of ``TiledBlocks`` here, and is fastest so."""
    convs = [*stage.branch, *([] if stage.shortcut is None else [stage.shortcut])]
    if len(stage.branch) != 2 or not all(is_tiled(conv, dtype) for conv in convs):
        return False
    conv, project = stage.branch
    kernel = conv.weight.shape[3:]
    return (
        has_kernel("residual_blocks", "cpu")
        and conv.activation == "relu"
        and all(side % 2 == 1 for side in kernel)
        and conv.padding == (kernel[0] // 2, kernel[1] // 2)
        and conv.stride[0] == conv.stride[1]
        and _is_point(project, (1, 1))
        and (stage.shortcut is None or _is_point(stage.shortcut, conv.stride))
        and all(part.pool is None for part in convs)
    )


def _is_point(stage: FoldedConv, stride: tuple[int, int]) -> bool:
    return (*stage.weight.shape[3:], *stage.padding, *stage.stride) == (1, 1, 0, 0, *stride)


def is_tiled(stage: FoldedConv, dtype: torch.dtype) -> bool:
    """Tell whether a convolution can be a ``TiledConvolution`` here, and is fastest so."""
    return (
        stage.members == 1
        and fits_tiles("conv_pool_act", stage.weight[0], dtype)
        and (stage.pool is None or (stage.pool.is_plain and stage.pool.kernel[1] <= SIDE))
    )


def fits_tiles(operator: str, weight: Tensor, dtype: torch.dtype) -> bool:
    """Tell whether the device of weights (O, I, h, w) has matrix units, and an operator, for them.

    Args:
        operator: one that takes blocks of 32 inputs and outputs.
        weight: of one member.
        dtype: of the maps.
    """
    return (
        dtype == torch.bfloat16
        and weight.size(0) % SIDE == 0 == weight.size(1) % SIDE
        and has_kernel(operator, weight.device.type)
        and has_bf16(weight.device)
    )
