"""An ensemble as an ONNX graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

import fastmte
from fastmte.crop import BANDS
from fastmte.plan.graph import Convolution, Gates, Pair, write_trunks
from fastmte.plan.network import FoldedNetwork

OPSET, IR_VERSION = 17, 8  # of ONNX 1.12 (2022), so that older readers take it too

Shape = Sequence[int | str]  # a name for what is of any size


class OnnxBuilder:
    """Writes nodes and constants, each under the name of its result."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def op(self, kind: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Write a node of one result and return the result's name."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        """Write a constant and return its name."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def affine(self, name: str, x: str, scale: np.ndarray, shift: np.ndarray) -> str:
        """Write a product and a sum."""
        product = self.op("Mul", f"{name}.mul", [x, self.constant(f"{name}.scale", scale)])
        return self.op("Add", name, [product, self.constant(f"{name}.shift", shift)])

    def conv(self, name: str, x: str, conv: Convolution) -> str:
        """Write ``Conv``."""
        weight = self.constant(f"{name}.weight", conv.weight)
        bias = self.constant(f"{name}.bias", conv.bias)
        window = {
            "kernel_shape": conv.weight.shape[2:],
            "strides": conv.stride,
            "pads": conv.padding * 2,
            "group": conv.groups,
        }
        return self.op("Conv", name, [x, weight, bias], **window)

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

    def pad(self, name: str, x: str, before: int, behind: int) -> str:
        """Write ``Pad``."""
        pads = self.constant(f"{name}.pads", np.array([0, 0, 0, before, 0, 0, 0, behind]))
        return self.op("Pad", name, [x, pads])

    def mean(self, name: str, x: str) -> str:
        """Write ``GlobalAveragePool`` and ``Flatten``."""
        return self.op("Flatten", name, [self.op("GlobalAveragePool", f"{name}.map", [x])])

    def sequence(self, name: str, x: str) -> str:
        """Write ``Squeeze`` and ``Transpose`` to (T, B, C)."""
        rows = self.op("Squeeze", f"{name}.rows", [x, self.constant(f"{name}.axis", np.array([2]))])
        return self.op("Transpose", name, [rows], perm=[2, 0, 1])

    def gru(self, name: str, x: str, gru: Gates) -> str:
        """Write ``GRU`` and ``Squeeze``: (T, B, D)."""
        biases = np.concatenate([gru.input_bias, gru.state_bias])
        arrays = {"inputs": gru.inputs, "states": gru.states, "biases": biases}
        constants = [self.constant(f"{name}.{key}", value[None]) for key, value in arrays.items()]
        size = {"hidden_size": gru.states.shape[1], "linear_before_reset": 1}
        states = self.op("GRU", f"{name}.directions", [x, *constants], **size)
        axis = self.constant(f"{name}.axis", np.array([1]))
        return self.op("Squeeze", name, [states, axis])

    def last(self, name: str, x: str) -> str:
        """Write ``Gather``."""
        return self.op("Gather", name, [x, self.constant(f"{name}.index", np.array(-1))], axis=0)

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


def write_mels_to_features(network: FoldedNetwork, frames: int) -> tuple[OnnxBuilder, list[str]]:
    """Return a builder that has written all trunks from ``mels`` on, and their features."""
    builder = OnnxBuilder(frames)
    axis = builder.constant("channel_axis", np.array([1]))
    channel = builder.op("Unsqueeze", "mels.channel", ["mels", axis])
    return builder, write_trunks(network, builder, channel)


def features_model(network: FoldedNetwork, frames: int) -> onnx.ModelProto:
    """Return the graph from ``mels`` (B, 96, ``frames``), of any B, to ``features`` (B, K * D)."""
    builder, features = write_mels_to_features(network, frames)
    builder.op("Concat", "features", features, axis=1)
    return builder.model(["batch", BANDS, frames], "features", ["batch", "features"])


def session(model: bytes) -> Any:
    """Return an ``onnxruntime.InferenceSession`` on the CPU, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # Its idle threads would spin on the cores that torch's then need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
