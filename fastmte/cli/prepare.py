"""``fastmte prepare``: a collection of songs into a mel store."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastmte.cli import options
from fastmte.cli._process import (
    INTERRUPTED,
    NO_AUDIO,
    SOME_FAILED,
    TERMINATED,
    Terminated,
    terminable,
)

if TYPE_CHECKING:
    from fastmte.data.sources import Sources

_MOST_NAMED = 20


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.output_folder
@click.option("--force", is_flag=True, help="Replace a store of something else in the output.")
@click.option(
    "--frames",
    type=click.IntRange(1),
    default=1366,
    show_default=True,
    help="Frames kept of each song, its middle; random crops need more than one crop.",
)
@options.mel_preset
@click.option("--retry-failed", is_flag=True, help="Try again the songs that failed before.")
@options.split
@options.workers
@click.pass_context
def prepare(
    ctx: click.Context,
    data: Path,
    output: Path,
    force: bool,
    frames: int,
    mel_preset: str,
    retry_failed: bool,
    split: int,
    workers: int | None,
) -> None:
    """Decode the songs in DATA once, for fastmte train --store.

    DATA is a collection of MTG-Jamendo's layout, or any folder of audio files or of mels as
    .npy. Run the same command again after an interruption: songs that are ready are kept.
    Run on a finished store, it compares the mels with their checksums, and decodes again what
    is damaged and the songs whose files have changed.

    \b
      fastmte prepare mtg-jamendo-dataset -o mels
      fastmte train --data mtg-jamendo-dataset --store mels --partition kmeans --backbone vgg

    Exit code: 0 done, 3 some songs could not be read, 4 no audio found, 130 interrupted.
    """
    from fastmte.cli._training_display import Display
    from fastmte.data.store import MelStore
    from fastmte.data.store_build import remove_store
    from fastmte.mel import MelConfig

    sources = _sources(data, split, mel_preset)
    if not sources.n_found:
        click.echo(f"Error: {click.format_filename(data)}: no audio found", err=True)
        ctx.exit(NO_AUDIO)
    if force:
        remove_store(output)
    config = MelConfig.of(mel_preset)
    try:
        with terminable(), Display() as display:
            display.begin("Mels")
            store = MelStore.build(
                sources.paths,
                sources.ids,
                output,
                config,
                frames,
                workers,
                display.songs,
                is_checked=True,
                retry_failed=retry_failed,
            )
    except KeyboardInterrupt as interrupt:
        click.echo("Interrupted; songs that are ready are kept, the same command goes on", err=True)
        ctx.exit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED)
    _tell(store, output)
    ctx.exit(SOME_FAILED if store.failed else 0)


def _sources(data: Path, split: int, preset: str) -> "Sources":
    from fastmte.data.collection import Collection
    from fastmte.data.sources import sources_in, sources_of

    if Collection.is_in(data):
        return sources_of(Collection.open(data, split), preset)
    return sources_in(data)


def _tell(store: Any, output: Path) -> None:
    """Name the songs that are left out, and say what there is."""
    for failure in store.failed[:_MOST_NAMED]:
        click.echo(f"{failure['path']}: {failure['message']} ({failure['code']})", err=True)
    if len(store.failed) > _MOST_NAMED:
        click.echo(f"... and {len(store.failed) - _MOST_NAMED} more, in store.json", err=True)
    text = f"{len(store)} songs of preset {store.mel.preset}"
    if store.failed:
        text += f", {len(store.failed)} left out"
    click.echo(f"{text}: {click.format_filename(output)}")
