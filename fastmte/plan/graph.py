"""A folded network as a graph of named operations, in whatever language a builder writes."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from fastmte.plan.modules import Affine, Mean, PadTo, Recurrent, Residual
from fastmte.plan.network import FoldedNetwork

Pair = tuple[int, int]


@dataclass(frozen=True)
class Convolution:
    """The numbers of a convolution.

    Attributes:
        weight: (O, I / groups, h, w) float32.
        bias: (O,) float32.
        stride: over (bands, frames).
        padding: zeros on every side.
        groups: of channels that do not mix.
    """

    weight: np.ndarray
    bias: np.ndarray
    stride: Pair
    padding: Pair
    groups: int


@dataclass(frozen=True)
class Gates:
    """The numbers of a GRU whose reset gate is applied behind its product, as torch's.

    Attributes:
        inputs: (3 * D, C) float32 for update, reset and new.
        states: (3 * D, D) likewise.
        input_bias: (3 * D,) likewise.
        state_bias: (3 * D,) likewise.
    """

    inputs: np.ndarray
    states: np.ndarray
    input_bias: np.ndarray
    state_bias: np.ndarray


class Builder(Protocol):
    """What writes operations; every method returns the value the operation gives.

    Attributes:
        frames: of the mels.
    """

    frames: int

    def affine(self, name: str, x: Any, scale: np.ndarray, shift: np.ndarray) -> Any:
        """Write ``scale * x + shift`` with factors (1, C, 1, 1)."""

    def conv(self, name: str, x: Any, conv: Convolution) -> Any:
        """Write a convolution with a bias."""

    def max_pool(self, name: str, x: Any, kernel: Pair, stride: Pair, padding: Pair) -> Any:
        """Write a max-pool that leaves out what does not fill a window."""

    def activation(self, name: str, x: Any, kind: str) -> Any:
        """Write ``"elu"`` or ``"relu"``."""

    def add(self, name: str, x: Any, y: Any) -> Any:
        """Write a sum."""

    def pad(self, name: str, x: Any, before: int, behind: int) -> Any:
        """Write zeros around the frames."""

    def mean(self, name: str, x: Any) -> Any:
        """Write the mean over the map, (B, C)."""

    def sequence(self, name: str, x: Any) -> Any:
        """Write the map (B, C, 1, T) in the order that ``gru`` takes."""

    def gru(self, name: str, x: Any, gru: Gates) -> Any:
        """Write a GRU that begins at 0; its states are in the order it takes."""

    def last(self, name: str, x: Any) -> Any:
        """Write the last of a GRU's states, (B, D)."""


def write_trunks(network: FoldedNetwork, builder: Builder, mels: Any) -> list[Any]:
    """Write every trunk and return its features: K values (B, D), or one (B, K * D) if grouped.

    Args:
        network: the trunks.
        builder: what writes.
        mels: the value that holds mels (B, 1, 96, F).
    """
    prefixes = [f"member_{k}" for k in range(len(network.trunks))]
    if len(prefixes) < network.n_members:
        prefixes = ["members"]
    features = []
    for prefix, trunk in zip(prefixes, network.trunks, strict=True):
        features.append(_chain(trunk, builder, mels, prefix))
    return features


def _chain(modules: nn.Module, builder: Builder, x: Any, prefix: str) -> Any:
    for path, module in modules.named_children():
        x = _one(f"{prefix}.{path.replace('/', '.')}", module, builder, x, prefix)
    return x


def _one(name: str, module: nn.Module, builder: Builder, x: Any, prefix: str) -> Any:
    match module:
        case Affine():
            scale, shift = (_array(v)[None, :, None, None] for v in (module.scale, module.shift))
            return builder.affine(name, x, scale, shift)
        case nn.Conv2d():
            weight, bias = (_array(parameter) for parameter in module.parameters())
            where = _pair(module.stride), _pair(module.padding), module.groups
            return builder.conv(name, x, Convolution(weight, bias, *where))
        case nn.MaxPool2d():
            sizes = (module.kernel_size, module.stride, module.padding)
            return builder.max_pool(name, x, *(_pair(size) for size in sizes))
        case nn.ELU() | nn.ReLU():
            return builder.activation(name, x, type(module).__name__.lower())
        case Residual():
            sides = (_chain(side, builder, x, prefix) for side in (module.branch, module.shortcut))
            return builder.add(name, *sides)
        case PadTo():
            return builder.pad(name, x, *module.pads(builder.frames))
        case Mean():
            return builder.mean(name, x)
        case Recurrent():
            x = builder.sequence(f"{name}.sequence", x)
            for i, layer in enumerate(module.layers, start=1):
                x = builder.gru(f"{name}.{i}", x, _gates(layer))
            return builder.last(name, x)
    raise TypeError(f"{name}: no operation for {type(module).__name__}")


def _gates(layer: nn.Module) -> Gates:
    """Return a GRU's numbers; torch has the reset gate first."""
    arrays = (_array(parameter) for parameter in layer.parameters())
    thirds = (np.split(array, 3) for array in arrays)
    return Gates(*(np.concatenate([update, reset, new]) for reset, update, new in thirds))


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _pair(size: Any) -> Pair:
    height, width = size
    return height, width
