"""``fastmte doctor`` on whole and on broken installations."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from fastmte import _library, _light, ops  # noqa: F401  (ops registers the operators)
from fastmte._tiers import TierError
from fastmte.cli import doctor as doctor_module
from fastmte.cli import main


def doctor(*arguments: str) -> str:
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def broken_import(monkeypatch, name: str, error: Exception) -> None:
    """Let ``import name`` fail from now on."""
    real = __import__

    def importing(module, *args, **kwargs):
        if module == name:
            raise error
        return real(module, *args, **kwargs)

    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr("builtins.__import__", importing)


def test_json_has_every_fact():
    facts = json.loads(doctor("--json"))
    assert facts["fastmte"]
    assert facts["torch"].startswith("2.")
    assert facts["operators"]["tier"] == _library.status()["tier"]
    some = {"crop_mels", "dkmeans_assign", "label_centroids.csr", "pool_act", "bn_act_pool"}
    assert some <= set(facts["operators"]["operators"])
    assert facts["packages"]["numpy"]
    assert set(facts["extras"]) == {"essentia", "matplotlib", "onnx", "onnxruntime", "openvino"}
    assert {"OGG", "FLAC", "WAV"} <= set(facts["audio"]["formats"])
    assert facts["audio"]["libsndfile"]
    assert facts["audio"]["kernels"] in ("native", "numba", "reference")
    assert facts["threads"]["torch"] >= 1
    assert set(facts["tools"]) == {"compiler", "cmake", "nvcc"}
    assert isinstance(facts["advice"], list)


def test_the_page_names_tiers_libraries_and_versions():
    page = doctor()
    status = _library.status()
    assert f"tier {status['tier']}" in " ".join(page.split())
    assert f"crop_mels {status['operators']['crop_mels']['cpu']} on cpu" in " ".join(page.split())
    assert all(word in page for word in ("libsndfile", "torch", "nvcc", "library cuda"))
    assert "To do:" in page or "Nothing is missing." in page


def test_plans_that_were_chosen_are_shown(monkeypatch, tmp_path):
    from fastmte.plan import cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert json.loads(doctor("--json"))["inference"]["plans"] == []
    setting = cache.Setting("a CPU", "2.13", "1 native", 2, "fp32", "vgg", 4, 1366, 8)
    times = {"separate:2": 20.25, "module:1": 90.0}
    assert cache.find_or_measure(setting, lambda: cache.Found(setting, "separate:2", times))
    inference = json.loads(doctor("--json"))["inference"]
    assert inference["cache"] == str(tmp_path / "fastmte" / "plans.json")
    (plan,) = inference["plans"]
    assert (plan["plan"], plan["milliseconds"]) == ("separate:2", times)
    assert plan["setting"]["backbone"] == "vgg"
    page = " ".join(doctor().split())
    text = "vgg separate:2: 4 members, 1366 frames, batch 8, fp32, 2 threads"
    assert f"{text} (separate:2 20.2 ms, module:1 90.0 ms)" in page
    assert inference["cpu"] in page


def test_what_the_cpu_offers_is_shown(monkeypatch):
    inference = json.loads(doctor("--json"))["inference"]
    assert type(inference["bf16"]) is bool
    assert type(inference["prepacked_convolutions"]) is bool
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    monkeypatch.setenv("FASTMTE_PLAN", "separate:1")
    page = " ".join(doctor().split())
    assert "bf16 AMX" in page
    assert "FASTMTE_PLAN separate:1" in page


@pytest.fixture
def facts():
    return doctor_module.find_facts()


def advice(facts, **changes) -> str:
    return "\n".join(doctor_module._advice({**facts, **changes}))


def test_advice_for_a_machine_without_a_compiler(facts):
    operators = {**facts["operators"], "tier": "numba", "requested": "auto", "error": None}
    tools = {**facts["tools"], "compiler": None}
    text = advice(facts, operators=operators, tools=tools)
    assert "install a C++ compiler" in text
    tools = {**tools, "compiler": "/usr/bin/c++"}
    operators["reason"] = "torch was not installed when fastmte was built"
    text = advice(facts, operators=operators, tools=tools)
    assert "torch was not installed when fastmte was built" in text


def test_advice_for_libraries_of_another_version(facts):
    operators = {
        **facts["operators"],
        "tier": "native",
        "error": None,
        "operators": {"crop_mels": {"cpu": "native"}, "mel_db": {"cpu": "reference"}},
        "reason": "x.so lacks mel_db",
    }
    audio = {**facts["audio"], "kernels": "numba", "kernels_reason": "y.so lacks fastmte_mix"}
    text = advice(facts, operators=operators, audio=audio)
    assert "Slow operators (x.so lacks mel_db): pip install --force-reinstall" in text
    assert "Decoding is slow (y.so lacks fastmte_mix): pip install --force-reinstall" in text


def test_a_decoder_that_cannot_start_is_shown(monkeypatch):
    def failing():
        raise TierError("FASTMTE_TIER=native, but y.so lacks fastmte_mix")

    monkeypatch.setattr(_light, "light", failing)
    page = " ".join(doctor().split())
    assert "audio kernels none: FASTMTE_TIER=native, but y.so lacks fastmte_mix" in page


def test_advice_for_a_chosen_tier(facts):
    operators = {**facts["operators"], "tier": "numba", "requested": "numba", "error": None}
    assert "FASTMTE_TIER=numba chose the tier" in advice(facts, operators=operators)


def test_advice_for_a_gpu_without_kernels(facts):
    operators = {
        **facts["operators"],
        "tier": "native",
        "error": None,
        "operators": {"crop_mels": {"cpu": "native"}},
        "libraries": {"cpu": "x", "cuda": None},
        "build": {"cuda_reason": "no CUDA compiler (nvcc) was found"},
    }
    text = advice(facts, operators=operators, cuda={"built_with": "13.0", "devices": ["H200"]})
    assert "No CUDA kernels (no CUDA compiler (nvcc) was found)" in text


def test_the_cuda_line():
    assert doctor_module._cuda_text(None) == "none in this torch"
    assert doctor_module._cuda_text({"built_with": "13.0", "devices": ["H200"]}) == "13.0; H200"
    assert doctor_module._cuda_text({"built_with": "13.0", "devices": []}) == "13.0; no device"


def test_missing_extras_are_named(facts):
    text = advice(facts, extras=dict.fromkeys(facts["extras"]))
    assert "Optional essentia: pip install 'fastmte[essentia]'." in text
    assert "Optional matplotlib: pip install 'fastmte[plot]'." in text
    assert "Optional onnx and onnxruntime: pip install 'fastmte[onnx]'." in text
    assert "Optional openvino: pip install 'fastmte[openvino]'." in text
    text = advice(facts, extras=dict.fromkeys(facts["extras"], "1.0") | {"onnxruntime": None})
    assert "Optional onnxruntime: pip install 'fastmte[onnx]'." in text and "essentia" not in text


def test_a_missing_package_is_missing():
    assert doctor_module._version("no-such-package-anywhere") is None


def test_a_broken_soundfile_is_reported(monkeypatch):
    broken_import(monkeypatch, "soundfile", OSError("sndfile library not found"))
    page = doctor()
    assert "missing: sndfile library not found" in page
    assert "- Audio files cannot be read: pip install soundfile." in page


def test_an_old_libsndfile_is_reported(facts):
    audio = {**facts["audio"], "error": None, "formats": ["WAV"]}
    assert "reads no MP3" in advice(facts, audio=audio)


def test_a_broken_torch_is_reported(monkeypatch):
    broken_import(monkeypatch, "torch", ImportError("libtorch_cpu.so: cannot open"))
    monkeypatch.setattr(doctor_module, "_operator_facts", lambda: {"error": "no", "tier": None})
    page = doctor()
    assert "missing: libtorch_cpu.so: cannot open" in page
    assert "- torch cannot be imported: pip install torch (2.11 or later)." in page


def test_a_wrong_setting_is_reported_not_raised():
    done = subprocess.run(
        [sys.executable, "-c", "from fastmte.cli import main; main(['doctor'])"],
        env={**os.environ, "FASTMTE_TIER": "fast", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "FASTMTE_TIER must be one of auto, native, numba, reference, got 'fast'" in done.stdout


def test_the_module_runs_as_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "fastmte", "--help"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Usage: fastmte ")
