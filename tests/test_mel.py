"""Mel spectrograms: Essentia's values, and the same ones in every part of a song."""

from pathlib import Path

import numpy as np
import pytest
from sounds import chirps

from fastmte.audio.resample import resample
from fastmte.errors import InputError
from fastmte.mel import (
    PRESETS,
    MelConfig,
    band_edges,
    mel_spectrogram,
    n_frames,
    sample_range,
)

CONFIG = PRESETS["mtg2019"]
GOLDEN = Path(__file__).parent / "golden" / "essentia_mel.npy"


def essentia_mel(samples: np.ndarray, scale: int) -> np.ndarray:
    """(96, F) of mono samples at 12 kHz as MTG's script computes them."""
    es = pytest.importorskip("essentia.standard")
    window = es.Windowing(type="hann", normalized=False, zeroPadding=0)
    spectrum = es.Spectrum()
    bands = es.MelBands(
        numberBands=96,
        sampleRate=12000,
        lowFrequencyBound=0,
        highFrequencyBound=6000,
        inputSize=257,
        weighting="linear",
        normalize="unit_tri",
        warpingFormula="slaneyMel",
        type="power",
    )
    decibel = es.UnaryOperator(type="lin2db", scale=scale)
    frames = es.FrameGenerator(samples, frameSize=512, hopSize=256, startFromZero=False)
    return np.array([decibel(bands(spectrum(window(frame)))) for frame in frames]).T


def test_golden_mels_of_essentia() -> None:
    """Resampler and mels agree with Essentia where Essentia is not installed.

    The file is (2, 96, 19) float32 and was made with essentia 2.1b6.dev1389 by::

        sound = chirps(17640, 44100)[:, 0]
        arrays = []
        for quality, scale in ((1, 1), (4, 2)):
            samples = es.Resample(
                inputSampleRate=44100, outputSampleRate=12000, quality=quality
            )(sound)
            arrays.append(essentia_mel(samples, scale)[:, :19])
        np.save("tests/golden/essentia_mel.npy", np.array(arrays, np.float32))
    """
    sound = chirps(17640, 44100)[:, 0]
    golden = np.load(GOLDEN)
    for expected, config in zip(golden, PRESETS.values(), strict=True):
        samples = resample(sound, 44100, 12000, config.resampler)
        mel = mel_spectrogram(samples, config, 0, 19)
        difference = np.abs(mel - expected)
        assert difference.max() <= 0.01
        assert difference.mean() <= 1e-4


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 511, 512, 513, 767, 768, 769, 1000, 12345])
@pytest.mark.parametrize(("preset", "scale"), [("mtg2019", 1), ("mtg2023", 2)])
def test_equals_essentia_at_every_length(n: int, preset: str, scale: int) -> None:
    samples = np.random.default_rng(n).standard_normal(n).astype(np.float32) * np.float32(0.1)
    mel = mel_spectrogram(samples, PRESETS[preset])
    expected = essentia_mel(samples, scale)
    assert mel.shape == expected.shape
    np.testing.assert_allclose(mel, expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize(
    ("n_samples", "frames"),
    [(0, 0), (1, 2), (255, 2), (256, 2), (257, 3), (511, 3), (512, 3), (513, 4), (349_440, 1366)],
)
def test_number_of_frames(n_samples: int, frames: int) -> None:
    assert n_frames(n_samples) == frames
    assert mel_spectrogram(np.zeros(n_samples, np.float32), CONFIG).shape == (96, frames)


def test_silence_is_the_floor() -> None:
    for config in PRESETS.values():
        mel = mel_spectrogram(np.zeros(3000, np.float32), config)
        assert (mel == config.floor_db).all()


def test_a_tone_by_hand() -> None:
    """A tone in the middle of a bin: its power is (amplitude * sum of the window / 2) squared."""
    frequency = 12000 / 512 * 64  # 1500 Hz
    t = np.arange(12000) / 12000
    samples = np.sin(2 * np.pi * frequency * t).astype(np.float32)
    mel = mel_spectrogram(samples, CONFIG)[:, 10]
    edges = band_edges(12000, 96)
    band = int(mel.argmax())
    assert edges[band] < frequency < edges[band + 2]
    # The window spreads the tone over three bins, of which the neighbours have a quarter each.
    window_sum = 511 / 2
    power = 0.0
    for bin_power, hz in ((0.25, frequency - 23.4375), (1, frequency), (0.25, frequency + 23.4375)):
        low, centre, high = edges[band : band + 3]
        height = min((hz - low) / (centre - low), (high - hz) / (high - centre))
        power += max(height, 0) * 2 / (high - low) * bin_power * (window_sum / 2) ** 2
    assert mel[band] == pytest.approx(10 * np.log10(power), abs=0.05)


def test_huge_samples_stay_finite() -> None:
    samples = np.full(2000, 1e30, np.float32)
    assert np.isfinite(mel_spectrogram(samples, CONFIG)).all()


@pytest.mark.parametrize(("first", "frames"), [(0, 1), (5, 7), (100, 1200), (1390, 1), (37, 3)])
def test_a_part_has_the_bits_of_the_whole(first: int, frames: int) -> None:
    samples = chirps(256 * 1390, 12000)[:, 0]
    whole = mel_spectrogram(samples, CONFIG)
    low, high = sample_range(first, first + frames, len(samples), CONFIG)
    part = mel_spectrogram(samples[low:high], CONFIG, first, frames, low, len(samples))
    np.testing.assert_array_equal(part, whole[:, first : first + frames])


def test_missing_samples_are_refused() -> None:
    samples = np.zeros(5000, np.float32)
    with pytest.raises(ValueError, match=r"samples must cover \[0, 2304\), got \[100, 5100\)"):
        mel_spectrogram(samples, CONFIG, 0, 9, 100, 6000)
    with pytest.raises(ValueError, match=r"frames must be in \[0, 21\], got \[20, 22\)"):
        mel_spectrogram(samples, CONFIG, 20, 2)
    with pytest.raises(ValueError, match="1 dimension"):
        mel_spectrogram(np.zeros((2, 5), np.float32), CONFIG)


def test_presets_survive_json() -> None:
    for name, config in PRESETS.items():
        assert MelConfig.of(name) is config
        assert MelConfig.from_dict(config.to_dict()) == config
    assert PRESETS["mtg2019"].to_dict() == {
        "preset": "mtg2019",
        "sample_rate": 12000,
        "frame_size": 512,
        "hop": 256,
        "bands": 96,
        "resampler": "sinc",
        "db_per_decade": 10,
        "floor_db": -100.0,
    }


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"preset": "x", "colour": 1}, "unknown setting colour"),
        ({"bands": 96}, "the setting preset is missing"),
        ({"preset": ["x"]}, r"preset must be a name, got \['x'\]"),
        ({"preset": "x", "hop": True}, "hop must be a positive integer, got True"),
        ({"preset": "x", "floor_db": "low"}, "floor_db must be a finite number, got 'low'"),
        ({"preset": "x", "floor_db": None}, "floor_db must be a finite number, got None"),
        ({"preset": "x", "floor_db": float("nan")}, "floor_db must be a finite number, got nan"),
        ({"preset": "x", "hop": 0}, "hop must be a positive integer, got 0"),
        ({"preset": "x", "bands": "many"}, "bands must be a positive integer, got 'many'"),
        ({"preset": "x", "frame_size": 511}, "frame_size must be even"),
        ({"preset": "x", "resampler": "soxr"}, "resampler must be sinc or linear, got soxr"),
        ({"preset": "x", "db_per_decade": 15}, "db_per_decade must be 10 or 20, got 15"),
    ],
)
def test_bad_settings_are_refused(settings: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        MelConfig.from_dict(settings)


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(InputError, match="one of mtg2019, mtg2023, got mtg1066"):
        MelConfig.of("mtg1066")


def test_too_many_bands_are_refused() -> None:
    config = MelConfig("dense", bands=400)
    with pytest.raises(InputError, match="400 bands are too many for 512 samples"):
        mel_spectrogram(np.zeros(600, np.float32), config)
