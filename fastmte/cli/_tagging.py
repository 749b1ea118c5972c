"""What ``fastmte tag`` tells the user, and where."""

import json
import os
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import TextColumn
from rich.table import Table

from fastmte.audio.decode import display_name
from fastmte.cli._progress import Bar
from fastmte.data.parts import FAILURES, Row, Tagged
from fastmte.data.tables import hint, top_tags
from fastmte.predict import Progress as State
from fastmte.predict import Tagging

_PLAIN_SECONDS = 30.0  # between two lines where there is no terminal
_MOST_ROWS = 10


class Listener(Bar):
    """Progress, and one line on stderr for every song that is not simply tagged."""

    def __init__(self, is_quiet: bool) -> None:
        failed = TextColumn("{task.fields[failed]}")
        super().__init__("Tagging", failed, is_quiet=is_quiet, failed="")
        self._is_quiet = is_quiet
        self._state: State | None = None

    def __call__(self, state: State) -> None:
        """Show how far the run is, and what became of the last song."""
        self._state = state
        failed = f"{state.n_failed} failed" if state.n_failed else ""
        self._bar.update(self._task, completed=state.n_done, total=state.n_songs, failed=failed)
        if state.row is not None:
            self._tell(state.row)
        if not self._is_quiet and not self._console.is_terminal:
            self._plain(state)

    def unreadable(self, folders: list[tuple[bytes, str]]) -> None:
        """Name the folders that could not be listed."""
        for folder, reason in folders:
            self.say(f"{display_name(folder)}: {reason}; its songs are left out")

    def interrupted(self, folder: Path) -> None:
        """Say what an interrupted run leaves."""
        kept = "nothing"
        if self._state is not None:
            kept = f"{self._state.n_kept} of {self._state.n_songs} songs"
        name = click.format_filename(folder)
        self.say(f"Interrupted; {kept} kept in {name}. The same command goes on there.")

    def _tell(self, row: Row) -> None:
        name = display_name(row.file.name)
        if row.status in FAILURES:
            self.say(f"{name}: {row.message} ({row.code}); {hint(row.code)}")
            return
        if row.message and not self._is_quiet:
            self.say(f"{name}: {row.message}")

    def _plain(self, state: State) -> None:
        now = time.monotonic()
        n_now = state.n_done - state.n_before
        if now - self._spoke < _PLAIN_SECONDS or not n_now:
            return
        self._spoke = now
        left = (now - self._began) / n_now * (state.n_songs - state.n_done)
        text = (
            f"{state.n_done} of {state.n_songs} songs, {state.n_failed} failed, {left:.0f} s left"
        )
        self.say(text)


def show(
    tagging: Tagging,
    tagged: Tagged,
    top: int | None,
    as_json: bool,
    is_quiet: bool,
) -> None:
    """Print the result on stdout: a table and a line, or one JSON object."""
    if as_json:
        click.echo(json.dumps(_as_object(tagging, tagged), ensure_ascii=False))
    elif not is_quiet:
        _print_table(tagged, top)
        click.echo(_summary(tagging, tagged))


def _as_object(tagging: Tagging, tagged: Tagged) -> dict[str, object]:
    return {
        "output": click.format_filename(tagged.folder),
        "songs": tagging.n_songs,
        "tagged": tagging.n_scored,
        "failed": tagging.n_failed,
        "before": tagging.n_before,
        "statuses": dict(sorted(tagging.statuses.items())),
        "seconds": round(tagging.seconds, 3),
    }


def _summary(tagging: Tagging, tagged: Tagged) -> str:
    parts = [f"{tagging.n_scored} of {tagging.n_songs} songs tagged"]
    made_with = tagged.manifest["made_with"]
    mel = made_with["mel"]
    seconds = made_with["frames"] * mel["hop"] / mel["sample_rate"]
    if n_short := tagging.statuses["ok_short"]:
        what = "not scored" if made_with["short"] == "skip" else "repeated to fill it"
        parts.append(f"{n_short} shorter than {seconds:.1f} s and {what}")
    if n_silent := tagging.statuses["silent"]:
        parts.append(f"{n_silent} silent")
    if n_cut := tagging.statuses["truncated"]:
        parts.append(f"{n_cut} damaged and scored as far as they go (failed.jsonl)")
    if n_failed := tagging.n_failed - n_cut:
        parts.append(f"{n_failed} failed (failed.jsonl)")
    if tagging.n_before:
        parts.append(f"{tagging.n_before} done before")
    if tagging.damaged:
        parts.append(f"{len(tagging.damaged)} damaged parts done again")
    folder = click.format_filename(tagged.folder)
    return f"{', '.join(parts)}, in {tagging.seconds:.1f} s: {folder}"


def _print_table(tagged: Tagged, top: int | None) -> None:
    scores = tagged.scores()
    n_scored = int(np.isfinite(scores).all(axis=1).sum())
    if not n_scored:
        return
    table = Table(box=None, header_style="bold")
    if n_scored <= _MOST_ROWS:
        table.add_column("song", overflow="fold")
        table.add_column("tags")
        for i, tags in enumerate(top_tags(tagged, top)):
            if np.isfinite(scores[i]).all():
                words = ", ".join(f"{tagged.tags[t]} {scores[i, t]:.2f}" for t in tags)
                table.add_row(display_name(tagged.names[i]), words or "-")
    else:
        _add_tags(table, tagged, top_tags(tagged, top), scores)
    console = Console(markup=False, highlight=False, emoji=False)
    console.print(table)


def _add_tags(table: Table, tagged: Tagged, tags: list[list[int]], scores: np.ndarray) -> None:
    """Add the tags that most songs have, each with the song that has it most."""
    counts = np.bincount([t for song in tags for t in song], minlength=len(tagged.tags))
    table.add_column("tag")
    table.add_column("songs", justify="right")
    table.add_column("highest score")
    table.add_column("of", overflow="fold")
    for t in np.argsort(-counts, kind="stable")[:_MOST_ROWS]:
        best = int(np.nanargmax(scores[:, t]))
        song = display_name(os.path.basename(tagged.names[best]))
        table.add_row(tagged.tags[t], str(counts[t]), f"{scores[best, t]:.2f}", song)
