"""The choice of a tier, without torch: what was asked for, what is installed, what to say."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import fastmte

TIERS = ("native", "numba", "reference")
NUMBA_ERRORS = (ImportError, OSError, RuntimeError, SystemError, AttributeError)


def requested() -> str:
    """Return the tier that FASTMTE_TIER asks for, or ``"auto"``.

    Raises:
        ValueError: there is none of that name.
    """
    tier = os.environ.get("FASTMTE_TIER", "auto")
    if tier not in ("auto", *TIERS):
        known = ", ".join(("auto", *TIERS))
        raise ValueError(f"FASTMTE_TIER must be one of {known}, got {tier!r}")
    return tier


def find(name: str) -> Path | None:
    """Return the newest file ``name`` beside the package's modules.

    An editable install has two such folders, the sources and the installed files.
    """
    found = [path for folder in fastmte.__path__ if (path := Path(folder, name)).is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def build_note() -> dict[str, Any]:
    """Return what the build wrote about itself: what was built, or the reason why not."""
    path = find("_build.json")
    if path is None:
        why = "it was not compiled when fastmte was installed (CMake failed or was switched off)"
        return {"cpu": False, "cuda": False, "cpu_reason": why, "cuda_reason": why}
    return json.loads(path.read_text(encoding="utf-8"))


def speak(tier: str, reason: str) -> None:
    """Let no slow ``tier`` be silent: an error where native is required, else one warning.

    Raises:
        ImportError: FASTMTE_REQUIRE_NATIVE is 1.
    """
    asked = requested()
    if os.environ.get("FASTMTE_REQUIRE_NATIVE") == "1":
        raise ImportError(f"FASTMTE_REQUIRE_NATIVE=1, but {reason or f'FASTMTE_TIER={asked}'}")
    if asked == "auto":
        warnings.warn(
            f"fastmte runs on its slower {tier} tier: {reason}. `fastmte doctor` says what to do.",
            RuntimeWarning,
            stacklevel=3,
        )
