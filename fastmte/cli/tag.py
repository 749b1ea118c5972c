"""``fastmte tag``: score songs with a trained ensemble."""

from pathlib import Path
from typing import Literal

import click

from fastmte.cli import _process, options


@click.command(context_settings={"show_default": True})
@click.argument("paths", nargs=-1, type=click.Path(exists=True, path_type=bytes))
@click.option(
    "--model",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of a run or of a converted model.",
)
@options.output_folder
@click.option(
    "--batch-size", type=click.IntRange(1), default=8, help="Songs the model sees at once."
)
@click.option("--device", default="auto", help="Where the model runs: auto, cpu, cuda, cuda:1 ...")
@click.option("--force", is_flag=True, help="Start anew in a folder of another model or settings.")
@click.option(
    "--from-file",
    "list_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="File with one path a line, or - for stdin.",
)
@click.option("-0", "is_nul", is_flag=True, help="Paths of --from-file end in NUL (find -print0).")
@options.as_json
@options.plan
@options.precision
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but failures.")
@click.option("--retry-failed", is_flag=True, help="Try again the songs that failed before.")
@click.option(
    "--short",
    type=click.Choice(["repeat", "skip"]),
    default="repeat",
    help="Songs shorter than a crop: repeat them to fill it, or give them no scores.",
)
@options.threads
@click.option(
    "--timeout",
    type=options.FiniteRange(0, 86400, min_open=True),
    default=60.0,
    help="Seconds a song may take to decode.",
)
@click.option(
    "--top",
    type=click.IntRange(1),
    help="Tags a song in tags.csv  [default: those above the model's thresholds, at most 5; "
    "3 for a model without]",
)
@click.option(
    "--windows",
    type=options.WindowCount(),
    default="1",
    help="Windows of a song whose scores are averaged: one is its centre, more are spread over "
    "it, all leave out nothing (of songs up to 15 minutes).",
)
@options.workers
@click.pass_context
def tag(
    ctx: click.Context,
    paths: tuple[bytes, ...],
    model: Path,
    output: Path,
    batch_size: int,
    device: str,
    force: bool,
    list_file: str | None,
    is_nul: bool,
    as_json: bool,
    plan: str | None,
    precision: Literal["auto", "fp32", "bf16"],
    quiet: bool,
    retry_failed: bool,
    short: Literal["repeat", "skip"],
    threads: int | None,
    timeout: float,
    top: int | None,
    windows: int | Literal["all"],
    workers: int | None,
) -> None:
    """Score the songs in PATHS, folders or files, into the folder OUTPUT.

    \b
      fastmte tag MUSIC/ --model RUN -o TAGGED
      find MUSIC/ -name "*.ogg" -print0 | fastmte tag --from-file - -0 --model RUN -o TAGGED

    Folders are searched for audio files by extension, hidden ones left out; a named
    file is tried whatever it is called. Run the same command again after an
    interruption, or with new songs: what is done is not done again.

    OUTPUT gets parts/ (Parquet), scores.csv, tags.csv and failed.jsonl. Paths in them
    are relative to the folder, where PATHS is one folder, and as given otherwise;
    bytes that are no UTF-8 are written as \\xff.

    Exit code: 0 done, 3 some songs failed, 4 no audio found, 130 interrupted.
    """
    from fastmte.data.inputs import find_songs

    if not paths and list_file is None:
        raise click.UsageError("give PATHS, or --from-file")
    if is_nul and list_file is None:
        raise click.UsageError("-0 belongs to --from-file")
    found = find_songs(paths, _read_list(list_file, is_nul))
    if not found.songs and not found.unreadable:
        _say_no_audio()
        ctx.exit(_process.NO_AUDIO)

    import torch

    from fastmte import checkpoint, predict
    from fastmte.cli._tagging import Listener, show
    from fastmte.data import tables
    from fastmte.data.parts import read_tagged

    place = _process.device_of(device)
    if threads is not None:
        torch.set_num_threads(threads)
    ensemble = checkpoint.load(model)
    with (
        _process.terminable(),
        Listener(quiet) as listener,
        _process.warnings_told(listener.say),
    ):
        listener.unreadable(found.unreadable)
        try:
            tagging = predict.tag_paths(
                found,
                ensemble,
                output,
                batch_size=batch_size,
                workers=workers,
                deadline=timeout,
                device=place,
                plan=plan,
                precision=precision,
                short=short,
                windows=windows,
                force=force,
                retry_failed=retry_failed,
                on_progress=listener,
            )
        except KeyboardInterrupt as interruption:
            listener.interrupted(output)
            is_ended = isinstance(interruption, _process.Terminated)
            ctx.exit(_process.TERMINATED if is_ended else _process.INTERRUPTED)
    tagged = read_tagged(output)
    tables.write_scores(tagged, output / "scores.csv", is_all=True, has_status=True)
    tables.write_tags(tagged, output / "tags.csv", top)
    tables.write_failed(tagged, output / "failed.jsonl")
    show(tagging, tagged, top, as_json, quiet)
    ctx.exit(_process.SOME_FAILED if tagging.n_failed or found.unreadable else 0)


def _read_list(list_file: str | None, is_nul: bool) -> list[bytes]:
    from fastmte.data.inputs import read_list

    if list_file is None:
        return []
    with click.open_file(list_file, "rb") as file:
        return read_list(file.read(), is_nul)


def _say_no_audio() -> None:
    from fastmte.data.inputs import AUDIO_EXTENSIONS

    known = " ".join(sorted(extension.decode() for extension in AUDIO_EXTENSIONS))
    click.echo(f"Error: no audio found: no file with any of the extensions {known}", err=True)
