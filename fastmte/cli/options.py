"""Options that more than one command has, in alphabetical order."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fastmte.extras import missing, packages


class FiniteRange(click.FloatRange):
    """A range of numbers without NaN and infinity, which float ranges let through."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"must be a finite number, got {value!r}", param, ctx)
        return number


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


class WindowCount(click.ParamType):
    """A number of windows of a song, or ``all``."""

    name = "N|all"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return the number, or ``all``."""
        from fastmte.crop import MOST_WINDOWS

        if value == "all" or isinstance(value, int):
            return value
        if not value.isdecimal() or not 1 <= int(value) <= MOST_WINDOWS:
            text = f"must be a number from 1 to {MOST_WINDOWS}, or all, got {value!r}"
            self.fail(text, param, ctx)
        return int(value)


def _in_a_folder(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Find out now, and not after the work, that a file has no folder to be written in."""
    if path is not None and not path.absolute().parent.is_dir():
        name = click.format_filename(path)
        raise click.BadParameter(f"{name}: there is no such folder; make it first", ctx, param)
    return path


def check_file(path: Path) -> None:
    """Find out now, and not after the work, that ``-o`` cannot be a file to write.

    Raises:
        click.BadParameter: it is a folder, or has none to be written in.
    """
    name = click.format_filename(path)
    if path.is_dir():
        raise click.BadParameter(f"{name}: is a folder; name a file", param_hint="-o")
    if not path.absolute().parent.is_dir():
        text = f"{name}: there is no such folder; make it first"
        raise click.BadParameter(text, param_hint="-o")


def _of_an_installed_engine(
    ctx: click.Context, param: click.Parameter, plan: str | None
) -> str | None:
    """Find out now, and not after songs were listed, that a plan's engine is not installed."""
    reason = missing(*packages((plan or "").partition(":")[0]))
    if reason:
        raise click.BadParameter(reason, ctx, param)
    return plan


def _mel_preset(note: str = "") -> Callable[[Any], Any]:
    return click.option(
        "--mel",
        "mel_preset",
        type=click.Choice(["mtg2019", "mtg2023"]),
        default="mtg2019",
        show_default=True,
        help=f"Definition of the mel spectrogram{note}; pretrained MTG weights need mtg2019.",
    )


def _workers(note: str = "") -> Callable[[Any], Any]:
    return click.option(
        "--workers",
        type=click.IntRange(min=0),
        default=None,
        help=f"Decoder processes{note}  [default: one a core]",
    )


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
mel_preset = _mel_preset()
mel_preset_of_source = _mel_preset(" (--source mel only)")
output_file = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_in_a_folder,
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
page_file = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_in_a_folder,
    metavar="FILE.html",
    help="Page to write  [default: RUN/report.html]",
)
plan = click.option(
    "--plan",
    metavar="NAME[:CHUNK]",
    callback=_of_an_installed_engine,
    help="How the model is run: auto, what was measured to be fastest here; default, what mostly "
    "is; a plan, as separate:2; openvino, onnx, compile  [env: FASTMTE_PLAN; default: auto]",
)
precision = click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="Of the networks' maps: fp32 gives the same scores everywhere, bf16 is several times as "
    "fast where the CPU has AMX or the GPU has it; auto: bf16 there, else fp32.",
)
seed = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),  # NumPy's and scikit-learn's
    default=0,
    show_default=True,
    help="Seed of all random choices.",
)
split = click.option(
    "--split",
    type=click.IntRange(0, 4),
    default=0,
    show_default=True,
    help="Which of the five splits of a collection of MTG-Jamendo's layout.",
)
threads = click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads  [default: one a core]"
)
workers = _workers()
workers_of_source = _workers(" (not for --source acousticbrainz)")
