"""What the trainer keeps of each member beside its weights."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from fastmte.ensemble import FusedEnsemble
from fastmte.train.schedule import Plateau, Stopping


@dataclass(eq=False)
class MemberState:
    """One member's schedule, its stopping and its best weights.

    Attributes:
        member: its number in the whole ensemble.
        labels: its labels in the whole ensemble.
        rate: its learning rate.
        plateau: when the rate falls.
        stopping: when it is done.
        best: a copy of it at its best epoch; None before the first epoch, and while the
            last weights are the ones to keep.
        is_live: whether it is still trained.
    """

    member: int
    labels: list[int]
    rate: float
    plateau: Plateau
    stopping: Stopping
    best: FusedEnsemble | None = None
    is_live: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return everything but the weights."""
        return {
            "rate": self.rate,
            "is_live": self.is_live,
            "plateau": asdict(self.plateau),
            "stopping": asdict(self.stopping),
        }

    def take(self, value: dict[str, Any]) -> None:
        """Take over what ``to_json`` returned."""
        self.rate, self.is_live = value["rate"], value["is_live"]
        self.plateau = Plateau(**value["plateau"])
        self.stopping = Stopping(**value["stopping"])


def macro_roc_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean ROC-AUC of the labels that some song has and some song has not.

    Args:
        scores: (N, L) float.
        truth: (N, L) bool.

    Returns:
        NaN if there is no such label, or if a score is NaN.
    """
    defined = truth.any(axis=0) & ~truth.all(axis=0)
    if not defined.any() or np.isnan(scores).any():
        return float("nan")
    pairs = zip(truth.T[defined], scores.T[defined], strict=True)
    return float(np.mean([roc_auc_score(t, s) for t, s in pairs]))
