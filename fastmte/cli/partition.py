"""``fastmte partition``: split the labels among the members of an ensemble."""

import json
from pathlib import Path

import click

from fastmte.cli.options import MemberCount, as_json, seed, split

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Collection whose training songs make the label space.",
)
@click.option(
    "--draws",
    type=click.IntRange(min=2),
    help="Seeds of each method in the report  [default: 200, fewer above 200 labels]",
)
@click.option(
    "--features",
    type=_FILE,
    help="Descriptors of --data's songs  [default: its AcousticBrainz files], or a .npy with "
    "a row for each song of --labels, which may be larger than memory.",
)
@as_json
@click.option("-k", "n_members", type=MemberCount(), help="Members; auto: elbow  [default: 4]")
@click.option(
    "--k-max",
    type=click.IntRange(min=3),
    default=10,
    show_default=True,
    help="Where the curve ends whose elbow is looked for; the elbow depends on it.",
)
@click.option("--labels", type=_FILE, help="A split's .tsv, or a .npy (N, 56): songs' labels.")
@click.option("--method", required=True, metavar="METHOD", help="See above.")
@click.option(
    "--n-init",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Random starts of dkmeans, of which the best is kept.",
)
@click.option("--name-column", metavar="NAME", help="Names of --points  [default: the first]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: JSON, or a table of name and member (.csv, .tsv, .parquet).",
)
@click.option(
    "--points",
    "--centroids",
    "points",
    type=_FILE,
    metavar="TABLE",
    help="Label space: .csv, .tsv or .parquet of names and numbers, .npy rows in the task's "
    "order, or a .npz of `fastmte features`.",
)
@click.option(
    "--refine",
    type=click.Choice(["variance", "diversity"]),
    help="Exchange labels of dkmeans until the members' means, or their variety, cannot gain.",
)
@click.option(
    "--report",
    "report_path",
    type=click.Path(path_type=Path),
    metavar="DIR|FILE.html",
    help="Figure 1, the elbow, and the partition beside others.",
)
@seed
@click.option("--seeds", help="First label of each member, comma-separated; for dk-means.")
@split
@click.option("--standardise", is_flag=True, help="Give the columns of --points one unit.")
def partition(
    data: Path | None,
    draws: int | None,
    features: Path | None,
    as_json: bool,
    k_max: int,
    labels: Path | None,
    n_members: int | str | None,
    method: str,
    n_init: int,
    name_column: str | None,
    output: Path | None,
    points: Path | None,
    refine: str | None,
    report_path: Path | None,
    seed: int,
    seeds: str | None,
    split: int,
    standardise: bool,
) -> None:
    """Print the labels of each member, by a METHOD or from a file.

    METHOD is dkmeans (the paper's text), dkmeans-published (the authors' code), kmeans,
    linear, moodtheme, single, random, or a JSON file: one written by -o, or a list of lists
    of tags. The first three need the labels as points: --points, --data, or --features and
    --labels. Points can be anything with a name: labels, artists, playlists.

    \b
      fastmte partition --method linear -k 4
      fastmte partition --method kmeans -k auto --data mtg-jamendo-dataset --report kmeans.html
      fastmte partition --method dkmeans --points labels.csv --seeds film,calm -o two.json
      fastmte partition --method dkmeans --points artists.tsv --name-column artist -k 16 \\
        --standardise -o groups.csv
    """
    from dataclasses import replace

    from fastmte.cli import _partition as steps
    from fastmte.labels import MOOD_THEME_TAGS
    from fastmte.partition import make_partition

    steps.check_method(method)
    steps.check_report(report_path, draws)
    first = None if seeds is None else [tag.strip() for tag in seeds.split(",")]
    wanted = n_members or (len(first) if first else 4)
    space = steps.find_space(points, name_column, standardise, data, split, features, labels)
    if report_path:
        steps.check_has_points(space, "--report", data)
    elif space is not None and steps.needs_points(method, wanted):
        steps.check_has_points(space, method, data)
    with steps.warnings_as_lines():
        made = make_partition(
            method,
            MOOD_THEME_TAGS if space is None else space.tags,
            None if space is None else space.centroids,
            wanted,
            seed,
            first,
            n_init=n_init,
            refine=refine,
            k_max=k_max,
        )
    if space is not None:
        made = replace(made, details={**made.details, **space.details})
    if output is not None:
        steps.write(made, output, None if space is None else space.details.get("name_column"))
    if as_json:
        click.echo(json.dumps(made.to_json()))
    else:
        steps.show(made)
    if report_path is not None and space is not None:
        steps.report(made, space, report_path, draws, seed)
