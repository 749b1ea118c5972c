"""What the members of an ensemble share of a training batch: they all see the same mels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmte import training_ops as ops
from fastmte.models.stages import ConvStage, Pool
from fastmte.synchronised import input_moments

_VGG_STEM = ((3, 3), (1, 1), "elu", Pool((2, 4)))  # what ``ops.vgg_stem_train`` computes


@dataclass(frozen=True)
class SharedInput:
    """A batch as a first stage reads it, made once for all members.

    Attributes:
        count: values of the mels, B * 96 * F, with those of other processes.
        mean: (1,) float64, of the mels; None without a normalisation of the input.
        variance: (1,) float64, biased; likewise.
        x: (B, 96, F) the mels as a VGG's stem reads them; None for others.
        moments: of x, as ``ops.patch_moments``; likewise.
        patches: (B, H, W, I * h * w) what each point of another convolution reads, so that
            one matrix product is the convolution: oneDNN's, of one channel, is several
            times as slow. None for a VGG's stem.
    """

    count: int
    mean: Tensor | None
    variance: Tensor | None
    x: Tensor | None
    moments: tuple[Tensor, Tensor] | None
    patches: Tensor | None


def shared_input(stage: ConvStage, mels: Tensor, dtype: torch.dtype) -> SharedInput:
    """Return what members share of mels (B, 96, F), patches of ``dtype``."""
    exchange = stage.norm.exchange
    count, mean, variance = mels.numel(), None, None
    x = mels
    if stage.input_norm is not None:
        mean, variance, count = input_moments(mels, exchange)
        scale = torch.rsqrt(variance + stage.input_norm.eps)
        x = (mels - mean.to(mels.dtype)) * scale.to(mels.dtype)
    if is_vgg_stem(stage):
        moments = ops.patch_moments(x)
        if exchange is not None:
            moments = exchange.moments(*moments)
        return SharedInput(count, mean, variance, x, moments, None)
    # As ``layers.normalised_conv``: a channel of ones takes what is added to the mels.
    channels = [x] if stage.input_norm is None else [x, torch.ones_like(x)]
    patches = _patches(torch.stack(channels, 1).to(dtype), stage)
    return SharedInput(count, mean, variance, None, None, patches)


def is_vgg_stem(stage: ConvStage) -> bool:
    """Return whether ``ops.vgg_stem_train`` computes this stage."""
    shape = stage.conv.kernel_size, stage.conv.stride, stage.activation, stage.pool
    return stage.input_norm is not None and shape == _VGG_STEM


def _patches(x: Tensor, stage: ConvStage) -> Tensor:
    """Return the patches of x (B, I, M, F) in the order of a weight's taps."""
    (height, width), (down, right) = stage.conv.kernel_size, stage.conv.stride
    top, left = int(stage.conv.padding[0]), int(stage.conv.padding[1])
    padded = F.pad(x, (left, left, top, top))
    patches = padded.unfold(2, height, down).unfold(3, width, right)  # (B, I, H, W, h, w)
    return patches.permute(0, 2, 3, 1, 4, 5).flatten(3)
