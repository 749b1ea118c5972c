"""``fastmte doctor``: what is built, loaded and missing."""

import json
import os
import platform
import shutil
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import click

import fastmte
from fastmte.cli import options
from fastmte.extras import EXTRAS

_PACKAGES = ("numpy", "numba", "scikit-learn", "soundfile", "safetensors", "rich", "pyarrow")
_TOOLS = {"compiler": ("c++", "g++", "clang++"), "cmake": ("cmake",), "nvcc": ("nvcc",)}
_MOST_PLANS = 12  # on the page, the newest
_REBUILD = "pip install --force-reinstall --no-deps (-e) . in fastmte's source folder"


@click.command()
@options.as_json
def doctor(as_json: bool) -> None:
    """Show versions, which tier each operator runs on, and what to do for what is missing.

    \b
      fastmte doctor
      fastmte doctor --json
    """
    facts = find_facts()
    click.echo(json.dumps(facts, indent=1) if as_json else _page(facts))


def find_facts() -> dict[str, Any]:
    """Return all that doctor knows, as JSON values; ``advice`` says what to do."""
    facts: dict[str, Any] = {
        "fastmte": fastmte.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **_torch_facts(),
        "operators": _operator_facts(),
        "tools": {
            tool: next(filter(None, map(shutil.which, names)), None)
            for tool, names in _TOOLS.items()
        },
        "packages": {name: _version(name) for name in _PACKAGES},
        "extras": {name: _version(name) for name in EXTRAS},
        "audio": _audio_facts(),
        "inference": _inference_facts(),
    }
    return {**facts, "advice": _advice(facts)}


def _torch_facts() -> dict[str, Any]:
    cores = os.cpu_count()
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"torch": None, "torch_error": str(error), "cuda": None, "threads": {"cores": cores}}
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "torch": torch.__version__,
        "torch_error": None,
        "cuda": {"built_with": torch.version.cuda, "devices": names},
        "threads": {"torch": torch.get_num_threads(), "cores": cores},
    }


def _operator_facts() -> dict[str, Any]:
    """Return :func:`fastmte._library.status`, or the error that keeps operators from loading."""
    try:
        from fastmte import _library, ops, training_ops  # noqa: F401  (which register them)
    except (ImportError, OSError, ValueError) as error:
        return {"error": str(error), "tier": None}
    return {"error": None, **_library.status()}


def _inference_facts() -> dict[str, Any]:
    """Return what models are run with here, and which plans were found fastest."""
    try:
        import torch

        from fastmte.plan import cache
        from fastmte.plan.convolution import is_packable
        from fastmte.plan.precision import has_bf16
    except (ImportError, OSError, ValueError) as error:
        return {"error": str(error), "plans": []}
    cpu = torch.device("cpu")
    return {
        "error": None,
        "cpu": cache.device_name(cpu),
        "bf16": has_bf16(cpu),
        "prepacked_convolutions": is_packable(cpu, torch.float32),
        "cache": str(path) if (path := cache.cache_file()) else None,
        "override": os.environ.get("FASTMTE_PLAN"),
        "plans": [asdict(found) for found in cache.read()],
    }


def _audio_facts() -> dict[str, Any]:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        none = dict.fromkeys(("kernels", "kernels_reason", "libsndfile"))
        return {"error": str(error), **none, "formats": []}
    return {
        "error": None,
        **_decoder_facts(),
        "libsndfile": soundfile.__libsndfile_version__,
        "formats": sorted(soundfile.available_formats()),
    }


def _decoder_facts() -> dict[str, str | None]:
    """Return the tier of decoder processes, which load no torch, and why it is no faster one."""
    from fastmte._light import light

    try:
        return {"kernels": light().tier, "kernels_reason": light().reason or None}
    except (ImportError, ValueError) as error:
        return {"kernels": f"none: {error}", "kernels_reason": str(error)}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _advice(facts: dict[str, Any]) -> list[str]:
    """Return one sentence for each thing that is missing."""
    lines = []
    operators, tools = facts["operators"], facts["tools"]
    if facts["torch"] is None:
        lines.append("torch cannot be imported: pip install torch (2.11 or later).")
    elif operators["error"]:
        lines.append(f"The operators cannot be loaded: {operators['error']}")
    elif operators["tier"] != "native":
        lines.append(_advice_on_native(operators, tools))
    elif any(tiers["cpu"] != "native" for tiers in operators["operators"].values()):
        lines.append(f"Slow operators ({operators['reason']}): {_REBUILD}.")
    elif facts["cuda"]["built_with"] and not operators["libraries"]["cuda"]:
        reason = operators["build"]["cuda_reason"] or "it cannot be loaded"
        lines.append(f"No CUDA kernels ({reason}): with nvcc on PATH, {_REBUILD}.")
    if facts["audio"]["error"]:
        lines.append("Audio files cannot be read: pip install soundfile.")
    elif "MP3" not in facts["audio"]["formats"]:
        lines.append("This libsndfile reads no MP3: pip install -U soundfile (libsndfile 1.1).")
    if operators["tier"] == "native" and (reason := facts["audio"]["kernels_reason"]):
        lines.append(f"Decoding is slow ({reason}): {_REBUILD}.")
    for extra in dict.fromkeys(EXTRAS.values()):
        absent = [name for name in EXTRAS if EXTRAS[name] == extra and not facts["extras"][name]]
        if absent:
            lines.append(f"Optional {' and '.join(absent)}: pip install 'fastmte[{extra}]'.")
    return lines


def _advice_on_native(operators: dict[str, Any], tools: dict[str, str | None]) -> str:
    if operators["requested"] != "auto":
        return f"FASTMTE_TIER={operators['requested']} chose the tier; unset it for the fastest."
    if not tools["compiler"]:
        return f"No native kernels: install a C++ compiler (apt install g++), then {_REBUILD}."
    return f"No native kernels ({operators['reason']}): {_REBUILD}; -v shows why a build fails."


def _page(facts: dict[str, Any]) -> str:
    """Return the facts as lines of two columns."""
    operators = facts["operators"]
    rows = [
        ("fastmte", facts["fastmte"]),
        ("Python", f"{facts['python']}, {facts['platform']}"),
        ("torch", facts["torch"] or f"missing: {facts['torch_error']}"),
        ("CUDA", _cuda_text(facts["cuda"])),
        ("threads", ", ".join(f"{key} {value}" for key, value in facts["threads"].items())),
        ("", ""),
        ("tier", operators["tier"] or f"none: {operators['error']}"),
    ]
    if operators["tier"]:
        rows += _operator_rows(operators)
    rows.append(("", ""))
    rows += [(name, path or "not on PATH") for name, path in facts["tools"].items()]
    rows.append(("", ""))
    rows += [(name, found or "missing") for name, found in facts["packages"].items()]
    rows += [(name, found or "not installed (optional)") for name, found in facts["extras"].items()]
    rows += _audio_rows(facts["audio"])
    rows += [("", ""), *_inference_rows(facts["inference"])]
    width = max(len(name) for name, _ in rows) + 2
    lines = [f"{name:<{width}}{value}".rstrip() for name, value in rows]
    todo = [f"- {line}" for line in facts["advice"]]
    return "\n".join([*lines, "", *(["To do:", *todo] if todo else ["Nothing is missing."])])


def _operator_rows(operators: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("why", operators["reason"])] if operators["reason"] else []
    for name, tiers in operators["operators"].items():
        rows.append((f"  {name}", ", ".join(f"{tier} on {d}" for d, tier in tiers.items())))
    build = operators["build"]
    for device, path in operators["libraries"].items():
        built = f"not built: {build[f'{device}_reason']}" if not build[device] else "not loaded"
        rows.append((f"library {device}", path or built))
    made = [f"{key} {build[key]}" for key in ("compiler", "nvcc", "torch") if build.get(key)]
    rows.append(("built with", ", ".join(made) or "nothing"))
    return rows


def _audio_rows(audio: dict[str, Any]) -> list[tuple[str, str]]:
    if audio["error"]:
        return [("libsndfile", f"missing: {audio['error']}")]
    return [
        ("libsndfile", audio["libsndfile"]),
        ("formats", ", ".join(audio["formats"])),
        ("audio kernels", audio["kernels"]),
    ]


def _inference_rows(inference: dict[str, Any]) -> list[tuple[str, str]]:
    if inference["error"]:
        return [("plans", f"none: {inference['error']}")]
    rows = [
        ("CPU", inference["cpu"]),
        ("bf16", "AMX" if inference["bf16"] else "no AMX: fp32 is used"),
        ("convolutions", "prepacked" if inference["prepacked_convolutions"] else "torch's own"),
        ("plans", inference["cache"] or "no home for a cache: nothing is measured"),
    ]
    if inference["override"]:
        rows.append(("FASTMTE_PLAN", inference["override"]))
    for found in inference["plans"][-_MOST_PLANS:]:
        where = found["setting"]
        size = f"{where['members']} members, {where['frames']} frames, batch {where['batch']}"
        threads = f"{where['threads']} thread{'s' * (where['threads'] > 1)}"
        times = ", ".join(f"{plan} {ms:.1f} ms" for plan, ms in found["milliseconds"].items())
        text = f"{found['plan']}: {size}, {where['precision']}, {threads} ({times})"
        rows.append((f"  {where['backbone']}", text))
    return rows


def _cuda_text(cuda: dict[str, Any] | None) -> str:
    if not cuda or not cuda["built_with"]:
        return "none in this torch"
    return f"{cuda['built_with']}; {', '.join(cuda['devices']) or 'no device'}"
