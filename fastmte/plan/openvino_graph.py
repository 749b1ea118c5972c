"""An ensemble as an OpenVINO graph, written operation by operation: no converter, no ONNX."""

from typing import Any

import numpy as np
import openvino
import torch
from openvino import opset13 as opset

from fastmte.plan.graph import Pair, members_features
from fastmte.plan.network import FoldedNetwork

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class OpenVinoBuilder:
    """Makes nodes, each with the name the backbone has for it."""

    def affine(self, name: str, x: Any, scale: np.ndarray, shift: np.ndarray) -> Any:
        """Make a product and a sum."""
        product = opset.multiply(x, opset.constant(scale), name=f"{name}.mul")
        return opset.add(product, opset.constant(shift), name=name)

    def conv(
        self, name: str, x: Any, weight: np.ndarray, bias: np.ndarray, stride: Pair, padding: Pair
    ) -> Any:
        """Make a convolution and the sum with its bias."""
        sums = opset.convolution(
            x, opset.constant(weight), stride, padding, padding, (1, 1), name=f"{name}.conv"
        )
        return opset.add(sums, opset.constant(bias[None, :, None, None]), name=name)

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


def model(network: FoldedNetwork, shape: tuple[int, ...]) -> openvino.Model:
    """Return the graph from mels of ``shape`` (B, 96, F) to features (B, K * D)."""
    mels = opset.parameter(shape, np.float32, name="mels")
    channel = opset.unsqueeze(mels, opset.constant([1]))
    features = members_features(network, OpenVinoBuilder(), channel)
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
