"""Notes and drum hits of a demo song, from its latents."""

from dataclasses import dataclass
from itertools import cycle

import numpy as np

from fastmte.data.demo.latents import Latents

# Degrees of the scale (0 = tonic) that the chords of a progression stand on.
_PROGRESSIONS = {
    True: ((0, 4, 5, 3), (0, 3, 4, 0), (0, 5, 3, 4), (0, 3, 0, 4)),
    False: ((0, 5, 2, 6), (0, 3, 4, 0), (0, 6, 5, 4), (0, 3, 5, 4)),
}
_SCALES = {True: (0, 2, 4, 5, 7, 9, 11), False: (0, 2, 3, 5, 7, 8, 10)}
_CHORD_TONES = np.array([-7, -5, -3, 0, 2, 4])  # steps of the scale from a chord's root

# Hits of one bar of four beats: (sound, position in beats, velocity).
_BARS: dict[str, tuple[tuple[str, float, float], ...]] = {
    "none": (),
    "rock": (
        *(("hat", step / 2, 0.5) for step in range(8)),
        ("kick", 0.0, 1.0),
        ("kick", 2.0, 1.0),
        ("kick", 2.5, 0.7),
        ("snare", 1.0, 0.9),
        ("snare", 3.0, 0.9),
    ),
    "four on the floor": (
        *(("kick", float(beat), 1.4) for beat in range(4)),
        *(("open hat", beat + 0.5, 1.0) for beat in range(4)),
        ("clap", 1.0, 0.8),
        ("clap", 3.0, 0.8),
    ),
    "groove": (
        # Off-beat sixteenths late by a third: the swing.
        *(("hat", step / 4 + (0.08 if step % 2 else 0.0), 0.55) for step in range(16)),
        ("kick", 0.0, 1.0),
        ("kick", 0.83, 0.8),
        ("kick", 2.58, 0.9),
        ("snare", 1.0, 0.9),
        ("snare", 1.83, 0.4),
        ("snare", 3.0, 0.9),
        ("snare", 3.58, 0.4),
    ),
    "march": (
        *(("tom", position, 1.2) for position in (0.0, 1.5, 2.0, 3.5)),
        *(("low tom", position, 1.2) for position in (0.0, 1.0, 2.0, 3.0)),
        *(("snare", 2.0 + step / 6, 0.2 + 0.08 * step) for step in range(12)),
    ),
}


@dataclass(frozen=True)
class Note:
    """One tone.

    Attributes:
        voice: the instrument.
        start, length: seconds.
        pitch: MIDI note.
        velocity: loudness, 1 for an accented note of the melody.
        glide: semitones above its pitch at which it begins.
    """

    voice: str
    start: float
    length: float
    pitch: int
    velocity: float
    glide: float = 0.0


@dataclass(frozen=True)
class Hit:
    """One stroke of a drum, ``start`` in seconds."""

    sound: str
    start: float
    velocity: float


def compose(song: Latents, rng: np.random.Generator) -> tuple[list[Note], list[Hit]]:
    """Return the notes and the drum hits of a song, each in any order."""
    beat = 60.0 / song.tempo
    n_beats = int(np.ceil(song.seconds / beat))
    # A chord lasts about two seconds whatever the tempo, so that short songs change chords.
    chord_beats = 4 if beat * 4 <= 2.4 else 2
    progressions = _PROGRESSIONS[song.is_major]
    progression = progressions[int(rng.integers(len(progressions)))]
    degrees = [progression[(b // chord_beats) % len(progression)] for b in range(n_beats)]
    notes = _melody(song, degrees, rng)
    for first in range(0, n_beats, chord_beats):
        notes += _chord(song, degrees[first], first, chord_beats)
        notes += _bass(song, degrees[first], first, chord_beats)
        if not song.is_major:
            notes.append(_violin(song, degrees[first], first, chord_beats))
    if song.texture == "drone":
        notes += _drone(song)
    return notes, _drums(song, n_beats)


def _pitch(song: Latents, degree: int, around: float) -> int:
    """Return the MIDI note of a scale degree in the octave nearest to a pitch."""
    octaves, step = divmod(degree, 7)
    pitch = song.key + _SCALES[song.is_major][step]
    return int(pitch + 12 * (round((around - pitch) / 12) + octaves))


def _melody(song: Latents, degrees: list[int], rng: np.random.Generator) -> list[Note]:
    """Walk along the scale: chord tones on the beat, rising in major and falling in minor."""
    beat = 60.0 / song.tempo
    gate = 0.45 if song.is_major else 1.05  # staccato or legato
    drift = 1 if song.is_major else -1
    glide = 0.0 if song.is_major else 4.0
    density = song.density if song.is_major else 0.5 + 0.5 * (song.density - 0.5)
    notes = []
    degree, position = int(rng.choice((0, 2, 4))), 0.0
    anchor = _pitch(song, 0, song.centre)
    while position < len(degrees):
        length = _note_length(density, rng)
        if position == int(position):
            tones = degrees[int(position)] + _CHORD_TONES
            degree = int(tones[np.abs(tones - degree).argmin()])
        pitch = _pitch(song, degree % 7, anchor) + 12 * (degree // 7)
        velocity = 1.3 if position == int(position) else 1.0
        start, sounding = position * beat, length * beat * gate
        notes.append(Note(song.instrument, start, sounding, pitch, velocity, glide))
        if song.is_major:
            notes.append(Note("whistle", start, sounding, pitch + 24, 0.45))
        degree += drift * int(rng.choice((1, 1, 2, -1)))
        if abs(degree) > 6:  # start the next phrase at the other end
            degree = -4 * drift
        position += length
    return notes


def _note_length(density: float, rng: np.random.Generator) -> float:
    """Draw a length of 1/2, 1 or 2 beats whose mean rate is about ``density``."""
    if density >= 1.0:
        return 0.5 if rng.uniform() < density - 1.0 else 1.0
    return 1.0 if rng.uniform() < 2.0 * density - 1.0 else 2.0


def _chord(song: Latents, degree: int, first: int, n_beats: int) -> list[Note]:
    """Return the three tones of a chord: one after the other, struck off the beat, or held."""
    beat = 60.0 / song.tempo
    tones = [_pitch(song, (degree + step) % 7, song.centre - 8.0) for step in (0, 2, 4)]
    if song.instrument == "chip":  # an old game has one channel for all of them
        return _broken(song, sorted(tones), first, n_beats, 0.25)
    if song.texture == "arpeggio":
        order = sorted(tones, reverse=not song.is_major)
        return _broken(song, order, first, n_beats, 0.5 if song.is_major else 1.0)
    if song.texture == "chords" and song.is_major:
        strums = [(step + 0.5, 0.3) for step in range(n_beats)]
    else:
        strums = [(0.0, float(n_beats))]
    return [
        Note(song.instrument, (first + at) * beat, length * beat, tone, 0.5)
        for at, length in strums
        for tone in tones
    ]


def _broken(song: Latents, tones: list[int], first: int, n_beats: int, step: float) -> list[Note]:
    """Return the tones of a chord one by one, each ``step`` beats after the last."""
    beat = 60.0 / song.tempo
    gate = 0.7 if song.is_major else 1.1
    return [
        Note(song.instrument, (first + index * step) * beat, gate * step * beat, tone, 0.6)
        for index, tone in zip(range(int(n_beats / step)), cycle(tones), strict=False)
    ]


def _violin(song: Latents, degree: int, first: int, n_beats: int) -> Note:
    """Return the fifth of a chord, high above it, held and weeping."""
    beat = 60.0 / song.tempo
    pitch = _pitch(song, (degree + 4) % 7, song.centre + 14.0)
    return Note("violin", first * beat, n_beats * beat, pitch, 0.8, glide=2.0)


def _bass(song: Latents, degree: int, first: int, n_beats: int) -> list[Note]:
    """Return the bass under one chord; its rhythm goes with the drums."""
    if song.texture == "drone":
        return []
    beat = 60.0 / song.tempo
    root = _pitch(song, degree, 38.0)
    steps = {
        "four on the floor": [(b + 0.5, 0.45) for b in range(n_beats)],
        "groove": [(b + o, 0.3) for b in range(0, n_beats, 2) for o in (0.0, 0.83, 1.5)],
        "none": [(0.0, float(n_beats))],
    }.get(song.beat, [(float(b), 0.9) for b in range(n_beats)])
    return [
        Note("bass", (first + at) * beat, length * beat, root, 1.2 * song.bass)
        for at, length in steps
    ]


def _drone(song: Latents) -> list[Note]:
    """Return tonic and fifth, held from the first to the last moment."""
    tonic = _pitch(song, 0, 43.0)
    return [Note("drone", 0.0, song.seconds, tonic + up, 0.7) for up in (0, 7, 12)]


def _drums(song: Latents, n_beats: int) -> list[Hit]:
    beat = 60.0 / song.tempo
    hits = [
        Hit(sound, (bar + position) * beat, velocity)
        for bar in range(0, n_beats, 4)
        for sound, position, velocity in _BARS[song.beat]
    ]
    if song.has_birds:
        hits += [Hit("bird", step * 0.7 + 0.2, 1.7) for step in range(int(song.seconds / 0.7))]
    if song.has_sleigh_bells:
        hits += [Hit("sleigh bells", step * beat / 2, 1.1) for step in range(2 * n_beats)]
    return hits
