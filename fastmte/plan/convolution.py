"""One convolution of channels-last maps, by the fastest way this torch has on the device."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# oneDNN's own ReLU turns NaN into 0. Its leaky one keeps NaN, and in float32 as in bfloat16 a
# slope this small is 0 to every sum it enters.
_LEAKY_RELU: tuple[Any, ...] = ("leaky_relu", [1e-20], "")
_NOTHING: tuple[Any, ...] = ("none", [], "")
_PROBE_ERRORS = (AttributeError, RuntimeError)  # no such operator; not on this CPU


class Convolution:
    """A convolution with a bias and perhaps ReLU, by torch. NaN survives the ReLU.

    Args:
        weight: (O, I, h, w), on the device and of the dtype it is used in.
        bias: (O,) likewise.
        stride: over (bands, frames).
        padding: zeros on every side.
        groups: of channels that do not mix.
        is_relu: ends in ReLU.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
        is_relu: bool,
    ) -> None:
        self._weight = weight.contiguous(memory_format=torch.channels_last)
        self._bias = bias.contiguous()
        self._where = [*padding], [*stride], [1, 1], groups
        self._is_relu = is_relu

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """Return (B, O, H, W) channels-last of x (B, I, H, W) channels-last.

        Args:
            x: the maps.
            onto: (B, O, H, W) to which the convolution is added, before the ReLU; overwritten.
        """
        padding, stride, dilation, groups = self._where
        y = F.conv2d(x, self._weight, self._bias, stride, padding, dilation, groups)
        if onto is not None:
            y = onto.add_(y)
        return y.relu_() if self._is_relu else y


class PackedConvolution(Convolution):
    """The same by oneDNN, its weights laid out once: by operators that torch keeps private."""

    _is_packed = False

    def __call__(self, x: Tensor, onto: Tensor | None = None) -> Tensor:
        """As ``Convolution``."""
        if not self._is_packed:  # the layout depends on the maps' size
            self._weight = torch.ops.mkldnn._reorder_convolution_weight(
                self._weight, *self._where, list(x.shape)
            )
            self._is_packed = True
        if onto is None:
            after = _LEAKY_RELU if self._is_relu else _NOTHING
            return torch.ops.mkldnn._convolution_pointwise(
                x, self._weight, self._bias, *self._where, *after
            )
        y = torch.ops.mkldnn._convolution_pointwise_.binary(
            onto, x, self._weight, self._bias, *self._where, "add", 1.0, None, [], None
        )
        return y.relu_() if self._is_relu else y


def convolution(
    weight: Tensor,
    bias: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    groups: int,
    is_relu: bool,
) -> Convolution:
    """Return the fastest convolution there is; arguments as of ``Convolution``."""
    kind = PackedConvolution if is_packable(weight.device, weight.dtype) else Convolution
    return kind(weight, bias, stride, padding, groups, is_relu)


def is_packable(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether torch has prepacked convolutions of this dtype there, and right ones."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and _passes(dtype)


@cache
def _passes(dtype: torch.dtype) -> bool:
    """Try, once a process, all that is asked of a packed convolution."""
    generator = torch.Generator().manual_seed(0)
    x, weight, onto = (
        torch.randn(shape, generator=generator).to(dtype, memory_format=torch.channels_last)
        for shape in ((2, 16, 5, 6), (32, 16, 3, 3), (2, 32, 5, 6))
    )
    x[1, 3, 2, 2] = torch.nan
    expected = F.conv2d(x.float(), weight.float(), padding=1)
    zeros = torch.zeros(32, dtype=dtype)
    with torch.inference_mode():
        conv = PackedConvolution(weight, zeros, (1, 1), (1, 1), 1, is_relu=True)
        try:
            results = conv(x), conv(x, onto.clone())
        except _PROBE_ERRORS:
            return False
    tolerance = 1e-4 if dtype == torch.float32 else 0.25
    return all(
        torch.allclose(got.float(), right.relu(), rtol=0, atol=tolerance, equal_nan=True)
        for got, right in zip(results, (expected, expected + onto.float()), strict=True)
    )
