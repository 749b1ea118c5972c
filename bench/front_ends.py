"""The mels of bench_audio.py as others compute them: Essentia, librosa, torch, soxr."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from fastmte.mel import PRESETS, tables

RATE = 12_000
SIZE, HOP, BANDS, FRAMES = 512, 256, 96, 1366


def music(seconds: float, rate: int = 44_100) -> np.ndarray:
    """Return (n, 2) float32: chords of decaying notes, strokes of noise on the beat, and hiss."""
    rng = np.random.default_rng(0)
    n, beat = round(seconds * rate), rate // 2
    sound = 0.003 * rng.standard_normal((n, 2))
    t = np.arange(beat) / rate
    for start in range(0, n - beat, beat):
        for note in rng.choice(48, 4, replace=False):
            pitch = 110 * 2 ** (note / 12)
            harmonics = [np.sin(2 * np.pi * pitch * h * t) / h for h in range(1, 9)]
            side = rng.uniform(0.3, 1, 2)
            sound[start : start + beat] += 0.06 * np.outer(sum(harmonics) * np.exp(-4 * t), side)
        stroke = rng.standard_normal((beat, 2)) * np.exp(-30 * t)[:, None]
        sound[start : start + beat] += 0.1 * stroke
    return sound.clip(-1, 1).astype(np.float32)


def write_mp3(path: Path, sound: np.ndarray) -> None:
    """Write an mp3 of 320 kbit/s, constant."""
    options = {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.0}
    with soundfile.SoundFile(path, "w", 44_100, sound.shape[1], **options) as file:
        file.write(sound)


def mel_matrix() -> np.ndarray:
    """Return (96, 257) float32, the filter bank of both presets."""
    _, weights, first_bins, splits = tables(PRESETS["mtg2019"])
    matrix = np.zeros((BANDS, SIZE // 2 + 1), np.float32)
    for band, first in enumerate(first_bins):
        values = weights[splits[band] : splits[band + 1]]
        matrix[band, first : first + len(values)] = values
    return matrix


class TorchMel:
    """``torch.stft``, its power, a matrix product, the logarithm."""

    def __init__(self) -> None:
        self.matrix = torch.from_numpy(mel_matrix())
        self.window = torch.from_numpy(tables(PRESETS["mtg2019"])[0])

    def __call__(self, samples: np.ndarray) -> torch.Tensor:
        spectrum = torch.stft(
            torch.from_numpy(samples),
            SIZE,
            HOP,
            window=self.window,
            pad_mode="constant",
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        return 10 * (self.matrix @ power).clamp(min=1e-10).log10()


class LibrosaMel:
    """``librosa.stft`` and ``power_to_db``, with this filter bank in place of its own."""

    def __init__(self) -> None:
        import librosa

        self.librosa = librosa
        self.matrix = mel_matrix()
        self.window = tables(PRESETS["mtg2019"])[0]

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        spectrum = self.librosa.stft(
            samples, n_fft=SIZE, hop_length=HOP, window=self.window, pad_mode="constant"
        )
        power = self.matrix @ np.abs(spectrum) ** 2
        return self.librosa.power_to_db(power, amin=1e-10, top_db=None)


class EssentiaMel:
    """MTG's loop over frames, ``scripts/melspectrograms.py``."""

    def __init__(self, scale: int) -> None:
        import essentia
        import essentia.standard as es

        essentia.log.infoActive = essentia.log.warningActive = False
        self.generator = es.FrameGenerator
        self.steps = (
            es.Windowing(type="hann", normalized=False, zeroPadding=0),
            es.Spectrum(),
            es.MelBands(
                numberBands=BANDS,
                sampleRate=RATE,
                lowFrequencyBound=0,
                highFrequencyBound=RATE / 2,
                inputSize=SIZE // 2 + 1,
                weighting="linear",
                normalize="unit_tri",
                warpingFormula="slaneyMel",
                type="power",
            ),
            es.UnaryOperator(type="lin2db", scale=scale),
        )

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        window, spectrum, bands, decibel = self.steps
        frames = self.generator(samples, frameSize=SIZE, hopSize=HOP, startFromZero=False)
        return np.array([decibel(bands(spectrum(window(frame)))) for frame in frames]).T


def essentia_resampler(quality: int):
    """Return Essentia's resampler from 44.1 to 12 kHz."""
    import essentia.standard as es

    return es.Resample(inputSampleRate=44_100, outputSampleRate=RATE, quality=quality)


def centre(mel: np.ndarray) -> np.ndarray:
    """Return the centre crop, as the paper's code takes it."""
    start = int((mel.shape[1] - FRAMES) / 2)
    return mel[:, start : start + FRAMES]


def essentia_song(path: Path, mel: EssentiaMel, quality: int) -> np.ndarray:
    """Return (96, 1366): the whole song through Essentia, then the crop."""
    import essentia.standard as es

    return centre(
        mel(es.MonoLoader(filename=str(path), sampleRate=RATE, resampleQuality=quality)())
    )


def decode_part(path: Path) -> np.ndarray:
    """Return (n, channels) float32: what a crop needs and a little more, by soundfile."""
    with soundfile.SoundFile(path) as file:
        n_frames = -(-file.frames * RATE // 44_100 // HOP) + 1
        start = (n_frames - FRAMES) // 2
        first = start * HOP * 44_100 // RATE
        file.seek(max(0, first - SIZE * 4))
        return file.read((FRAMES * HOP + SIZE) * 44_100 // RATE, dtype="float32")


def soxr_song(path: Path, mel: TorchMel) -> torch.Tensor:
    """Return (96, 1366): the part of the song by soundfile, soxr and ``torch.stft``."""
    import soxr

    samples = soxr.resample(decode_part(path).mean(axis=1), 44_100, RATE, "HQ")
    return mel(samples)[:, :FRAMES]
