"""The bar that a command shows on stderr while it runs."""

import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)


class Bar:
    """A bar on a terminal, and lines above it; without a terminal the lines alone.

    Args:
        task: what is under way.
        columns: more columns of the bar, before the time left.
        is_quiet: shows no bar.
        fields: first values of the columns' own fields.
    """

    def __init__(
        self, task: str = "", *columns: ProgressColumn, is_quiet: bool = False, **fields: Any
    ) -> None:
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            *columns,
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=is_quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(task, total=None, **fields)
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        # Never cut, never coloured: lines may hold any file name.
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True, emoji=False)
