"""``fastmte report``."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fastmte import runs
from fastmte.cli import main
from fastmte.partition import make_partition


def report(*args: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, args)])


@pytest.fixture
def run(tmp_path: Path, rng: np.random.Generator) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    tags = ("action", "calm", "dark", "epic")
    centroids = rng.normal(size=(4, 3))
    make_partition("dkmeans", tags, centroids, 2).save(folder / runs.PARTITION)
    np.save(folder / runs.CENTROIDS, centroids)
    truth = np.add.outer(np.arange(6), np.arange(4)) % 3 == 0
    ids = [str(n) for n in range(6)]
    runs.write_results(folder, tags, ids, rng.random((6, 4)), truth, np.full(4, 0.5))
    return folder


def test_writes_page_and_pictures_and_prints_their_paths(run: Path) -> None:
    result = report(run)
    assert result.exit_code == 0, result.output
    names = ("report.html", "figure1.png", "elbow.png")
    assert result.stdout.split() == [str(run / name) for name in names]
    assert (run / "report.html").read_text().startswith("<!DOCTYPE html>")
    assert (run / "figure1.png").read_bytes()[:4] == b"\x89PNG"
    assert (run / "elbow.png").read_bytes()[:4] == b"\x89PNG"
    assert "ROC-AUC-macro" in result.stderr
    assert "left out: the course of the training: there is no metrics.jsonl" in result.stderr


def test_output_goes_where_it_is_wanted(run: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = report(run, "-o", page)
    assert result.exit_code == 0, result.output
    assert result.stdout.split()[0] == str(page)
    assert page.is_file()
    assert not (run / "report.html").exists()


def test_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    result = report(tmp_path)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}: holds neither a run nor tagged songs\n"
    assert list(tmp_path.iterdir()) == []


def test_tagged_folder_that_is_none_is_one_line(run: Path, tmp_path: Path) -> None:
    result = report(run, "--tagged", tmp_path)
    assert result.exit_code == 1
    assert "not a tagged folder" in result.stderr
    assert not (run / "report.html").exists()


@pytest.mark.parametrize("args", [("nowhere",), (".", "--tagged", "nowhere"), ()])
def test_what_does_not_exist_is_a_usage_error(args: tuple[str, ...]) -> None:
    assert report(*args).exit_code == 2


def test_page_that_cannot_be_written_leaves_nothing(run: Path, tmp_path: Path) -> None:
    result = report(run, "-o", tmp_path / "no" / "page.html")
    assert result.exit_code == 2
    assert "there is no such folder; make it first" in result.stderr
    assert not (run / "figure1.png").exists()
    assert not list(tmp_path.rglob("*.tmp"))
