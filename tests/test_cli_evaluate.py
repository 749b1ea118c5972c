"""``fastmte evaluate`` as a user types it."""

import json
import os
import pickle

import numpy as np
import pytest
from click.testing import CliRunner

from fastmte.cli import main
from fastmte.metrics import METRICS
from fastmte.partition import make_partition

PUBLISHED = (
    "baseline_resnet18_all",
    "baseline_vggish_all",
    "run1_ensemble_vggish_kmeans",
    "run3_ensemble_vggish_dikmeans_4",
    "run5_ensemble_resnet_linear_4",
)
TRUTH = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
SCORES = np.array([[0.9, 0.1], [0.4, 0.8], [0.6, 0.3], [0.1, 0.7]])
HUGE = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (100000000, 100000000)}".ljust(117) + b"\n"
)
THRESHOLDS = "0\t0.5\n1\t0.5\n"


def run(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


@pytest.fixture
def files(tmp_path):
    """Write scores, truth, decisions and thresholds under the names of a run."""
    arrays = {"predictions": SCORES, "groundtruth": TRUTH, "decisions": SCORES > 0.5}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "thresholds.txt").write_text(THRESHOLDS)
    return tmp_path


@pytest.mark.parametrize("system", PUBLISHED)
def test_published_results_at_six_decimals(shared, system):
    folder = shared / "data/mediaeval2021"
    base = folder / "published" / system
    result = run(
        f"{base}_predictions.npy",
        "--truth",
        folder / "groundtruth.npy",
        "--decisions",
        f"{base}_decisions.npy",
    )
    with open(f"{base}_results.txt") as file:
        assert result.stdout == file.read()


def test_mtg_baseline_by_its_thresholds_and_the_split(shared):
    folder = shared / "data/mtg-baseline"
    table = shared / "data/mtg-jamendo/splits/split-0/autotagging_moodtheme-test.tsv"
    result = run(
        folder / "mtg_baseline_vggish_predictions.npy",
        "--truth",
        table,
        "--thresholds",
        folder / "mtg_baseline_vggish_thresholds.txt",
        "--json",
    )
    lines = (folder / "mtg_baseline_vggish_results.tsv").read_text().splitlines()
    expected = dict(line.split("\t") for line in lines)
    found = json.loads(result.stdout)
    assert {name: f"{value:.6f}" for name, value in found.items()} == expected


def test_json_has_exactly_the_tasks_names(files):
    paths = (files / "predictions.npy", "--truth", files / "groundtruth.npy")
    whole = json.loads(run(*paths, "--decisions", files / "decisions.npy", "--json").stdout)
    assert tuple(whole) == METRICS
    assert whole["precision-macro"] == pytest.approx(3 / 4)
    by_thresholds = run(*paths, "--thresholds", files / "thresholds.txt", "--json")
    assert json.loads(by_thresholds.stdout) == whole
    without = json.loads(run(*paths, "--json").stdout)
    assert list(without) == [name for name in METRICS if "AUC" in name]


def test_run_folder_has_everything(files):
    assert tuple(json.loads(run(files, "--json").stdout)) == METRICS
    (files / "decisions.npy").unlink()
    by_thresholds = run(files)
    assert [line.split()[0] for line in by_thresholds.stdout.splitlines()] == list(METRICS)
    (files / "groundtruth.npy").unlink()
    result = run(files)
    assert result.exit_code == 1 and "has no groundtruth.npy; is the run finished?" in result.stderr


def test_run_folder_names_its_tags(files):
    make_partition("linear", ["calm", "dark"], n_members=2).save(files / "partition.json")
    (files / "thresholds.txt").write_text("mood/theme---dark\t0.75\r\nmood/theme---calm\t0.5\r\n")
    (files / "decisions.npy").unlink()
    rows = json.loads(run(files, "--json", "--per-tag").stdout)["tags"]
    assert [(row["tag"], row["songs"], row["decided"]) for row in rows] == [
        ("calm", 2, 2),
        ("dark", 2, 1),
    ]


def test_run_folder_with_a_partition_of_other_labels(files):
    make_partition("linear", ["calm", "dark", "sad"], n_members=2).save(files / "partition.json")
    result = run(files)
    assert result.exit_code == 1
    assert "tags must be 2, one a column of the scores, got 3" in result.stderr


def test_table_of_tags(files):
    lines = run(files, "--per-tag").stdout.splitlines()[len(METRICS) + 1 :]
    assert lines[0].split()[:4] == ["tag", "songs", "ROC-AUC", "PR-AUC"]
    assert lines[1].split() == ["0", "2", "0.7500", "0.8333", "2", *["0.5000"] * 3]
    assert len({len(line) for line in lines}) == 1


def test_tag_that_tells_nothing_is_a_warning_and_no_nan(files):
    truth = TRUTH.copy()
    truth[:, 1] = False
    np.save(files / "groundtruth.npy", truth)
    result = run(files, "--json", "--per-tag")
    assert "Warning: left out of the macro averages" in result.stderr
    rows = json.loads(result.stdout, parse_constant=pytest.fail)["tags"]
    assert rows[1]["ROC-AUC"] is None
    last = run(files, "--per-tag").stdout.splitlines()[-1]
    assert last.split()[:4] == ["1", "0", "-", "-"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "predictions",
            SCORES[:3],
            "groundtruth.npy: must have the scores' shape (3, 2), got (4, 2)",
        ),
        (
            "predictions",
            SCORES[:, :1],
            "groundtruth.npy: must have the scores' shape (4, 1), got (4, 2)",
        ),
        ("predictions", SCORES[0], "scores must be numbers of shape (songs, tags)"),
        ("predictions", np.float64(3), "scores must be numbers of shape (songs, tags)"),
        (
            "predictions",
            np.full((4, 2), np.nan),
            "predictions.npy: scores must be finite, got nan at row 0, column 0",
        ),
        ("decisions", SCORES, "decisions.npy: must be bool, got float64; save it as astype(bool)"),
        ("groundtruth", SCORES, "groundtruth.npy: must be bool, got float64; save it as"),
        ("predictions", np.array([{}], object), "no plain .npy array (Object arrays"),
        ("predictions", pickle.dumps([1]), "predictions.npy: not a NumPy array file"),
        ("predictions", b"0.1,0.2", "predictions.npy: not a NumPy array file"),
        ("predictions", b"PK\x03\x04", "no plain .npy array"),
        ("predictions", b"", "predictions.npy: not a NumPy array file"),
        ("predictions", HUGE, "predictions.npy: its header asks for more memory than there is"),
        ("groundtruth", b"\x93NUMPY\x01", "no plain .npy array"),
    ],
)
def test_bad_array(files, name, content, message):
    path = files / f"{name}.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    result = run(files)
    assert result.exit_code == 1
    assert result.stdout == "" and result.stderr.count("\n") == 1
    assert message in result.stderr


def test_pipe_is_refused_before_it_is_opened(files):
    os.mkfifo(files / "pipe")
    result = run(files / "pipe", "--truth", files / "groundtruth.npy")
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: {files / 'pipe'}: not a regular file\n",
    )


def test_archive_is_no_array(files):
    np.savez(files / "predictions.npz", SCORES)
    result = run(files / "predictions.npz", "--truth", files / "groundtruth.npy")
    assert result.exit_code == 1 and "must be one array (.npy), got an archive" in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\t0.5\n", "has no threshold for '1' (1 missing)"),
        (
            "0\t0.5\n1 0.5\n",
            "thresholds.txt:2: must be a tag, a tab and a finite number, got '1 0.5'",
        ),
        ("0\tnan\n", "thresholds.txt:1: must be a tag, a tab and a finite number"),
        ("0\tinf\n", "thresholds.txt:1: must be a tag, a tab and a finite number"),
        ("0\t0.5\n\n7\t0.5\n", "thresholds.txt:3: '7' is none of the 2 tags"),
        ("0\t0.5\n0\t0.5\n", "thresholds.txt:2: '0' has a threshold already"),
    ],
)
def test_bad_thresholds(files, text, message):
    (files / "thresholds.txt").write_text(text)
    (files / "decisions.npy").unlink()
    result = run(files)
    assert result.exit_code == 1 and message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no.npy",), "'no.npy' does not exist"),
        (("predictions.npy",), "Missing option '--truth'"),
        ((".", "--decisions", "no.npy"), "'no.npy' does not exist"),
        ((".", "--decisions", "decisions.npy", "--thresholds", "thresholds.txt"), "exclude each o"),
    ],
)
def test_usage(files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    result = run(*arguments)
    assert result.exit_code == 2 and message in result.stderr
