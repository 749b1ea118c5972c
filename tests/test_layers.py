"""Rooms import only from the layers below their own, and the command line starts light."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastmte

# A room is a module or package right below fastmte. Rooms of one layer do not know each other.
LAYERS = [
    {"errors"},
    {"extras", "files", "exchange", "merge"},
    {"_checks", "_places", "_tiers", "packing"},
    {"_checks_audio", "_checks_maps", "_kernels_audio"},
    {"_checks_training", "reference_audio", "reference_maps", "_kernels_maps"},
    {"reference", "reference_training"},
    {"_rounds"},
    {"_filter"},
    {"_scan"},
    {"_kernels"},
    {"_library"},
    {"audio_ops", "map_ops", "training_stem"},
    {"_light", "ops"},
    {"training_conv"},
    {"training_ops"},
    {"synchronised"},
    {"audio", "mel", "crop", "features", "labels", "metrics", "models", "partition"},
    {"data", "ensemble", "checkpoint", "transforms"},
    {"plan"},
    {"embed", "runs", "convert", "export"},
    {"train", "predict", "report"},
    {"cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
SIBLINGS = {
    ("checkpoint", "ensemble"),  # a checkpoint holds an ensemble
    ("partition", "labels"),  # the parts by hand are parts of the task's tags
}

ROOT = Path(fastmte.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> set[str]:
    """Rooms that a module imports, at its head or inside its functions."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    parts = [name.split(".") for name in names]
    found = {part[1] for part in parts if part[0] == "fastmte" and len(part) > 1}
    return {room for room in found if (ROOT / room).exists() or (ROOT / f"{room}.py").exists()}


def faults(room: str, imported: set[str]) -> set[str]:
    return {
        other
        for other in imported - {room}
        if LEVEL[other] >= LEVEL[room] and (room, other) not in SIBLINGS
    }


def test_every_room_has_a_layer():
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms == set(LEVEL), "put a new room into LAYERS"


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if room_of(path) != "__init__"],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_module_imports_only_from_layers_below(path):
    imported = imported_rooms(ast.parse(path.read_text(encoding="utf-8")))
    assert not faults(room_of(path), imported)


@pytest.mark.parametrize(
    "room, source, found",
    [
        ("mel", "from fastmte.train import fit", {"train"}),
        ("mel", "def f():\n    from fastmte import crop", {"crop"}),
        ("reference", "import fastmte.ops", {"ops"}),
        ("ops", "import_module('fastmte.data.store')", {"data"}),
        ("mel", "from fastmte.errors import InputError\nfrom fastmte import ops", set()),
        ("checkpoint", "from fastmte.ensemble import FusedEnsemble", set()),
        ("ensemble", "from fastmte.checkpoint import save", {"checkpoint"}),
        ("train", "from fastmte import __version__\nimport torch", set()),
    ],
)
def test_the_rule_itself(room, source, found):
    assert faults(room, imported_rooms(ast.parse(source))) == found


LOADED = """
import json, sys
sys.argv = ["fastmte", *{arguments}]
try:
    from fastmte.cli import main
    main(prog_name="fastmte")
except SystemExit:
    pass
print(json.dumps(sorted({{"torch", "numba", "sklearn", "numpy", "soundfile"}} & set(sys.modules))))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["tag", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(arguments=arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Usage: fastmte" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, fastmte; print({'torch', 'numba', 'numpy', 'click'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"


def test_every_public_name_resolves():
    assert all(getattr(fastmte, name) is not None for name in fastmte.__all__)
    assert set(fastmte.__all__) <= set(dir(fastmte))
    with pytest.raises(AttributeError, match="'fastmte' has no attribute 'nothing'"):
        fastmte.nothing  # noqa: B018
