"""What a backbone's trunk is made of: the one description that its module and its plans run."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from fastmte.models.layers import BatchNorm2d, Conv2d, SharedInputNorm, normalised_conv

Activation = Literal["elu", "relu", "none"]


@dataclass(frozen=True)
class Pool:
    """A max-pool over (bands, frames); without ``stride`` its windows do not overlap."""

    kernel: tuple[int, int]
    stride: tuple[int, int] | None = None
    padding: tuple[int, int] = (0, 0)

    @property
    def is_plain(self) -> bool:
        """Whether its windows lie side by side from the first value on."""
        return self.stride is None and self.padding == (0, 0)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the largest values of (B, C, H, W)."""
        return F.max_pool2d(x, self.kernel, self.stride, self.padding)


@dataclass(frozen=True, eq=False)
class ConvStage:
    """Convolution, batch norm, max-pool and activation.

    Both activations never fall, so they may follow the pooling, where there is less to do;
    a plan may apply them in either order.

    Attributes:
        conv: of all members.
        norm: of its outputs.
        activation: applied last.
        pool: None for none.
        input_norm: the members' normalisation of the input they share, if this is the
            first stage and there is one.
    """

    conv: Conv2d
    norm: BatchNorm2d
    activation: Activation = "none"
    pool: Pool | None = None
    input_norm: SharedInputNorm | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return (B, K * C, H, W) of the stage before, or of mels (B, 1, 96, F)."""
        if self.input_norm is None:
            x = self.conv(x)
        else:
            x = normalised_conv(x, self.input_norm, self.conv)
        x = self.norm(x)
        if self.pool is not None:
            x = self.pool(x)
        return activate(x, self.activation)


@dataclass(frozen=True, eq=False)
class ResidualStage:
    """A branch of stages, added to a shortcut, then ReLU.

    Attributes:
        branch: in their order; the last has no activation of its own.
        shortcut: a projection; None for the input itself.
    """

    branch: tuple[ConvStage, ...]
    shortcut: ConvStage | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return (B, K * C, H, W) of the stage before."""
        y = x
        for stage in self.branch:
            y = stage(y)
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


Stage = ConvStage | ResidualStage


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Return the activation of x, which it overwrites."""
    if activation == "elu":
        return F.elu(x, inplace=True)
    if activation == "relu":
        return F.relu(x, inplace=True)
    return x
