"""What ``fastmte train`` trains on: a collection's songs that have a mel, and the mels."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.cli._training_display import Display
from fastmte.data.batches import LabelledMels
from fastmte.data.collection import PARTS, Collection
from fastmte.data.jamendo import Songs
from fastmte.data.sources import Sources, cache_folder, sources_of
from fastmte.data.store import MelStore
from fastmte.errors import InputError
from fastmte.mel import MelConfig
from fastmte.runs import RunSettings

RANDOM_WIDTH = 4  # crops' widths kept of a song for random crops
_SHUFFLE = 3  # purpose of a random stream: which song gets whose labels
_MOST_NAMED = 10


class NoAudioError(InputError):
    """A collection of which no song has a file."""


@dataclass(frozen=True)
class Material:
    """A collection, ready to be trained on: songs that have a mel, and the mels.

    Attributes:
        parts: songs of ``train``, ``validation`` and ``test``.
        store: their mels.
        failed: songs that have none, as ``MelStore.failed``.
    """

    parts: dict[str, Songs]
    store: MelStore
    failed: tuple[dict[str, str], ...]

    def part(self, name: str) -> LabelledMels:
        """Return the songs of one part with their labels."""
        songs = self.parts[name]
        return LabelledMels(self.store, self.store.index_of(songs.ids), songs.labels)

    @property
    def tags(self) -> tuple[str, ...]:
        """The labels."""
        return self.parts["train"].tags

    def summary(self) -> dict[str, Any]:
        """Return what a manifest tells of the data."""
        counts = {name: len(songs) for name, songs in self.parts.items()}
        return {
            "songs": counts,
            "tags": list(self.tags),
            "mels": self.store.hash,
            "failed": list(self.failed),
        }


def open_material(
    settings: RunSettings,
    out: Path,
    workers: int | None,
    display: Display,
    is_made: bool = False,
) -> tuple[Collection, Material]:
    """Open the collection and its mels, making what is not there yet unless it is made.

    Raises:
        NoAudioError: no song has a file.
        InputError: the collection or the store cannot be used.
    """
    collection = Collection.open(settings.data, settings.split)
    if collection.left_out:
        raise InputError(
            f"{settings.data}: no training song has {', '.join(collection.left_out)}, but other "
            "songs do; add training songs, or take these tags out of the tables"
        )
    leaks = collection.leaks()
    if leaks:
        names = ", ".join(list(leaks)[:3])
        display.say(
            f"Warning: {len(leaks)} artists are in more than one part ({names} ...), "
            "which flatters the results"
        )
    store = _open_store(settings, collection, out, workers, display, is_made)
    parts = {name: _with_mels(getattr(collection, name), store) for name in PARTS}
    failed = _failures(collection, store)
    for failure in failed[:_MOST_NAMED]:
        display.say(f"{failure['path']}: {failure['message']} ({failure['code']}); left out")
    if len(failed) > _MOST_NAMED:
        display.say(f"... and {len(failed) - _MOST_NAMED} more songs are left out")
    _check_parts(parts, settings)
    if settings.shuffle_labels:
        for index, name in enumerate(("train", "validation")):
            random = np.random.default_rng([settings.seed % 2**64, _SHUFFLE, index])
            labels = parts[name].labels[random.permutation(len(parts[name]))]
            parts[name] = replace(parts[name], labels=labels)
    return collection, Material(parts, store, failed)


def _open_store(
    settings: RunSettings,
    collection: Collection,
    out: Path,
    workers: int | None,
    display: Display,
    is_made: bool,
) -> MelStore:
    config = MelConfig.of(settings.mel)
    if settings.store is not None:
        store = MelStore.open(settings.store)
        store.require(config)
        store.check_width(settings.frames)
        return store
    sources = sources_of(collection, settings.mel)
    if not sources.n_found:
        raise NoAudioError(
            f"{settings.data}: no audio found: none of the {len(sources.ids)} songs of its "
            "tables is in audio/ or the folder itself, nor a mel in melspecs/"
        )
    display.begin("Mels")
    if sources.is_mels:
        return MelStore.from_npy(sources.paths, sources.ids, config, is_lenient=True)
    width = settings.frames * (RANDOM_WIDTH if settings.crop == "random" else 1)
    folder = _cache(Path(settings.data), out, sources, config, width)
    if is_made:
        return MelStore.open(folder)
    return MelStore.build(sources.paths, sources.ids, folder, config, width, workers, display.songs)


def _cache(data: Path, out: Path, sources: Sources, config: MelConfig, width: int) -> Path:
    """Return a folder for the mels: in the collection, or in the run if that is read-only."""
    folder = cache_folder(data, sources, config, width)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return out / "mels"
    return folder


def _with_mels(songs: Songs, store: MelStore) -> Songs:
    return songs.only(np.array([store.has(id_) for id_ in songs.ids], dtype=bool))


def _failures(collection: Collection, store: MelStore) -> tuple[dict[str, str], ...]:
    """Return why each song without a mel has none."""
    known = {failure["id"]: failure for failure in store.failed}
    songs = [getattr(collection, name) for name in PARTS]
    pairs = ((id_, path) for part in songs for id_, path in zip(part.ids, part.paths, strict=True))
    unknown = {"code": "NOT_IN_STORE", "message": "not in the mel store"}
    return tuple(
        known.get(id_, {"id": id_, "path": path, **unknown})
        for id_, path in pairs
        if not store.has(id_)
    )


def _check_parts(parts: dict[str, Songs], settings: RunSettings) -> None:
    for name, songs in parts.items():
        if not len(songs):
            raise InputError(f"{settings.data}: no {name} song has a mel")
    train = parts["train"]
    bare = [tag for tag, songs in zip(train.tags, train.labels.T, strict=True) if not songs.any()]
    if bare:
        raise InputError(
            f"{settings.data}: no training song that could be read has {', '.join(bare)}"
        )
