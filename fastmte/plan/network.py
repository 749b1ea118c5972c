"""A trained trunk as plain torch.nn modules without batch norms: what other engines are given."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastmte.errors import InputError
from fastmte.models import Backbone
from fastmte.models.layers import BatchNorm2d, SharedInputNorm
from fastmte.models.stages import ConvStage, Stage

_ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU}
Named = Iterator[tuple[str, nn.Module]]


class Affine(nn.Module):
    """``scale * x + shift``, in float32 whatever follows: mels in dB lose too much in less.

    Args:
        scale: (C,) float32, one factor an output channel.
        shift: (C,) float32.

    Shape:
        - Input: (B, 1, M, F).
        - Output: (B, C, M, F).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """Return every channel's map."""
        return x * self.scale[:, None, None] + self.shift[:, None, None]


class FoldedConv(nn.Conv2d):
    """A convolution in the dtype of its weights, whatever its input's."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x."""
        return super().forward(x.to(self.weight.dtype))


class Residual(nn.Module):
    """``branch(x) + shortcut(x)``; a shortcut without modules is x itself."""

    def __init__(self, branch: nn.Sequential, shortcut: nn.Sequential) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return self.branch(x) + self.shortcut(x)


class FoldedNetwork(nn.Module):
    """K separate trunks, each of plain convolutions, poolings and activations.

    Batch norms are folded into the convolutions in float64, and poolings come before
    activations. The weights are copies, on the CPU, in float32. Submodules have the
    backbone's names, with ``/`` for its dots.

    Args:
        backbone: taken as it is in evaluation.

    Shape:
        - Input: (B, 96, F) float32 mels in dB.
        - Output: (B, K, D) float32.

    Raises:
        InputError: the backbone is more than stages and the mean of their last map.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        names = {id(module): name.replace(".", "/") for name, module in backbone.named_modules()}
        self.members = nn.ModuleList(
            _sequential(_modules(backbone.stages(), k, names)) for k in range(backbone.members)
        )
        self.requires_grad_(False)
        if not backbone.stages() or not self._ends_in_a_mean(backbone):
            raise InputError(
                f"{backbone.name} is more than convolutions and a mean, which is all that ONNX "
                "graphs and other engines are given here"
            )

    def forward(self, mels: Tensor) -> Tensor:
        """Return the features of every member."""
        features = [member(mels[:, None]).mean((2, 3)) for member in self.members]
        return torch.stack(features, 1).float()

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Compute in ``dtype`` from now on, float32 or bfloat16; features stay float32."""
        for module in self.modules():
            if isinstance(module, FoldedConv):
                module.to(dtype)

    @torch.no_grad()
    def _ends_in_a_mean(self, backbone: Backbone) -> bool:
        """Tell whether the backbone's summary is the mean, by trying it on a random map."""
        generator = torch.Generator().manual_seed(0)
        mels = torch.randn(1, 1, 96, backbone.min_frames, generator=generator)
        shape = self.members[0](mels).shape[1:]
        maps = torch.randn(2, len(self.members), *shape, generator=generator)
        summary = backbone.summary(maps.flatten(1, 2)).float()
        mean = maps.mean((3, 4))
        return summary.shape == mean.shape and torch.allclose(summary, mean, rtol=0, atol=1e-5)


def _sequential(named: Named) -> nn.Sequential:
    modules = nn.Sequential()
    for name, module in named:
        modules.add_module(name, module)
    return modules


def _modules(stages: tuple[Stage, ...], member: int, names: dict[int, str]) -> Named:
    for stage in stages:
        if isinstance(stage, ConvStage):
            yield from _conv_modules(stage, member, names[id(stage.conv)])
            continue
        shortcut = () if stage.shortcut is None else (stage.shortcut,)
        last = names[id(stage.branch[-1].conv)]
        sides = [_sequential(_modules(side, member, names)) for side in (stage.branch, shortcut)]
        yield f"{last}/add", Residual(*sides)
        yield f"{last}/relu", nn.ReLU()


def _conv_modules(stage: ConvStage, member: int, name: str) -> Named:
    if stage.input_norm is not None:
        yield f"{name}/norm", _input_affine(stage.input_norm, member)
    yield name, _folded_conv(stage, member)
    if stage.pool is not None:
        pool = stage.pool
        yield f"{name}/pool", nn.MaxPool2d(pool.kernel, pool.stride, pool.padding)
    if stage.activation != "none":
        yield f"{name}/{stage.activation}", _ACTIVATIONS[stage.activation]()


def _input_affine(norm: SharedInputNorm, member: int) -> Affine:
    scale, shift = _factors(norm)
    rows = slice(member, member + 1)
    return Affine(scale[rows].float(), shift[rows].float())


@torch.no_grad()
def _folded_conv(stage: ConvStage, member: int) -> FoldedConv:
    """Return one member's convolution with the batch norm that follows it."""
    conv = stage.conv
    scale, shift = _factors(stage.norm)
    weight = conv.weight.double() * scale[:, None, None, None]
    bias = shift if conv.bias is None else conv.bias.double() * scale + shift
    outputs = conv.out_channels // conv.members
    rows = slice(member * outputs, (member + 1) * outputs)
    folded = nn.utils.skip_init(
        FoldedConv, weight.shape[1], outputs, conv.kernel_size, conv.stride, conv.padding
    )
    folded.weight = nn.Parameter(weight[rows].to("cpu", torch.float32).contiguous())
    folded.bias = nn.Parameter(bias[rows].to("cpu", torch.float32))
    return folded


@torch.no_grad()
def _factors(norm: BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return what a batch norm in evaluation multiplies by and adds, (C,) float64 each."""
    scale = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.double() - norm.running_mean.double() * scale
