"""Published weights on real music, from the folder to the table, against independent scores."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from fastmte.cli import main
from fastmte.data.parts import Tagged, read_tagged

MUSIC = Path(os.environ.get("FASTMTE_REAL_MUSIC", "~/.cache/fastmte-real-music")).expanduser()
CROP_SECONDS = 1366 * 256 / 12000


def run(*args: object, code: int) -> str:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.fixture(scope="module")
def work(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model, the tagged folder and its export."""
    if not any(MUSIC.rglob("*.ogg")):
        pytest.skip("the real music is not here (FASTMTE_REAL_MUSIC)")
    folder = tmp_path_factory.mktemp("real")
    weights = shared / "data" / "mtg-baseline" / "best_model.pth"
    run("models", "convert", weights, "-o", folder / "model", code=0)
    # Two of the sounds last 15 and 40 ms: no song, so not all are tagged.
    summary = run("tag", MUSIC, "--model", folder / "model", "-o", folder / "out", "--json", code=3)
    (folder / "summary.json").write_text(summary)
    run("export", folder / "out", "--to", "csv", "-o", folder / "scores.csv", code=0)
    return folder


@pytest.fixture(scope="module")
def tagged(work: Path) -> Tagged:
    return read_tagged(work / "out")


def test_scores_agree_with_the_independent_ones(
    work: Path, shared: Path, record_property: pytest.FixtureRequest
) -> None:
    expected = pd.read_csv(shared / "data" / "real-music" / "expected_scores.csv", index_col="path")
    got = pd.read_csv(work / "scores.csv", index_col="path")
    tags = expected.columns[3:]
    assert got.columns.tolist() == tags.tolist()
    assert set(expected.index) <= set(got.index)
    difference = np.abs(got.loc[expected.index, tags] - expected[tags]).to_numpy()
    record_property("max_difference", float(difference.max()))
    print(f"{len(expected)} songs, largest difference {difference.max():.1e}")
    assert difference.max() <= 1e-3


def test_crops_are_where_they_should_be(tagged: Tagged, shared: Path) -> None:
    starts = dict(zip(tagged.names, tagged.table.column("start_frame").to_pylist(), strict=True))
    with open(shared / "data" / "real-music" / "expected_scores.csv", newline="") as file:
        expected = {row["path"].encode(): int(row["start_frame"]) for row in csv.DictReader(file)}
    assert {name: starts[name] for name in expected} == expected


def test_every_song_has_a_row_and_every_full_song_scores(work: Path, tagged: Tagged) -> None:
    assert len(tagged.names) == sum(1 for _ in MUSIC.rglob("*.ogg"))
    scores = tagged.scores()
    rows = tagged.table.select(["status", "code", "duration_s"]).to_pylist()
    for row, song in zip(rows, scores, strict=True):
        has_scores = np.isfinite(song).all()
        assert has_scores == (row["status"] in ("ok", "ok_short", "silent")), row
        if row["status"] == "ok":
            assert row["duration_s"] >= CROP_SECONDS - 0.05
        elif row["status"] == "ok_short":
            assert row["duration_s"] < CROP_SECONDS
        elif row["status"] == "error":
            assert row["code"] == "TOO_SHORT", row
    summary = json.loads((work / "summary.json").read_text())
    assert summary["songs"] == len(rows)
    assert summary["tagged"] == np.isfinite(scores).all(axis=1).sum()
    assert summary["statuses"]["ok"] >= 60


def test_others_are_explained(work: Path, tagged: Tagged) -> None:
    messages = tagged.table.column("message").to_pylist()
    statuses = tagged.table.column("status").to_pylist()
    for status, message in zip(statuses, messages, strict=True):
        assert status == "ok" or message
    failed = [json.loads(line) for line in (work / "out" / "failed.jsonl").open()]
    assert len(failed) == statuses.count("error")
    assert {song["code"] for song in failed} == {"TOO_SHORT"}
