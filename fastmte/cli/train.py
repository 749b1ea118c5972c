"""``fastmte train``: an ensemble over a partition of the labels, from songs to metrics."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastmte.cli import options
from fastmte.cli._process import (
    INTERRUPTED,
    NO_AUDIO,
    SOME_FAILED,
    TERMINATED,
    Terminated,
    device_of,
    terminable,
)

if TYPE_CHECKING:
    from fastmte.cli._team import Team


@click.command(context_settings={"show_default": True})
@click.option("--backbone", help="Network of the members; see fastmte models list.")
@click.option(
    "--batch-size",
    type=click.IntRange(2),
    help="Songs a step  [default: the backbone's: 32 for custom-vgg, else 64]",
)
@click.option(
    "--clip",
    type=options.FiniteRange(0, min_open=True),
    metavar="NORM",
    help="Scale each member's gradient down to this norm  [default: never, as the authors]",
)
@click.option(
    "--crop",
    type=click.Choice(["centre", "random"]),
    default="centre",
    help="Which frames of a training song; random ones anew each epoch.",
)
@click.option(
    "--data",
    envvar="FASTMTE_DATA",
    metavar="DIR|demo",
    help="Collection of MTG-Jamendo's layout  [env: FASTMTE_DATA; default: the built-in demo]",
)
@click.option("--device", default="auto", help="Where to train: auto, cpu, cuda, cuda:1 ...")
@click.option(
    "--epochs",
    type=click.IntRange(1),
    help="Passes over the songs  [default: the backbone's: 32 for crnn, else 100]",
)
@click.option(
    "--features",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Descriptors of the songs  [default: AcousticBrainz's files, else the mels']",
)
@click.option("--force", is_flag=True, help="Replace the run in --out.")
@click.option("--frames", type=click.IntRange(1), default=1366, help="Width of the crops.")
@click.option(
    "--learning-rate",
    type=options.FiniteRange(0, min_open=True),
    help="Adam's  [default: the backbone's: 0.001 for crnn, else 0.0001]",
)
@click.option(
    "--max-restarts",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="With --processes: begin again from the last epoch so often when one has died.",
)
@options.mel_preset
@click.option(
    "--members",
    type=options.MemberCount(),
    default=4,
    help="Members; auto: the elbow of k-means; not for single, moodtheme or a file.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run  [default: runs/BACKBONE-PARTITION]",
)
@click.option("--partition", metavar="METHOD|FILE", help="How the labels are split; see above.")
@click.option(
    "--patience",
    type=click.IntRange(0),
    help="Epochs without a better validation ROC-AUC that end a member; 0: none, and its last "
    "weights are kept  [default: the backbone's: 30 for ResNets, else 0]",
)
@click.option(
    "--plateau-patience",
    type=click.IntRange(0),
    default=10,
    help="Epochs without a lower validation loss that a learning rate survives.",
)
@click.option(
    "--plan",
    type=click.Choice(["auto", "module"]),
    default="auto",
    help="How members are run: auto, by the fused kernels where there are any; or their module.",
)
@click.option(
    "--merge",
    type=click.Choice(["mean", "logit"]),
    help="Lets members share labels, whose score is the mean of theirs: of scores, or of logits "
    " [default: mean for methods joined with +]",
)
@options.precision
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Share every batch among N processes of this machine, a GPU each where there are GPUs.",
)
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in --out.")
@options.seed
@click.option("--shuffle-labels", is_flag=True, help="Control: give songs each other's labels.")
@options.split
@click.option(
    "--store",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Mels made by fastmte prepare  [default: made here]",
)
@options.threads
@options.workers
@click.pass_context
def train(ctx: click.Context, **given: Any) -> None:
    """Train an ensemble, one member for each part of the labels, all in one network.

    The partition is dkmeans, dkmeans-published, kmeans, linear, moodtheme, single, random,
    or a JSON file of lists of tags. kmeans+dkmeans takes the members of both, and --merge
    lets those of a file share labels. The defaults are those of the backbone's authors, for
    the VGG and the ResNets the paper's; the demo has its own.
    The run folder gets the model, its metrics, predictions and thresholds.

    \b
      fastmte train --partition dkmeans --backbone resnet18
      fastmte train --partition kmeans --backbone vgg --data mtg-jamendo-dataset
      fastmte train --resume --out runs/resnet18-dkmeans
      fastmte train --partition dkmeans --backbone vgg --processes 4 --max-restarts 3
      torchrun --nproc-per-node 4 -m fastmte train --partition dkmeans --backbone vgg

    Exit code: 0 done, 3 done without songs that could not be read, 4 no audio found,
    130 interrupted (--resume goes on).
    """
    import torch

    from fastmte.cli._launch import launch
    from fastmte.cli._team import Team, is_in_team

    if given["processes"] > 1 and not is_in_team():
        ctx.exit(launch(ctx, given["processes"], given["max_restarts"]))
    if given["processes"] > 1 or given["max_restarts"]:
        name = "--processes" if given["processes"] > 1 else "--max-restarts"
        why = "torchrun starts the processes" if is_in_team() else "there is one process"
        raise click.UsageError(f"{name}: {why}; leave it out", ctx)
    if given["threads"] is not None:
        torch.set_num_threads(given["threads"])
    team = Team() if is_in_team() else None
    with nullcontext() if team is None else team.one_voice():
        _run(ctx, given, team)


def _run(ctx: click.Context, given: dict[str, Any], team: "Team | None") -> None:
    """Train in this process, which is alone or one of several."""
    from fastmte.cli import _training
    from fastmte.cli._training_display import Display, Silence
    from fastmte.cli._training_material import NoAudioError
    from fastmte.cli._training_settings import settled
    from fastmte.exchange import LostError

    device = device_of(given["device"]) if team is None else team.device(given["device"])
    if team is not None and team.rank:
        with terminable(), Silence() as silence:
            return _training.follow(team, device, silence)
    out = given["out"]
    try:
        with terminable(), Display() as display:
            settings, out, resume = settled(ctx, given, display, team)
            if settings is None:
                display.say(f"{click.format_filename(out)}: finished; nothing to resume")
                return None
            result, n_failed = _training.run(
                settings, out, resume, given["workers"], device, display, team
            )
    except NoAudioError as error:
        click.echo(f"Error: {error}", err=True)
        ctx.exit(NO_AUDIO)
    except LostError:
        if team is None or not team.is_to_end():
            raise
        click.echo(_training.interrupted(out, team), err=True)
        ctx.exit(INTERRUPTED)
    except KeyboardInterrupt as interrupt:
        click.echo(_training.interrupted(out, team), err=True)
        ctx.exit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED)
    for name, value in result.items():
        click.echo(f"{name:<20}\t{value:.6f}")
    click.echo(f"run: {click.format_filename(out)}")
    # To torchrun every other code is a crash.
    is_counted = n_failed and (team is None or team.is_launched)
    ctx.exit(SOME_FAILED if is_counted else 0)
