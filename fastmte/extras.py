"""Packages that fastmte can do without, and the extra that brings each."""

from importlib.util import find_spec

EXTRAS = {
    "essentia": "essentia",
    "matplotlib": "plot",
    "onnx": "onnx",
    "onnxruntime": "onnx",
    "openvino": "openvino",
}


def packages(extra: str) -> tuple[str, ...]:
    """Return the packages that an extra brings."""
    return tuple(package for package, name in EXTRAS.items() if name == extra)


def missing(*packages: str) -> str:
    """Return in one line which of these are not installed, and what brings them; "" if all are."""
    absent = [package for package in packages if find_spec(package) is None]
    if not absent:
        return ""
    extras = ",".join(dict.fromkeys(EXTRAS[package] for package in absent))
    are = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {are} not installed: pip install 'fastmte[{extras}]'"
