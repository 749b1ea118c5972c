"""A small backbone of every kind of stage, and the same network in plain torch.nn."""

import torch
from torch import Tensor, nn

from fastmte.models import _registry
from fastmte.models.layers import BatchNorm2d, Conv2d, SharedInputNorm
from fastmte.models.stages import ConvStage, Pool, ResidualStage, Stage

CHANNELS = 8, 12  # of a member


class Staged(_registry.Backbone):
    """A VGG's stem or one of another stride, an overlapping pool, and two residual blocks."""

    origin = "these tests"
    channels = CHANNELS
    n_features = CHANNELS[1]
    min_frames = 8
    dropout = 0.3
    early_stop_patience = 3
    stride = 1

    def __init__(self, members: int) -> None:
        super().__init__(members)
        narrow, wide = self.channels
        self.bn_init = SharedInputNorm(members)
        self.conv_1 = Conv2d(members, 1, narrow, 3, self.stride, shared_input=True)
        self.bn_1 = BatchNorm2d(members, narrow)
        self.conv_2 = Conv2d(members, narrow, narrow, 3)
        self.bn_2 = BatchNorm2d(members, narrow)
        self.conv_3 = Conv2d(members, narrow, wide, 3, 2)
        self.bn_3 = BatchNorm2d(members, wide)
        self.conv_4 = Conv2d(members, wide, wide, 1)
        self.bn_4 = BatchNorm2d(members, wide)
        self.conv_s = Conv2d(members, narrow, wide, 1, 2, bias=False)
        self.bn_s = BatchNorm2d(members, wide)
        self.conv_5 = Conv2d(members, wide, wide, 3, bias=False)
        self.bn_5 = BatchNorm2d(members, wide)

    def stages(self) -> tuple[Stage, ...]:
        narrow = Pool((3, 3), (2, 2), (1, 1))
        branch = ConvStage(self.conv_3, self.bn_3, "elu"), ConvStage(self.conv_4, self.bn_4)
        return (
            ConvStage(self.conv_1, self.bn_1, "elu", Pool((2, 4)), self.bn_init),
            ConvStage(self.conv_2, self.bn_2, "relu", narrow),
            ResidualStage(branch, ConvStage(self.conv_s, self.bn_s)),
            ResidualStage((ConvStage(self.conv_5, self.bn_5),)),
        )

    def summary(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)).view(len(x), self.members, self.n_features)


class Strided(Staged):
    """Its stem is none that an operator computes as a whole."""

    stride = 2


class Wide(Staged):
    """Of as many channels as the matrix units of CPUs take at once."""

    channels = 32, 64
    n_features = 64


class Plain(nn.Module):
    """One member, of no line of fastmte's."""

    def __init__(self, n_labels: int, stride: int = 1) -> None:
        super().__init__()
        narrow, wide = CHANNELS
        self.bn_init, self.bn_1 = nn.BatchNorm2d(1), nn.BatchNorm2d(narrow)
        self.conv_1 = nn.Conv2d(1, narrow, 3, stride, 1)
        self.conv_2, self.bn_2 = nn.Conv2d(narrow, narrow, 3, 1, 1), nn.BatchNorm2d(narrow)
        self.conv_3, self.bn_3 = nn.Conv2d(narrow, wide, 3, 2, 1), nn.BatchNorm2d(wide)
        self.conv_4, self.bn_4 = nn.Conv2d(wide, wide, 1), nn.BatchNorm2d(wide)
        self.conv_s, self.bn_s = nn.Conv2d(narrow, wide, 1, 2, bias=False), nn.BatchNorm2d(wide)
        self.conv_5, self.bn_5 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False), nn.BatchNorm2d(wide)
        self.head = nn.Linear(wide, n_labels)

    def forward(self, mels: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return logits; ``kept`` are the factors of dropout, (B, D)."""
        elu, pool = nn.functional.elu, nn.functional.max_pool2d
        x = pool(elu(self.bn_1(self.conv_1(self.bn_init(mels[:, None])))), (2, 4))
        x = pool(self.bn_2(self.conv_2(x)).relu(), 3, 2, 1)
        y = self.bn_4(self.conv_4(elu(self.bn_3(self.conv_3(x)))))
        x = (y + self.bn_s(self.conv_s(x))).relu()
        x = (self.bn_5(self.conv_5(x)) + x).relu().mean((2, 3))
        return self.head(x if kept is None else x * kept)


def plain_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of an ensemble of one member as ``Plain`` names it."""
    scalars = "num_batches_tracked"
    return {
        name.removeprefix("backbone."): value[0] if name.endswith(scalars) else value
        for name, value in state.items()
    }


def without_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a plain state with the biases in front of batch norms taken out of its means.

    Batch norm takes such a bias away again, so its gradient is 0: all that torch computes
    is rounding, which Adam, dividing by its size, blows up to steps of the learning rate. The
    bias then wanders and the running mean with it; their difference is what matters.
    """
    state = dict(state)
    for name in [name for name in state if name.startswith("conv_") and name.endswith(".bias")]:
        mean = name.replace("conv_", "bn_").replace(".bias", ".running_mean")
        state[mean] = state[mean] - state.pop(name)
    return state


@torch.no_grad()
def randomise(state: dict[str, Tensor], seed: int = 0) -> None:
    """Give normalisations factors, some negative, and statistics that are not 1 and 0."""
    random = torch.Generator().manual_seed(seed)
    for name, value in state.items():
        if "bn_" in name and name.endswith("weight"):
            value.uniform_(-1.5, 1.5, generator=random)
        elif "bn_" in name and name.endswith(("bias", "running_mean")):
            value.normal_(0, 0.3, generator=random)
