"""Threads that share a training as processes do, in one process."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastmte.exchange import Exchange, LostError


class Threaded(Exchange):
    """An exchange between threads."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, len(slots))
        self.slots, self.barrier = slots, barrier

    def gather(self, values: Tensor) -> list[Tensor]:
        try:
            self.slots[self.rank] = values.clone()
            self.barrier.wait(60)
            parts = [part.clone() for part in self.slots]
            self.barrier.wait(60)
        except threading.BrokenBarrierError:
            raise LostError from None
        return parts

    def add_(self, values: Tensor) -> None:
        values.copy_(sum(self.gather(values), torch.zeros_like(values)))


def together(size: int, work: Callable[[Exchange], Any]) -> list[Any]:
    """Return what ``work`` returns, or raises, in each of ``size`` threads."""
    slots, barrier, results = [None] * size, threading.Barrier(size), [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(Threaded(rank, slots, barrier))
        except Exception as error:
            results[rank] = error
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
