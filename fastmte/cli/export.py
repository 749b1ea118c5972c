"""``fastmte export``: the scores of a tagged folder as a table."""

from pathlib import Path

import click

from fastmte.cli import options


@click.command(context_settings={"show_default": True})
@click.argument("tagged", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.output_file
@click.option("--all", "is_all", is_flag=True, help="Also songs without scores.")
@click.option(
    "--to",
    "kind",
    type=click.Choice(["csv", "jsonl", "npy", "parquet"]),
    default="csv",
    help="What to write.",
)
def export(tagged: Path, output: Path, is_all: bool, kind: str) -> None:
    """Write the scores in TAGGED, a folder made by ``fastmte tag``, as one file.

    \b
      fastmte export TAGGED --to csv -o scores.csv

    \b
    csv      path, and one column a tag
    jsonl    one object a song: path, status, ..., scores by tag
    npy      scores (songs, tags) float32; paths and tags in FILE.json beside it
    parquet  the columns of jsonl, and one column a tag

    Paths are those of the tagged folder. Bytes in them that are no UTF-8 are written
    as \\xff; jsonl, npy and parquet have the exact bytes too (path_b64, path_bytes).
    """
    from fastmte.data import tables
    from fastmte.data.parts import read_tagged

    write = {
        "csv": tables.write_scores,
        "jsonl": tables.write_jsonl,
        "npy": tables.write_npy,
        "parquet": tables.write_parquet,
    }[kind]
    n_songs = write(read_tagged(tagged), output, is_all)
    click.echo(f"{n_songs} songs: {click.format_filename(output)}", err=True)
