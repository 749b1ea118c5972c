"""Residual networks of one input channel: He et al.'s, and the variant of the paper's code."""

from typing import cast

from torch import Tensor, nn

from fastmte.models._registry import Backbone, register
from fastmte.models.layers import BatchNorm2d, Conv2d
from fastmte.models.stages import ConvStage, Pool, ResidualStage, Stage

CHANNELS = (64, 128, 256, 512)  # of one member, in each stage
BLOCKS_18, BLOCKS_34 = (2, 2, 2, 2), (3, 4, 6, 3)  # residual blocks in each stage


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes.

    Reference: He et al. 2016, section 4.1, option B; torchvision ``BasicBlock``.
    """

    bias = False

    def __init__(self, members: int, inputs: int, outputs: int, stride: int, first: bool) -> None:
        super().__init__()
        self.conv1 = Conv2d(members, inputs, outputs, 3, stride, bias=False)
        self.bn1 = BatchNorm2d(members, outputs)
        self.conv2 = Conv2d(members, outputs, outputs, 3, bias=False)
        self.bn2 = BatchNorm2d(members, outputs)
        self.downsample = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.downsample = _projection(members, inputs, outputs, stride, bias=False)

    def stage(self) -> ResidualStage:
        """Return what the block computes."""
        branch = (ConvStage(self.conv1, self.bn1, "relu"), ConvStage(self.conv2, self.bn2))
        return ResidualStage(branch, _shortcut(self.downsample))


class UibkBlock(nn.Module):
    """The block of the paper's code: 3x3, then 1x1, biases, every stage's first shortcut projected.

    The code also registers a 1x1 ``conv1`` and ``bn1`` in each block which it never
    calls at these depths; a conversion drops them.

    Reference: dbis-uibk/MediaEval2021, src/mediaeval2021/models/resnet.py, ``Block``.
    """

    bias = True

    def __init__(self, members: int, inputs: int, outputs: int, stride: int, first: bool) -> None:
        super().__init__()
        self.conv2 = Conv2d(members, inputs, outputs, 3, stride)
        self.bn2 = BatchNorm2d(members, outputs)
        self.conv3 = Conv2d(members, outputs, outputs, 1)
        self.bn3 = BatchNorm2d(members, outputs)
        self.identity_downsample = nn.Sequential()
        if first:
            self.identity_downsample = _projection(members, inputs, outputs, stride, bias=True)

    def stage(self) -> ResidualStage:
        """Return what the block computes."""
        branch = (ConvStage(self.conv2, self.bn2, "relu"), ConvStage(self.conv3, self.bn3))
        return ResidualStage(branch, _shortcut(self.identity_downsample))


def _projection(members: int, inputs: int, outputs: int, stride: int, bias: bool) -> nn.Sequential:
    conv = Conv2d(members, inputs, outputs, 1, stride, bias=bias)
    return nn.Sequential(conv, BatchNorm2d(members, outputs))


def _shortcut(projection: nn.Sequential) -> ConvStage | None:
    return ConvStage(*projection) if len(projection) else None


class ResNet(Backbone):
    """7x7 stem, four stages of residual blocks, mean over the map.

    The modules have torchvision's names. Any length works for the mean; fewer than
    32 frames, the network's stride, would be padding for the most part.

    Args:
        members: number of members.
        block: the residual block.
        depths: blocks in each stage.
    """

    n_features = CHANNELS[-1]
    min_frames = 32
    channels_last = True
    early_stop_patience = 30

    def __init__(
        self, members: int, block: type[BasicBlock] | type[UibkBlock], depths: tuple[int, ...]
    ) -> None:
        super().__init__(members)
        self.conv1 = Conv2d(members, 1, CHANNELS[0], 7, 2, bias=block.bias, shared_input=True)
        self.bn1 = BatchNorm2d(members, CHANNELS[0])
        inputs = CHANNELS[0]
        for i, (outputs, depth) in enumerate(zip(CHANNELS, depths, strict=True), start=1):
            stage = nn.Sequential()
            for j in range(depth):
                stride = 2 if i > 1 and j == 0 else 1
                stage.append(block(members, inputs, outputs, stride, first=j == 0))
                inputs = outputs
            self.add_module(f"layer{i}", stage)

    def stages(self) -> tuple[Stage, ...]:
        """Return the stem and the residual blocks."""
        stem = ConvStage(self.conv1, self.bn1, "relu", Pool((3, 3), (2, 2), (1, 1)))
        layers = [self.get_submodule(f"layer{i}") for i in range(1, len(CHANNELS) + 1)]
        blocks = [block for layer in layers for block in layer.children()]
        return (stem, *(cast(BasicBlock | UibkBlock, block).stage() for block in blocks))

    def summary(self, x: Tensor) -> Tensor:
        """Return (B, K, 512), the mean over the last map."""
        return x.mean((2, 3)).view(len(x), self.members, self.n_features)


def _he(members: int, depths: tuple[int, ...], origin: str) -> ResNet:
    network = ResNet(members, BasicBlock, depths)
    network.origin = origin
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.reset_kaiming()
    return network


def _uibk(members: int, depths: tuple[int, ...], origin: str) -> ResNet:
    network = ResNet(members, UibkBlock, depths)
    network.origin = origin
    return network


@register
def resnet18(members: int) -> ResNet:
    """Build He et al.'s ResNet-18."""
    return _he(members, BLOCKS_18, "He et al. 2016, ResNet-18")


@register
def resnet34(members: int) -> ResNet:
    """Build He et al.'s ResNet-34."""
    return _he(members, BLOCKS_34, "He et al. 2016, ResNet-34")


@register
def resnet18_uibk(members: int) -> ResNet:
    """Build the ResNet-18 of the paper's code."""
    return _uibk(members, BLOCKS_18, "the paper's code, ResNet-18 with 1x1 second convolutions")


@register
def resnet34_uibk(members: int) -> ResNet:
    """Build the ResNet-34 of the paper's code."""
    return _uibk(members, BLOCKS_34, "the paper's code, ResNet-34 with 1x1 second convolutions")
