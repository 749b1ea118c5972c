"""Where ``fastmte partition`` finds the labels as points, and how it shows what it made."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fastmte.data.points import PARQUET, TABBED, write_members
from fastmte.data.space import LabelSpace, read_space, space_of, space_of_arrays
from fastmte.errors import InputError
from fastmte.partition import METHODS, Partition
from fastmte.partition.make import NEEDS_CENTROIDS
from fastmte.report.partition import is_page, write_report
from fastmte.report.tables import comparison_table

_TABLES = (".csv", *TABBED, *PARQUET)


def check_method(method: str) -> None:
    """Refuse a method that is neither known nor a file."""
    if method not in METHODS and not Path(method).is_file():
        raise click.BadParameter(
            f"must be one of {', '.join(METHODS)} or a file, got {method!r}",
            param_hint="--method",
        )


def check_report(path: Path | None, n_draws: int | None) -> None:
    """Refuse a report that could not be written, now and not after the work."""
    if path is None:
        if n_draws:
            raise click.UsageError("--draws needs --report, where they are compared")
        return
    folder = path.absolute().parent
    if is_page(path) and not folder.is_dir():
        name = click.format_filename(path)
        raise click.BadParameter(
            f"{name}: there is no such folder; make it first", param_hint="--report"
        )


def find_space(
    points: Path | None,
    name_column: str | None,
    standardise: bool,
    data: Path | None,
    split: int,
    features: Path | None,
    labels: Path | None,
) -> LabelSpace | None:
    """Return the labels as points from wherever the options say, or None where they say nothing.

    Raises:
        click.UsageError: options contradict each other.
        InputError: a file or the collection is of another form.
        OSError: a file cannot be read.
    """
    if points and (data or features or labels):
        raise click.UsageError("--points and --data, --features, --labels exclude each other")
    if data and labels:
        raise click.UsageError("--data and --labels exclude each other: its labels are its own")
    if labels and not features:
        raise click.UsageError("--labels needs --features, the same songs' rows of numbers")
    if features and not (data or labels):
        raise click.UsageError(
            "--features needs --data, the collection its songs are of, or --labels"
        )
    if not points and (name_column or standardise):
        option = "--name-column" if name_column else "--standardise"
        raise click.UsageError(f"{option} needs --points, the table it is about")
    if points:
        return read_space(points, name_column, standardise)
    if data:
        return space_of(data, split, features)
    return space_of_arrays(features, labels) if features and labels else None


def check_has_points(space: LabelSpace | None, why: str, data: Path | None) -> None:
    """Refuse what needs the labels as points where they are not.

    Raises:
        InputError: the collection has no descriptors.
        click.UsageError: no option says where the points are.
    """
    if space is None:
        raise click.UsageError(
            f"{why} needs the labels as points: --points, --data, or --features and --labels"
        )
    if space.centroids is None:
        raise InputError(
            f"{data}: has no AcousticBrainz files; run `fastmte features {data} -o "
            "features.npz` and add --features features.npz"
        )


def needs_points(method: str, n_members: int | str) -> bool:
    """Tell whether a method, or the number of members, depends on where the labels are."""
    return method in NEEDS_CENTROIDS or n_members == "auto"


def write(partition: Partition, path: Path, name_column: str | None) -> None:
    """Write the members as a table where the file's name ends like one, else as JSON."""
    if path.suffix.lower() in _TABLES:
        write_members(partition, path, name_column)
    else:
        partition.save(path)


def show(partition: Partition) -> None:
    """Print each member's labels, and the elbow on stderr; commas part names with spaces."""
    between = ", " if any(" " in tag for tag in partition.tags) else " "
    for member, part in enumerate(partition.parts()):
        click.echo(f"{member}  {between.join(part)}")
    curve = partition.details.get("elbow")
    if curve is not None:
        elbow = "none" if curve["elbow"] is None else curve["elbow"]
        click.echo(f"elbow of k-means up to {curve['k'][-1]} members: {elbow}", err=True)


def report(
    partition: Partition,
    space: LabelSpace,
    path: Path,
    n_draws: int | None,
    seed: int,
) -> None:
    """Write the report, print its table on stderr and the files' names on stdout."""
    assert space.centroids is not None  # checked before the work
    console = Console(stderr=True)
    with console.status("Comparing") as status:
        written, rows, missing = write_report(
            partition,
            space.centroids,
            space.pairs,
            path,
            n_draws,
            seed,
            lambda name: status.update(f"Comparing: {name}"),
        )
    console.print(comparison_table(rows))
    for sentence in missing:
        click.echo(f"left out: {sentence}", err=True)
    for file in written:
        click.echo(click.format_filename(file), err=True)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print warnings as one line each on stderr, when the block ends."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        click.echo(f"Warning: {_one_line(warning.message)}", err=True)


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
