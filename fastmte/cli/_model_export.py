"""``fastmte models export``: a model in forms that other programs read."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastmte.cli import options

if TYPE_CHECKING:
    from fastmte.checkpoint import Checkpoint


@click.command()
@click.argument(
    "folder", metavar="MODEL", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["members", "onnx"]),
    required=True,
    help="Each member as a model of its own, or all as one ONNX graph.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder (members) or file (onnx) to write.",
)
def export(folder: Path, kind: str, output: Path) -> None:
    """Write the model in folder MODEL for other programs.

    \b
      fastmte models export runs/NAME --format members -o members
      fastmte models export runs/NAME --format onnx -o model.onnx

    \b
    members  one model folder a member, the partition, and a README that tells how
             PyTorch loads them without fastmte
    onnx     one graph, mels (batch, 96, frames) in dB -> scores (batch, labels), with
             batch norms folded in; tags, thresholds and the mels' definition are in
             its metadata. Where onnxruntime is installed, its scores are compared with
             the model's, and a graph off by more than 1e-5 is not written.
    """
    from fastmte.extras import missing

    if kind == "onnx":
        options.check_file(output)
        if reason := missing("onnx"):
            raise click.BadParameter(reason, param_hint="--format onnx")

    from fastmte.checkpoint import load

    write = _write_onnx if kind == "onnx" else _write_members
    text = write(load(folder), output)
    click.echo(f"{click.format_filename(output)}: {text}", err=True)


def _write_members(checkpoint: "Checkpoint", output: Path) -> str:
    from fastmte.export.members import write_members

    names = [path.name for path in write_members(checkpoint, output)]
    return f"{checkpoint.ensemble.backbone_name}, {len(names)} models ({' '.join(names)})"


def _write_onnx(checkpoint: "Checkpoint", output: Path) -> str:
    from fastmte.extras import missing

    try:
        from fastmte.export.onnx import write_onnx
        from fastmte.plan.onnx_graph import OPSET

        difference = write_onnx(checkpoint, output)
    except ImportError as error:
        raise click.ClickException(
            f"onnx or onnxruntime is installed but broken: {error}"
        ) from error
    parity = (
        f"parity unchecked, as {missing('onnxruntime')}"
        if difference is None
        else f"onnxruntime's scores differ by at most {difference:.1e}"
    )
    ensemble = checkpoint.ensemble
    size = f"{ensemble.n_members} members, {ensemble.n_scores} tags"
    return f"{ensemble.backbone_name}, {size}, ONNX opset {OPSET}; {parity}"
