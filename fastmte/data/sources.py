"""Where the mels of a collection's songs come from."""

import os
from dataclasses import dataclass
from pathlib import Path

from fastmte.data.collection import Collection
from fastmte.data.inputs import find_songs
from fastmte.data.store_build import store_key
from fastmte.errors import InputError
from fastmte.mel import MelConfig

PUBLISHED_PRESET = "mtg2019"  # what MTG's .npy are
CACHE = ".fastmte"


@dataclass(frozen=True)
class Sources:
    """One file a song, all of one kind.

    Attributes:
        ids: N names of songs.
        paths: N files; one that is not there is left to be found missing by its reader.
        is_mels: the files are mels as MTG publishes them; else they are audio.
        n_found: how many of the files there are.
    """

    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    is_mels: bool
    n_found: int


def sources_of(collection: Collection, preset: str) -> Sources:
    """Return the files of all songs, of all parts.

    Mels are taken where as many songs have one as have audio, since nothing is left to
    compute; but only for the preset they are of.

    Raises:
        InputError: there are mels only, and another preset is wanted.
    """
    parts = (collection.train, collection.validation, collection.test)
    ids = tuple(id_ for part in parts for id_ in part.ids)
    names = [path for part in parts for path in part.paths]
    audio = [collection.audio_path(name) for name in names]
    mels = [collection.mel_path(name) for name in names]
    n_audio, n_mels = (len(ids) - found.count(None) for found in (audio, mels))
    if preset != PUBLISHED_PRESET and n_mels and not n_audio:
        raise InputError(
            f"{collection.folder}: has mels and no audio; published mels are {PUBLISHED_PRESET}, "
            f"which must not be mixed with {preset}; use --mel {PUBLISHED_PRESET}"
        )
    is_mels = preset == PUBLISHED_PRESET and 0 < n_mels >= n_audio
    found, kind = (mels, "melspecs") if is_mels else (audio, "audio")
    paths = tuple(
        path or collection.folder / kind / name for path, name in zip(found, names, strict=True)
    )
    return Sources(ids, paths, is_mels, n_mels if is_mels else n_audio)


def sources_in(folder: Path) -> Sources:
    """Return the audio files below a folder, named by their path in it, or its .npy mels."""
    songs = find_songs([folder]).songs
    if songs:
        ids = tuple(song.name.decode("utf-8", "backslashreplace") for song in songs)
        paths = tuple(Path(os.fsdecode(song.path)) for song in songs)
        return Sources(ids, paths, False, len(songs))
    mels = sorted(path for path in folder.rglob("*.npy") if path.name != "mels.npy")
    ids = tuple(str(path.relative_to(folder)) for path in mels)
    return Sources(ids, tuple(mels), True, len(mels))


def cache_folder(data: Path, sources: Sources, config: MelConfig, frames: int) -> Path:
    """Return where the mels of these songs are kept inside the collection.

    The name changes with the songs, their files, the mels' definition and their width,
    so that no cache is ever of something else.
    """
    key = store_key(sources.paths, sources.ids, config, frames)
    return data / CACHE / f"mels-{config.preset}-{frames}-{key[:12]}"
