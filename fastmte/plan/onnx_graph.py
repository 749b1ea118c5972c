"""An ensemble as an ONNX graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import fastmte
from fastmte.crop import BANDS
from fastmte.plan.graph import Pair, members_features
from fastmte.plan.network import FoldedNetwork

OPSET, IR_VERSION = 17, 8  # of ONNX 1.12 (2022), so that older readers take it too

Shape = Sequence[int | str]  # a name for what is of any size


class OnnxBuilder:
    """Writes nodes and constants, each under the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Write a node of one result and return the result's name."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """Write a constant and return its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def affine(self, name: str, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
        """Write a product and a sum."""
        product = self.op("Mul", f"{name}.mul", [x, self.constant(f"{name}.scale", scale)])
        return self.op("Add", name, [product, self.constant(f"{name}.shift", shift)])

    def conv(
        self, name: str, x: str, weight: np.ndarray, bias: np.ndarray, stride: Pair, padding: Pair
    ) -> str:
        """Write ``Conv``."""
        constants = [
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.bias", bias),
        ]
        window = {"kernel_shape": weight.shape[2:], "strides": stride, "pads": padding * 2}
        return self.op("Conv", name, [x, *constants], **window)

    def max_pool(self, name: str, x: str, kernel: Pair, stride: Pair, padding: Pair) -> str:
        """Write ``MaxPool``."""
        window = {"kernel_shape": kernel, "strides": stride, "pads": padding * 2}
        return self.op("MaxPool", name, [x], **window)

    def activation(self, name: str, x: str, kind: str) -> str:
        """Write ``Elu`` or ``Relu``."""
        return self.op(kind.capitalize(), name, [x])

    def add(self, name: str, x: str, y: str) -> str:
        """Write ``Add``."""
        return self.op("Add", name, [x, y])

    def mean(self, name: str, x: str) -> str:
        """Write ``GlobalAveragePool`` and ``Flatten``."""
        return self.op("Flatten", name, [self.op("GlobalAveragePool", f"{name}.map", [x])])

    def model(self, mels: Shape, output: str, shape: Shape) -> onnx.ModelProto:
        """Return the model whose input ``mels`` and output have these shapes."""
        values = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)]
            for name, dims in (("mels", mels), (output, shape))
        ]
        graph = helper.make_graph(self.nodes, "fastmte", *values, initializer=self.constants)
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="fastmte",
            producer_version=fastmte.__version__,
        )


def write_members(network: FoldedNetwork) -> tuple[OnnxBuilder, list[str]]:
    """Return a builder that has written all trunks, from ``mels`` to K features (B, D)."""
    builder = OnnxBuilder()
    axis = builder.constant("channel_axis", np.array([1]))
    channel = builder.op("Unsqueeze", "mels.channel", ["mels", axis])
    return builder, members_features(network, builder, channel)


def features_model(network: FoldedNetwork) -> onnx.ModelProto:
    """Return the graph from ``mels`` (B, 96, F), of any B and F, to ``features`` (B, K * D)."""
    builder, features = write_members(network)
    builder.op("Concat", "features", features, axis=1)
    return builder.model(["batch", BANDS, "frames"], "features", ["batch", "features"])
