"""Engines that are not fastmte's - OpenVINO, onnxruntime, torch.compile - as runners of a plan."""

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastmte import extras
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.plan.network import FoldedNetwork

Runner = Callable[[Tensor], Tensor]  # (B, 96, F) float32 contiguous -> (B, K, D) float32
ENGINES = ("compile", "onnx", "openvino")  # those that an extra brings have its name
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
    network = FoldedNetwork(ensemble.backbone).to(device)
    try:
        return _RUNNERS[engine](network, dtype)
    except ImportError as error:
        raise InputError(f"the engine {engine} is installed but broken: {error}") from error


def missing(engine: str) -> str:
    """Return in one line what an engine lacks here and what brings it; "" if nothing.

    Raises:
        ValueError: no such engine.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if reason := extras.missing(*extras.packages(engine)):
        return reason
    compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
    if engine == "compile" and not any(name and shutil.which(name) for name in compilers):
        return "torch.compile needs a C++ compiler, and none is on PATH"
    return ""


def _compile(network: FoldedNetwork, dtype: torch.dtype) -> Runner:
    network.set_dtype(dtype)
    compiled = torch.compile(network, fullgraph=True, dynamic=False, options={"freezing": True})

    def run(mels: Tensor) -> Tensor:
        with torch.no_grad():  # weights that may get gradients are not frozen
            return compiled(mels)

    return run


def _onnx(network: FoldedNetwork, dtype: torch.dtype) -> Runner:
    import onnxruntime  # noqa: F401  (if it is broken, it fails now and not with the first song)

    from fastmte.plan.onnx_graph import features_model, session

    sessions: dict[int, Any] = {}

    def run(mels: Tensor) -> Tensor:
        frames = mels.shape[2]
        if frames not in sessions:
            model = features_model(network, frames)
            sessions[frames] = session(model.SerializeToString())
        (features,) = sessions[frames].run(None, {"mels": mels.numpy()})
        return torch.from_numpy(features).view(len(mels), network.n_members, -1)

    return run


def _openvino(network: FoldedNetwork, dtype: torch.dtype) -> Runner:
    from fastmte.plan.openvino_graph import compiled

    models = {}

    def run(mels: Tensor) -> Tensor:
        shape = tuple(mels.shape)
        if shape not in models:  # a graph of fixed sizes is faster
            models[shape] = compiled(network, shape, dtype)
        features = torch.from_numpy(models[shape](mels.numpy())[0])
        return features.view(len(mels), network.n_members, -1)

    return run


_RUNNERS: dict[str, Callable[[FoldedNetwork, torch.dtype], Runner]] = {
    "compile": _compile,
    "onnx": _onnx,
    "openvino": _openvino,
}
