"""Convolutions of a folded trunk on the matrix units of the CPU, by one operator each."""

from dataclasses import replace

import torch
from torch import Tensor

from fastmte import ops
from fastmte._library import has_kernel
from fastmte.packing import SIDE, packed
from fastmte.plan.fold import FoldedConv
from fastmte.plan.precision import has_bf16


class TiledConvolution:
    """A convolution, then max-pool and activation, in bfloat16, of one member.

    Args:
        stage: one that ``is_tiled``.
    """

    def __init__(self, stage: FoldedConv) -> None:
        self._weight = packed(stage.weight[0].to(torch.bfloat16))
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


def is_tiled(stage: FoldedConv, dtype: torch.dtype) -> bool:
    """Tell whether a convolution can be a ``TiledConvolution`` here, and is fastest so."""
    device = stage.weight.device
    outputs, inputs = stage.weight.shape[1:3]
    return (
        dtype == torch.bfloat16
        and device.type == "cpu"
        and has_bf16(device)
        and has_kernel("conv_pool_act", "cpu")
        and stage.members == 1
        and outputs % SIDE == 0
        and inputs % SIDE == 0
        and (stage.pool is None or (stage.pool.is_plain and stage.pool.kernel[1] <= SIDE))
    )
