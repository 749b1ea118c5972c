"""``fastmte partition``: split the labels among the members of an ensemble."""

import json
from pathlib import Path

import click

from fastmte.cli.options import MemberCount, as_json, seed, split
from fastmte.errors import InputError

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--centroids",
    type=_FILE,
    help="Label space: .csv lines of tag, number, number ..., or .npy rows in the task's order.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Collection whose training songs make the label space.",
)
@click.option(
    "--features", type=_FILE, help="Descriptors of its songs  [default: its AcousticBrainz files]"
)
@as_json
@click.option("-k", "n_members", type=MemberCount(), help="Members; auto: elbow  [default: 4]")
@click.option("--method", required=True, metavar="METHOD", help="See above.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="JSON file to write."
)
@seed
@click.option("--seeds", help="First label of each member, comma-separated; for dk-means.")
@split
def partition(
    centroids: Path | None,
    data: Path | None,
    features: Path | None,
    as_json: bool,
    n_members: int | str | None,
    method: str,
    output: Path | None,
    seed: int,
    seeds: str | None,
    split: int,
) -> None:
    """Print the labels of each member, by a METHOD or from a file.

    METHOD is dkmeans (the paper's text), dkmeans-published (the authors' code), kmeans,
    linear, moodtheme, single, random, or a JSON file: one written by -o, or a list of lists
    of tags. The first three need the labels as points: --centroids, or --data.

    \b
      fastmte partition --method linear -k 4
      fastmte partition --method kmeans -k auto --data mtg-jamendo-dataset --features features.npz
      fastmte partition --method dkmeans --centroids labels.csv --seeds film,calm -o two.json
    """
    from dataclasses import replace

    from fastmte.data.space import read_space, space_of
    from fastmte.labels import MOOD_THEME_TAGS
    from fastmte.partition import make_partition
    from fastmte.partition.make import NEEDS_CENTROIDS

    _check_method(method)
    if centroids and data:
        raise click.UsageError("--centroids and --data exclude each other; give one")
    if features and not data:
        raise click.UsageError("--features needs --data, the collection its songs are of")
    space = None
    if centroids is not None:
        space = read_space(centroids)
    elif data is not None:
        space = space_of(data, split, features)
        if space.centroids is None and (method in NEEDS_CENTROIDS or n_members == "auto"):
            raise InputError(
                f"{data}: has no AcousticBrainz files; run `fastmte features {data} -o "
                "features.npz` and add --features features.npz"
            )
    first = None if seeds is None else [tag.strip() for tag in seeds.split(",")]
    made = make_partition(
        method,
        MOOD_THEME_TAGS if space is None else space.tags,
        None if space is None else space.centroids,
        n_members or (len(first) if first else 4),
        seed,
        first,
    )
    if space is not None:
        made = replace(made, details={**made.details, **space.details})
    if output is not None:
        made.save(output)
    if as_json:
        click.echo(json.dumps(made.to_json()))
        return
    for member, part in enumerate(made.parts()):
        click.echo(f"{member}  {' '.join(part)}")
    if "elbow" in made.details:
        curve = made.details["elbow"]
        elbow = "none" if curve["elbow"] is None else curve["elbow"]
        click.echo(f"elbow of k-means up to {curve['k'][-1]} members: {elbow}", err=True)


def _check_method(method: str) -> None:
    """Refuse a method that is neither known nor a file."""
    from fastmte.partition import METHODS

    if method not in METHODS and not Path(method).is_file():
        raise click.BadParameter(
            f"must be one of {', '.join(METHODS)} or a file, got {method!r}",
            param_hint="--method",
        )
