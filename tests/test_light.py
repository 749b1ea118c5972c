"""The operators on samples for arrays: the choice of a tier, and no torch."""

import json
import os
import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastmte import _light, _tiers, ops
from fastmte.audio.resample import low_pass
from fastmte.mel import PRESETS, tables


@pytest.fixture
def choose(monkeypatch, tmp_path):
    """Make the choice anew under some variables, with the library there, broken or missing."""

    def run(library="there", **environment: str) -> _light.Light:
        for name in ("FASTMTE_TIER", "FASTMTE_REQUIRE_NATIVE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        broken = tmp_path / _light.LIBRARY
        broken.write_bytes(b"no library")
        if library != "there":
            monkeypatch.setattr(
                _light, "find", lambda name: broken if library == "broken" else None
            )
            monkeypatch.setattr(_tiers, "find", lambda name: None)
        return _light.choose()

    return run


@pytest.fixture(params=["native", "numba", "reference"])
def light(request, choose):
    if request.param == "native" and _tiers.find(_light.LIBRARY) is None:
        pytest.skip("the native library is not built")
    return choose(FASTMTE_TIER=request.param)


def samples_of(n: int) -> np.ndarray:
    return np.random.default_rng(n).standard_normal(n).astype(np.float32)


@pytest.mark.parametrize("filter", [low_pass(), None], ids=["sinc", "linear"])
@pytest.mark.parametrize("n", [0, 1, 5000])
def test_arrays_get_what_tensors_get(light, n, filter):
    samples = samples_of(n)
    numbers = (44100, 12000, 3, 1, 1 + n // 4)
    table = None if filter is None else torch.from_numpy(filter)
    expected = ops.resample(torch.from_numpy(samples), table, *numbers)
    result = light.resample(samples, filter, *numbers)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected.numpy(), rtol=1e-6, atol=2e-6)
    np.testing.assert_array_equal(
        light.resample(np.repeat(samples, 2)[::2], filter, *numbers), result
    )

    window, *bands = tables(PRESETS["mtg2019"])
    numbers = (256, -256, 20, 10, -100.0)
    tensors = [torch.from_numpy(x) for x in (samples[None], window, *bands)]
    expected = ops.mel_db(*tensors, *numbers)[0]
    result = light.mel_db(samples, window, *bands, *numbers)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 37, 1000])
def test_the_mean_of_channels(light, n, channels):
    block = np.random.default_rng(n).standard_normal((n, channels)).astype(np.float32)
    out = np.empty(n, np.float32)
    assert light.mix(block.copy(), -np.inf, np.inf, out)
    np.testing.assert_allclose(out, block.mean(axis=1), rtol=1e-6, atol=1e-7)
    assert light.mix(block.copy(), -0.5, 0.75, out)
    np.testing.assert_allclose(out, block.clip(-0.5, 0.75).mean(axis=1), rtol=1e-6, atol=1e-7)
    for bad in (np.nan, np.inf, -np.inf):
        if n:
            block[n // 2, channels - 1] = bad
            assert not light.mix(block.copy(), -np.inf, np.inf, out)
            assert np.isfinite(out).sum() == n - 1
            assert light.mix(block.copy(), -1.0, 1.0, out) != np.isnan(bad)


def test_the_mean_of_two_channels_has_one_meaning_to_the_bit(choose):
    if _tiers.find(_light.LIBRARY) is None:
        pytest.skip("the native library is not built")
    block = samples_of(20_002).reshape(-1, 2)
    block[5:9] = 3e38
    results = []
    for function in (choose(FASTMTE_TIER="native").mix, _light.mix):
        out = np.empty(len(block), np.float32)
        assert not function(block.copy(), -np.inf, np.inf, out)
        results.append(out)
    np.testing.assert_array_equal(*results)


def read(light, path, *args):
    with open(path, "rb", buffering=0) as file:
        return light.read_rows(file.fileno(), *args)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("n", "columns", "before"), [(96, 40, 128), (96, 3000, 7), (1, 1, 0)])
def test_rows_of_a_file(light, tmp_path, n, columns, before, dtype):
    table = samples_of(n * 3000).reshape(n, 3000).astype(dtype)
    path, room = tmp_path / "rows", np.full((n + 2, columns), 7, np.float32)
    path.write_bytes(b"x" * before + table.tobytes())
    size, start = table.itemsize, 3000 - columns
    place = (before + start * size, 3000 * size, dtype)
    out = room[1:-1]
    assert read(light, path, *place, out) == (True, True)
    np.testing.assert_array_equal(out, table[:, start:])
    assert (room[[0, -1]] == 7).all()

    for value in (np.nan, np.inf, -np.inf):
        bad = table.copy()
        bad[n // 2, -1] = value
        path.write_bytes(b"x" * before + bad.tobytes())
        assert read(light, path, *place, out) == (True, False)
        np.testing.assert_array_equal(out, bad[:, start:])
    for cut in (1, columns * size, (table.nbytes + before) // 2, table.nbytes + before):
        path.write_bytes((b"x" * before + table.tobytes())[:-cut])
        assert not read(light, path, *place, out)[0]


def test_native_and_tensors_have_the_same_bits(choose):
    if _tiers.find(_light.LIBRARY) is None or _tiers.requested() not in ("auto", "native"):
        pytest.skip("the native library is not used")
    samples = samples_of(50_000)
    light = choose(FASTMTE_TIER="native")
    numbers = (44100, 12000, 0, 0, 13_000)
    tensors = (torch.from_numpy(samples), torch.from_numpy(low_pass()))
    expected = ops.resample(*tensors, *numbers)
    np.testing.assert_array_equal(light.resample(samples, low_pass(), *numbers), expected.numpy())


def test_without_the_library_numba_is_chosen_with_one_warning(choose):
    pytest.importorskip("numba")
    with pytest.warns(RuntimeWarning) as caught:
        assert choose("gone").tier == "numba"
    text = str(caught[0].message)
    assert len(caught) == 1
    assert "slower numba tier: libfastmte_audio.so is not installed: it was not compiled" in text


def test_a_library_that_cannot_be_loaded_says_why(choose):
    with pytest.warns(RuntimeWarning, match=r"libfastmte_audio\.so cannot be loaded: "):
        assert choose("broken").tier in ("numba", "reference")


def test_an_older_library_is_not_used(choose, monkeypatch):
    old = SimpleNamespace(fastmte_resample=None)
    monkeypatch.setattr(_light.ctypes, "CDLL", lambda path: old)
    text = r"libfastmte_audio\.so is of another version of fastmte: it lacks fastmte_mel_db, fast"
    with pytest.warns(RuntimeWarning, match=text) as caught:
        chosen = choose("broken")
    assert len(caught) == 1
    assert chosen.tier in ("numba", "reference")
    assert "lacks fastmte_mel_db, fastmte_mix, fastmte_read_rows" in chosen.reason
    with pytest.raises(_tiers.TierError, match=f"FASTMTE_TIER=native, but .*{text}"):
        choose("broken", FASTMTE_TIER="native")


def test_without_numba_plain_torch_is_left(choose, monkeypatch):
    def failing(name):
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(_light, "import_module", failing)
    with pytest.warns(RuntimeWarning, match="slower reference tier"):
        assert choose("gone").tier == "reference"
    with pytest.raises(ImportError, match="FASTMTE_TIER=numba, but numba fails: Numba needs"):
        choose("gone", FASTMTE_TIER="numba")


def test_a_chosen_tier_is_silent_and_a_required_one_an_error(choose):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert choose("gone", FASTMTE_TIER="reference").tier == "reference"
    with pytest.raises(ImportError, match=r"FASTMTE_TIER=native, but libfastmte_audio\.so is not"):
        choose("gone", FASTMTE_TIER="native")
    with pytest.raises(ImportError, match=r"FASTMTE_REQUIRE_NATIVE=1, but libfastmte_audio\.so is"):
        choose("gone", FASTMTE_REQUIRE_NATIVE="1")
    text = "FASTMTE_TIER must be one of auto, native, numba, reference, got 'gpu'"
    with pytest.raises(ValueError, match=re.escape(text)):
        choose(FASTMTE_TIER="gpu")


def test_short_memory_is_python_s_own_error():
    with pytest.raises(MemoryError):
        _light._check_memory(1)


LOADED = """
import json, sys
import numpy as np
import fastmte.data.workers
from fastmte.audio.resample import resample
from fastmte.mel import PRESETS, mel_spectrogram
samples = resample(np.zeros(44100, np.float32), 44100, 12000)
mel_spectrogram(samples, PRESETS["mtg2019"])
print(json.dumps(sorted({"torch", "numba"} & set(sys.modules))))
"""


def test_a_decoder_process_loads_neither_torch_nor_numba():
    if _light.light().tier != "native":
        pytest.skip("the native library is not used")
    done = subprocess.run(
        [sys.executable, "-c", LOADED],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == []
