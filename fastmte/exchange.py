"""What the processes that share a training tell each other."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class LostError(Exception):
    """Another process has ended, and this one cannot go on without it."""


class Exchange:
    """The processes that share the batches of one training, seen from one of them.

    A batch is cut into runs of songs, one a process. What is added up is added in the order of
    the processes, so that all of them get the same bits.

    Args:
        rank: this process's number, from 0 on.
        size: number of processes.
        device: where NCCL's tensors must lie; None for gloo, which takes any.
        group: torch's group of the processes; None for all.
    """

    def __init__(
        self, rank: int, size: int, device: torch.device | None = None, group: Any = None
    ) -> None:
        self.rank, self.size, self.device, self.group = rank, size, device, group
        self.sizes: tuple[int, ...] = (1,) * size
        self.n_rows = 1

    def take(self, rows: Tensor) -> Tensor:
        """Return this process's part of a batch (B,), of at least 2 songs.

        Of a batch of less than two songs a process, the last processes have none: they run two
        songs of another's, of which nothing counts, to keep the exchanges in step.
        """
        active = max(1, min(self.size, len(rows) // 2))
        least, more = divmod(len(rows), active)
        sizes = [least + (i < more) for i in range(active)] + [0] * (self.size - active)
        self.sizes = tuple(sizes)
        own = rows[self.first : self.first + sizes[self.rank]] if self.has_songs else rows[:2]
        self.n_rows = len(own)
        return own

    @property
    def has_songs(self) -> bool:
        """Whether any of the batch's songs is this process's."""
        return self.sizes[self.rank] > 0

    @property
    def first(self) -> int:
        """Place in the batch of this process's first song."""
        return sum(self.sizes[: self.rank])

    @property
    def portion(self) -> float:
        """This process's share of the batch's songs."""
        return self.sizes[self.rank] / sum(self.sizes)

    def count(self, own: int) -> int:
        """Return how many values the whole batch has, where this process's songs have ``own``."""
        return own // self.n_rows * sum(self.sizes)

    def moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of the whole batch from those of each process's songs.

        Args:
            mean: (C,) float64.
            variance: (C,) float64, or the covariance (C, C).

        Reference: Chan, Golub and LeVeque 1979, the pairwise update.
        """
        parts = self.gather(torch.cat([mean, variance.flatten()]))
        means, variances = zip(
            *(p.split([len(mean), variance.numel()]) for p in parts), strict=True
        )
        shares = [size / sum(self.sizes) for size in self.sizes]
        live = [i for i, size in enumerate(self.sizes) if size]
        whole = sum((shares[i] * means[i] for i in live), torch.zeros_like(mean))
        spread = torch.zeros_like(variance)
        for i in live:
            apart = means[i] - whole
            square = apart * apart if variance.dim() == 1 else torch.outer(apart, apart)
            spread += shares[i] * (variances[i].view_as(variance) + square)
        return whole, spread

    def of_batch(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over the processes that have songs of the batch."""
        parts = self.gather(values)
        live = (part for part, size in zip(parts, self.sizes, strict=True) if size)
        return sum(live, torch.zeros_like(values))

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of ``values`` over all processes."""
        return sum(self.gather(values), torch.zeros_like(values))

    def add_gradients(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its sum over the processes that have songs of the batch."""
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        if not self.has_songs:
            flat.zero_()  # and not 0 times what may be NaN
        self.add_(flat)
        for gradient, whole in zip(
            gradients, flat.split([g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(whole.view(gradient.shape))

    def gather(self, values: Tensor) -> list[Tensor]:
        """Return ``values`` of every process, in the order of the processes.

        Raises:
            LostError: a process has ended.
        """
        own = values.contiguous().to(self.device or values.device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        try:
            dist.all_gather(parts, own, group=self.group)
        except RuntimeError as error:
            raise LostError from error
        return [part.to(values.device) for part in parts]

    def add_(self, values: Tensor) -> None:
        """Replace ``values`` by their sum over all processes, in an order the backend keeps to.

        Raises:
            LostError: a process has ended.
        """
        try:
            dist.all_reduce(values, group=self.group)
        except RuntimeError as error:
            raise LostError from error

    def wait(self) -> None:
        """Wait until every process is here.

        Raises:
            LostError: a process has ended.
        """
        self.gather(torch.zeros(1, device=self.device))
