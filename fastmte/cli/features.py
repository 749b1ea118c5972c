"""``fastmte features``: descriptors of songs, the label space of a partition."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastmte.cli import options
from fastmte.cli._process import NO_AUDIO, SOME_FAILED
from fastmte.errors import InputError

if TYPE_CHECKING:
    from fastmte.data.collection import Collection

_Found = list[tuple[str, Path | None]]  # name of a song, its file


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.as_json
@options.mel_preset_of_source
@click.option(
    "--model",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a run or of a converted model: its backbone's embeddings, as the descriptors.",
)
@options.output_file
@click.option(
    "--source",
    type=click.Choice(["acousticbrainz", "essentia", "mel"]),
    help="AcousticBrainz's files; Essentia's numbers of timbre, rhythm and tonality of the whole "
    "song; or 22 statistics of the mel of its middle (or of MTG's .npy)  [default: "
    "acousticbrainz where DATA has it, else mel]",
)
@options.split
@click.option(
    "--svm-models",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of Essentia's SVM models: the paper's 22 descriptors from the audio.",
)
@options.workers_of_source
@click.pass_context
def features(
    ctx: click.Context,
    data: Path,
    as_json: bool,
    mel_preset: str,
    model: Path | None,
    output: Path,
    source: str | None,
    split: int,
    svm_models: Path | None,
    workers: int | None,
) -> None:
    """Write one row of descriptors a song of DATA.

    DATA is a collection of MTG-Jamendo's layout, or a folder of audio.

    \b
      fastmte features mtg-jamendo-dataset -o features.npz
      fastmte partition --method dkmeans --data mtg-jamendo-dataset --features features.npz

    Exit code: 0 done, 3 some songs have no descriptors, 4 no audio found.
    """
    import json
    import sys

    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from fastmte.cli._describing import described, kind_of
    from fastmte.data.descriptors import Descriptors

    found, kind = _find(data, split, kind_of(source, model, svm_models))
    if not found:
        click.echo(f"Error: {click.format_filename(data)}: no audio found", err=True)
        ctx.exit(NO_AUDIO)
    failed = {name: "no file of it found" for name, path in found if path is None}
    todo = [(name, path) for name, path in found if path is not None]
    paths = [path for _, path in todo]
    label, results = described(paths, kind, mel_preset, model, svm_models, workers)
    shown = track(
        results,
        "Describing",
        total=len(todo),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    rows: dict[str, np.ndarray] = {}
    names: tuple[str, ...] = ()
    for (name, _), result in zip(todo, shown, strict=True):
        if isinstance(result, str):
            failed[name] = result
        else:
            names, rows[name] = result
    for name, reason in failed.items():
        click.echo(f"{name}: {reason}", err=True)
    if not rows:
        raise InputError(f"{data}: none of {len(found)} songs could be described")
    Descriptors(tuple(rows), names, np.stack(list(rows.values())), label).save(output)
    if as_json:
        report = {"output": str(output), "source": label, "songs": len(rows), "failed": failed}
        click.echo(json.dumps(report))
    else:
        click.echo(f"{output}: {len(rows)} songs, {len(names)} descriptors ({label})")
    if failed:
        click.echo(f"{len(failed)} songs have no descriptors; they are not in {output}", err=True)
        ctx.exit(SOME_FAILED)


def _find(data: Path, split: int, kind: str | None) -> tuple[_Found, str]:
    """Return the songs with their files, and the kind of descriptors."""
    from fastmte.data.collection import Collection

    if Collection.is_in(data):
        return _in_collection(Collection.open(data, split), kind)
    if kind == "acousticbrainz":
        names = sorted(p for p in data.rglob("*.json") if not p.name.endswith(".highlevel.json"))
        return [(path.relative_to(data).as_posix(), path) for path in names], kind
    return _in_folder(data), kind or "mel"


def _in_collection(collection: "Collection", kind: str | None) -> tuple[_Found, str]:
    parts = (collection.train, collection.validation, collection.test)
    songs = [
        (name, path) for part in parts for name, path in zip(part.ids, part.paths, strict=True)
    ]
    files = [(name, collection.descriptor_path(path)) for name, path in songs]
    if kind == "acousticbrainz" or (kind is None and any(path for _, path in files)):
        return files, "acousticbrainz"
    if kind in ("essentia", "svm"):
        return [(name, collection.audio_path(path)) for name, path in songs], kind
    return [(n, collection.mel_path(p) or collection.audio_path(p)) for n, p in songs], (
        kind or "mel"
    )


def _in_folder(data: Path) -> _Found:
    import os

    from fastmte.data.inputs import find_songs

    found = find_songs([data])
    for folder, reason in found.unreadable:
        click.echo(f"{os.fsdecode(folder)}: {reason}", err=True)
    return [(os.fsdecode(song.name), Path(os.fsdecode(song.path))) for song in found.songs]
