"""Members at work at the same time, on threads of their own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

import torch

T = TypeVar("T")
# Members at once: each holds its maps, those of four VGGs as much memory as one plain network's.
MOST = 4


class Crew:
    """Shares torch's threads out among tasks that do not depend on each other.

    One thread a task scales better than all threads on each in turn: there is nothing to wait
    for within a layer, and oneDNN's weight gradients, whose threads wait for each other in a
    loop, took ten times as long on a machine with other work. A task's sums, and so its bits,
    are those of ``threads`` threads.

    Args:
        n_tasks: tasks there will be at once.
    """

    def __init__(self, n_tasks: int) -> None:
        self._all = torch.get_num_threads()
        self._n_workers = max(1, min(n_tasks, self._all, MOST))
        self.threads = self._all // self._n_workers
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> "Crew":
        if self._n_workers > 1:
            self._pool = ThreadPoolExecutor(
                self._n_workers, "member", torch.set_num_threads, (self.threads,)
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            torch.set_num_threads(self._all)  # part of what the workers set is the process's

    def __call__(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Return the tasks' results in their order, after all have ended.

        Raises:
            Exception: the first one's, in that order, that failed.
        """
        if self._pool is None:
            return [task() for task in tasks]
        futures = [self._pool.submit(task) for task in tasks]
        wait(futures)
        return [future.result() for future in futures]
