"""Descriptors of many songs, and the file they are kept in."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastmte.data.jamendo import Songs
from fastmte.data.task_files import load_numpy
from fastmte.errors import InputError
from fastmte.features import read_acousticbrainz
from fastmte.files import atomic_write


@dataclass(frozen=True, eq=False)
class Descriptors:
    """One row of numbers a song.

    Attributes:
        ids: N names of songs: ids of a collection, or paths in a folder.
        names: D names of descriptors.
        features: (N, D) float64, finite.
        source: what made them: ``acousticbrainz``, ``svm``, ``essentia``, ``mel:PRESET``,
            ``embedding:BACKBONE:HASH``, or the maker's own word.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    features: np.ndarray
    source: str

    @property
    def is_uniform(self) -> bool:
        """True where all descriptors have the same unit, so that nothing has to be scaled."""
        return self.source.partition(":")[0] in ("acousticbrainz", "svm", "embedding")

    def has(self, songs: Songs) -> np.ndarray:
        """Return which of these songs have a row, (N,) bool."""
        known = set(self.ids)
        return np.array([name in known for name in songs.ids])

    def of(self, songs: Songs) -> np.ndarray:
        """Return the rows of these songs, (N, D) float64.

        Raises:
            InputError: a song has no row.
        """
        row = {name: index for index, name in enumerate(self.ids)}
        missing = [name for name in songs.ids if name not in row]
        if missing:
            raise InputError(
                f"features: {len(missing)} of {len(songs)} songs have none, the first is "
                f"{missing[0]}; make them again from the same collection"
            )
        return self.features[[row[name] for name in songs.ids]]

    def save(self, path: str | Path) -> None:
        """Write the arrays ids, names, features and source as one .npz, without pickles.

        Raises:
            OSError: the folder cannot be written.
        """
        with atomic_write(path, "wb") as file:
            np.savez_compressed(
                file,
                ids=np.array(self.ids, dtype=str),
                names=np.array(self.names, dtype=str),
                features=np.asarray(self.features, np.float64),
                source=np.array(self.source),
            )

    @classmethod
    def load(cls, path: str | Path) -> "Descriptors":
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is of another form.
            OSError: the file cannot be read.
        """
        loaded = load_numpy(path)
        try:
            with loaded as arrays:
                ids, names = arrays["ids"].tolist(), arrays["names"].tolist()
                features, source = arrays["features"], str(arrays["source"])
        except MemoryError as e:
            raise InputError(f"{path}: asks for more memory than there is") from e
        except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as e:
            raise InputError(f"{path}: no file of `fastmte features` ({e})") from e
        if features.shape != (len(ids), len(names)) or features.dtype.kind not in "fiu":
            raise InputError(
                f"{path}: must have one row for each of {len(ids)} ids and one column for each "
                f"of {len(names)} names, got {features.dtype} {features.shape}"
            )
        return cls(tuple(ids), tuple(names), features.astype(np.float64), source)


def describe_json(paths: Sequence[Path]) -> Iterator[np.ndarray | str]:
    """Yield each AcousticBrainz file's descriptors, (22,) float64, or why it has none."""
    for path in paths:
        try:
            yield read_acousticbrainz(path)
        except InputError as error:
            yield str(error).removeprefix(f"{path}: ")
        except OSError as error:
            yield error.strerror or str(error)
