"""An ensemble as an OpenVINO graph, written operation by operation: no converter, no ONNX."""

from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13 as opset

from fastmte.plan.graph import Convolution, Gates, Pair, write_trunks
from fastmte.plan.network import FoldedNetwork

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoBuilder:
    """Makes nodes, each with the name the backbone has for it."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.songs, _, self.frames = shape

    def affine(self, name: str, x: Any, scale: np.ndarray, shift: np.ndarray) -> Any:
        """Make a product and a sum."""
        product = opset.multiply(x, opset.constant(scale), name=f"{name}.mul")
        return opset.add(product, opset.constant(shift), name=name)

    def conv(self, name: str, x: Any, conv: Convolution) -> Any:
        """Make a convolution and the sum with its bias."""
        weight, make = conv.weight, opset.convolution
        if conv.groups > 1:
            weight = weight.reshape(conv.groups, -1, *weight.shape[1:])
            make = opset.group_convolution
        window = (conv.stride, conv.padding, conv.padding, (1, 1))
        sums = make(x, opset.constant(weight), *window, name=f"{name}.conv")
        return opset.add(sums, opset.constant(conv.bias[None, :, None, None]), name=name)

    def max_pool(self, name: str, x: Any, kernel: Pair, stride: Pair, padding: Pair) -> Any:
        """Make a max-pool, without the indices that are its second result."""
        pool = opset.max_pool(x, stride, (1, 1), padding, padding, kernel, "floor", name=name)
        return pool.output(0)

    def activation(self, name: str, x: Any, kind: str) -> Any:
        """Make an ELU or a ReLU."""
        return opset.elu(x, 1.0, name=name) if kind == "elu" else opset.relu(x, name=name)

    def add(self, name: str, x: Any, y: Any) -> Any:
        """Make a sum."""
        return opset.add(x, y, name=name)

    def mean(self, name: str, x: Any) -> Any:
        """Make a mean over bands and frames."""
        return opset.reduce_mean(x, opset.constant([2, 3]), keep_dims=False, name=name)

    def pad(self, name: str, x: Any, before: int, behind: int) -> Any:
        """Make a pad."""
        sides = (opset.constant([0, 0, 0, count]) for count in (before, behind))
        return opset.pad(x, *sides, "constant", name=name)

    def sequence(self, name: str, x: Any) -> Any:
        """Make (B, T, C)."""
        rows = opset.squeeze(x, opset.constant([2]))
        return opset.transpose(rows, opset.constant([0, 2, 1]), name=name)

    def gru(self, name: str, x: Any, gru: Gates) -> Any:
        """Make a GRU's states (B, T, D)."""
        size = gru.states.shape[1]
        # The biases of update and reset enter as sums; those of new are kept apart.
        sums, new = np.split(gru.input_bias, [2 * size]), gru.state_bias[2 * size :]
        biases = np.concatenate([sums[0] + gru.state_bias[: 2 * size], sums[1], new])
        start = opset.constant(np.zeros((self.songs, 1, size), np.float32))
        n_steps = x.get_output_shape(0)[1]
        lengths = opset.constant(np.full(self.songs, n_steps, np.int32))
        constants = (opset.constant(a[None]) for a in (gru.inputs, gru.states, biases))
        layer = opset.gru_sequence(
            x, start, lengths, *constants, size, "forward", linear_before_reset=True, name=name
        )
        return opset.squeeze(layer.output(0), opset.constant([1]))

    def last(self, name: str, x: Any) -> Any:
        """Make the last of the states."""
        return opset.gather(x, opset.constant(-1), opset.constant(1), name=name)


def model(network: FoldedNetwork, shape: tuple[int, ...]) -> openvino.Model:
    """Return the graph from mels of ``shape`` (B, 96, F) to features (B, K * D)."""
    mels = opset.parameter(shape, np.float32, name="mels")
    channel = opset.unsqueeze(mels, opset.constant([1]))
    features = write_trunks(network, OpenVinoBuilder(shape), channel)
    result = opset.concat(features, 1, name="features")
    return openvino.Model([opset.result(result)], [mels], "fastmte")


def compiled(
    network: FoldedNetwork, shape: tuple[int, ...], dtype: torch.dtype
) -> openvino.CompiledModel:
    """Return the graph ready to run on as many threads as torch has."""
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    return openvino.Core().compile_model(model(network, shape), "CPU", settings)
