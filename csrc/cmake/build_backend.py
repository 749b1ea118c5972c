"""scikit-build-core's hooks, which without a CMake install the package without native kernels.

Their own retry covers a CMake that fails, but not one that is missing, as it may be under
``pip install --no-build-isolation``; elsewhere pip fetches it.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

from scikit_build_core import build
from scikit_build_core.build import *  # noqa: F403  (the hooks that need no CMake)
from scikit_build_core.errors import NotFoundError

__all__ = [*build.__all__]

Settings = dict[str, Any] | None
REQUIRING = {"FASTMTE_BUILD": "require", "FASTMTE_CUDA": "1"}


def build_wheel(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Write a wheel into a folder and return its name."""
    return _build(build.build_wheel, wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Write the wheel of an editable installation into a folder and return its name."""
    return _build(build.build_editable, wheel_directory, config_settings, metadata_directory)


def _build(
    hook: Callable[..., str], directory: str, settings: Settings, metadata: str | None
) -> str:
    try:
        return hook(directory, settings, metadata)
    except NotFoundError as error:
        for name, value in REQUIRING.items():
            if os.environ.get(name) == value:
                raise SystemExit(f"fastmte: {name}={value}, but {error}") from error
        print(f"fastmte: {error}: installing without native kernels", file=sys.stderr)
    return hook(directory, {**(settings or {}), "wheel.cmake": "false"}, metadata)
