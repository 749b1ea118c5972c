"""What a demo song is before it is music: tempo, mode, instruments and the like."""

from dataclasses import dataclass, replace

import numpy as np

INSTRUMENTS = ("piano", "pad", "brass", "chip", "music box", "guitar", "organ", "strings")
BEATS = ("none", "rock", "four on the floor", "groove", "march")
TEXTURES = ("chords", "arpeggio", "drone")

_TEMPI = (60.0, 172.0)  # beats a minute
_LEVELS = (-33.0, -13.0)  # dB RMS below full scale
_CENTRES = (48.0, 74.0)  # MIDI notes around which the melody moves


@dataclass(frozen=True)
class Latents:
    """The musical properties a song is made from, and that its labels follow from.

    Attributes:
        tempo: beats a minute.
        level: loudness, dB RMS relative to full scale.
        brightness: 0 (muffled) to 1.
        centre: MIDI note around which the melody moves.
        density: notes a beat of a melody in major.
        bass: 0 (none) to 1 (as loud as the melody).
        reverb: 0 (dry) to 1 (mostly echo).
        is_major: mode, and with it the mood: major melodies are staccato, rise and are
            whistled along, over chords struck off the beat; minor ones are legato, fall, have
            fewer notes that each begin with a sigh, and a violin weeps over held chords.
        has_birds: birds sing along.
        has_sleigh_bells: bells ring on every eighth.
        instrument: who plays melody and chords, one of `INSTRUMENTS`.
        beat: pattern of the drums, one of `BEATS`.
        texture: what the chords do, one of `TEXTURES`.
        key: pitch class of the tonic, 0 (C) to 11.
        seconds: length.
    """

    tempo: float
    level: float
    brightness: float
    centre: float
    density: float
    bass: float
    reverb: float
    is_major: bool
    has_birds: bool
    has_sleigh_bells: bool
    instrument: str
    beat: str
    texture: str
    key: int
    seconds: float


@dataclass(frozen=True)
class Style:
    """The habits of an artist: where its songs lie among all songs.

    Attributes:
        energy: centre of the energy, 0 to 1, which moves tempo, level, density and beat.
        brightness, centre, bass, reverb: centres of these latents, each 0 to 1.
        major: probability of the major mode.
        instruments, beats: the favourites, each taken for half of the songs.
    """

    energy: float
    brightness: float
    centre: float
    bass: float
    reverb: float
    major: float
    instruments: tuple[str, str]
    beats: tuple[str, str]


def draw_style(rng: np.random.Generator) -> Style:
    """Draw the habits of one artist."""
    energy, brightness, centre, bass, reverb, major = rng.uniform(0.15, 0.85, 6)
    return Style(
        energy=energy,
        brightness=brightness,
        centre=centre,
        bass=bass,
        reverb=reverb,
        major=major,
        instruments=tuple(rng.choice(INSTRUMENTS, 2, replace=False).tolist()),
        beats=tuple(rng.choice(BEATS, 2, replace=False).tolist()),
    )


def draw_song(style: Style, rng: np.random.Generator) -> Latents:
    """Draw the latents of one song of an artist."""
    energy = _near(style.energy, rng)
    latents = Latents(
        tempo=_between(_TEMPI, 0.8 * energy + 0.2 * rng.uniform()),
        level=_between(_LEVELS, 0.5 * energy + 0.5 * rng.uniform()),
        brightness=_near(style.brightness, rng),
        centre=_between(_CENTRES, _near(style.centre, rng)),
        density=0.5 + 1.5 * (0.5 * energy + 0.5 * rng.uniform()),
        bass=_near(style.bass, rng),
        reverb=_near(style.reverb, rng) ** 1.5,
        is_major=bool(rng.uniform() < style.major),
        has_birds=bool(rng.uniform() < 0.16),
        has_sleigh_bells=bool(rng.uniform() < 0.16),
        instrument=_favourite(style.instruments, INSTRUMENTS, rng),
        beat=_favourite(style.beats, BEATS, rng),
        texture=str(rng.choice(TEXTURES, p=[0.45, 0.35, 0.2])),
        key=int(rng.integers(12)),
        seconds=float(rng.uniform(6.0, 8.0)),
    )
    return _playable(latents)


def _playable(latents: Latents) -> Latents:
    """Return the latents without what musicians would not do together."""
    if latents.texture == "drone":  # a drone is slow and has no drums
        latents = replace(latents, beat="none", tempo=min(latents.tempo, 90.0))
    if latents.beat == "four on the floor":  # made for dancing
        latents = replace(latents, tempo=max(latents.tempo, 100.0))
    if latents.instrument == "music box":  # it has no low notes
        latents = replace(latents, centre=max(latents.centre, 76.0))
    if latents.instrument in ("music box", "chip"):  # nor a dull side
        latents = replace(latents, brightness=max(latents.brightness, 0.6))
    return latents


def _near(centre: float, rng: np.random.Generator) -> float:
    return float(np.clip(rng.normal(centre, 0.22), 0.0, 1.0))


def _between(limits: tuple[float, float], position: float) -> float:
    low, high = limits
    return low + (high - low) * position


def _favourite(favourites: tuple[str, ...], all_: tuple[str, ...], rng: np.random.Generator) -> str:
    return str(rng.choice(favourites if rng.uniform() < 0.5 else all_))
