"""Several scores of a label made one."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from fastmte.merge import Merge, merge_scores

GOLDEN = {  # facts measured on the published predictions: PR-AUC-macro, ROC-AUC-macro
    ("vggish_all", "vggish_kmeans"): {
        "mean": ("0.111764", "0.716196"),
        "logit": ("0.112236", "0.717138"),
        "rank": ("0.111325", "0.717858"),
    },
    ("vggish_all", "resnet18_all", "vggish_kmeans"): {
        "mean": ("0.117743", "0.728638"),
        "logit": ("0.118352", "0.728339"),
        "rank": ("0.117106", "0.728290"),
    },
}
NAMES = {
    "vggish_all": "baseline_vggish_all",
    "resnet18_all": "baseline_resnet18_all",
    "vggish_kmeans": "run1_ensemble_vggish_kmeans",
}


@pytest.mark.parametrize("systems", GOLDEN)
def test_published_predictions_are_better_together(shared: Path, systems: tuple[str, ...]) -> None:
    """The members of several published systems cover the labels two or three times."""
    base = shared / "data/mediaeval2021"
    scores = [np.load(base / f"published/{NAMES[name]}_predictions.npy") for name in systems]
    truth = np.load(base / "groundtruth.npy")
    labels = np.tile(np.arange(56), len(systems))
    for how, expected in GOLDEN[systems].items():
        merged = merge_scores(np.concatenate(scores, 1), labels, how)
        found = [score(truth, merged, average="macro") for score in METRICS]
        assert tuple(f"{value:.6f}" for value in found) == expected, how


METRICS = (average_precision_score, roc_auc_score)
LABELS = (1, 0, 1, 2, 1)
SCORES = [[0.5, 0.1, 0.25, 0.7, 0.75], [0.5, 0.3, 0.5, 0.2, 0.5], [0.9, 0.2, 0.5, 0.2, 0.6]]


def test_by_hand() -> None:
    mean = merge_scores(np.array(SCORES), LABELS, "mean")
    np.testing.assert_allclose(mean, [[0.1, 0.5, 0.7], [0.3, 0.5, 0.2], [0.2, 2 / 3, 0.2]])
    logit = merge_scores(np.array(SCORES), LABELS, "logit")
    third = 1 / (1 + math.exp(-(math.log(9) + math.log(1.5)) / 3))
    np.testing.assert_allclose(logit, [[0.1, 0.5, 0.7], [0.3, 0.5, 0.2], [0.2, third, 0.2]])
    rank = merge_scores(np.array(SCORES), LABELS, "rank")
    ranks = [[1, (1.5 + 1 + 3) / 3, 3], [3, (1.5 + 2.5 + 1) / 3, 1.5], [2, (3 + 2.5 + 2) / 3, 1.5]]
    np.testing.assert_allclose(rank, np.array(ranks) / 3)


@pytest.mark.parametrize("how", ["mean", "logit"])
def test_models_merge_as_sets_do(how: str) -> None:
    scores = np.array(SCORES)
    logits = torch.from_numpy(np.log(scores) - np.log1p(-scores))
    merged = Merge(LABELS, how)(logits)
    np.testing.assert_allclose(merged.numpy(), merge_scores(scores, LABELS, how), atol=1e-15)
    for row, song in zip(merged, logits, strict=True):
        assert torch.equal(row, Merge(LABELS, how)(song[None])[0])


@pytest.mark.parametrize("how", ["mean", "logit"])
def test_what_is_not_finite_stays_with_its_label(how: str) -> None:
    logits = torch.randn(4, 5)
    expected = Merge(LABELS, how)(logits)
    logits[2, 2] = math.nan
    merged = Merge(LABELS, how)(logits)
    assert merged[2, 1].isnan()
    merged[2, 1] = expected[2, 1]
    assert torch.equal(merged, expected)


@pytest.mark.parametrize("how", ["mean", "logit"])
def test_a_label_of_one_member_keeps_its_score(how: str) -> None:
    logits = torch.randn(4, 5) * 20
    assert torch.equal(Merge((2, 0, 1, 4, 3), how)(logits), logits.sigmoid()[:, [1, 2, 0, 4, 3]])


@pytest.mark.parametrize("how", ["mean", "logit", "rank"])
def test_sure_scores_and_no_songs(how: str) -> None:
    merged = merge_scores(np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]), (0, 0), how)
    assert np.isfinite(merged).all()
    assert merged[1] < merged[0] < merged[2]
    assert merge_scores(np.empty((0, 2)), (0, 0), how).shape == (0, 1)


@pytest.mark.parametrize(
    ("scores", "labels", "how", "text"),
    [
        (SCORES, (0, 1), "mean", r"scores must be \(N, 2\), got \(3, 5\)"),
        (SCORES, LABELS, "max", "how must be one of mean, logit, rank, got 'max'"),
        ([[0.5, 1.5]], (0, 1), "mean", r"scores must be in \[0, 1\]"),
        ([[0.5, math.nan]], (0, 1), "rank", r"scores must be in \[0, 1\]"),
        ([[0.5, 0.5]], (0, 2), "mean", r"must name every label, got none of \[1\]"),
        ([[0.5, 0.5]], (0, -1), "mean", r"must be numbers from 0 on, got \[-1, 0\]"),
    ],
)
def test_sets_that_cannot_be_merged(scores: list, labels: tuple, how: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        merge_scores(np.array(scores), labels, how)


def test_models_do_not_merge_ranks() -> None:
    with pytest.raises(ValueError, match="one of mean, logit, got 'rank'; ranks need all songs"):
        Merge(LABELS, "rank")
