"""The audio front end: resample, mel_db, and from an mp3 of 320 kbit/s to (96, 1366).

One thread, process time. What is not installed (pip install essentia librosa soxr samplerate) is
left out.
"""

from importlib.util import find_spec
from time import process_time

import numpy as np
import pytest
import torch

from bench import front_ends
from fastmte import ops
from fastmte.audio.decode import open_audio
from fastmte.audio.resample import low_pass, resample, source_range
from fastmte.data.songs import load_mel
from fastmte.mel import PRESETS, mel_spectrogram, sample_range, tables

SECONDS = 1366 * 256 / 12_000
LONG_ROUNDS = 5  # of opponents that take seconds


def needs(*names: str):
    missing = [name for name in names if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    return front_ends.music(SECONDS).mean(axis=1)


@pytest.fixture(scope="module")
def samples(sound) -> np.ndarray:
    return resample(sound, 44_100, 12_000)


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    path = tmp_path_factory.mktemp("songs") / "song.mp3"
    front_ends.write_mp3(path, front_ends.music(264))
    return path


def within(mean: float, most: float, skip: int = 0):
    """Compare two arrays by their mean and largest difference, all but ``skip`` values each end."""

    def same(actual, expected) -> None:
        n = min(np.shape(actual)[-1], np.shape(expected)[-1]) - skip
        difference = np.abs(np.asarray(actual)[..., skip:n] - np.asarray(expected)[..., skip:n])
        assert difference.mean() <= mean, difference.mean()
        assert difference.max() <= most, difference.max()

    return same


def resampling(sound):
    filter, samples = torch.from_numpy(low_pass()), torch.from_numpy(sound)
    stop = len(resample(sound, 44_100, 12_000))
    return lambda: ops.resample(samples, filter, 44_100, 12_000, 0, 0, stop)


def resampling_limit(stop: int):
    """A matrix product of as many multiply-adds: 40 filters of 338 taps, a row for 40 outputs."""
    rows, filters = torch.randn(stop // 40, 338), torch.randn(338, 40)
    return "matrix product of as many multiply-adds", lambda: rows @ filters


@needs("essentia")
def test_resample_against_essentia(versus, sound):
    candidate, baseline = resampling(sound), front_ends.essentia_resampler(1)
    versus(
        candidate,
        lambda: baseline(sound),
        what="`resample`, libsamplerate's medium sinc",
        size=f"{SECONDS:.2f} s, 44.1 to 12 kHz",
        instead="Essentia, quality 1",
        limit=resampling_limit(len(candidate())),
        same=within(1e-6, 5e-6),
        rounds=9,
        clock=process_time,
    )


@needs("samplerate")
def test_resample_against_libsamplerate(versus, sound):
    import samplerate

    versus(
        resampling(sound),
        lambda: samplerate.resample(sound, 12_000 / 44_100, "sinc_medium"),
        what="`resample`, libsamplerate's medium sinc",
        size=f"{SECONDS:.2f} s, 44.1 to 12 kHz",
        instead="libsamplerate (exact ratio)",
        same=within(1e-3, 0.05),
        rounds=9,
        clock=process_time,
    )


@needs("soxr")
def test_resample_against_soxr(versus, sound):
    import soxr

    versus(
        resampling(sound),
        lambda: soxr.resample(sound, 44_100, 12_000, "HQ"),
        what="`resample`, libsamplerate's medium sinc",
        size=f"{SECONDS:.2f} s, 44.1 to 12 kHz",
        instead="soxr HQ, another filter",
        same=within(0.01, 0.3, skip=200),
        clock=process_time,
    )


def mels(samples):
    arrays = [torch.from_numpy(table) for table in tables(PRESETS["mtg2019"])]
    songs = torch.from_numpy(samples)[None]
    return lambda: ops.mel_db(songs, *arrays, 256, -256, 1366, 10.0, -100.0)[0]


@pytest.mark.parametrize(
    ("name", "instead", "rounds"),
    [
        ("torch", "`torch.stft` + matrix product", 31),
        pytest.param("librosa", "librosa", 15, marks=needs("librosa")),
        pytest.param("essentia", "Essentia, frame by frame", 9, marks=needs("essentia")),
    ],
)
def test_mel_db(versus, samples, name, instead, rounds):
    samples = samples[: 1365 * 256]  # 1366 frames
    kinds = {"torch": front_ends.TorchMel, "librosa": front_ends.LibrosaMel}
    baseline = front_ends.EssentiaMel(1) if name == "essentia" else kinds[name]()
    # A Fourier transform of 512 samples, 503 weights, a logarithm a band: about 16,000 operations.
    square = torch.randn(222, 222)
    versus(
        mels(samples),
        lambda: baseline(samples),
        what="`mel_db`: Fourier transform, mel bands, decibels",
        size=f"{len(samples) / 12_000:.2f} s, 96 x 1366",
        instead=instead,
        limit=("matrix product of as many operations", lambda: square @ square),
        same=within(2e-4, 0.05),
        rounds=rounds,
        clock=process_time,
    )


def stages(path) -> dict[str, float]:
    """Return the milliseconds of each stage of a song, the median of some rounds."""
    config, kept = PRESETS["mtg2019"], []
    n_samples, n_frames = load_mel(path, config).n_samples, load_mel(path, config).n_frames
    first = (n_frames - 1366) // 2
    begin, end = sample_range(first, first + 1366, n_samples, config)
    for _ in range(9):
        times = [process_time()]
        with open_audio(path) as file:
            times.append(process_time())
            source = source_range(begin, end, file.n_samples, file.sample_rate, 12_000)
            audio = file.read(*source)
            times.append(process_time())
            part = (begin, end, source[0], file.n_samples)
            samples = resample(audio, file.sample_rate, 12_000, "sinc", *part)
            times.append(process_time())
            mel_spectrogram(samples, config, first, 1366, begin, n_samples)
            times.append(process_time())
        kept.append(np.diff(times) * 1e3)
    return dict(zip(("open", "decode", "resample", "mel"), np.median(kept, axis=0), strict=True))


def size_of(path) -> str:
    split = ", ".join(f"{name} {value:.1f}" for name, value in stages(path).items())
    return f"song of 264 s, ms: {split}"


@needs("essentia")
@pytest.mark.parametrize(
    ("preset", "scale", "quality", "instead"),
    [
        ("mtg2019", 1, 1, "Essentia, as MTG in 2019"),
        ("mtg2023", 2, 4, "Essentia, MTG's script of today"),
    ],
)
def test_a_song_against_essentia(versus, song, preset, scale, quality, instead):
    config, mel = PRESETS[preset], front_ends.EssentiaMel(scale)
    versus(
        lambda: load_mel(song, config).mel,
        lambda: front_ends.essentia_song(song, mel, quality),
        what=f"mp3 of 320 kbit/s to (96, 1366), `{preset}`",
        size=size_of(song),
        instead=instead,
        limit=("decoding by libsndfile alone", lambda: front_ends.decode_part(song)),
        same=within(0.02 * scale, 20),
        rounds=LONG_ROUNDS,
        clock=process_time,
    )


@needs("soxr")
def test_a_song_against_soxr(versus, song):
    mel = front_ends.TorchMel()
    versus(
        lambda: load_mel(song, PRESETS["mtg2019"]).mel,
        lambda: front_ends.soxr_song(song, mel),
        what="mp3 of 320 kbit/s to (96, 1366), `mtg2019`",
        size=size_of(song),
        instead="soundfile from the crop's start + soxr + `torch.stft`",
        limit=("decoding by libsndfile alone", lambda: front_ends.decode_part(song)),
        same=lambda actual, expected: within(np.inf, np.inf)(actual, expected),
        clock=process_time,
    )
