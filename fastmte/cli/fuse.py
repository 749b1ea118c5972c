"""``fastmte fuse``: the scores of several runs made one."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from fastmte.errors import InputError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")


@click.command(context_settings={"show_default": True})
@click.argument(
    "sources",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PRED|RUN ...",
)
@click.option(
    "--merge",
    type=click.Choice(["mean", "logit", "rank"]),
    default="mean",
    help="Mean of the scores, of their logits, or of the songs' ranks.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File of scores (.npy) to write.",
)
def fuse(sources: tuple[Path, ...], merge: str, output: Path) -> None:
    """Merge the scores of several runs of the same songs and tags, or of .npy files.

    Ranks are among the songs of a file, so that runs of other scales have the same say.

    \b
      fastmte fuse runs/vgg-single runs/vgg-kmeans --merge logit -o fused.npy
      fastmte evaluate fused.npy --truth runs/vgg-single/groundtruth.npy
    """
    import numpy as np

    from fastmte.cli.options import check_file
    from fastmte.merge import merge_scores
    from fastmte.runs import save_array

    check_file(output)
    scores = [_scores(source) for source in sources]
    shape = scores[0].shape
    for source, one in zip(sources, scores, strict=True):
        if one.shape != shape:
            raise InputError(f"{source}: has scores {one.shape}, {sources[0]} has {shape}")
    _check_same("songs", sources, _songs)
    _check_same("tags", sources, _tags)
    labels = np.tile(np.arange(shape[1]), len(scores))
    save_array(output, merge_scores(np.concatenate(scores, axis=1), labels.tolist(), merge))
    click.echo(f"{click.format_filename(output)}: {shape[0]} songs, {shape[1]} tags", err=True)


def _scores(source: Path) -> "np.ndarray":
    """Return the scores (N, L) of a file or a run."""
    from fastmte.data.task_files import read_array

    path = source / "predictions.npy" if source.is_dir() else source
    if not path.is_file():
        raise InputError(f"{source}: has no {path.name}; is the run finished?")
    scores = read_array(path)
    if scores.ndim != 2 or scores.dtype.kind != "f" or not scores.shape[1]:
        raise InputError(f"{path}: must be (songs, tags) of floats, got {scores.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise InputError(f"{path}: scores must be in [0, 1]")
    return scores


def _songs(run: Path) -> list[str] | None:
    from fastmte.data.task_files import read_lines

    path = run / "test_ids.txt"
    return read_lines(path) if path.is_file() else None


def _tags(run: Path) -> tuple[str, ...] | None:
    from fastmte.partition import load_split

    path = run / "partition.json"
    return load_split(path).tags if path.is_file() else None


def _check_same(what: str, sources: tuple[Path, ...], read: Callable[[Path], T | None]) -> None:
    """Refuse runs that say they are of different songs or tags."""
    known = [(source, value) for source in sources if (value := read(source)) is not None]
    for source, value in known[1:]:
        if value != known[0][1]:
            raise InputError(f"{source}: its {what} are not those of {known[0][0]}")
