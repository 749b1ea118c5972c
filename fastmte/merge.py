"""Several scores of a label made one: what members that share labels agree on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

How = Literal["mean", "logit", "rank"]
HOW: tuple[str, ...] = get_args(How)
OF_MODELS = ("mean", "logit")  # a song's rank needs all songs, which a model does not see
_LEAST = 1e-12  # of a score whose logit is taken


@dataclass(frozen=True)
class Merge:
    """How a model's outputs, of which several may be of one label, become scores.

    Attributes:
        label_of_output: (E,) the label each output is of; every label in ``[0, L)`` has one.
        how: ``"mean"`` of the sigmoids, or sigmoid of the mean of the logits (``"logit"``).

    Raises:
        ValueError: a label has no output, or ``how`` is neither.
    """

    label_of_output: tuple[int, ...]
    how: str

    def __post_init__(self) -> None:
        check_labels(self.label_of_output)
        if self.how not in OF_MODELS:
            why = "; ranks need all songs at once" if self.how == "rank" else ""
            raise ValueError(f"how must be one of {', '.join(OF_MODELS)}, got {self.how!r}{why}")

    @property
    def n_labels(self) -> int:
        """Number of labels, L."""
        return max(self.label_of_output) + 1

    def __call__(self, logits: Tensor) -> Tensor:
        """Return scores (B, L) of logits (B, E), of their dtype; NaN stays with its labels."""
        if self.how == "logit":
            return _mean(logits, logits.new_zeros, self.label_of_output).sigmoid()
        return _mean(logits.sigmoid(), logits.new_zeros, self.label_of_output)


def merge_scores(scores: np.ndarray, label_of_output: Sequence[int], how: str) -> np.ndarray:
    """Return one score a label of songs that are all at hand, (N, L) float64.

    Args:
        scores: (N, E) in [0, 1].
        label_of_output: (E,) the label each column is of; every label in ``[0, L)`` has one.
        how: ``"mean"``; ``"logit"``, the sigmoid of the mean of the logits; ``"rank"``, the
            mean of ``rank / N`` among the songs, where equal scores share their mean rank.

    Raises:
        ValueError: the shapes do not fit, a label has no column, a score is not in [0, 1], or
            no such ``how``.

    Reference: D. M. J. Tax et al. 2000, "Combining multiple classifiers by averaging or by
        multiplying?"; for ranks J. C. de Borda 1781.
    """
    scores = np.asarray(scores, np.float64)
    check_labels(label_of_output)
    if scores.ndim != 2 or scores.shape[1] != len(label_of_output):
        raise ValueError(f"scores must be (N, {len(label_of_output)}), got {scores.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores must be in [0, 1]")
    if how not in HOW:
        raise ValueError(f"how must be one of {', '.join(HOW)}, got {how!r}")
    if how == "rank":
        ranks = rankdata(scores, axis=0) / max(1, len(scores))
        return _mean(ranks, np.zeros, label_of_output)
    if how == "logit":
        inside = np.clip(scores, _LEAST, 1 - _LEAST)
        logits = _mean(np.log(inside) - np.log1p(-inside), np.zeros, label_of_output)
        return 1 / (1 + np.exp(-logits))
    return _mean(scores, np.zeros, label_of_output)


def check_labels(label_of_output: Sequence[int]) -> None:
    """Refuse outputs of which none is of some label.

    Raises:
        ValueError: names the labels.
    """
    labels = set(label_of_output)
    if not labels or min(labels) < 0:
        raise ValueError(f"label_of_output must be numbers from 0 on, got {sorted(labels)}")
    if missing := sorted(set(range(max(labels) + 1)) - labels):
        raise ValueError(f"label_of_output must name every label, got none of {missing}")


def _mean(values: Any, zeros: Any, label_of_output: Sequence[int]) -> Any:
    """Return the mean over each label's columns, added in their order; of arrays or tensors."""
    label = np.asarray(label_of_output)
    order = np.argsort(label, kind="stable")
    counts = np.bincount(label)
    turn = np.empty(len(label), np.int64)  # a column's place among those of its label
    turn[order] = np.arange(len(label)) - np.repeat(np.cumsum(counts) - counts, counts)
    total = zeros((len(values), len(counts)))
    for i in range(counts.max()):
        columns = np.flatnonzero(turn == i)
        total[:, label[columns]] += values[:, columns]
    return total / (torch.as_tensor(counts) if isinstance(values, Tensor) else counts)
