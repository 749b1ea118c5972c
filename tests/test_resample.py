"""The resampler: Essentia's values, and the same bits for every part of a song."""

import numpy as np
import pytest
from sounds import chirps

from fastmte.audio.resample import n_resampled, resample, source_range

RATES = [4000, 8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000]
ODD = [7999, 12001, 44099]
METHODS = [("sinc", 1), ("linear", 4)]


def essentia_resample(samples: np.ndarray, rate: int, quality: int) -> np.ndarray:
    es = pytest.importorskip("essentia.standard")
    return es.Resample(inputSampleRate=rate, outputSampleRate=12000, quality=quality)(samples)


@pytest.mark.parametrize("rate", RATES + ODD)
@pytest.mark.parametrize(("method", "quality"), METHODS)
def test_equals_essentia(rate: int, method: str, quality: int) -> None:
    samples = np.random.default_rng(rate).standard_normal(rate * 2 + 17).astype(np.float32)
    expected = essentia_resample(samples, rate, quality)
    result = resample(samples, rate, 12000, method)
    assert result.dtype == np.float32
    assert result.shape == expected.shape
    # float32 rounds a value of size 4 by 2.4e-7; odd rates drift up to 40 times as fast.
    np.testing.assert_allclose(result, expected, atol=1e-4 if rate in ODD else 5e-6, rtol=0)


@pytest.mark.parametrize("rate", [8000, 24000, 44100, 48000, 96000])
@pytest.mark.parametrize(("method", "quality"), METHODS)
def test_lengths_equal_essentias(rate: int, method: str, quality: int) -> None:
    lengths = [n for n in [*range(1, 40), 1000, 4800, 44100, 48000] if (rate, n) != (8000, 4)]
    expected = [len(essentia_resample(np.ones(n, np.float32), rate, quality)) for n in lengths]
    assert [n_resampled(n, rate, 12000, method) for n in lengths] == expected


def test_drift_of_the_float32_ratio() -> None:
    """The end of a long song: position is k / float32(12000 / 44100), not k * 44100 / 12000."""
    n = 44100 * 300
    late = 3_599_000
    exact = late * 44100 / 12000
    place = late / float(np.float32(12000) / np.float32(44100))
    assert 0.3 < exact - place < 0.6
    low, high = source_range(late, late + 2, n, 44100, 12000)
    t = np.arange(low, high)
    tone = np.sin(2 * np.pi * 0.01 * (t - place)).astype(np.float32)
    result = resample(tone, 44100, 12000, "sinc", late, late + 2, low, n)
    step = float(np.float32(44100) / np.float32(12000))
    np.testing.assert_allclose(result, [0, np.sin(2 * np.pi * 0.01 * step)], atol=2e-5)


@pytest.mark.parametrize("rate", [8000, 44100, 48000, 96000, 44099])
@pytest.mark.parametrize("method", ["sinc", "linear"])
def test_a_part_has_the_bits_of_the_whole(rate: int, method: str) -> None:
    samples = chirps(rate * 3 + 5, rate)[:, 0]
    whole = resample(samples, rate, 12000, method)
    n = len(whole)
    windows = [(0, 1), (0, 700), (1, 40), (16383, 16386), (n // 3, 2 * n // 3), (n - 50, n), (n, n)]
    for start, stop in windows:
        low, high = source_range(start, stop, len(samples), rate, 12000, method)
        part = resample(samples[low:high], rate, 12000, method, start, stop, low, len(samples))
        np.testing.assert_array_equal(part, whole[start:stop])


def test_same_rate_changes_nothing() -> None:
    samples = chirps(1000, 12000)[:, 0]
    np.testing.assert_array_equal(resample(samples, 12000, 12000), samples)
    np.testing.assert_array_equal(resample(samples, 12000, 12000, "sinc", 5, 9), samples[5:9])


@pytest.mark.parametrize("method", ["sinc", "linear"])
@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_tiny_songs(rate: int, method: str) -> None:
    for n in (0, 1, 2, 3, 10):
        result = resample(np.full(n, 0.5, np.float32), rate, 12000, method)
        assert result.shape == (n_resampled(n, rate, 12000, method),)
        assert np.isfinite(result).all()
    assert n_resampled(-1, rate, 12000, method) == 0


def test_sinc_keeps_tones_and_stops_aliases() -> None:
    t = np.arange(44100) / 44100
    middle = slice(2000, 10000)
    tone = resample(np.sin(2 * np.pi * 1000 * t).astype(np.float32), 44100, 12000)[middle]
    assert np.sqrt(2 * np.mean(tone**2)) == pytest.approx(1, abs=1e-4)
    alias = np.sin(2 * np.pi * 7000 * t).astype(np.float32)
    assert np.abs(resample(alias, 44100, 12000)[middle]).max() < 1e-5
    assert np.abs(resample(alias, 44100, 12000, "linear")[middle]).max() > 0.5


def test_misuse_is_refused() -> None:
    samples = np.zeros(1000, np.float32)
    with pytest.raises(ValueError, match="method must be sinc or linear, got soxr"):
        resample(samples, 44100, 12000, "soxr")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sample rates must be positive"):
        resample(samples, 0, 12000)
    with pytest.raises(ValueError, match="within a factor of 1024, got 44100 and 43"):
        resample(samples, 44100, 43)
    with pytest.raises(ValueError, match=r"outputs must be in \[0, 272\], got \[0, 273\)"):
        resample(samples, 44100, 12000, "sinc", 0, 273)
    with pytest.raises(ValueError, match=r"samples must cover \[0, "):
        resample(samples[500:], 44100, 12000, "sinc", 0, 10, 500, 1000)
    with pytest.raises(ValueError, match="1 dimension"):
        resample(samples[None], 44100, 12000)
