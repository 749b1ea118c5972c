"""Which songs the demo has: artists, splits and latents, all from one seed."""

from dataclasses import dataclass

import numpy as np

from fastmte.data.demo.labels import CAUSES, labels_of
from fastmte.data.demo.latents import Latents, Style, draw_song, draw_style

SPLITS = ("train", "validation", "test")
MIN_SONGS = 48  # fewer cannot show every label in every split
_SHARES = {"train": 2 / 3, "validation": 1 / 7}  # the rest is the test split
_SONGS_AN_ARTIST = 5

# First words of the seeds of the generators, so that no two draw the same numbers.
_ARTIST, _SONG, _SOUND = 1, 2, 3


@dataclass(frozen=True)
class DemoSong:
    """One planned song.

    Attributes:
        number: its number in the collection; names the file and seeds its sound.
        artist: number of its artist.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        latents: what it will be.
        tags: its labels, without the task's prefix.
    """

    number: int
    artist: int
    split: str
    latents: Latents
    tags: tuple[str, ...]

    @property
    def path(self) -> str:
        """File below the audio folder, ``NN/ID.ogg`` as in MTG-Jamendo."""
        return f"{self.number % 100:02d}/{self.number}.ogg"

    def generator(self, seed: int) -> np.random.Generator:
        """Return the generator of what the latents leave open (melody, noise)."""
        return np.random.default_rng([_SOUND, seed, self.number])


def plan_demo(seed: int, n_songs: int) -> list[DemoSong]:
    """Draw the songs of the demo, ordered by number.

    No artist is in two splits, and every label has at least ``max(1, songs of the
    split // 9)`` songs in every split: where chance leaves too few, songs of that
    split are drawn again until they are there.

    Raises:
        ValueError: fewer than `MIN_SONGS` songs, or a negative seed.
    """
    if n_songs < MIN_SONGS:
        raise ValueError(f"n_songs must be at least {MIN_SONGS}, got {n_songs}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    songs: list[DemoSong] = []
    artist = 0
    for split, n_split in _split_sizes(n_songs).items():
        members: list[DemoSong] = []
        while len(members) < n_split:
            style = draw_style(np.random.default_rng([_ARTIST, seed, artist]))
            n_left = n_split - len(members)
            for _ in range(min(_SONGS_AN_ARTIST, n_left)):
                number = 1000 + len(songs) + len(members)
                members.append(_draw(style, number, artist, split, seed))
            artist += 1
        songs += _with_every_label(members, seed)
    return songs


def _split_sizes(n_songs: int) -> dict[str, int]:
    sizes = {split: round(share * n_songs) for split, share in _SHARES.items()}
    return {**sizes, "test": n_songs - sum(sizes.values())}


def _draw(
    style: Style, number: int, artist: int, split: str, seed: int, attempt: int = 0
) -> DemoSong:
    """Draw one song; one without any label is drawn again."""
    rng = np.random.default_rng([_SONG, seed, number, attempt])
    tags: tuple[str, ...] = ()
    while not tags:
        latents = draw_song(style, rng)
        tags = labels_of(latents)
    return DemoSong(number, artist, split, latents, tags)


def _with_every_label(songs: list[DemoSong], seed: int) -> list[DemoSong]:
    """Return the songs of one split, some drawn again, so that no label is too rare."""
    songs = list(songs)
    wanted = max(1, len(songs) // 9)
    attempt = 0
    while missing := _shortfall(songs, wanted):
        attempt += 1
        index = attempt % len(songs)
        old = songs[index]
        style = draw_style(np.random.default_rng([_ARTIST, seed, old.artist]))
        trial = list(songs)
        trial[index] = _draw(style, old.number, old.artist, old.split, seed, attempt)
        if _shortfall(trial, wanted) <= missing:  # equal too: it leads out of dead ends
            songs = trial
    return songs


def _shortfall(songs: list[DemoSong], wanted: int) -> int:
    """Return how many labels-of-songs are missing until each label has ``wanted`` songs."""
    return sum(max(wanted - sum(tag in song.tags for song in songs), 0) for tag in CAUSES)
