"""The settings of ``fastmte train``: from its options, the demo, or a run to go on with."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from fastmte import runs
from fastmte.cli._team import Team
from fastmte.cli._training_display import Display
from fastmte.data.demo import DEMO_RECIPE
from fastmte.errors import InputError
from fastmte.models import backbones, create_backbone
from fastmte.models._registry import Backbone
from fastmte.partition import METHODS, split_names
from fastmte.runs import RunSettings

DEMO, DEMO_FOLDER = "demo", Path("demo-data")
_PATHS = ("data", "features", "store")


def settled(
    ctx: click.Context, given: dict[str, Any], display: Display, team: Team | None
) -> tuple[RunSettings | None, Path, bool]:
    """Return the settings, None if the run has finished; its folder; whether it goes on.

    Raises:
        click.UsageError: as ``new_settings`` and ``resumed_settings``.
        InputError: as ``resumed_settings`` and ``free_out``.
    """
    settings: RunSettings | None
    if team is not None and team.is_restart:
        begun = team.kept_out() or given["out"]
        given = {**given, "out": begun}
        if (begun / runs.MANIFEST).is_file():
            return _unfinished(team, begun), begun, True
    elif team is not None and team.can_restart and given["out"] is None:
        raise click.UsageError("--max-restarts: needs --out, to find the run again", ctx)
    if given["resume"]:
        settings, out = resumed_settings(ctx, given), given["out"]
        if settings is None and team is not None:
            team.tell(None)
    else:
        settings = new_settings(ctx, given, display)
        out = free_out(given, settings)
    if team is not None:
        team.keep_out(out.absolute())
    return settings, out, given["resume"]


def _unfinished(team: Team, out: Path) -> RunSettings | None:
    """Return the settings of the run that the processes before a restart have begun."""
    if runs.read_manifest(out)["status"] != "finished":
        return runs.settings_of(out)
    team.tell(None)
    return None


def new_settings(ctx: click.Context, given: dict[str, Any], display: Display) -> RunSettings:
    """Return the settings of a run that begins.

    Raises:
        click.UsageError: an option is missing, or names what is not there.
    """
    for name in ("partition", "backbone"):
        if given[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.", ctx)
    for method in split_names(given["partition"]):
        if method not in METHODS and not Path(method).is_file():
            raise click.BadParameter(
                f"must be one of {', '.join(METHODS)} or a file, got {method!r}",
                param_hint="--partition",
            )
    network = _network(given["backbone"])
    values = _values(given)
    if given["patience"] is None:
        values["patience"] = network.early_stop_patience
    for name in ("epochs", "batch_size", "learning_rate"):
        if given[name] is None:
            values[name] = getattr(network, name)
    if values["is_demo"]:
        _check_demo(given)
        _take_recipe(ctx, values, network, display)
    try:
        network.check((1, 96, values["frames"]))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--frames") from error
    return RunSettings(**values)


def resumed_settings(ctx: click.Context, given: dict[str, Any]) -> RunSettings | None:
    """Return the settings of the run to go on with, or None if it has finished.

    Raises:
        click.UsageError: ``--out`` is missing, or names no folder.
        InputError: there is no run, or an option differs from what it was begun with.
    """
    out = given["out"]
    if out is None:
        raise click.UsageError("--resume needs --out, the run to go on with", ctx)
    if not out.is_dir():
        name = click.format_filename(out)
        raise click.BadParameter(f"Directory {name!r} does not exist.", param_hint="--out")
    manifest = runs.read_manifest(out)
    settings = runs.settings_of(out)
    was, now = asdict(settings), _values(given)
    texts = []
    for name, value in now.items():
        is_given = ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and was[name] != value:
            texts.append(f"--{name.replace('_', '-')} was {was[name]}, got {value}")
    if texts:
        raise InputError(f"{out}: cannot resume, {'; '.join(texts)}; leave these options out")
    return None if manifest["status"] == "finished" else settings


def free_out(given: dict[str, Any], settings: RunSettings) -> Path:
    """Return the folder of a new run, which nothing is in that would be lost.

    Raises:
        InputError: it is taken, or cannot be written.
    """
    out = given["out"] or runs.free_folder(settings.backbone, settings.partition)
    runs.check_free(out, given["force"])
    # Found out now, and not after an hour of decoding.
    place = next(parent for parent in (out, *out.absolute().parents) if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"{out}: {place} cannot be written; name another folder with --out")
    return out


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """Return the options as the fields of ``RunSettings``; paths absolute, to resume anywhere."""
    is_demo = given["data"] in (None, DEMO)
    values = {name: given[name] for name in RunSettings.__annotations__ if name in given}
    values |= {"is_demo": is_demo, "mel": given["mel_preset"]}
    values["data"] = DEMO_FOLDER if is_demo else _existing(given["data"])
    values["patience"] = given["patience"] or None
    for name in _PATHS:
        if values[name] is not None:
            values[name] = str(Path(values[name]).absolute())
    if given["partition"] is not None:
        values["partition"] = "+".join(map(_anywhere, split_names(given["partition"])))
    return values


def _anywhere(method: str) -> str:
    """Return a method, or a file's path from any folder."""
    is_file = method not in METHODS and Path(method).is_file()
    return str(Path(method).absolute()) if is_file else method


def _existing(data: str) -> str:
    if not Path(data).is_dir():
        raise click.BadParameter(f"Directory {data!r} does not exist.", param_hint="--data")
    return data


def _check_demo(given: dict[str, Any]) -> None:
    if given["data"] == DEMO and Path(DEMO).is_dir():
        raise click.BadParameter(
            "there is a folder of that name; write ./demo for the folder, or leave --data out "
            "for the built-in demo",
            param_hint="--data",
        )
    if given["split"]:
        text = f"the demo has split 0 only, got {given['split']}"
        raise click.BadParameter(text, param_hint="--split")


def _network(name: str) -> Backbone:
    import torch

    if name not in backbones():
        raise click.BadParameter(
            f"must be one of {', '.join(backbones())}, got {name!r}", param_hint="--backbone"
        )
    with torch.device("meta"):  # its limits are asked for, not its weights
        return create_backbone(name)


def _take_recipe(
    ctx: click.Context, values: dict[str, Any], network: Backbone, display: Display
) -> None:
    """Replace defaults by the demo's own settings, and say so."""
    for name, value in DEMO_RECIPE.items():
        if ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            values[name] = value
    if ctx.get_parameter_source("frames") is ParameterSource.DEFAULT:
        values["frames"] = max(values["frames"], network.min_frames)
    recipe = ", ".join(f"--{name.replace('_', '-')} {values[name]}" for name in DEMO_RECIPE)
    display.say(f"Training on the built-in demo collection; --data names another. It uses {recipe}")
