"""When a member's learning rate falls, and when the member is done."""

import math
from dataclasses import dataclass


@dataclass
class Plateau:
    """Lower the learning rate when the validation loss no longer falls.

    Reference: ``torch.optim.lr_scheduler.ReduceLROnPlateau`` in mode ``min`` with a
    relative threshold and no cooldown.
    """

    patience: int = 10
    factor: float = 0.1
    threshold: float = 1e-4
    smallest_change: float = 1e-8
    best: float = math.inf
    bad: int = 0

    def rate_after(self, loss: float, rate: float) -> float:
        """Return the next learning rate; a loss that is NaN counts as no better."""
        if loss < self.best * (1 - self.threshold):
            self.best, self.bad = loss, 0
        else:
            self.bad += 1
        if self.bad <= self.patience:
            return rate
        self.bad = 0
        lower = rate * self.factor
        return lower if rate - lower > self.smallest_change else rate


@dataclass
class Stopping:
    """Stop after ``patience`` epochs in a row without a better score; ``None`` never stops."""

    patience: int | None = 30
    best: float = -math.inf
    best_epoch: int = 0
    bad: int = 0

    def is_better(self, score: float, epoch: int) -> bool:
        """Note the score of an epoch; a NaN, or a tie with the best, is not better."""
        if score > self.best:
            self.best, self.best_epoch, self.bad = score, epoch, 0
            return True
        self.bad += 1
        return False

    @property
    def is_over(self) -> bool:
        """Whether the patience is used up."""
        return self.patience is not None and self.bad >= self.patience
