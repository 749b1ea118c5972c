"""In which number format the maps of a network are computed: what was asked, and what can be."""

import warnings
from typing import Literal

import torch

Precision = Literal["auto", "fp32", "bf16"]


def has_bf16(device: torch.device) -> bool:
    """Return whether bfloat16 is computed by units of its own there, and so is worth it.

    A CPU without AMX computes it slower than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _has_amx()


def resolve(precision: Precision, device: torch.device) -> Literal["fp32", "bf16"]:
    """Return the precision to use; a device without bfloat16 falls back to float32.

    Warns:
        UserWarning: bf16 was asked for, and the device has not got it.
    """
    if precision == "fp32" or has_bf16(device):
        return "fp32" if precision == "fp32" else "bf16"
    if precision == "bf16":
        lacks = "the CPU has no AMX" if device.type == "cpu" else f"{device} has none"
        warnings.warn(f"bf16 would be slow here ({lacks}): fp32 is used", stacklevel=2)
    return "fp32"


def _has_amx() -> bool:
    # torch has no public name for it; where the private one is gone, float32 is never wrong.
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return supported is not None and bool(supported())
