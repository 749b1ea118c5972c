"""``fastmte evaluate``: metrics of predictions against the truth."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from fastmte.cli.options import as_json
from fastmte.errors import InputError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("predictions", type=click.Path(exists=True, path_type=Path), metavar="PRED|RUN")
@as_json
@click.option("--decisions", type=_FILE, help="Which tags each song was given: bool .npy.")
@click.option("--per-tag", is_flag=True, help="Add a table of every tag.")
@click.option(
    "--thresholds", type=_FILE, help="Decide by these instead: lines of tag, tab, threshold."
)
@click.option("--truth", type=_FILE, help="Which tags each song has: bool .npy, or a split's .tsv.")
def evaluate(
    predictions: Path,
    as_json: bool,
    decisions: Path | None,
    per_tag: bool,
    thresholds: Path | None,
    truth: Path | None,
) -> None:
    """Print the task's metrics of scores (songs x tags, .npy) or of a run's folder.

    Without decisions and thresholds, precision, recall and F-score are left out. A run's
    folder has its own truth, decisions and thresholds; an option replaces them.

    \b
      fastmte evaluate predictions.npy --truth groundtruth.npy --decisions decisions.npy
      fastmte evaluate predictions.npy --truth autotagging_moodtheme-test.tsv --json
      fastmte evaluate RUN --per-tag
    """
    from fastmte import metrics
    from fastmte.data.task_files import read_array, read_thresholds, read_truth

    if decisions and thresholds:
        raise click.UsageError("--decisions and --thresholds exclude each other; give one")
    tags = None
    if predictions.is_dir():
        tags = _tags_of_run(predictions)
        predictions, truth, decisions, thresholds = _of_run(
            predictions, truth, decisions, thresholds
        )
    if truth is None:
        raise click.UsageError("Missing option '--truth'; only a run's folder has its own")
    scores, has_tags = read_array(predictions), read_truth(truth, tags)
    tags = tags or _names(scores.shape[-1] if scores.ndim else 0)
    decided = None if decisions is None else read_array(decisions)
    for path, array in ((truth, has_tags), (decisions, decided)):
        if array is not None and array.dtype != bool:
            raise InputError(f"{path}: must be bool, got {array.dtype}; save it as astype(bool)")
    with _naming({"scores": predictions, "truth": truth, "decisions": decisions}):
        scores, has_tags, decided = metrics.check_scores(scores, has_tags, decided)
    if thresholds is not None:
        decided = metrics.decide(scores, read_thresholds(thresholds, tags))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        result: dict[str, Any] = dict(metrics.evaluate(scores, has_tags, decided, tags))
    for warning in caught:
        click.echo(f"Warning: {warning.message}", err=True)
    rows = metrics.per_tag(scores, has_tags, tags, decided) if per_tag else None
    if as_json:
        click.echo(json.dumps(result if rows is None else {**result, "tags": rows}, indent=1))
        return
    for name, value in result.items():
        click.echo(f"{name:<20}\t{value:.6f}")
    if rows is not None:
        click.echo("\n" + _table(rows))


@contextmanager
def _naming(files: dict[str, Path | None]) -> Iterator[None]:
    """Put before an error, which begins with the name of an array, the file it is from."""
    try:
        yield
    except InputError as error:
        name, _, rest = str(error).partition(" ")
        text = str(error) if name == "scores" else rest
        raise InputError(f"{files[name]}: {text}") from error


def _of_run(
    run: Path, truth: Path | None, decisions: Path | None, thresholds: Path | None
) -> tuple[Path, Path, Path | None, Path | None]:
    """Return the files of a run, each replaced by the one given."""
    missing = [
        name
        for name, given in (("predictions.npy", None), ("groundtruth.npy", truth))
        if given is None and not (run / name).is_file()
    ]
    if missing:
        raise InputError(f"{run}: has no {' and no '.join(missing)}; is the run finished?")
    if decisions is None and thresholds is None:
        decisions = _if_there(run / "decisions.npy")
        thresholds = None if decisions else _if_there(run / "thresholds.txt")
    return run / "predictions.npy", truth or run / "groundtruth.npy", decisions, thresholds


def _tags_of_run(run: Path) -> tuple[str, ...] | None:
    from fastmte.partition import load_split

    file = run / "partition.json"
    return load_split(file).tags if file.is_file() else None


def _names(n_labels: int) -> tuple[str, ...]:
    """Return the task's tags where they are as many, and else numbers."""
    from fastmte.labels import MOOD_THEME_TAGS

    is_task = n_labels == len(MOOD_THEME_TAGS)
    return MOOD_THEME_TAGS if is_task else tuple(str(label) for label in range(n_labels))


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None


def _table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as lines of columns; a dash where nothing is defined."""
    cells = [list(rows[0])]
    cells += [[_cell(value) for value in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    lines = (
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in cells
    )
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
