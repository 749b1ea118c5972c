"""What the build makes of a machine's tools, and which tier a process then chooses."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
import zipfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from op_cases import CPU_ONLY

from fastmte import _library, _tiers, ops, training_ops  # noqa: F401  (which register them)

ROOT = Path(__file__).parents[1]
CSRC = ROOT / "csrc"
needs_cmake = pytest.mark.skipif(
    not CSRC.is_dir() or not shutil.which("cmake"), reason="needs the sources and CMake"
)


# --- the build -----------------------------------------------------------------------------------


@pytest.fixture
def configure(tmp_path):
    """Configure the build with only the named tools on PATH and return CMake's run and note."""

    def run(*tools: str, **environment: str):
        path = tmp_path / "bin"
        path.mkdir()
        for tool in ("cmake", "ninja", "make", *tools):
            if (found := shutil.which(tool)) is not None:
                (path / tool).symlink_to(found)
        generator = "Ninja" if (path / "ninja").exists() else "Unix Makefiles"
        build = tmp_path / "build"
        hidden = ("CXX", "CUDACXX", "CUDA_PATH", "CC")
        kept = {k: v for k, v in os.environ.items() if not k.startswith("FASTMTE_")}
        done = subprocess.run(
            ["cmake", "-G", generator, "-S", CSRC, "-B", build, "-Wno-dev",
             f"-DPython_EXECUTABLE={sys.executable}"],
            env={k: v for k, v in kept.items() if k not in hidden}
            | {"PATH": str(path), "FASTMTE_CUDA": "0"}
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        note = build / "_build.json"
        return done, json.loads(note.read_text()) if note.exists() else None

    return run


@needs_cmake
def test_without_a_compiler_the_build_makes_a_note(configure):
    done, note = configure()
    assert done.returncode == 0, done.stderr
    assert note["cpu"] is note["cuda"] is False
    assert note["cpu_reason"].startswith("no working C++ compiler was found")


@needs_cmake
def test_a_required_build_fails_without_a_compiler(configure):
    done, _ = configure(FASTMTE_BUILD="require")
    assert done.returncode != 0
    assert "FASTMTE_BUILD=require, but no working C++ compiler was found" in done.stderr


@needs_cmake
def test_a_broken_compiler_is_no_compiler(configure, tmp_path):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    done, note = configure("sh", CXX=str(broken))
    assert done.returncode == 0, done.stderr
    assert note["cpu_reason"].startswith("no working C++ compiler was found")


@needs_cmake
def test_without_torch_the_build_makes_a_note(configure, tmp_path):
    done, note = configure(FASTMTE_TORCH_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert note["cpu_reason"] == f"{tmp_path} has no headers of torch 2.11 or later"


@needs_cmake
def test_an_old_torch_is_named(configure, tmp_path):
    header = tmp_path / "torch" / "include" / "torch" / "csrc" / "stable" / "library.h"
    header.parent.mkdir(parents=True)
    header.touch()
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.9.1+cpu'\n")
    done, note = configure(FASTMTE_TORCH_DIR=str(tmp_path / "torch"))
    assert done.returncode == 0, done.stderr
    assert note["cpu_reason"] == "torch is 2.9.1+cpu, and the kernels need 2.11 or later"


@needs_cmake
@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_a_required_cuda_build_fails_without_nvcc(configure):
    tools = ("c++", "cc", "as", "ld", "ar", "ranlib", "nm", "sh")
    done, _ = configure(*tools, FASTMTE_CUDA="1")
    assert done.returncode != 0
    assert "FASTMTE_CUDA=1, but no CUDA compiler (nvcc) was found" in done.stderr


@needs_cmake
@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_with_a_compiler_the_build_will_make_the_library(configure):
    done, note = configure("c++", "cc", "as", "ld", "ar", "ranlib", "nm", "sh")
    assert done.returncode == 0, done.stderr
    assert note["cpu"] is True
    assert note["cpu_reason"] is None
    assert note["torch"] == torch.__version__
    assert note["compiler"]
    assert note["cuda_reason"] == "FASTMTE_CUDA=0"


@pytest.mark.skipif(not CSRC.is_dir(), reason="needs the sources")
def test_every_operator_has_its_kernels():
    names = set(_library.status()["operators"])
    registered = {
        device: {
            name
            for path in (CSRC / device).iterdir()
            for name in re.findall(r'm\.impl\("([\w.]+)"', path.read_text(encoding="utf-8"))
        }
        for device in ("cpu", "cuda")
    }
    assert registered == {"cpu": names, "cuda": names - CPU_ONLY}


@pytest.mark.skipif(not CSRC.is_dir(), reason="needs the sources")
def test_building_never_installs_a_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert [r for r in project["build-system"]["requires"] if "torch" in r] == []
    assert "torch>=2.11" in project["project"]["dependencies"]


@pytest.mark.skipif(not find_spec("scikit_build_core") or not CSRC.is_dir(), reason="needs sources")
@pytest.mark.parametrize(
    "retry, environment, builds",
    [
        (False, {}, True),
        (False, {"FASTMTE_BUILD": "0"}, False),
        (True, {}, False),
        (True, {"FASTMTE_BUILD": "require"}, True),
        (True, {"FASTMTE_CUDA": "1"}, True),
    ],
)
def test_a_failed_build_installs_without_kernels(retry, environment, builds, monkeypatch):
    from scikit_build_core.settings.skbuild_read_settings import SettingsReader

    for name in ("FASTMTE_BUILD", "FASTMTE_CUDA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(ROOT)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    reader = SettingsReader(project, {}, state="wheel", retry=retry)
    assert reader.settings.wheel.cmake is builds


@pytest.fixture
def backend(tmp_path, monkeypatch):
    """The build's hooks in a copy of the sources, on a machine that has no CMake."""
    pytest.importorskip("scikit_build_core")
    from scikit_build_core import cmake

    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(CSRC, tmp_path / "csrc")
    (tmp_path / "fastmte").mkdir()
    (tmp_path / "fastmte" / "__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(CSRC / "cmake")
    monkeypatch.setattr(cmake, "get_cmake_programs", lambda module=True: iter(()))
    for name in ("FASTMTE_BUILD", "FASTMTE_CUDA", "CMAKE_EXECUTABLE"):
        monkeypatch.delenv(name, raising=False)
    return import_module("build_backend")


@pytest.mark.skipif(not CSRC.is_dir(), reason="needs the sources")
@pytest.mark.parametrize("hook", ["build_wheel", "build_editable"])
def test_without_cmake_the_package_is_installed_without_kernels(backend, hook, capfd, tmp_path):
    settings = {"wheel.build-tag": "1"}  # of the user's, which are kept
    name = getattr(backend, hook)(str(tmp_path / "dist"), settings)
    assert re.fullmatch(r"fastmte-[\d.]+-1-py3-none-any\.whl", name)
    files = zipfile.ZipFile(tmp_path / "dist" / name).namelist()
    assert any("fastmte" in file for file in files) and not any(f.endswith(".so") for f in files)
    assert "Could not find CMake with version >=3.24: installing without" in capfd.readouterr().err


@pytest.mark.skipif(not CSRC.is_dir(), reason="needs the sources")
@pytest.mark.parametrize(("name", "value"), [("FASTMTE_BUILD", "require"), ("FASTMTE_CUDA", "1")])
def test_kernels_that_are_required_need_cmake(backend, name, value, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match=f"fastmte: {name}={value}, but Could not find CMake"):
        backend.build_wheel(str(tmp_path / "dist"))


@pytest.mark.skipif(not CSRC.is_dir(), reason="needs the sources")
def test_the_other_hooks_are_scikit_build_cores(backend):
    from scikit_build_core import build

    assert {"build_sdist", "get_requires_for_build_wheel"} <= set(backend.__all__)
    assert backend.build_sdist is build.build_sdist
    backend.build_sdist("dist")
    assert list(Path("dist").glob("fastmte-*.tar.gz"))


native_library = _library.find("libfastmte_cpu.so")


@pytest.mark.skipif(not native_library or not shutil.which("nm"), reason="needs the library and nm")
def test_the_library_speaks_only_the_stable_abi():
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", native_library], capture_output=True, text=True, check=True
    ).stdout
    assert "torch_call_dispatcher" in symbols or "aoti_torch_" in symbols
    # C++ symbols of at::, c10:: and torch::, and Python's own, change with every version.
    assert re.findall(r"\b(_ZN?K?[\w]*(?:2at|3c10|5torch)\w*|Py\w+)", symbols) == []


def test_the_native_library_is_loaded_where_it_is_required():
    if os.environ.get("FASTMTE_REQUIRE_NATIVE") != "1":
        pytest.skip("set FASTMTE_REQUIRE_NATIVE=1 where the build must have worked")
    status = _library.status()
    assert status["tier"] == "native"
    assert {tiers["cpu"] for tiers in status["operators"].values()} == {"native"}


# --- the choice of a tier ------------------------------------------------------------------------


@pytest.fixture
def choose(monkeypatch):
    """Make the choice anew under some variables, with the native library hidden or replaced."""

    def run(library: Path | None, **environment: str) -> _library._Loaded:
        for name in ("FASTMTE_TIER", "FASTMTE_REQUIRE_NATIVE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        for module in (_library, _tiers):
            monkeypatch.setattr(module, "find", lambda name: library if "cpu" in name else None)
        return _library._Loaded()

    return run


def test_without_a_library_numba_is_chosen_with_one_warning(choose):
    pytest.importorskip("numba")
    with pytest.warns(RuntimeWarning) as caught:
        loaded = choose(None)
    assert loaded.tier == "numba"
    assert loaded.kernels.crop_mels
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "slower numba tier: libfastmte_cpu.so is not installed: it was not compiled" in text


def test_a_library_that_cannot_be_loaded_says_why(choose, tmp_path):
    library = tmp_path / "libfastmte_cpu.so"
    library.write_bytes(b"no library")
    with pytest.warns(RuntimeWarning, match=f"{re.escape(str(library))} cannot be loaded: "):
        loaded = choose(library)
    assert loaded.tier in ("numba", "reference")
    assert loaded.libraries == {"cpu": None, "cuda": None}


def test_without_numba_plain_torch_is_left(choose, monkeypatch):
    def failing(name):
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(_library, "import_module", failing)
    with pytest.warns(RuntimeWarning, match="numba fails: Numba needs NumPy 2.4 or less"):
        assert choose(None).tier == "reference"
    with pytest.raises(ImportError, match="FASTMTE_TIER=numba, but numba fails: Numba needs"):
        choose(None, FASTMTE_TIER="numba")


def test_a_chosen_tier_is_silent(choose):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose(None, FASTMTE_TIER="reference").tier == "reference"
        assert choose(None, FASTMTE_TIER="numba").tier == "numba"


def test_a_required_library_is_an_error(choose):
    with pytest.raises(ImportError, match=r"FASTMTE_TIER=native, but libfastmte_cpu\.so is not"):
        choose(None, FASTMTE_TIER="native")
    with pytest.raises(ImportError, match=r"FASTMTE_REQUIRE_NATIVE=1, but libfastmte_cpu\.so is"):
        choose(None, FASTMTE_REQUIRE_NATIVE="1")
    with pytest.raises(ImportError, match="FASTMTE_REQUIRE_NATIVE=1, but FASTMTE_TIER=reference"):
        choose(None, FASTMTE_REQUIRE_NATIVE="1", FASTMTE_TIER="reference")


@pytest.mark.skipif(not native_library, reason="needs the library")
def test_an_older_library_is_said_once(choose):
    loaded = choose(native_library)
    text = "is of another version of fastmte: it lacks new_operator"
    with pytest.warns(RuntimeWarning, match=f"slower reference tier: .*{text}") as caught:
        loaded.miss("new_operator")
        loaded.miss("newer_operator")
    assert len(caught) == 1
    assert loaded.reason == f"{native_library} {text}, newer_operator"
    for variable, value in (("FASTMTE_TIER", "native"), ("FASTMTE_REQUIRE_NATIVE", "1")):
        loaded = choose(native_library, **{variable: value})
        with pytest.raises(_tiers.TierError, match=f"{variable}={value}, but .*{text}"):
            loaded.miss("new_operator")


def test_an_unknown_tier_is_an_error(choose):
    text = "FASTMTE_TIER must be one of auto, native, numba, reference, got 'gpu'"
    with pytest.raises(ValueError, match=re.escape(text)):
        choose(None, FASTMTE_TIER="gpu")


def test_the_newest_file_is_found(tmp_path, monkeypatch):
    import fastmte

    folders = [tmp_path / name for name in ("sources", "installed")]
    monkeypatch.setattr(fastmte, "__path__", [str(folder) for folder in folders])
    assert _library.find("_build.json") is None
    assert _library.build_note()["cpu"] is False
    for time, folder in enumerate(folders):
        folder.mkdir()
        (folder / "_build.json").write_text(json.dumps({"cpu": True, "torch": folder.name}))
        os.utime(folder / "_build.json", (time, time))
    assert _library.find("_build.json") == folders[1] / "_build.json"
    assert _library.build_note()["torch"] == "installed"


def test_cuda_tensors_without_kernels_get_the_reference_and_a_warning():
    function = _library._warns_of_slow_cuda("crop_mels", lambda x: x + 1)
    with pytest.warns(RuntimeWarning, match="fastmte::crop_mels has no CUDA kernel here"):
        assert function(1) == 2
