"""A backbone small enough to train in a test."""

import torch.nn.functional as F
from torch import Tensor

from fastmte.models import _registry
from fastmte.models.layers import BatchNorm2d, Conv2d, SharedInputNorm, normalised_conv


class Tiny(_registry.Backbone):
    """The kinds of layers there are, in a network of 300 weights."""

    origin = "these tests"
    n_features = 6
    min_frames = 4
    dropout = 0.3
    channels_last = True
    early_stop_patience = 4

    def __init__(self, members: int) -> None:
        super().__init__(members)
        self.norm = SharedInputNorm(members)
        # A bias before batch norm has no gradient but rounding, which Adam blows up to 1e-10.
        self.conv1 = Conv2d(members, 1, 4, 3, 2, bias=False, shared_input=True)
        self.bn1 = BatchNorm2d(members, 4)
        self.conv2 = Conv2d(members, 4, 6, 3, 2, bias=False)
        self.bn2 = BatchNorm2d(members, 6)

    def features(self, x: Tensor) -> Tensor:
        x = F.elu(self.bn1(normalised_conv(x, self.norm, self.conv1)))
        x = F.elu(self.bn2(self.conv2(x)))
        return x.mean((2, 3)).view(len(x), self.members, self.n_features)
