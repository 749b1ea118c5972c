"""``fastmte features``: descriptors of songs, the label space of a partition."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastmte.cli import options
from fastmte.cli._process import NO_AUDIO, SOME_FAILED
from fastmte.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from fastmte.data.collection import Collection

_Found = list[tuple[str, Path | None]]  # name of a song, its file


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.as_json
@options.mel_preset_of_source
@options.output_file
@click.option(
    "--source",
    type=click.Choice(["acousticbrainz", "mel"]),
    help="AcousticBrainz's files, or the audio (or MTG's .npy mels)  "
    "[default: acousticbrainz where DATA has it]",
)
@options.split
@options.workers_of_source
@click.pass_context
def features(
    ctx: click.Context,
    data: Path,
    as_json: bool,
    mel_preset: str,
    output: Path,
    source: str | None,
    split: int,
    workers: int | None,
) -> None:
    """Write one row of 22 descriptors a song of DATA.

    DATA is a collection of MTG-Jamendo's layout, or a folder of audio.

    \b
      fastmte features mtg-jamendo-dataset -o features.npz
      fastmte partition --method dkmeans --data mtg-jamendo-dataset --features features.npz
    """
    import json
    import sys

    import numpy as np
    from rich.console import Console
    from rich.progress import track

    from fastmte.data.descriptors import SOURCES, Descriptors

    found, source = _find(data, split, source)
    if not found:
        click.echo(f"Error: {click.format_filename(data)}: no audio found", err=True)
        ctx.exit(NO_AUDIO)
    failed = {name: "no file of it found" for name, path in found if path is None}
    todo = [(name, path) for name, path in found if path is not None]
    results = _describe([path for _, path in todo], source, mel_preset, workers)
    shown = track(
        results,
        "Describing",
        total=len(todo),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    rows = {}
    for (name, _), row in zip(todo, shown, strict=True):
        if isinstance(row, str):
            failed[name] = row
        else:
            rows[name] = row
    for name, reason in failed.items():
        click.echo(f"{name}: {reason}", err=True)
    if not rows:
        raise InputError(f"{data}: none of {len(found)} songs could be described")
    label = source if source == "acousticbrainz" else f"mel:{mel_preset}"
    Descriptors(tuple(rows), SOURCES[source], np.stack(list(rows.values())), label).save(output)
    if as_json:
        report = {"output": str(output), "source": label, "songs": len(rows), "failed": failed}
        click.echo(json.dumps(report))
    else:
        click.echo(f"{output}: {len(rows)} songs, {len(SOURCES[source])} descriptors ({label})")
    if failed:
        click.echo(f"{len(failed)} songs have no descriptors; they are not in {output}", err=True)
        ctx.exit(SOME_FAILED)


def _describe(
    paths: list[Path], source: str, preset: str, workers: int | None
) -> "Iterator[np.ndarray | str]":
    if source == "acousticbrainz":
        from fastmte.data.descriptors import describe_json

        return describe_json(paths)
    from fastmte.data.describe import describe_songs
    from fastmte.mel import MelConfig

    return describe_songs(paths, MelConfig.of(preset), workers)


def _find(data: Path, split: int, source: str | None) -> tuple[_Found, str]:
    """Return the songs with their files, and the source."""
    from fastmte.data.collection import Collection

    if Collection.is_in(data):
        return _in_collection(Collection.open(data, split), source)
    if source == "acousticbrainz":
        names = sorted(p for p in data.rglob("*.json") if not p.name.endswith(".highlevel.json"))
        return [(path.relative_to(data).as_posix(), path) for path in names], source
    return _in_folder(data), "mel"


def _in_collection(collection: "Collection", source: str | None) -> tuple[_Found, str]:
    parts = (collection.train, collection.validation, collection.test)
    songs = [
        (name, path) for part in parts for name, path in zip(part.ids, part.paths, strict=True)
    ]
    described = [(name, collection.descriptor_path(path)) for name, path in songs]
    if source == "acousticbrainz" or (source is None and any(path for _, path in described)):
        return described, "acousticbrainz"
    return [(n, collection.mel_path(p) or collection.audio_path(p)) for n, p in songs], "mel"


def _in_folder(data: Path) -> _Found:
    import os

    from fastmte.data.inputs import find_songs

    found = find_songs([data])
    for folder, reason in found.unreadable:
        click.echo(f"{os.fsdecode(folder)}: {reason}", err=True)
    return [(os.fsdecode(song.name), Path(os.fsdecode(song.path))) for song in found.songs]
