"""The task's metrics and thresholds: published figures, cases worked by hand, bad input."""

import json
import warnings

import numpy as np
import pytest

from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS
from fastmte.metrics import (
    METRICS,
    decide,
    elbow_thresholds,
    evaluate,
    f_thresholds,
    per_tag,
)

PUBLISHED = (
    "baseline_resnet18_all",
    "baseline_vggish_all",
    "run1_ensemble_vggish_kmeans",
    "run3_ensemble_vggish_dikmeans_4",
    "run5_ensemble_resnet_linear_4",
)
TRUTH = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
SCORES = np.array([[0.9, 0.1], [0.4, 0.8], [0.6, 0.3], [0.1, 0.7]])


@pytest.fixture(scope="module")
def truth(shared):
    return np.load(shared / "data/mediaeval2021/groundtruth.npy")


@pytest.mark.parametrize("system", PUBLISHED)
def test_published_systems_at_six_decimals(shared, truth, system):
    base = shared / "data/mediaeval2021/published" / system
    scores = np.load(f"{base}_predictions.npy")
    result = evaluate(scores, truth, np.load(f"{base}_decisions.npy"))
    with open(f"{base}_results.txt") as file:
        assert [f"{name:<20}\t{value:.6f}\n" for name, value in result.items()] == list(file)


def test_mtg_baseline_and_its_thresholds(shared, truth):
    folder = shared / "data/mtg-baseline"
    scores = np.load(folder / "mtg_baseline_vggish_predictions.npy")
    lines = (folder / "mtg_baseline_vggish_thresholds.txt").read_text().splitlines()
    published = [float(line.split("\t")[1]) for line in lines]
    assert f_thresholds(scores, truth).tolist() == published
    result = evaluate(scores, truth, decide(scores, np.array(published)))
    with open(folder / "mtg_baseline_vggish_results.tsv") as file:
        assert [f"{name}\t{value:.6f}\n" for name, value in result.items()] == list(file)


@pytest.mark.parametrize(
    ("system", "name"),
    [
        (
            "mediaeval2021/published/run1_ensemble_vggish_kmeans_predictions.npy",
            "[2021] UIBK-DBIS (run1_ensemble_vggish_kmeans)",
        ),
        ("mtg-baseline/mtg_baseline_vggish_predictions.npy", "baseline (vggish)"),
    ],
)
def test_per_tag_pr_auc_is_the_leaderboards(shared, truth, system, name):
    board = json.loads((shared / "data/mediaeval2021/leaderboard_per_tag.json").read_text())
    published = dict(zip(board["x"], board["z"][board["y"].index(name)], strict=True))
    rows = per_tag(np.load(shared / "data" / system), truth, MOOD_THEME_TAGS)
    assert [row["songs"] for row in rows] == truth.sum(axis=0).tolist()
    assert {row["tag"]: row["PR-AUC"] for row in rows} == pytest.approx(published, abs=1e-12)


def test_case_by_hand():
    decisions = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], bool)
    result = evaluate(SCORES, TRUTH, decisions)
    assert tuple(result) == METRICS
    # Tag 0: positives .9 .4 beside negatives .6 .1: 3 of 4 pairs right; AP (1 + 2/3) / 2.
    # Tag 1: positives .8 .7 above both negatives.
    assert result["ROC-AUC-macro"] == pytest.approx((3 / 4 + 1) / 2)
    assert result["PR-AUC-macro"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert result["precision-macro"] == pytest.approx((1 / 2 + 1) / 2)
    assert result["recall-macro"] == pytest.approx(1 / 2)
    assert result["F-score-macro"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert result["precision-micro"] == pytest.approx(2 / 3)
    assert result["recall-micro"] == pytest.approx(2 / 4)


def test_without_decisions_their_rows_are_left_out():
    names = [name for name in METRICS if "AUC" in name]
    assert list(evaluate(SCORES, TRUTH)) == names


@pytest.mark.parametrize("constant", [False, True])
def test_tag_that_tells_nothing_is_left_out_and_named(constant):
    truth = np.column_stack([TRUTH, np.full(4, constant)])
    scores = np.column_stack([SCORES, SCORES[:, 0]])
    with pytest.warns(UserWarning, match=r"left out of the macro averages.*: cool$"):
        result = evaluate(scores, truth, scores > 0.5, ["a", "b", "cool"])
    alone = evaluate(SCORES, TRUTH, SCORES > 0.5)
    for name in METRICS[:5]:
        assert result[name] == alone[name]
    assert np.isfinite(list(result.values())).all()
    row = per_tag(scores, truth, ["a", "b", "cool"])[2]
    assert row["ROC-AUC"] is None and row["PR-AUC"] is None


def test_truth_that_tells_nothing_at_all_is_refused():
    with pytest.raises(InputError, match="no tag has both songs with it and songs without"):
        evaluate(SCORES, np.zeros((4, 2), bool))


def test_one_tag_counts_as_one_label():
    result = evaluate(SCORES[:, :1], TRUTH[:, :1], SCORES[:, :1] > 0.5)
    assert result["precision-macro"] == result["precision-micro"] == 0.5


@pytest.mark.parametrize(
    ("scores", "truth", "decisions", "text"),
    [
        (SCORES[0], TRUTH, None, r"scores must be numbers of shape \(songs, tags\), got float64"),
        (SCORES.astype(str), TRUTH, None, "scores must be numbers"),
        (SCORES[:0], TRUTH[:0], None, "scores must be numbers of shape"),
        (SCORES, TRUTH[:3], None, r"truth must have the scores' shape \(4, 2\), got \(3, 2\)"),
        (SCORES, TRUTH.astype(int), None, "truth must be bool, got int64"),
        (SCORES, TRUTH, SCORES, "decisions must be bool, got float64"),
        (SCORES, TRUTH, TRUTH.T, r"decisions must have the scores' shape \(4, 2\), got \(2, 4\)"),
        (
            np.where(SCORES == 0.8, np.nan, SCORES),
            TRUTH,
            None,
            "scores must be finite, got nan at row 1, column 1",
        ),
        (
            np.where(SCORES == 0.7, np.inf, SCORES),
            TRUTH,
            None,
            "scores must be finite, got inf at row 3, column 1",
        ),
    ],
)
def test_bad_input(scores, truth, decisions, text):
    with pytest.raises(InputError, match=text):
        evaluate(scores, truth, decisions)


def _youden_by_hand(scores, truth):
    """Try every score as a threshold; the lowest of the best."""
    best = {}
    for threshold in [*np.unique(scores), np.inf]:
        is_given = scores >= threshold
        best[threshold] = abs(is_given[truth].mean() - is_given[~truth].mean())
    highest = max(best.values())
    return min(threshold for threshold, value in best.items() if value == highest)


def test_elbow_is_youdens_point(rng):
    # Few distinct scores, so that there are ties; 64 songs keep the rates exact.
    scores = rng.integers(0, 12, (64, 9)) / 16
    truth = np.zeros((64, 9), bool)
    truth[:32] = True
    truth = rng.permuted(truth, axis=0)
    expected = [_youden_by_hand(scores[:, i], truth[:, i]) for i in range(9)]
    assert elbow_thresholds(scores, truth).tolist() == expected


def test_thresholds_by_hand():
    # Tag 1 is parted by any score in (.3, .7]; at .7 both rates are at their best.
    assert elbow_thresholds(SCORES, TRUTH)[1] == 0.7
    assert f_thresholds(SCORES, TRUTH).tolist() == [0.4, 0.7]
    # The decision is strict: the song at the threshold itself is not given the tag.
    assert decide(SCORES, np.array([0.4, 0.7]))[:, 1].tolist() == [False, True, False, False]


@pytest.mark.parametrize("choose", [elbow_thresholds, f_thresholds])
def test_thresholds_where_nothing_can_be_learned(choose):
    truth = np.column_stack([np.zeros(4, bool), np.ones(4, bool), TRUTH[:, 0]])
    scores = np.column_stack([SCORES, SCORES[:, 0]])
    with pytest.warns(UserWarning, match="no threshold can be learned.*: never, always"):
        thresholds = choose(scores, truth, ["never", "always", "a"])
    given = decide(scores, thresholds)
    assert not given[:, 0].any() and given[:, 1].all()


def test_constant_scores_have_finite_thresholds():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        thresholds = elbow_thresholds(np.full((4, 2), 0.5), TRUTH)
    assert np.isfinite(thresholds).all()


def test_one_threshold_a_tag():
    with pytest.raises(InputError, match=r"thresholds must be 2, one a tag, got shape \(3,\)"):
        decide(SCORES, np.zeros(3))
