"""What a training shows while it runs: a bar on a terminal, else plain lines."""

import time
from typing import Any

from fastmte.cli._progress import Bar

_PLAIN_SECONDS = 20.0  # between two lines about one step where there is no terminal


class Display(Bar):
    """Progress on stderr."""

    _before: int | None = None  # songs that were ready

    def begin(self, what: str) -> None:
        """Start a step with a bar of its own."""
        self._bar.reset(self._task, description=what, total=None)
        self._began = self._spoke = time.monotonic()
        self._before = None

    def songs(self, done: int, total: int) -> None:
        """Show how many songs a step is through with."""
        self._bar.update(self._task, completed=done, total=total)
        if self._before is None:
            self._before = done - 1  # what was ready says nothing about the speed
        now = time.monotonic()
        if not self._console.is_terminal and now - self._spoke > _PLAIN_SECONDS:
            self._spoke = now
            left = (now - self._began) / max(done - self._before, 1) * (total - done)
            self.say(f"{done} of {total} songs, about {_duration(left)} left")


class Silence(Display):
    """No progress: what a process shows that is not the first of several."""

    def __init__(self) -> None:
        super().__init__(is_quiet=True)

    def say(self, text: str) -> None:
        """Say nothing."""


class EpochDisplay:
    """Progress of the epochs on a ``Display``."""

    def __init__(self, display: Display, epochs: int) -> None:
        self._display, self._epochs = display, epochs
        self._n_seen, self._began = 0, time.monotonic()
        display.begin("Training")

    def step(self, epoch: int, step: int, steps: int) -> None:
        """Show one step."""
        bar = self._display._bar
        completed = (epoch - 1) * steps + step
        bar.update(self._display._task, completed=completed, total=self._epochs * steps)

    def smaller(self, epoch: int, batch_size: int) -> None:
        """Say that batches have become smaller."""
        self._display.say(
            f"Not enough memory: epoch {epoch} begins again, with batches of {batch_size} songs"
        )

    def epoch(self, record: dict[str, Any]) -> None:
        """Print one epoch's record as a line."""
        members = record["members"]
        roc = " ".join(_score(member["roc_auc"]) for member in members)
        live = [member for member in members if member["learning_rate"] is not None]
        retired = [str(member["member"]) for member in live if member["retired"]]
        rates = sorted({member["learning_rate"] for member in live}, reverse=True)
        self._n_seen += 1
        seconds = (time.monotonic() - self._began) / self._n_seen
        left = seconds * (self._epochs - record["epoch"])
        text = (
            f"epoch {record['epoch']:>3}/{self._epochs}  loss {record['train_loss']:.4f}  "
            f"validation {record['validation_loss']:.4f}  ROC-AUC {roc}  "
            f"rate {' '.join(f'{rate:g}' for rate in rates)}  {record['seconds']:.1f} s"
        )
        if retired:
            text += f"  done: member {', '.join(retired)}"
        if left >= 1:
            text += f"  ({_duration(left)} left)"
        self._display.say(text)


def _score(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
