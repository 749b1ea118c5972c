"""What is done with every song of an epoch: a step of each member, or its scores."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from fastmte.data.batches import BatchRoom, LabelledMels, batch_order, random_starts
from fastmte.exchange import Exchange
from fastmte.train.config import TrainConfig
from fastmte.train.crew import Crew
from fastmte.train.group import Group

OnStep = Callable[[int, int, int], None]


@dataclass
class Passes:
    """Passes of live members over songs.

    Attributes:
        config: of the training.
        device: where the members are.
        dtype: of their parameters.
        n_labels: labels of the whole ensemble, L.
        exchange: the processes that share the batches; None for this one alone.
        room: for one batch after another.
    """

    config: TrainConfig
    device: torch.device
    dtype: torch.dtype
    n_labels: int
    exchange: Exchange | None
    room: BatchRoom = field(init=False)

    def __post_init__(self) -> None:
        self.room = BatchRoom(is_pinned=self.device.type == "cuda")

    def train(
        self,
        groups: list[Group],
        data: LabelledMels,
        batch_size: int,
        epoch: int,
        step: int,
        on_step: OnStep | None,
    ) -> tuple[np.ndarray, int]:
        """Take every song once.

        Returns:
            The mean loss of each label (L,), NaN where no live member has it, and the steps that
            are made then.
        """
        config, exchange = self.config, self.exchange
        batches = batch_order(len(data), batch_size, config.seed, epoch)
        starts = None
        if config.crop == "random":
            starts = random_starts(data.lengths, config.frames, config.seed, epoch)
        losses = np.full(self.n_labels, np.nan)
        for group in groups:
            group.ensemble.train()
            losses[group.labels] = 0.0
        plan = groups[0].plan
        with self._crew(groups) as crew:
            for count, rows in enumerate(batches, start=1):
                own = rows if exchange is None else exchange.take(rows)
                batch = self._batch(data, own, None if starts is None else starts[own])
                shared = plan.shared(batch[0]) if plan.is_fused else None
                where = *batch, config.seed, step, shared
                steps = [partial(group.step, *where) for group in groups]
                for group, per_label in zip(groups, crew(steps), strict=True):
                    losses[group.labels] += per_label.numpy() * len(rows) / len(data)
                step += 1
                if on_step is not None:
                    on_step(epoch, count, len(batches))
        if exchange is not None:
            losses = exchange.total(torch.from_numpy(losses)).numpy()
        return losses, step

    @torch.no_grad()
    def validate(
        self, groups: list[Group], data: LabelledMels, batch_size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each label's loss (L,) and the logits (N, L); NaN where no live member has it."""
        exchange = self.exchange
        batches = torch.arange(len(data)).split(batch_size)
        losses = np.full((len(batches), self.n_labels), np.nan)
        scores = np.full((len(data), self.n_labels), np.nan)
        for group in groups:
            losses[:, group.labels] = scores[:, group.labels] = 0.0
        pairs = [(group, group.scorer(batch_size)) for group in groups]
        rank, size = (0, 1) if exchange is None else (exchange.rank, exchange.size)
        with self._crew(groups) as crew:
            # Whole batches are dealt out, each song once: what a batch gives depends on its size.
            for number in range(rank, len(batches), size):
                rows = batches[number]
                batch = self._batch(data, rows, None)
                found = crew([partial(group.validate, scorer, *batch) for group, scorer in pairs])
                for group, (per_label, logits) in zip(groups, found, strict=True):
                    losses[number, group.labels] = per_label.numpy() * len(rows) / len(data)
                    scores[np.ix_(rows.numpy(), group.labels)] = logits.numpy()
        if exchange is not None:
            losses = exchange.total(torch.from_numpy(losses)).numpy()
            scores = exchange.total(torch.from_numpy(scores)).numpy()
        return losses.sum(0), scores

    def _crew(self, groups: list[Group]) -> Crew:
        """Return threads for the groups; where processes share batches, they go in one order."""
        is_alone = self.exchange is None and self.device.type == "cpu"
        return Crew(len(groups) if is_alone else 1)

    def _batch(
        self, data: LabelledMels, rows: Tensor, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return mels (B, 96, F) and labels (B, L), both on the device and of the dtype."""
        frames = self.config.frames
        mels, labels = data.batch(rows, frames, starts, self.room.take(len(rows), frames))
        return mels.to(self.device, self.dtype), labels.to(self.device, self.dtype)
