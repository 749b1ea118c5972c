"""Engines that are not fastmte's - OpenVINO, onnxruntime, torch.compile - as runners of a plan."""

import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor

from fastmte import extras
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.plan.network import FoldedNetwork

Runner = Callable[[Tensor], Tensor]  # (B, 96, F) float32 contiguous -> (B, K, D) float32
_PACKAGES: dict[str, tuple[str, ...]] = {
    "compile": (),
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("openvino",),
}
ENGINES = tuple(_PACKAGES)
WITHOUT_BFLOAT16 = ("onnx",)  # on CPUs


def engine_runner(engine: str, ensemble: FusedEnsemble, dtype: torch.dtype) -> Runner:
    """Return what runs an ensemble's trunk on another engine, with the weights it has now.

    It takes as many threads as torch has now. Its features are the ensemble's but for
    rounding, which is the engine's, as is what it makes of NaN.

    Args:
        engine: one of ``ENGINES``.
        ensemble: on the CPU; for ``compile`` on any device.
        dtype: float32, or bfloat16 of engines that are not in ``WITHOUT_BFLOAT16``.

    Raises:
        InputError: the engine is not installed, or cannot run this backbone on its device.
        ValueError: no such engine, or one that does not compute in ``dtype``.
    """
    if reason := missing(engine):
        raise InputError(reason)
    if dtype not in (torch.float32, *([] if engine in WITHOUT_BFLOAT16 else [torch.bfloat16])):
        raise ValueError(f"the engine {engine} does not compute in {dtype}")
    device = ensemble.head.weight.device
    if engine != "compile" and device.type != "cpu":
        raise InputError(f"the engine {engine} runs on the CPU here, got a model on {device}")
    return _RUNNERS[engine](FoldedNetwork(ensemble.backbone).to(device), dtype)


def missing(engine: str) -> str:
    """Return in one line what an engine lacks here and what brings it; "" if nothing.

    Raises:
        ValueError: no such engine.
    """
    if engine not in _PACKAGES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if reason := extras.missing(*_PACKAGES[engine]):
        return reason
    compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
    if engine == "compile" and not any(name and shutil.which(name) for name in compilers):
        return "torch.compile needs a C++ compiler, and none is on PATH"
    return ""


def _compile(network: FoldedNetwork, dtype: torch.dtype) -> Runner:
    network.set_dtype(dtype)
    compiled = torch.compile(network, fullgraph=True, dynamic=False, options={"freezing": True})

    def run(mels: Tensor) -> Tensor:
        with torch.no_grad():  # with inference tensors nothing is frozen
            return compiled(mels)

    return run


def _onnx(network: FoldedNetwork, dtype: torch.dtype) -> Runner:
    import onnxruntime

    from fastmte.plan.onnx_graph import features_model

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    # Its idle threads would spin on the cores that torch's then need.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        features_model(network).SerializeToString(), options, ["CPUExecutionProvider"]
    )

    def run(mels: Tensor) -> Tensor:
        (features,) = session.run(None, {"mels": mels.numpy()})
        return torch.from_numpy(features).view(len(mels), len(network.members), -1)

    return run


def _openvino(network: FoldedNetwork, dtype: torch.dtype) -> Runner:
    from fastmte.plan.openvino_graph import compiled

    models = {}

    def run(mels: Tensor) -> Tensor:
        shape = tuple(mels.shape)
        if shape not in models:  # a graph of fixed sizes is faster
            models[shape] = compiled(network, shape, dtype)
        features = torch.from_numpy(models[shape](mels.numpy())[0])
        return features.view(len(mels), len(network.members), -1)

    return run


_RUNNERS: dict[str, Callable[[FoldedNetwork, torch.dtype], Runner]] = {
    "compile": _compile,
    "onnx": _onnx,
    "openvino": _openvino,
}
