"""``fastmte report``: a run and its tagged songs as one HTML page."""

from dataclasses import replace
from pathlib import Path

import click

from fastmte.cli import options

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("run", type=_FOLDER)
@options.page_file
@click.option(
    "--tagged", type=_FOLDER, help="Songs tagged with the run's model  [default: RUN/tagged]"
)
def report(run: Path, output: Path | None, tagged: Path | None) -> None:
    """Write a RUN, or a folder of tagged songs, as one HTML page to look at.

    Beside the page, RUN gets its pictures: figure1.png, the labels by their members, and
    elbow.png. What the run does not have is left out and named. Prints the files written.

    \b
      fastmte report runs/resnet18-dkmeans --tagged TAGGED
    """
    from rich.console import Console

    from fastmte.files import atomic_write
    from fastmte.report import contents, figures, html, tables

    found = contents.read_contents(run, tagged)
    figure1, elbow, missing = figures.pictures(found.partition, found.centroids)
    found = replace(found, missing=(*found.missing, *missing))
    page = html.page(found, figure1, elbow)
    written = []
    for path, png in ((run / "figure1.png", figure1), (run / "elbow.png", elbow)):
        if png is not None:
            with atomic_write(path, "wb") as file:
                file.write(png)
            written.append(path)
    path = output or run / "report.html"
    with atomic_write(path) as file:
        file.write(page)
    console = Console(stderr=True)
    if found.partition is not None:
        console.print(tables.partition_table(found.partition))
    if found.results:
        console.print(tables.metrics_table(found.results))
    for sentence in found.missing:
        click.echo(f"left out: {sentence}", err=True)
    for file_name in (path, *written):
        click.echo(click.format_filename(file_name))
