"""The choice of a tier, without torch: what was asked for, what is installed, what to say."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmte

TIERS = ("native", "numba", "reference")
# What importing numba raises where it and its surroundings do not fit.
NUMBA_ERRORS = (ImportError, OSError, RuntimeError, SystemError, AttributeError)


class TierError(ImportError, ValueError):
    """A tier that was asked for is not there, or is none; no fault of any one song."""


def requested() -> str:
    """Return the tier that FASTMTE_TIER asks for, or ``"auto"``.

    Raises:
        TierError: there is none of that name.
    """
    tier = os.environ.get("FASTMTE_TIER", "auto")
    if tier not in ("auto", *TIERS):
        known = ", ".join(("auto", *TIERS))
        raise TierError(f"FASTMTE_TIER must be one of {known}, got {tier!r}")
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


def choose(
    load_native: Callable[[], tuple[Any, str]], load_numba: Callable[[], Any]
) -> tuple[str, Any, str]:
    """Return the fastest tier that is there and allowed, what it loaded, and why no faster one.

    No slow tier is silent: it is an error where native is required, and else one warning.

    Args:
        load_native: returns what it has loaded, or None and why.
        load_numba: returns what it has loaded, or raises.

    Raises:
        TierError: the tier that was asked for is not there or is none, or FASTMTE_REQUIRE_NATIVE
            is 1 and another is chosen.
    """
    asked, reason = requested(), ""
    if asked in ("auto", "native"):
        loaded, reason = load_native()
        if loaded is not None:
            return "native", loaded, ""
    tier, loaded = "reference", None
    if asked in ("auto", "numba"):
        try:
            tier, loaded = "numba", load_numba()
        except NUMBA_ERRORS as error:
            if asked == "numba":
                raise TierError(f"FASTMTE_TIER=numba, but numba fails: {error}") from error
            reason += f"; numba fails: {error}"
    speak(asked, tier, reason)
    return tier, loaded, reason


def lacks(library: Path | str, *names: str) -> str:
    """Return why a library without some functions cannot be used as it is."""
    return f"{library} is of another version of fastmte: it lacks {', '.join(names)}"


def speak(asked: str, tier: str, reason: str) -> None:
    """Warn of a slow tier that nobody asked for.

    Raises:
        TierError: the native tier was asked for, or is required.
    """
    if os.environ.get("FASTMTE_REQUIRE_NATIVE") == "1":
        raise TierError(f"FASTMTE_REQUIRE_NATIVE=1, but {reason or f'FASTMTE_TIER={asked}'}")
    if asked == "native":
        raise TierError(f"FASTMTE_TIER=native, but {reason}")
    if asked == "auto":
        warnings.warn(
            f"fastmte runs on its slower {tier} tier: {reason}. `fastmte doctor` says what to do.",
            RuntimeWarning,
            stacklevel=4,
        )
