"""Options that more than one command has, in alphabetical order."""

from pathlib import Path
from typing import Any

import click


class MemberCount(click.ParamType):
    """A number of members, or ``auto``."""

    name = "K|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number, or ``auto``."""
        if value == "auto" or isinstance(value, int):
            return value
        if not value.isdecimal() or int(value) < 1:
            self.fail(f"must be a number of 1 or more, or auto, got {value!r}", param, ctx)
        return int(value)


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
mel_preset = click.option(
    "--mel",
    "mel_preset",
    type=click.Choice(["mtg2019", "mtg2023"]),
    default="mtg2019",
    show_default=True,
    help="Definition of the mel spectrogram; pretrained MTG weights need mtg2019.",
)
output_file = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="File to write.",
)
output_folder = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write.",
)
seed = click.option(
    "--seed", type=int, default=0, show_default=True, help="Seed of all random choices."
)
split = click.option(
    "--split",
    type=click.IntRange(0, 4),
    default=0,
    show_default=True,
    help="Which of the five splits of MTG-Jamendo.",
)
workers = click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=None,
    help="Decoder processes  [default: one a core]",
)
