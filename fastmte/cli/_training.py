"""The steps of ``fastmte train``, from a collection's files to a run's."""

import shlex
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from fastmte import checkpoint, runs
from fastmte.cli._team import Team
from fastmte.cli._training_display import Display, EpochDisplay
from fastmte.cli._training_material import Material, open_material
from fastmte.crop import FRAMES
from fastmte.data.collection import Collection
from fastmte.data.demo import write_demo
from fastmte.data.descriptors import Descriptors
from fastmte.data.space import LabelSpace, acousticbrainz, space_from
from fastmte.data.store import MelStore
from fastmte.ensemble import FusedEnsemble
from fastmte.features import MEL_DESCRIPTORS, mel_descriptors
from fastmte.files import locked, write_json
from fastmte.metrics import elbow_thresholds
from fastmte.partition import Cover, Partition, load_split, make_split
from fastmte.plan import precision
from fastmte.predict import predict_store
from fastmte.runs import RunSettings
from fastmte.train import TrainConfig, fit
from fastmte.train.records import METRICS, last_batch_size
from fastmte.train.state import remove_state


def run(
    settings: RunSettings,
    out: Path,
    resume: bool,
    workers: int | None,
    device: torch.device,
    display: Display,
    team: Team | None = None,
) -> tuple[dict[str, float], int]:
    """Return the metrics of a run from beginning to end, and how many songs it had to leave out.

    Of several processes the first prepares the run; then ``follow`` lets the others train along.

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
        partition, centroids = load_split(out / runs.PARTITION, material.tags), None
    else:
        partition, centroids = split_labels(settings, collection, material, display)
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        if centroids is not None:
            begin_run(settings, material, partition, centroids, out)
        introduce(settings, material, partition, device, display)
        if team is not None:
            display.say(f"{team.size} processes share its batches")
            team.tell({"settings": asdict(settings), "out": str(out.absolute())})
        result = train(settings, material, partition, out, resume, device, display, team)
    return result, len(material.failed)


def follow(team: Team, device: torch.device, display: Display) -> None:
    """Train along with the first process, once it has prepared the run.

    Raises:
        InputError: what the first has written cannot be read here.
        LostError: another process has ended.
    """
    told = team.hear()
    if told is None:  # the run has finished before
        return
    settings, out = RunSettings(**told["settings"]), Path(told["out"])
    _, material = open_material(settings, out, None, display, is_made=True)
    partition = load_split(out / runs.PARTITION, material.tags)
    train(settings, material, partition, out, True, device, display, team)


def interrupted(out: Path | None, team: Team | None = None) -> str:
    """Return one line that says what an interrupted run has kept, and how to go on."""
    if out is None or not (records := out / METRICS).is_file():
        return "Interrupted; songs that are ready are kept, the same command goes on"
    n_epochs = len(records.read_text(encoding="utf-8").splitlines())
    command = f"fastmte train --resume --out {shlex.quote(str(out))}"
    if team is not None:  # another number gives other last bits
        command += f" --processes {team.size}"
    return f"Interrupted; {n_epochs} epochs are kept, go on with: {command}"


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
) -> tuple[Partition | Cover, np.ndarray]:
    """Return the labels of each member, and the labels as points (L, D)."""
    space = make_space(settings, collection, material, display)
    with _warnings_to(display):
        made = make_split(
            settings.partition,
            material.tags,
            space.centroids,
            settings.members,
            settings.seed,
            settings.merge,
        )
    partition = replace(made, details={**made.details, **space.details})
    assert space.centroids is not None
    return partition, space.centroids


def begin_run(
    settings: RunSettings,
    material: Material,
    partition: Partition | Cover,
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
    partition: Partition | Cover,
    device: torch.device,
    display: Display,
) -> None:
    """Say what is going to be trained on what."""
    counts = ", ".join(f"{len(songs)} {name}" for name, songs in material.parts.items())
    display.say(
        f"{settings.backbone}, {partition.n_members} members over {len(material.tags)} labels "
        f"({runs.split_title(settings.partition)}), {counts} songs, on {device}"
    )
    for member, tags in enumerate(partition.parts()):
        display.say(f"  member {member}: {' '.join(tags)}")


def train(
    settings: RunSettings,
    material: Material,
    partition: Partition | Cover,
    out: Path,
    resume: bool,
    device: torch.device,
    display: Display,
    team: Team | None = None,
) -> dict[str, float]:
    """Train, then write everything a run folder holds; return the metrics of the test songs.

    Of several processes the first alone writes, and has metrics to return.
    """
    began = time.monotonic()
    members, merge = partition.member_of_output, partition.merging()
    ensemble = FusedEnsemble.create(settings.backbone, members.tolist(), settings.seed).to(device)
    config = train_config(settings)
    with _warnings_to(display):
        config = replace(config, precision=precision.resolve(config.precision, device))
    epochs = EpochDisplay(display, config.epochs)
    ensemble = fit(
        ensemble,
        material.part("train").of_labels(partition.label_of_output),
        material.part("validation").of_labels(partition.label_of_output),
        config,
        out,
        resume,
        epochs.epoch,
        epochs.step,
        on_smaller=epochs.smaller,
        exchange=None if team is None else team.connect(device),
    )
    if team is not None and team.rank:
        return {}
    ensemble.set_merge(merge)
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
