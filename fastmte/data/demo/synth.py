"""Stereo sound of a demo song: voices and drums mixed, an echo, a loudness."""

import numpy as np

from fastmte.data.demo.composer import Note, compose
from fastmte.data.demo.drums import drum
from fastmte.data.demo.latents import Latents
from fastmte.data.demo.voices import SAMPLE_RATE, tone

_DRUM_GAIN = 1.4  # of a stroke beside a note of the melody


def synthesise(song: Latents, rng: np.random.Generator) -> np.ndarray:
    """Return the sound of a song: (T, 2) float32 in [-1, 1] at `SAMPLE_RATE`.

    Args:
        song: what it shall be.
        rng: draws what the latents leave open: the melody, the noise of the drums.
    """
    notes, hits = compose(song, rng)
    mix = np.zeros((2, round(song.seconds * SAMPLE_RATE)), np.float32)
    tones: dict[tuple[str, int, int, float], np.ndarray] = {}  # the same tone comes again and again
    for note in notes:
        key = (note.voice, note.pitch, int(note.length * SAMPLE_RATE), note.glide)
        if key not in tones:
            tones[key] = tone(*key, song.brightness)
        _add(mix, tones[key], note.start, note.velocity, _place(note))
    strokes = {name: drum(name, rng) for name in sorted({hit.sound for hit in hits})}
    for hit in hits:
        place = 0.6 if "hat" in hit.sound else 0.5
        _add(mix, strokes[hit.sound], hit.start, _DRUM_GAIN * hit.velocity, place)
    return np.ascontiguousarray(_master(_heard(mix, song, rng), song.level).T)


def _place(note: Note) -> float:
    """Return where a note sounds, 0 (left) to 1: low ones left, the bass in the middle."""
    if note.voice in ("bass", "drone"):
        return 0.5
    return float(np.clip(0.5 + (note.pitch - 62) / 50, 0.25, 0.75))


def _add(mix: np.ndarray, sound: np.ndarray, start: float, gain: float, place: float) -> None:
    """Add a mono sound to the mix at ``start`` seconds, as far as the song goes."""
    first = int(start * SAMPLE_RATE)
    sound = sound[: max(mix.shape[1] - first, 0)]
    mix[0, first : first + len(sound)] += np.float32(gain * np.sqrt(1.0 - place)) * sound
    mix[1, first : first + len(sound)] += np.float32(gain * np.sqrt(place)) * sound


def _heard(mix: np.ndarray, song: Latents, rng: np.random.Generator) -> np.ndarray:
    """Return the mix as it arrives: muffled as the song is dull, with the room's echo.

    Both are linear, so that one FFT does them.
    """
    n_samples = mix.shape[1]
    echo = _echo(song.reverb, rng)
    size = n_samples + echo.shape[1]
    size += -size % 4096  # a length that the FFT likes; without it, primes cost tenfold
    spectrum = np.fft.rfft(mix, size)
    if song.brightness < 0.6:  # a low-pass, from 300 Hz for the dullest song
        cutoff = 300.0 * 30.0 ** (song.brightness / 0.6)
        frequencies = np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE)
        spectrum *= (1.0 / (1.0 + (frequencies / cutoff) ** 2)).astype(np.float32)
    spectrum += spectrum * np.fft.rfft(echo, size)
    return np.fft.irfft(spectrum, size)[:, :n_samples].astype(np.float32)


def _echo(amount: float, rng: np.random.Generator) -> np.ndarray:
    """Return the room's impulse response without the direct sound: noise that dies by 60 dB."""
    length = int((0.25 + 1.75 * amount) * SAMPLE_RATE)
    fade = np.exp(-6.9 * np.arange(length, dtype=np.float32) / length)
    response = rng.standard_normal((2, length), np.float32) * fade
    return response * (np.float32(1.4 * amount) / np.sqrt((response**2).sum(1, keepdims=True)))


def _master(mix: np.ndarray, level: float) -> np.ndarray:
    """Bring the mix to about ``level`` dB RMS, round its peaks, fade its last 0.3 s."""
    loudness = float(np.sqrt(np.mean(mix**2))) + 1e-12
    sound = np.tanh(mix * np.float32(10.0 ** (level / 20) / loudness))
    fade = int(0.3 * SAMPLE_RATE)
    sound[:, -fade:] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    return sound
