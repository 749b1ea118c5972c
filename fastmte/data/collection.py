"""A collection of tagged songs: its splits, and where its files lie."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastmte.data.jamendo import Songs, artist_leaks, read_split
from fastmte.data.task_files import read_lines
from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS, strip_prefix

PARTS = ("train", "validation", "test")
_PLACES = ("data/splits/split-{split}", "splits/split-{split}", "split-{split}", ".")
_TAG_LISTS = ("data/tags/moodtheme_split.txt", "tags/moodtheme_split.txt", "tags.txt")


@dataclass(frozen=True)
class Collection:
    """Songs in a folder of MTG-Jamendo's layout, in three parts with no artist in common.

    Attributes:
        folder: where it lies.
        train: the songs to learn from.
        validation: the songs that schedules, stopping and thresholds look at.
        test: the songs nothing looks at before the end.
        left_out: tags no training song has; they are no labels of this collection.
    """

    folder: Path
    train: Songs
    validation: Songs
    test: Songs
    left_out: tuple[str, ...] = ()

    @property
    def tags(self) -> tuple[str, ...]:
        """The labels: the tags that training songs have, in the task's order."""
        return self.train.tags

    @staticmethod
    def is_in(folder: str | Path) -> bool:
        """Return whether a folder has a table of training songs where ``open`` looks for one."""
        names = [f"{place.format(split='*')}/*-{PARTS[0]}.tsv" for place in _PLACES]
        return any(True for name in names for _ in Path(folder).glob(name))

    @classmethod
    def open(cls, folder: str | Path, split: int = 0) -> "Collection":
        """Read the collection in a folder.

        The tables are looked for in ``data/splits/split-S/``, ``splits/split-S/``,
        ``split-S/`` and the folder itself. The tags are the task's 56, or the ones
        listed, one a line, in ``data/tags/moodtheme_split.txt``,
        ``tags/moodtheme_split.txt`` or ``tags.txt``.

        Args:
            folder: the dataset's clone, its ``data`` folder, or one that looks like it.
            split: which of its splits, 0 to 4.

        Raises:
            InputError: there is no collection, or a table has a bad row.
            OSError: a file cannot be read.
        """
        folder = Path(folder)
        tables = _find_tables(folder, split)
        known = _known_tags(folder)
        parts = {name: read_split(path, known) for name, path in tables.items()}
        used = {
            name: {known[i] for i in np.flatnonzero(songs.labels.any(axis=0)).tolist()}
            for name, songs in parts.items()
        }
        tags = [tag for tag in known if tag in used["train"]]
        others = (used["validation"] | used["test"]) - used["train"]
        left_out = [tag for tag in known if tag in others]
        train, validation, test = (parts[name].with_tags(tags) for name in PARTS)
        return cls(folder, train, validation, test, tuple(left_out))

    def leaks(self) -> dict[str, tuple[str, ...]]:
        """Return the artists that more than one part has, each with the names of those parts."""
        return artist_leaks({"train": self.train, "validation": self.validation, "test": self.test})

    def audio_path(self, song_path: str) -> Path | None:
        """Return the audio file of a song, or None: in ``audio/`` or the folder itself.

        The dataset's low-quality files, ``NN/ID.low.mp3``, are found too.
        """
        path = Path(song_path)
        names = (path, path.with_suffix(f".low{path.suffix}"))
        return self._find([base / name for name in names for base in ("audio", ".")])

    def mel_path(self, song_path: str) -> Path | None:
        """Return the published mel of a song, or None: ``melspecs/NN/ID.npy`` or ``mels/...``."""
        name = Path(song_path).with_suffix(".npy")
        return self._find(["melspecs" / name, "mels" / name])

    def descriptor_path(self, song_path: str) -> Path | None:
        """Return the AcousticBrainz file of a song, or None: ``acousticbrainz/NN/ID.json``."""
        return self._find(["acousticbrainz" / Path(song_path).with_suffix(".json")])

    def _find(self, names: list[Path]) -> Path | None:
        return next((self.folder / name for name in names if (self.folder / name).is_file()), None)


def _find_tables(folder: Path, split: int) -> dict[str, Path]:
    """Return the file of each part."""
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder")
    if not any(folder.iterdir()):
        raise InputError(f"{folder}: is empty")
    places = [place.format(split=split) for place in _PLACES]
    for place in places:
        tables = {name: _table(folder / place, name) for name in PARTS}
        found = {name: path for name, path in tables.items() if path is not None}
        if not found:
            continue
        missing = [f"{folder / place}/*-{name}.tsv" for name in PARTS if name not in found]
        if missing:
            raise InputError(f"{folder}: {' and '.join(missing)} missing")
        if place == "." and split:
            raise InputError(f"{folder}: has one split only, number 0, got {split}")
        return found
    looked = ", ".join(f"{folder / place}/*-train.tsv" for place in places)
    raise InputError(f"{folder}: no collection of MTG-Jamendo's layout; looked for {looked}")


def _table(folder: Path, part: str) -> Path | None:
    named = folder / f"autotagging_moodtheme-{part}.tsv"
    if named.is_file():
        return named
    found = sorted(folder.glob(f"*-{part}.tsv"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"{folder}: more than one table of {part} songs: {names}")
    return found[0] if found else None


def _known_tags(folder: Path) -> tuple[str, ...]:
    for name in _TAG_LISTS:
        path = folder / name
        if path.is_file():
            lines = read_lines(path)
            tags = [strip_prefix(line.strip()) for line in lines if line.strip()]
            if not tags or len(set(tags)) < len(tags):
                raise InputError(f"{path}: must list distinct tags, one a line")
            return tuple(tags)
    return MOOD_THEME_TAGS
