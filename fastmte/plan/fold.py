"""A trunk for inference: batch norms folded into the convolutions, pooling before activation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastmte.models.layers import BatchNorm2d, SharedInputNorm
from fastmte.models.stages import Activation, ConvStage, Pool, ResidualStage, Stage


@dataclass(frozen=True, eq=False)
class FoldedConv:
    """A convolution, then a max-pool and an activation, of K members.

    Attributes:
        weight: (K, O, I, h, w) float64.
        bias: (K, O) float64.
        stride: over (bands, frames).
        padding: zeros on every side, over (bands, frames).
        pool: None for none.
        activation: applied last.
        affine: (2, K) float64, None except in a first stage: each member's factor and summand
            that normalise the mels. They stay apart from the convolution, whose padding
            is zeros of normalised mels.
    """

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    pool: Pool | None = None
    activation: Activation = "none"
    affine: Tensor | None = None

    @property
    def members(self) -> int:
        """Number of members, K."""
        return len(self.weight)

    def of(self, members: slice) -> "FoldedConv":
        """Return the convolution of some members only."""
        affine = None if self.affine is None else self.affine[:, members]
        return replace(self, weight=self.weight[members], bias=self.bias[members], affine=affine)


@dataclass(frozen=True, eq=False)
class FoldedResidual:
    """A branch of convolutions, added to a shortcut, then ReLU.

    Attributes:
        branch: in their order; the last has neither pool nor activation.
        shortcut: a projection; None for the input itself.
    """

    branch: tuple[FoldedConv, ...]
    shortcut: FoldedConv | None = None

    def of(self, members: slice) -> "FoldedResidual":
        """Return the block of some members only."""
        shortcut = None if self.shortcut is None else self.shortcut.of(members)
        return FoldedResidual(tuple(conv.of(members) for conv in self.branch), shortcut)


Folded = FoldedConv | FoldedResidual


@torch.no_grad()
def fold(stages: Sequence[Stage], members: int) -> tuple[Folded, ...]:
    """Return the stages as they are in evaluation, with copies of their weights.

    Args:
        stages: of a backbone.
        members: number of its members, K.
    """
    return tuple(_folded(stage, members) for stage in stages)


def _folded(stage: Stage, members: int) -> Folded:
    if isinstance(stage, ResidualStage):
        branch = tuple(_conv(conv, members) for conv in stage.branch)
        shortcut = None if stage.shortcut is None else _conv(stage.shortcut, members)
        return FoldedResidual(branch, shortcut)
    return _conv(stage, members)


def _conv(stage: ConvStage, members: int) -> FoldedConv:
    conv = stage.conv
    factor, summand = _affine(stage.norm)
    weight = conv.weight.double() * factor[:, None, None, None]
    if conv.bias is not None:
        summand = summand + conv.bias.double() * factor
    return FoldedConv(
        weight.unflatten(0, (members, -1)),
        summand.view(members, -1),
        (conv.stride[0], conv.stride[1]),
        (int(conv.padding[0]), int(conv.padding[1])),
        stage.pool,
        stage.activation,
        None if stage.input_norm is None else torch.stack(_affine(stage.input_norm)),
    )


def _affine(norm: BatchNorm2d | SharedInputNorm) -> tuple[Tensor, Tensor]:
    """Return what a normalisation in evaluation multiplies by and then adds, (C,) float64."""
    factor = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    return factor, norm.bias.double() - norm.running_mean.double() * factor
