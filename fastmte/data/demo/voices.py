"""Tones of the demo's instruments: sums of decaying partials."""

from dataclasses import dataclass

import numpy as np

SAMPLE_RATE = 22_050
_TOP = 9_000.0  # Hz; no partial is higher, so that nothing folds back
_VIBRATO = 5.5  # Hz
_GLIDE = 10.0  # a second; a glide is over by 1/e in a tenth of one


@dataclass(frozen=True)
class _Voice:
    """An instrument.

    Attributes:
        ratios: frequency of each partial over the fundamental.
        amplitudes: its amplitude.
        decay: how fast the fundamental dies, nepers a second; 0 holds it.
        damping: how much faster each next partial dies, nepers a second.
        attack, release: seconds.
        vibrato: depth, in semitones.
        detune: a second copy this many semitones above, for a chorus.
    """

    ratios: tuple[float, ...]
    amplitudes: tuple[float, ...]
    decay: float = 0.0
    damping: float = 0.0
    attack: float = 0.005
    release: float = 0.05
    vibrato: float = 0.0
    detune: float = 0.0


def _voice(n: int, power: float, step: int = 1, **more: float) -> _Voice:
    """Return a voice of harmonics 1, 1 + step, ... that fall with a power of their number."""
    numbers = tuple(1.0 + step * index for index in range(n))
    return _Voice(numbers, tuple(number**-power for number in numbers), **more)


_VOICES = {
    "bass": _voice(4, 1.4, decay=0.8, damping=0.5, attack=0.008, release=0.04),
    "brass": _voice(12, 0.6, attack=0.07, release=0.08, vibrato=0.12),
    "chip": _voice(9, 1.0, step=2, attack=0.001, release=0.005),  # odd harmonics: a square
    "drone": _voice(5, 1.3, attack=0.8, release=0.8, detune=0.06),
    "guitar": _Voice(
        tuple(float(n) for n in range(1, 11)),
        # A string plucked at a fifth of its length lacks every fifth harmonic.
        tuple(abs(float(np.sin(np.pi * n / 5))) / n for n in range(1, 11)),
        decay=3.0,
        damping=0.5,
        attack=0.002,
        release=0.06,
    ),
    "music box": _Voice(  # the partials of a metal bar
        (1.0, 2.76, 5.40, 8.93),
        (1.0, 0.6, 0.35, 0.2),
        decay=4.0,
        damping=3.0,
        attack=0.001,
        release=0.2,
    ),
    "organ": _Voice((0.5, 1.0, 1.5, 2.0, 3.0, 4.0), (0.5, 1.0, 0.4, 0.7, 0.4, 0.3), attack=0.012),
    "pad": _voice(6, 1.2, attack=0.45, release=0.5, vibrato=0.05, detune=0.13),
    "piano": _voice(9, 1.3, decay=2.2, damping=0.9, attack=0.004, release=0.12),
    "strings": _voice(10, 0.9, attack=0.16, release=0.2, vibrato=0.22, detune=0.08),
    "violin": _voice(8, 0.8, attack=0.15, release=0.15, vibrato=0.9),
    "whistle": _voice(1, 1.0, attack=0.03, release=0.05, vibrato=0.2),
}


def tone(name: str, pitch: int, length: int, glide: float, brightness: float) -> np.ndarray:
    """Return one tone: (T,) float32 with a power of about 1/2, its release included.

    Args:
        name: the instrument.
        pitch: MIDI note.
        length: samples until the release.
        glide: semitones above its pitch at which it begins.
        brightness: 0 (the fundamental almost alone) to 1 (all partials).
    """
    voice = _VOICES[name]
    fundamental = 440.0 * 2.0 ** ((pitch - 69) / 12)
    total = length + int(voice.release * SAMPLE_RATE)
    time = np.arange(total) / SAMPLE_RATE
    seconds = time.astype(np.float32)
    sound = np.zeros(total, np.float32)
    for detune in sorted({0.0, voice.detune}):
        cycles = _cycles(fundamental * 2.0 ** (detune / 12), voice.vibrato, glide, time)
        for index, (ratio, amplitude) in enumerate(
            zip(voice.ratios, voice.amplitudes, strict=True)
        ):
            if ratio * fundamental > _TOP:
                break
            # The dullest song loses 9 dB with each partial, the brightest nothing.
            gain = np.float32(amplitude * 10.0 ** (-0.45 * (1.0 - brightness) ** 2 * index))
            rate = np.float32(voice.decay + voice.damping * index)
            partial = gain * _sine(ratio * cycles)
            sound += partial * np.exp(-rate * seconds) if rate else partial
    scale = np.float32(1.0 / np.sqrt(sum(a * a for a in voice.amplitudes)))
    return scale * sound * _envelope(voice, length, total)


def _cycles(frequency: float, vibrato: float, glide: float, time: np.ndarray) -> np.ndarray:
    """Return how many periods have gone by at each time, float64."""
    cycles = frequency * time
    if vibrato:  # the integral of the frequency; ln 2 / 12 is a semitone as a ratio
        depth = frequency * vibrato * np.log(2) / 12 / (2 * np.pi * _VIBRATO)
        cycles = cycles + depth * _sine(_VIBRATO * time)
    if glide:  # to first order in semitones, as the vibrato is
        depth = frequency * glide * np.log(2) / 12 / _GLIDE
        cycles = cycles + depth * (1.0 - np.exp(-_GLIDE * time))
    return cycles


def _sine(cycles: np.ndarray) -> np.ndarray:
    """Return sin(2 pi cycles) as float32.

    A sine in float32 costs a twelfth of one in float64; whole periods are taken off
    before, where the precision still is there.
    """
    fraction = (cycles - np.floor(cycles)).astype(np.float32)
    return np.sin(np.float32(2 * np.pi) * fraction)


def _envelope(voice: _Voice, length: int, total: int) -> np.ndarray:
    """Rise over the attack, fall over the release; half-cosines, which do not click."""
    envelope = np.ones(total, np.float32)
    rise = min(max(int(voice.attack * SAMPLE_RATE), 1), total)
    envelope[:rise] *= 0.5 - 0.5 * np.cos(np.pi * np.arange(rise, dtype=np.float32) / rise)
    fall = total - length
    falling = np.arange(fall, dtype=np.float32) / max(fall, 1)
    envelope[length:] *= 0.5 + 0.5 * np.cos(np.pi * falling)
    return envelope
