"""What a folded network is made of, besides modules of torch.nn."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


class PlainConv(nn.Conv2d):
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


class PadTo(nn.Module):
    """Zeros on both sides of the frames, half on either, up to ``width``.

    Shape:
        - Input: (B, C, M, F), F at most ``width``.
        - Output: (B, C, M, ``width``).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def pads(self, frames: int) -> tuple[int, int]:
        """Return how many zeros go before and behind."""
        missing = self.width - frames
        return missing // 2, missing - missing // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return x between zeros."""
        return F.pad(x, self.pads(x.shape[3]))


class Mean(nn.Module):
    """The mean over the map: (B, C) of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the means."""
        return x.mean((2, 3))


class PlainGRU(nn.Module):
    """A ``torch.nn.GRU`` in evaluation that ``torch.compile`` takes; it refuses torch's own.

    Shape:
        - Input: (B, T, C).
        - Output: (B, T, D), the states; they begin at 0.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.size = gru.hidden_size
        for name, value in gru.named_parameters():
            self.register_parameter(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states."""
        start = x.new_zeros(1, len(x), self.size)
        states, _ = torch.gru(
            x,
            start,
            list(self.parameters()),
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=False,
            bidirectional=False,
            batch_first=True,
        )
        return states


class Recurrent(nn.Module):
    """The last state of GRUs, one on the other, that go along the frames, in float32.

    Shape:
        - Input: (B, C, 1, T).
        - Output: (B, D).
    """

    def __init__(self, layers: Sequence[PlainGRU]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last states."""
        states = x.float().squeeze(2).transpose(1, 2)
        for layer in self.layers:
            states = layer(states)
        return states[:, -1]
