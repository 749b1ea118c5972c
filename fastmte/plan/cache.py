"""What was found fastest on this machine, kept in a file of the user's cache."""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import fastmte
from fastmte._library import status
from fastmte.errors import InputError
from fastmte.files import locked, write_json

FORMAT = 1
_WAIT = 10.0  # seconds for another process that is measuring, which takes two


@dataclass(frozen=True)
class Setting:
    """All that the fastest plan depends on.

    Attributes:
        device: name of the CPU and its widest vectors, or of the GPU.
        torch: its version.
        fastmte: its version, and the tier of its operators.
        threads: of torch.
        precision: "fp32" or "bf16".
        backbone: of the members.
        members: K.
        frames: of a crop.
        batch: songs a batch, as the power of two that is not less.
    """

    device: str
    torch: str
    fastmte: str
    threads: int
    precision: str
    backbone: str
    members: int
    frames: int
    batch: int


@dataclass(frozen=True)
class Found:
    """A choice, and what it was chosen among.

    Attributes:
        setting: where it holds.
        plan: the choice, as text.
        milliseconds: a song, of every plan that was measured.
    """

    setting: Setting
    plan: str
    milliseconds: dict[str, float] = field(default_factory=dict)


def device_name(device: torch.device) -> str:
    """Return what a device is called, and what of it matters to the time of a plan."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_cpu_name()} {torch.backends.cpu.get_cpu_capability()}"


def fastmte_name() -> str:
    """Return the version of fastmte and the tier of its operators."""
    return f"{fastmte.__version__} {status()['tier']}"


def bucket(batch_size: int) -> int:
    """Return the power of two that is not less than a batch's songs."""
    return 1 << (batch_size - 1).bit_length()


def cache_file() -> Path | None:
    """Return where choices are kept; None where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "fastmte" / "plans.json"


def read() -> list[Found]:
    """Return all choices kept; none where the file is missing or damaged."""
    path = cache_file()
    try:
        kept = json.loads(path.read_bytes()) if path else {}
        if kept.get("format") != FORMAT:
            return []
        return [Found(Setting(**entry.pop("setting")), **entry) for entry in kept["plans"]]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def find(setting: Setting) -> str | None:
    """Return the plan that was chosen there, as text; None if none was."""
    return next((found.plan for found in read() if found.setting == setting), None)


def find_or_measure(setting: Setting, measure: Callable[[], Found]) -> str | None:
    """Return the plan chosen there, choosing it if need be; None where it could not be kept.

    Only one process measures at a time. Where a choice cannot be kept nothing is
    measured: the next run might choose otherwise, and its scores have other last bits.
    """
    if kept := find(setting):
        return kept
    path = cache_file()
    if path is None:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path.parent):
            if kept := find(setting):  # by the process that was waited for
                return kept
            _write(path, read())  # finds out before the work whether the file can be written
            found = measure()
            others = [other for other in read() if other.setting != setting]
            _write(path, [*others, found])
            return found.plan
    except (OSError, InputError):
        return None


def _write(path: Path, kept: list[Found]) -> None:
    write_json(path, {"format": FORMAT, "plans": [asdict(found) for found in kept]})


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other processes out; wait for one that is at work.

    Raises:
        InputError: it does not end.
        OSError: the folder cannot be written.
    """
    until = time.monotonic() + _WAIT
    while True:
        lock: Any = locked(folder)
        try:
            lock.__enter__()
            break
        except InputError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def _cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
