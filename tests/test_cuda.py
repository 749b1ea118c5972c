"""The CUDA library compiles, links and registers its operators, on a machine without a GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from op_cases import CPU_ONLY

from fastmte import _library, ops, training_ops  # noqa: F401  (which register them)

CSRC = Path(__file__).parents[1] / "csrc"
REQUIRED = os.environ.get("FASTMTE_REQUIRE_NVCC") == "1"
MISSING = [tool for tool in ("nvcc", "cmake", "c++") if not shutil.which(tool)]

# The three functions that the library takes from libtorch_cuda.
STUB = """
#include <cstdint>
#define EXPORT extern "C" __attribute__((visibility("default")))
EXPORT int aoti_torch_get_current_cuda_stream(int32_t, void**) { return 1; }
EXPORT void torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool, char**) {}
EXPORT void torch_c10_cuda_free_error_msg(char*) {}
"""

REGISTERED = """
import ctypes, json, os, sys
import torch
from fastmte import _library, ops, training_ops
stub, library = sys.argv[1:]
if stub:
    ctypes.CDLL(stub, os.RTLD_GLOBAL)
torch.ops.load_library(library)
has = torch._C._dispatch_has_kernel_for_dispatch_key
print(json.dumps({n: has(f"fastmte::{n}", "CUDA") for n in _library.status()["operators"]}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """libfastmte_cuda.so as installed, or built by the package's own CMake for one architecture."""
    if not CSRC.is_dir():
        pytest.skip("needs the sources")
    installed = _library.find("libfastmte_cuda.so")
    newest = max(path.stat().st_mtime for path in CSRC.rglob("*"))
    if installed and installed.stat().st_mtime > newest:
        return installed
    if MISSING:
        assert not REQUIRED, f"FASTMTE_REQUIRE_NVCC=1, but these are not on PATH: {MISSING}"
        pytest.skip(f"not on PATH: {MISSING}")
    build = tmp_path_factory.mktemp("cuda")
    generator = "Ninja" if shutil.which("ninja") else "Unix Makefiles"
    environment = os.environ | {
        "FASTMTE_BUILD": "require",
        "FASTMTE_CUDA": "1",
        "FASTMTE_CUDA_ARCHS": os.environ.get("FASTMTE_CUDA_ARCHS", "90-real"),
        "FASTMTE_TORCH_DIR": str(Path(torch.__file__).parent),
    }
    for command in (
        ["cmake", "-G", generator, "-S", CSRC, "-B", build],
        ["cmake", "--build", build, "--parallel", "2", "--target", "fastmte_cuda"],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in done.stdout + done.stderr
    note = json.loads((build / "_build.json").read_text())
    assert note["cuda"] is True
    return build / "libfastmte_cuda.so"


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """A libtorch_cuda.so of three functions; none where torch has the real one."""
    if torch.version.cuda:
        return ""
    folder = tmp_path_factory.mktemp("stub")
    (folder / "stub.cpp").write_text(STUB)
    path = folder / "libtorch_cuda.so"
    options = ["-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so"]
    subprocess.run(["c++", *options, folder / "stub.cpp", "-o", path], check=True)
    return str(path)


def test_the_library_needs_libtorch_cuda(library):
    if not shutil.which("readelf"):
        pytest.skip("needs readelf")
    lines = subprocess.run(["readelf", "-d", library], capture_output=True, text=True, check=True)
    needed = [line for line in lines.stdout.splitlines() if "(NEEDED)" in line]
    assert any("[libtorch_cuda.so]" in line for line in needed)
    assert any("[libtorch_cpu.so]" in line for line in needed)
    assert not any("libcudart" in line or "libtorch_python" in line for line in needed)
    assert "RUNPATH" not in lines.stdout
    assert "RPATH" not in lines.stdout


def test_every_operator_registers_for_cuda(library, stub):
    done = subprocess.run(
        [sys.executable, "-c", REGISTERED, stub, str(library)],
        env=os.environ
        | {
            "FASTMTE_TIER": "reference",
            "FASTMTE_REQUIRE_NATIVE": "0",
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    has_kernel = json.loads(done.stdout)
    assert has_kernel == {name: name not in CPU_ONLY for name in _library.status()["operators"]}


def test_a_cpu_torch_does_not_load_the_cuda_library():
    if torch.version.cuda:
        pytest.skip("this torch has CUDA")
    assert _library.status()["libraries"]["cuda"] is None
    assert all("cuda" not in tiers for tiers in _library.status()["operators"].values())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
def test_a_gpu_runs_the_compiled_kernels():
    if not _library.status()["libraries"]["cuda"]:
        assert not REQUIRED
        pytest.skip("the CUDA library is not built")
    operators = _library.status()["operators"].items()
    assert all(tiers["cuda"] == "native" for name, tiers in operators if name not in CPU_ONLY)
