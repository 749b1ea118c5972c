"""A trained trunk as plain torch.nn modules without batch norms: what other engines are given."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from fastmte.crop import BANDS
from fastmte.errors import InputError
from fastmte.models import Backbone
from fastmte.models.crnn import CRNN, WIDTH
from fastmte.models.layers import Conv2d
from fastmte.models.stages import ConvStage, ResidualStage, Stage
from fastmte.plan.fold import Folded, FoldedConv, FoldedResidual, fold
from fastmte.plan.modules import Affine, Mean, PadTo, PlainConv, PlainGRU, Recurrent, Residual

_ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU}
Names = dict[Conv2d, str]


class FoldedNetwork(nn.Module):
    """K separate trunks, each of plain convolutions, poolings and activations.

    Batch norms are folded into the convolutions in float64, and poolings come before
    activations. The weights are copies, on the CPU, in float32. Submodules have the
    backbone's names, with ``/`` for its dots; the last gives features (B, D).

    Args:
        backbone: taken as it is in evaluation.
        grouped: one trunk of grouped convolutions instead, which no engine was seen to
            run as fast; not of recurrent backbones.

    Shape:
        - Input: (B, 96, F) float32 mels in dB.
        - Output: (B, K, D) float32.

    Raises:
        InputError: the backbone is neither the CRNN nor stages and the mean of their last map.
    """

    def __init__(self, backbone: Backbone, grouped: bool = False) -> None:
        super().__init__()
        self.n_members = backbone.members
        self.trunks = nn.ModuleList(
            _recurrent_trunks(backbone)
            if isinstance(backbone, CRNN)
            else _mean_trunks(backbone, self.n_members if grouped else 1)
        )
        self.requires_grad_(False)

    def forward(self, mels: Tensor) -> Tensor:
        """Return the features of every member."""
        features = [trunk(mels[:, None]) for trunk in self.trunks]
        return torch.cat(features, 1).float().view(len(mels), self.n_members, -1)

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Convolve in ``dtype`` from now on, float32 or bfloat16; features stay float32."""
        for module in self.modules():
            if isinstance(module, PlainConv):
                module.to(dtype)


def _mean_trunks(backbone: Backbone, each: int) -> Iterator[nn.Sequential]:
    """Yield trunks of ``each`` members whose features are the means of the last map."""
    stages, names = backbone.stages(), _names(backbone)
    folded = fold(stages, backbone.members)
    for k in range(0, backbone.members, each):
        trunk = _sequential(stages, [stage.of(slice(k, k + each)) for stage in folded], names)
        if k == 0 and not (stages and _is_mean(backbone, trunk)):
            raise InputError(
                f"{backbone.name} is more than convolutions and a mean, which is all that ONNX "
                "graphs and other engines are given here"
            )
        trunk.add_module("mean", Mean())
        yield trunk


@torch.no_grad()
def _is_mean(backbone: Backbone, trunk: nn.Sequential) -> bool:
    """Tell whether the backbone's summary is the mean, by trying it on a random map."""
    generator = torch.Generator().manual_seed(0)
    mels = torch.randn(1, 1, BANDS, backbone.min_frames, generator=generator)
    size = trunk(mels).shape[2:]
    maps = torch.randn(2, backbone.members, backbone.n_features, *size, generator=generator)
    summary = backbone.summary(maps.flatten(1, 2)).float()
    mean = maps.mean((3, 4))
    return summary.shape == mean.shape and torch.allclose(summary, mean, rtol=0, atol=1e-5)


def _recurrent_trunks(backbone: CRNN) -> Iterator[nn.Sequential]:
    """Yield a trunk a member that ends in GRUs."""
    blocks, names = backbone.blocks(), _names(backbone)
    folded = fold(blocks, backbone.members)
    for k in range(backbone.members):
        convolutions = _sequential(blocks, [stage.of(slice(k, k + 1)) for stage in folded], names)
        trunk = nn.Sequential()
        trunk.add_module("pad", PadTo(WIDTH))
        for name, module in convolutions.named_children():
            trunk.add_module(name, module)
        layers = [PlainGRU(gru.of(k)) for gru in (backbone.gru1, backbone.gru2)]
        trunk.add_module("gru", Recurrent(layers))
        yield trunk


def _names(backbone: Backbone) -> Names:
    return {
        module: name.replace(".", "/")
        for name, module in backbone.named_modules()
        if isinstance(module, Conv2d)
    }


def _sequential(stages: Sequence[Stage], folded: Sequence[Folded], names: Names) -> nn.Sequential:
    modules = nn.Sequential()
    for stage, weights in zip(stages, folded, strict=True):
        for name, module in _modules(stage, weights, names):
            modules.add_module(name, module)
    return modules


def _modules(stage: Stage, folded: Folded, names: Names) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(stage, ConvStage) and isinstance(folded, FoldedConv):
        yield from _conv_modules(folded, stage.conv, names[stage.conv])
    elif isinstance(stage, ResidualStage) and isinstance(folded, FoldedResidual):
        branch = _sequential(stage.branch, folded.branch, names)
        shortcut = nn.Sequential()
        if stage.shortcut is not None and folded.shortcut is not None:
            shortcut = _sequential([stage.shortcut], [folded.shortcut], names)
        last = names[stage.branch[-1].conv]
        yield f"{last}/add", Residual(branch, shortcut)
        yield f"{last}/relu", nn.ReLU()


def _conv_modules(folded: FoldedConv, conv: Conv2d, name: str) -> Iterator[tuple[str, nn.Module]]:
    if folded.affine is not None:
        yield f"{name}/norm", Affine(*folded.affine.to("cpu", torch.float32))
    # A first stage without a normalisation of its own is dense: all members read the mels.
    is_dense = folded.affine is None and conv.groups == 1
    yield name, _plain(folded, groups=1 if is_dense else folded.members)
    if folded.pool is not None:
        pool = folded.pool
        yield f"{name}/pool", nn.MaxPool2d(pool.kernel, pool.stride, pool.padding)
    if folded.activation != "none":
        yield f"{name}/{folded.activation}", _ACTIVATIONS[folded.activation]()


def _plain(folded: FoldedConv, groups: int) -> PlainConv:
    weight = folded.weight.flatten(0, 1).to("cpu", torch.float32).contiguous()
    outputs, inputs, height, width = weight.shape
    conv = nn.utils.skip_init(
        PlainConv,
        groups * inputs,
        outputs,
        (height, width),
        folded.stride,
        folded.padding,
        groups=groups,
    )
    conv.weight = nn.Parameter(weight)
    conv.bias = nn.Parameter(folded.bias.flatten().to("cpu", torch.float32))
    return conv
