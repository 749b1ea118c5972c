"""The task's metrics, a table of them for each tag, and thresholds."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from fastmte.errors import InputError

METRICS = tuple(
    f"{name}-{average}"
    for average in ("macro", "micro")
    for name in ("ROC-AUC", "PR-AUC", "precision", "recall", "F-score")
)
"""The task's names in the task's order."""


def evaluate(
    scores: np.ndarray,
    truth: np.ndarray,
    decisions: np.ndarray | None = None,
    tags: Sequence[str] | None = None,
) -> dict[str, float]:
    """Return the task's metrics by the task's names, in the task's order.

    A tag that no song has, or that all have, has no ROC curve: every macro average is over the
    other tags, and a warning names the ones left out. Micro averages are over everything.

    Args:
        scores: (N, L) float, finite; higher is more likely.
        truth: (N, L) bool.
        decisions: (N, L) bool; without them, precision, recall and F-score are left out.
        tags: the L labels' texts, for the warning; their indices by default.

    Raises:
        InputError: shapes differ, a score is not finite, truth or decisions are not bool, tags
            are not one a column, or no tag has both songs with it and songs without.

    Reference: MTG/mtg-jamendo-dataset, scripts/mediaeval/evaluate.py.
    """
    scores, truth, decisions = check_scores(scores, truth, decisions)
    _check_tags(tags, scores)
    keep = _defined(truth, tags)
    macro = {
        "ROC-AUC-macro": roc_auc_score(truth[:, keep], scores[:, keep], average="macro"),
        "PR-AUC-macro": average_precision_score(truth[:, keep], scores[:, keep], average="macro"),
    }
    micro = {
        "ROC-AUC-micro": roc_auc_score(truth.ravel(), scores.ravel()),
        "PR-AUC-micro": average_precision_score(truth.ravel(), scores.ravel()),
    }
    if decisions is not None:
        macro |= _decision_metrics(truth[:, keep], decisions[:, keep], "macro")
        micro |= _decision_metrics(truth, decisions, "micro")
    return {name: float(value) for name, value in (macro | micro).items()}


def _decision_metrics(truth: np.ndarray, decisions: np.ndarray, average: str) -> dict[str, float]:
    axis = 0 if average == "macro" else None
    values = _precision_recall_f(truth, decisions, axis)
    names = ("precision", "recall", "F-score")
    return {
        f"{name}-{average}": float(value.mean()) for name, value in zip(names, values, strict=True)
    }


def _precision_recall_f(
    truth: np.ndarray, decisions: np.ndarray, axis: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the three of each tag (axis 0) or of all (None); 0 where there is nothing."""
    right = np.asarray((truth & decisions).sum(axis=axis), np.float64)
    has, given = truth.sum(axis=axis), decisions.sum(axis=axis)
    return (
        right / np.maximum(given, 1),
        right / np.maximum(has, 1),
        2 * right / np.maximum(has + given, 1),
    )


def per_tag(
    scores: np.ndarray,
    truth: np.ndarray,
    tags: Sequence[str],
    decisions: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Return one row a tag: its songs, its metrics, how often it is decided.

    Args:
        scores: (N, L) float, finite.
        truth: (N, L) bool.
        tags: the L labels' texts.
        decisions: (N, L) bool, or none.

    Returns:
        Rows with ``tag``, ``songs`` (that have it), ``ROC-AUC`` and ``PR-AUC``, which are None
        for a tag no song has or all have, and with decisions ``decided`` (songs), ``precision``,
        ``recall`` and ``F-score``.

    Raises:
        InputError: as ``evaluate``.
    """
    scores, truth, decisions = check_scores(scores, truth, decisions)
    _check_tags(tags, scores)
    is_defined = _is_defined(truth)
    rows: list[dict[str, Any]] = []
    for label, tag in enumerate(tags):
        t, s = truth[:, label], scores[:, label]
        row: dict[str, Any] = {"tag": tag, "songs": int(t.sum()), "ROC-AUC": None, "PR-AUC": None}
        if is_defined[label]:
            row["ROC-AUC"] = float(roc_auc_score(t, s))
            row["PR-AUC"] = float(average_precision_score(t, s))
        if decisions is not None:
            d = decisions[:, label]
            values = _precision_recall_f(t, d, None)
            names = ("precision", "recall", "F-score")
            row["decided"] = int(d.sum())
            row |= {name: float(value) for name, value in zip(names, values, strict=True)}
        rows.append(row)
    return rows


def elbow_thresholds(
    scores: np.ndarray, truth: np.ndarray, tags: Sequence[str] | None = None
) -> np.ndarray:
    """Return the paper's threshold of each tag: the elbow of its ROC curve, (L,) float64.

    That is the score at which the true-positive rate is farthest from the false-positive rate
    (Youden's J), the lowest of equals. It gives many tags a song; see ``f_thresholds``.
    A tag no song has gets 1 and is never decided for a probability; one all have gets 0.

    Args:
        scores: (N, L) float, finite; of the validation songs.
        truth: (N, L) bool.
        tags: the L labels' texts, for the warning.

    Raises:
        InputError: as ``evaluate``.

    Reference: dbis-uibk/MediaEval2021, ``utils.find_elbow``.
    """
    return _thresholds(scores, truth, tags, _elbow)


def f_thresholds(
    scores: np.ndarray, truth: np.ndarray, tags: Sequence[str] | None = None
) -> np.ndarray:
    """Return the threshold of each tag at which its F-score is highest, (L,) float64.

    The curve's point at a score decides songs of that score too, whereas ``decide`` is strict;
    the task's own script has the same difference of one song. Tags no song or all songs have:
    as ``elbow_thresholds``.

    Args:
        scores: (N, L) float, finite; of the validation songs, never of the test songs.
        truth: (N, L) bool.
        tags: the L labels' texts, for the warning.

    Raises:
        InputError: as ``evaluate``.

    Reference: MTG/mtg-jamendo-dataset, scripts/mediaeval/calculate_decisions.py.
    """
    return _thresholds(scores, truth, tags, _best_f)


def decide(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return which tags each song gets, (N, L) bool: the score is above the tag's threshold.

    Args:
        scores: (N, L) float.
        thresholds: (L,) float.

    Raises:
        InputError: not one threshold a tag.
    """
    scores, thresholds = np.asarray(scores), np.asarray(thresholds)
    if thresholds.shape != scores.shape[1:]:
        raise InputError(
            f"thresholds must be {scores.shape[1]}, one a tag, got shape {thresholds.shape}"
        )
    return scores > thresholds


def check_scores(
    scores: np.ndarray, truth: np.ndarray, decisions: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the three as arrays that belong together, scores as float64.

    Raises:
        InputError: shapes differ or are not (N, L), a score is not finite, or truth or
            decisions are not bool.
    """
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.ndim != 2 or not scores.size or scores.dtype.kind not in "fiu":
        raise InputError(
            f"scores must be numbers of shape (songs, tags), got {scores.dtype} {scores.shape}"
        )
    for name, array in (("truth", truth), ("decisions", decisions)):
        if array is None:
            continue
        array = np.asarray(array)
        if array.dtype != bool:
            raise InputError(f"{name} must be bool, got {array.dtype}")
        if array.shape != scores.shape:
            raise InputError(
                f"{name} must have the scores' shape {scores.shape}, got {array.shape}"
            )
    bad = np.argwhere(~np.isfinite(scores))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"scores must be finite, got {scores[row, column]} at row {row}, column {column}"
        )
    return scores.astype(np.float64), truth, decisions


def _check_tags(tags: Sequence[str] | None, scores: np.ndarray) -> None:
    if tags is not None and len(tags) != scores.shape[1]:
        raise InputError(
            f"tags must be {scores.shape[1]}, one a column of the scores, got {len(tags)}"
        )


def _is_defined(truth: np.ndarray) -> np.ndarray:
    """Return which tags some song has and some song has not, (L,) bool."""
    return np.logical_and(truth.any(axis=0), ~truth.all(axis=0))


def _defined(truth: np.ndarray, tags: Sequence[str] | None) -> np.ndarray:
    """Return the indices of the tags that have a ROC curve, and warn of the others."""
    is_defined = _is_defined(truth)
    if not is_defined.any():
        raise InputError("truth: no tag has both songs with it and songs without; add songs")
    if not is_defined.all():
        warnings.warn(
            f"left out of the macro averages, as no song or every song has them: "
            f"{_names(~is_defined, tags)}",
            UserWarning,
            stacklevel=3,
        )
    return np.flatnonzero(is_defined)


def _names(chosen: np.ndarray, tags: Sequence[str] | None) -> str:
    indices = np.flatnonzero(chosen).tolist()
    return ", ".join(tags[i] if tags is not None else str(i) for i in indices)


def _thresholds(
    scores: np.ndarray, truth: np.ndarray, tags: Sequence[str] | None, choose: Any
) -> np.ndarray:
    scores, truth, _ = check_scores(scores, truth)
    _check_tags(tags, scores)
    is_defined = _is_defined(truth)
    if not is_defined.all():
        warnings.warn(
            f"no threshold can be learned, as no song or every song has them: "
            f"{_names(~is_defined, tags)}",
            UserWarning,
            stacklevel=3,
        )
    thresholds = np.where(truth.any(axis=0), 0.0, 1.0)
    for label in np.flatnonzero(is_defined):
        thresholds[label] = choose(truth[:, label], scores[:, label])
    return thresholds


def _elbow(truth: np.ndarray, scores: np.ndarray) -> float:
    false_rate, true_rate, thresholds = roc_curve(truth, scores)
    distance = np.abs(true_rate - false_rate)
    best = len(distance) - 1 - np.argmax(distance[::-1])
    # The curve starts above every score, at infinity, which no file of thresholds can hold.
    return float(min(thresholds[best], np.nextafter(scores.max(), np.inf)))


def _best_f(truth: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, thresholds = precision_recall_curve(truth, scores)
    total = precision + recall
    f_score = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    # The last point, recall 0, has no threshold.
    return float(thresholds[np.argmax(f_score[:-1])])
