"""A folded network as a graph of named operations, in whatever language a builder writes."""

from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from fastmte.plan.network import Affine, FoldedNetwork, Residual

Pair = tuple[int, int]


class Builder(Protocol):
    """What writes operations; every method returns the value the operation gives."""

    def affine(self, name: str, x: Any, scale: np.ndarray, shift: np.ndarray) -> Any:
        """Write ``scale * x + shift`` with factors (1, C, 1, 1)."""

    def conv(
        self, name: str, x: Any, weight: np.ndarray, bias: np.ndarray, stride: Pair, padding: Pair
    ) -> Any:
        """Write a convolution; ``padding`` goes on both sides."""

    def max_pool(self, name: str, x: Any, kernel: Pair, stride: Pair, padding: Pair) -> Any:
        """Write a max-pool that leaves out what does not fill a window."""

    def activation(self, name: str, x: Any, kind: str) -> Any:
        """Write ``"elu"`` or ``"relu"``."""

    def add(self, name: str, x: Any, y: Any) -> Any:
        """Write a sum."""

    def mean(self, name: str, x: Any) -> Any:
        """Write the mean over the map, (B, C)."""


def members_features(network: FoldedNetwork, builder: Builder, mels: Any) -> list[Any]:
    """Write every member's trunk and return its features (B, D), K values.

    Args:
        network: the trunks.
        builder: what writes.
        mels: the value that holds mels (B, 1, 96, F).
    """
    features = []
    for k, member in enumerate(network.members):
        x = _chain(member, builder, mels, f"member_{k}")
        features.append(builder.mean(f"member_{k}.mean", x))
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
            return builder.conv(name, x, weight, bias, _pair(module.stride), _pair(module.padding))
        case nn.MaxPool2d():
            sizes = (module.kernel_size, module.stride, module.padding)
            return builder.max_pool(name, x, *(_pair(size) for size in sizes))
        case nn.ELU() | nn.ReLU():
            return builder.activation(name, x, type(module).__name__.lower())
        case Residual():
            sides = (_chain(side, builder, x, prefix) for side in (module.branch, module.shortcut))
            return builder.add(name, *sides)
    raise TypeError(f"{name}: no operation for {type(module).__name__}")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy()


def _pair(size: Any) -> Pair:
    height, width = size
    return height, width
