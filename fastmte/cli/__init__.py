"""The ``fastmte`` command: one module a subcommand, named after it."""

import os
import sys
from importlib import import_module
from typing import Any

import click

from fastmte import __version__
from fastmte._tiers import TierError
from fastmte.errors import InputError

# Spinning OpenMP threads of torch and numba slow each other down on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

COMMANDS = {  # name -> its line on the help page, so that help imports no command
    "train": "Train an ensemble over a partition of the labels.",
    "tag": "Score songs with a trained ensemble.",
    "evaluate": "Metrics of predictions against the truth.",
    "fuse": "Merge the scores of several runs.",
    "partition": "Split the labels among the members of an ensemble.",
    "prepare": "Turn a collection of songs into a mel store.",
    "features": "Descriptors of songs, the label space of a partition.",
    "models": "List, show, convert and export models.",
    "export": "Write the scores of a tagged folder as a table.",
    "report": "Write a run and its tagged songs as one HTML page.",
    "doctor": "Show what is built, loaded and missing.",
}


class _Commands(click.Group):
    """A group that imports a command's module only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(import_module(f"fastmte.cli.{name}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; what a user can put right ends in one line, not in a traceback."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader has enough, as head does: click ends in silence
            raise
        except (InputError, OSError, TierError) as error:
            if os.environ.get("FASTMTE_DEBUG") == "1":
                raise
            raise click.ClickException(_one_line(error)) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            sys.exit(130)


def _one_line(error: Exception) -> str:
    """Return the text of an error; of an OSError with the file it is about."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{click.format_filename(error.filename)}: " if error.filename else ""
        return f"{name}{error.strerror}"
    return " ".join(str(error).split())


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fastmte")
def main() -> None:
    """Tag music with moods and themes by ensembles over partitions of the label space.

    \b
      fastmte train --partition dkmeans --backbone resnet18
      fastmte tag MUSIC/ --model RUN -o TAGGED
    """
