"""Registers the operators of ``torch.ops.fastmte`` on the fastest tier there is.

An operator is a schema and its reference, which every device can run. A faster
tier only adds kernels of the same name: *native* (compiled from ``csrc/``),
*numba*, or none. The tier is chosen once, before anything is registered, so no
other module asks what was built or where a tensor lies.
"""

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from fastmte._tiers import build_note, choose, find, lacks, requested, speak

OPERATORS = torch.library.Library("fastmte", "FRAGMENT")


def define(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    has_numba: bool = True,
    has_cuda: bool = True,
) -> None:
    """Register the operator ``schema`` on the tier chosen for this process.

    Args:
        schema: torch's schema text, ``"name(Tensor x) -> Tensor"``.
        reference: what the operator means; runs on every device without a kernel.
        fake: returns outputs of the right shape, dtype and device without data.
        has_numba: whether ``fastmte._kernels`` has it; the numba tier runs the others' reference.
        has_cuda: whether it is to have a CUDA kernel; a reference in its place is then no fault.
    """
    name = schema.partition("(")[0]
    OPERATORS.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    OPERATORS.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastmte::{name}", fake, lib=OPERATORS)
    tiers = {"cpu": "reference"}
    if _LOADED.tier == "native":
        if _has_kernel(name, "CPU"):
            tiers["cpu"] = "native"
        else:
            _LOADED.miss(name)
    elif _LOADED.kernels is not None and has_numba:
        OPERATORS.impl(name, getattr(_LOADED.kernels, name.replace(".", "_")), "CPU")
        tiers["cpu"] = "numba"
    if _LOADED.libraries["cuda"] and _has_kernel(name, "CUDA"):
        tiers["cuda"] = "native"
    elif torch.version.cuda:
        if has_cuda:
            OPERATORS.impl(name, _warns_of_slow_cuda(name, reference), "CUDA")
        tiers["cuda"] = "reference"
    _LOADED.operators[name] = tiers


def status() -> dict[str, Any]:
    """Return what was found, loaded and chosen, and why; see ``fastmte doctor``."""
    return {
        "tier": _LOADED.tier,
        "requested": _LOADED.requested,
        "reason": _LOADED.reason or None,
        "libraries": dict(_LOADED.libraries),
        "operators": {name: dict(tiers) for name, tiers in sorted(_LOADED.operators.items())},
        "build": build_note(),
    }


def has_kernel(name: str, device: str) -> bool:
    """Return whether tensors of a device (``"cpu"``, ``"cuda"``) get a compiled kernel."""
    return _LOADED.operators.get(name, {}).get(device) == "native"


class _Loaded:
    """The choice made when this module is imported."""

    def __init__(self) -> None:
        self.requested = requested()
        self.libraries: dict[str, str | None] = {"cpu": None, "cuda": None}
        self.operators: dict[str, dict[str, str]] = {}
        self.kernels: Any = None
        self.absent: list[str] = []
        self.reason = ""
        self.tier, found, why = choose(self._native, lambda: import_module("fastmte._kernels"))
        if self.tier != "native":  # else, why CUDA has no library
            self.kernels, self.reason = found, why

    def miss(self, name: str) -> None:
        """Note an operator that the native library has not got, and speak of the first."""
        self.absent.append(name)
        self.reason = lacks(str(self.libraries["cpu"]), *self.absent)
        if len(self.absent) == 1:
            speak(self.requested, "reference", self.reason)

    def _native(self) -> tuple[Any, str]:
        """Load the native libraries of the devices there are."""
        if not self._load("cpu"):
            return None, self.reason
        if torch.version.cuda:
            self._load("cuda")
        return self.libraries, ""

    def _load(self, device: str) -> bool:
        """Load one native library, or say in ``reason`` why it is not there."""
        name = f"libfastmte_{device}.so"
        path = find(name)
        if path is None:
            why = build_note()[f"{device}_reason"] or "the file is gone"
            self.reason = f"{name} is not installed: {why}"
            return False
        try:
            torch.ops.load_library(path)
        except OSError as error:  # built for another machine or another torch
            self.reason = f"{path} cannot be loaded: {error}"
            return False
        self.libraries[device] = str(path)
        return True


def _has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"fastmte::{name}", key)


def _warns_of_slow_cuda(name: str, reference: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``reference`` with the one warning that it is what CUDA tensors get."""

    def warn_and_run(*args: Any) -> Any:
        warnings.warn(
            f"fastmte::{name} has no CUDA kernel here and runs as plain torch; "
            "`fastmte doctor` says what to do.",
            RuntimeWarning,
            stacklevel=2,
        )
        return reference(*args)

    return warn_and_run


_LOADED = _Loaded()
