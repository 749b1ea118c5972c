"""``fastmte fuse`` as a user types it."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fastmte.cli import main
from fastmte.merge import merge_scores
from fastmte.partition import make_partition

SCORES = np.array([[0.9, 0.1], [0.4, 0.8], [0.6, 0.3]])


def run(*words: object) -> Result:
    return CliRunner().invoke(main, ["fuse", *map(str, words)])


def write_run(folder: Path, scores: np.ndarray, ids: str = "1\n2\n3\n", tags: str = "ab") -> Path:
    folder.mkdir()
    np.save(folder / "predictions.npy", scores)
    (folder / "test_ids.txt").write_text(ids)
    make_partition("single", tuple(tags)).save(folder / "partition.json")
    return folder


@pytest.mark.parametrize("how", ["mean", "logit", "rank"])
def test_runs_and_files_are_merged(tmp_path: Path, how: str) -> None:
    first = write_run(tmp_path / "a", SCORES)
    np.save(tmp_path / "b.npy", SCORES[::-1].astype(np.float32))
    third = write_run(tmp_path / "c", SCORES / 2)
    out = tmp_path / "fused.npy"
    result = run(first, tmp_path / "b.npy", third, "--merge", how, "-o", out)
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert result.stderr == f"{out}: 3 songs, 2 tags\n"
    stacked = np.concatenate([SCORES, SCORES[::-1].astype(np.float32), SCORES / 2], 1)
    expected = merge_scores(stacked, [0, 1] * 3, how)
    np.testing.assert_array_equal(np.load(out), expected)
    assert np.load(out).dtype == np.float64


def test_a_published_fusion_at_six_decimals(shared: Path, tmp_path: Path) -> None:
    """In one command what is best of the authors' own scores."""
    base = shared / "data/mediaeval2021"
    names = ("baseline_vggish_all", "baseline_resnet18_all", "run1_ensemble_vggish_kmeans")
    files = [base / f"published/{name}_predictions.npy" for name in names]
    assert run(*files, "--merge", "logit", "-o", tmp_path / "f.npy").exit_code == 0
    words = ["evaluate", tmp_path / "f.npy", "--truth", base / "groundtruth.npy"]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.stdout.splitlines()[:2] == [
        "ROC-AUC-macro       \t0.728339",
        "PR-AUC-macro        \t0.118352",
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"scores": SCORES[:2]}, "b: has scores (2, 2), a has (3, 2)"),
        ({"ids": "1\n2\n4\n"}, "b: its songs are not those of a"),
        ({"tags": "ac"}, "b: its tags are not those of a"),
        ({"scores": SCORES * 2}, "b/predictions.npy: scores must be in [0, 1]"),
        ({"scores": SCORES[0]}, "b/predictions.npy: must be (songs, tags) of floats, got (2,)"),
        ({"scores": SCORES > 0.5}, "b/predictions.npy: must be (songs, tags) of floats"),
    ],
)
def test_what_does_not_belong_together_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("a"), SCORES)
    write_run(Path("b"), **{"scores": SCORES, **change})
    result = run("a", "b", "-o", "fused.npy")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {text}") and result.stderr.count("\n") == 1
    assert not Path("fused.npy").exists()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nowhere", "-o", "x.npy"], 2, "'nowhere' does not exist"),
        (["-o", "x.npy"], 2, "Missing argument"),
        (["empty", "-o", "x.npy"], 1, "Error: empty: has no predictions.npy; is the run finished?"),
        (["empty", "-o", "no/x.npy"], 2, "there is no such folder; make it first"),
        (["empty", "--merge", "max", "-o", "x.npy"], 2, "is not one of 'mean', 'logit', 'rank'"),
    ],
)
def test_usage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    result = run(*words)
    assert result.exit_code == code
    assert text in result.stderr
