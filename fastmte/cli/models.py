"""``fastmte models``: list, show, convert, export."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastmte.cli._model_export import export
from fastmte.cli.options import as_json

if TYPE_CHECKING:
    from fastmte.checkpoint import Checkpoint

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def models() -> None:
    """List, show, convert and export models.

    \b
      fastmte models list
      fastmte models convert best_model.pth -o models/mtg
      fastmte models export models/mtg --format onnx -o mtg.onnx
    """


models.add_command(export)


@models.command("list")
@as_json
def list_models(as_json: bool) -> None:
    """List the backbones an ensemble can be built of.

    Parameters are those of one member that scores all 56 labels.
    """
    rows = [_backbone(name) for name in _names()]
    if as_json:
        click.echo(json.dumps({"backbones": rows}, indent=1))
        return
    width = max(len(row["name"]) for row in rows)
    click.echo(f"{'name':{width}}  {'parameters':>10}  {'frames':>9}  origin")
    for row in rows:
        most = row["max_frames"]
        frames = f"{row['min_frames']}-{most}" if most else f"{row['min_frames']}+"
        click.echo(f"{row['name']:{width}}  {row['parameters']:>10,}  {frames:>9}  {row['origin']}")


@models.command()
@click.argument("folder", metavar="DIR", type=_FOLDER)
@as_json
def show(folder: Path, as_json: bool) -> None:
    """Show what the model in folder DIR is."""
    from fastmte.checkpoint import fingerprint, load

    facts = {"path": str(folder), **_facts(load(folder)), "fingerprint": fingerprint(folder)}
    if as_json:
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    for name, value in _lines(facts):
        click.echo(f"{name:12} {value}")


@models.command()
@click.argument("file", metavar="FILE.pth", type=_FILE)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Model folder to write.",
)
@click.option("--force", is_flag=True, help="Write into a folder that has files already.")
@click.option("--tags", type=_FILE, help="The labels' tags, one a line  [default: the task's 56]")
@click.option("--thresholds", type=_FILE, help="A tag, a tab and its threshold on each line.")
def convert(
    file: Path, output: Path, force: bool, tags: Path | None, thresholds: Path | None
) -> None:
    """Convert published weights to a model folder.

    Knows MTG-Jamendo's baseline (best_model.pth), which is also the paper's VGG, the
    paper's CustomCNN, ResNet-18 and -34, and torchvision's with one input channel.
    Nothing in the file is run: it must hold plain tensors.
    """
    from fastmte.convert import convert_pth, read_tags
    from fastmte.data.task_files import read_thresholds
    from fastmte.labels import MOOD_THEME_TAGS

    names = read_tags(tags) if tags else None
    levels = read_thresholds(thresholds, names or MOOD_THEME_TAGS) if thresholds else None
    checkpoint = convert_pth(file, output, names, levels, force)
    name, n_tags = checkpoint.ensemble.backbone_name, len(checkpoint.tags)
    click.echo(f"{click.format_filename(output)}: {name} with {n_tags} tags", err=True)


def _lines(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what ``show`` prints, a name and a text a line."""
    yield "path", click.format_filename(facts["path"])
    yield "backbone", f"{facts['backbone']}, {facts['parameters']:,} parameters"
    yield "mel", f"{facts['mel'].get('preset', 'unnamed')}, {facts['frames']} frames"
    yield "thresholds", "none" if facts["thresholds"] is None else "one a tag"
    yield "fingerprint", facts["fingerprint"]
    for name, value in facts["provenance"].items():
        yield "from", f"{name}: {value if isinstance(value, str) else json.dumps(value)}"
    for k, tags in enumerate(facts["members"]):
        yield f"member {k}", f"{len(tags)} tags: {' '.join(tags)}"


def _names() -> list[str]:
    from fastmte.models import backbones

    return backbones()


def _backbone(name: str) -> dict[str, Any]:
    """Return the facts of a backbone, which is built without storage to count its parameters."""
    import torch

    from fastmte.ensemble import FusedEnsemble
    from fastmte.labels import MOOD_THEME_TAGS

    with torch.device("meta"):
        ensemble = FusedEnsemble(name, [0] * len(MOOD_THEME_TAGS))
    backbone = ensemble.backbone
    return {
        "name": name,
        "parameters": sum(p.numel() for p in ensemble.parameters()),
        "features": backbone.n_features,
        "min_frames": backbone.min_frames,
        "max_frames": backbone.max_frames,
        "dropout": backbone.dropout,
        "early_stop_patience": backbone.early_stop_patience,
        "epochs": backbone.epochs,
        "batch_size": backbone.batch_size,
        "learning_rate": backbone.learning_rate,
        "origin": backbone.origin,
    }


def _facts(checkpoint: "Checkpoint") -> dict[str, Any]:
    ensemble, thresholds = checkpoint.ensemble, checkpoint.thresholds
    merge, tags = ensemble.merge, checkpoint.tags
    if merge is not None:
        tags = tuple(tags[label] for label in merge.label_of_output)
    return {
        "backbone": ensemble.backbone_name,
        "parameters": sum(p.numel() for p in ensemble.parameters()),
        "members": [
            [tag for tag, m in zip(tags, ensemble.member_of_label.tolist(), strict=True) if m == k]
            for k in range(ensemble.n_members)
        ],
        "merge": None if merge is None else merge.how,
        "tags": list(checkpoint.tags),
        "mel": dict(checkpoint.mel),
        "frames": checkpoint.frames,
        "thresholds": None if thresholds is None else thresholds.tolist(),
        "provenance": dict(checkpoint.provenance),
    }
