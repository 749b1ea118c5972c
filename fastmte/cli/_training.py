"""The steps of ``fastmte train``, from a collection's files to a run's."""

import shlex
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastmte import checkpoint, runs
from fastmte.cli._training_display import Display, EpochDisplay
from fastmte.crop import FRAMES
from fastmte.data.batches import LabelledMels
from fastmte.data.collection import PARTS, Collection
from fastmte.data.demo import write_demo
from fastmte.data.descriptors import Descriptors
from fastmte.data.jamendo import Songs
from fastmte.data.sources import Sources, cache_folder, sources_of
from fastmte.data.space import LabelSpace, acousticbrainz, space_from
from fastmte.data.store import MelStore
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.features import MEL_DESCRIPTORS, mel_descriptors
from fastmte.files import locked, write_json
from fastmte.mel import MelConfig
from fastmte.metrics import elbow_thresholds
from fastmte.partition import Partition, make_partition
from fastmte.plan import precision
from fastmte.predict import predict_store
from fastmte.runs import RunSettings
from fastmte.train import TrainConfig, fit
from fastmte.train.records import METRICS, last_batch_size
from fastmte.train.state import remove_state

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


def run(
    settings: RunSettings,
    out: Path,
    resume: bool,
    workers: int | None,
    device: torch.device,
    display: Display,
) -> tuple[dict[str, float], int]:
    """Return the metrics of a run from beginning to end, and how many songs it had to leave out.

    Raises:
        NoAudioError: no song has a file.
        InputError: the data, the partition or the state cannot be used.
        OSError: the run's folder cannot be written.
    """
    if settings.is_demo:
        display.begin("Composing")
        write_demo(settings.data, workers=workers or None, progress=display.songs)
    collection, material = open_material(settings, out, workers, display)
    if resume and (out / runs.PARTITION).is_file():
        partition, centroids = Partition.load(out / runs.PARTITION, material.tags), None
    else:
        partition, centroids = split_labels(settings, collection, material, display)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if centroids is not None:
            begin_run(settings, material, partition, centroids, out)
        introduce(settings, material, partition, device, display)
        result = train(settings, material, partition, out, resume, device, display)
    return result, len(material.failed)


def interrupted(out: Path | None) -> str:
    """Return one line that says what an interrupted run has kept, and how to go on."""
    if out is None or not (records := out / METRICS).is_file():
        return "Interrupted; songs that are ready are kept, the same command goes on"
    n_epochs = len(records.read_text(encoding="utf-8").splitlines())
    command = f"fastmte train --resume --out {shlex.quote(str(out))}"
    return f"Interrupted; {n_epochs} epochs are kept, go on with: {command}"


def open_material(
    settings: RunSettings, out: Path, workers: int | None, display: Display
) -> tuple[Collection, Material]:
    """Open the collection and its mels, making what is not there yet.

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
    store = _open_store(settings, collection, out, workers, display)
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


def make_space(
    settings: RunSettings, collection: Collection, material: Material, display: Display
) -> LabelSpace:
    """Return the labels as points: by --features, AcousticBrainz's files, or the mels."""
    songs = material.parts["train"]
    if settings.features is not None:
        return space_from(songs, Descriptors.load(settings.features), settings.features)
    descriptors = acousticbrainz(collection)
    if descriptors is None:
        display.begin("Descriptors")
        descriptors = _describe(songs.ids, material.store, display)
    return space_from(songs, descriptors, settings.data)


def _describe(ids: Sequence[str], store: MelStore, display: Display) -> Descriptors:
    frames, rows = min(FRAMES, store.width), []
    for position in store.index_of(ids):
        mel = store.gather(position[None], frames)[0].numpy()
        rows.append(mel_descriptors(mel, store.mel.db_per_decade))
        display.songs(len(rows), len(ids))
    return Descriptors(tuple(ids), MEL_DESCRIPTORS, np.stack(rows), f"mel:{store.mel.preset}")


def split_labels(
    settings: RunSettings, collection: Collection, material: Material, display: Display
) -> tuple[Partition, np.ndarray]:
    """Return the labels of each member, and the labels as points (L, D)."""
    space = make_space(settings, collection, material, display)
    with _warnings_to(display):
        made = make_partition(
            settings.partition, material.tags, space.centroids, settings.members, settings.seed
        )
    partition = replace(made, details={**made.details, **space.details})
    assert space.centroids is not None
    return partition, space.centroids


def begin_run(
    settings: RunSettings,
    material: Material,
    partition: Partition,
    centroids: np.ndarray,
    out: Path,
) -> None:
    """Write what is known before training."""
    runs.begin(out, runs.new_manifest(settings, out, material.summary()))
    runs.save_array(out / runs.CENTROIDS, centroids)
    partition.save(out / runs.PARTITION)


def introduce(
    settings: RunSettings,
    material: Material,
    partition: Partition,
    device: torch.device,
    display: Display,
) -> None:
    """Say what is going to be trained on what."""
    counts = ", ".join(f"{len(songs)} {name}" for name, songs in material.parts.items())
    display.say(
        f"{settings.backbone}, {partition.n_members} members over {len(material.tags)} labels "
        f"({Path(settings.partition).stem}), {counts} songs, on {device}"
    )
    for member, tags in enumerate(partition.parts()):
        display.say(f"  member {member}: {' '.join(tags)}")


def train(
    settings: RunSettings,
    material: Material,
    partition: Partition,
    out: Path,
    resume: bool,
    device: torch.device,
    display: Display,
) -> dict[str, float]:
    """Train, then write everything a run folder holds; return the metrics of the test songs."""
    began = time.monotonic()
    ensemble = FusedEnsemble.create(
        settings.backbone, partition.member_of_label.tolist(), settings.seed
    ).to(device)
    config = train_config(settings)
    with _warnings_to(display):
        config = replace(config, precision=precision.resolve(config.precision, device))
    epochs = EpochDisplay(display, config.epochs)
    ensemble = fit(
        ensemble,
        material.part("train"),
        material.part("validation"),
        config,
        out,
        resume,
        epochs.epoch,
        epochs.step,
        on_smaller=epochs.smaller,
    )
    batch_size = last_batch_size(out)
    with _warnings_to(display):
        scores = {
            name: predict_store(
                ensemble,
                material.store,
                material.store.index_of(material.parts[name].ids),
                batch_size,
                device,
                settings.frames,
                precision=config.precision,
            )
            for name in ("validation", "test")
        }
        thresholds = elbow_thresholds(
            scores["validation"], material.parts["validation"].labels, material.tags
        )
        test = material.parts["test"]
        result = runs.write_results(
            out, material.tags, test.ids, scores["test"], test.labels, thresholds
        )
    _save_model(settings, material, ensemble, thresholds, result, out)
    manifest = runs.read_manifest(out) | {"status": "finished", "results": result}
    manifest["seconds"] = round(time.monotonic() - began, 1)
    manifest["last_batch_size"] = batch_size  # smaller than asked for where memory was short
    manifest["model"] = checkpoint.fingerprint(out)
    write_json(out / runs.MANIFEST, manifest)
    remove_state(out)
    return result


def train_config(settings: RunSettings) -> TrainConfig:
    """Return the part of the settings that the training needs."""
    return TrainConfig(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        patience=settings.patience,
        plateau_patience=settings.plateau_patience,
        frames=settings.frames,
        crop=settings.crop,
        clip=settings.clip,
        seed=settings.seed,
        plan=settings.plan,
        precision=settings.precision,
    )


def _save_model(
    settings: RunSettings,
    material: Material,
    ensemble: FusedEnsemble,
    thresholds: np.ndarray,
    result: dict[str, float],
    out: Path,
) -> None:
    provenance = {"made by": "fastmte train", "settings": asdict(settings), "results": result}
    model = checkpoint.Checkpoint(
        ensemble.cpu(),
        material.tags,
        material.store.mel.to_dict(),
        settings.frames,
        thresholds,
        provenance,
    )
    checkpoint.save(model, out)


@contextmanager
def _warnings_to(display: Display) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        display.say(f"Warning: {text}")
