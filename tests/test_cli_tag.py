"""``fastmte tag``: what a user types, sees and finds."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import small_songs
import torch
from click.testing import CliRunner, Result

from fastmte import checkpoint, extras, predict
from fastmte.cli import _tagging, main
from fastmte.data.shards import open_store
from fastmte.plan.inference import InferencePlan


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    checkpoint.save(small_songs.checkpoint(thresholds=np.array([0.0, 1.0, 0.0])), folder)
    return folder


@pytest.fixture
def music(tmp_path: Path) -> Path:
    small_songs.write_songs(tmp_path / "music", 3)
    return tmp_path / "music"


@pytest.fixture
def tag(model: Path, tmp_path: Path) -> Callable[..., Result]:
    def run(*args: object, **options: object) -> Result:
        arguments = ["tag", "--workers", 0, "--batch-size", 2, "--model", model, *args]
        if "-o" not in args:
            arguments += ["-o", tmp_path / "out"]
        return CliRunner().invoke(
            main, [os.fspath(a) if isinstance(a, Path) else str(a) for a in arguments], **options
        )

    return run


def read_csv(path: Path) -> list[list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def test_folder(tag: Callable[..., Result], music: Path, tmp_path: Path) -> None:
    result = tag(music)
    assert result.exit_code == 0, result.output
    assert "3 of 3 songs tagged, in " in result.stdout
    assert result.stderr == ""
    header, *rows = read_csv(tmp_path / "out" / "scores.csv")
    assert header == ["path", "calm", "dark", "epic", "status"]
    assert [row[0] for row in rows] == ["000.wav", "001.wav", "002.wav"]
    assert all(0 < float(cell) < 1 for row in rows for cell in row[1:4])
    tags = read_csv(tmp_path / "out" / "tags.csv")
    assert tags[0] == ["path", "tags"]
    for row, (_, calm, _, epic, _) in zip(tags[1:], rows, strict=True):
        assert row[1] == ("calm; epic" if float(calm) >= float(epic) else "epic; calm")
        assert row[0] in result.stdout
    assert (tmp_path / "out" / "failed.jsonl").read_text() == ""
    assert sorted(os.listdir(tmp_path / "out")) == [
        ".lock",
        "failed.jsonl",
        "manifest.json",
        "parts",
        "scores.csv",
        "tags.csv",
    ]


def test_top_is_regardless_of_thresholds(
    tag: Callable[..., Result], music: Path, tmp_path: Path
) -> None:
    assert tag(music, "--top", 3, "-q").exit_code == 0
    for _, tags in read_csv(tmp_path / "out" / "tags.csv")[1:]:
        assert sorted(tags.split("; ")) == ["calm", "dark", "epic"]


def test_bad_songs_are_told_and_the_others_tagged(
    tag: Callable[..., Result], music: Path, tmp_path: Path
) -> None:
    (music / "text\n.mp3").write_text("no audio at all")
    (music / "zero.wav").touch()
    small_songs.write_song(music / "short.wav", 1, 0.5)
    result = tag(music)
    assert result.exit_code == 3
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("short.wav: shorter than the crop: 0.5 s repeated to 1.4 s")
    assert lines[1].startswith("text\\n.mp3: ")
    assert "(NOT_AUDIO); " in lines[1]
    assert lines[2].startswith("zero.wav: ")
    assert "(EMPTY); fetch or rip it again" in lines[2]
    assert "4 of 6 songs tagged, 1 shorter than 1.4 s and repeated to fill it, 2 failed" in (
        result.stdout
    )
    failed = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").open()]
    assert [(song["path"], song["code"], song["stage"]) for song in failed] == [
        ("text\n.mp3", "NOT_AUDIO", "decode"),
        ("zero.wav", "EMPTY", "decode"),
    ]
    rows = read_csv(tmp_path / "out" / "scores.csv")
    assert [row[-1] for row in rows[1:]] == ["ok", "ok", "ok", "ok_short", "error", "error"]

    again = tag(music)
    assert again.exit_code == 3, "songs that failed before have still failed"
    assert "6 done before" in again.stdout
    assert again.stderr == ""
    small_songs.write_song(music / "zero.wav", 4)
    assert "5 of 6 songs tagged" in tag(music, "--retry-failed").stdout


def test_a_truncated_song_is_scored_as_far_as_it_goes_and_told(
    tag: Callable[..., Result], music: Path, tmp_path: Path
) -> None:
    small_songs.write_song(music / "cut.wav", 1, 4.0)
    data = (music / "cut.wav").read_bytes()
    (music / "cut.wav").write_bytes(data[: len(data) // 2])
    result = tag(music)
    assert result.exit_code == 3
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("cut.wav: truncated: 50 % of the samples")
    assert "(TRUNCATED); fetch or rip it again" in result.stderr
    assert "4 of 4 songs tagged, 1 damaged and scored as far as they go" in result.stdout
    (failed,) = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").open()]
    assert (failed["path"], failed["code"]) == ("cut.wav", "TRUNCATED")
    row = next(row for row in read_csv(tmp_path / "out" / "scores.csv") if row[0] == "cut.wav")
    assert row[-1] == "truncated" and 0 < float(row[1]) < 1


def test_json(tag: Callable[..., Result], music: Path, tmp_path: Path) -> None:
    (music / "zero.wav").touch()
    result = tag(music, "--json")
    assert result.exit_code == 3
    summary = json.loads(result.stdout)
    assert summary.pop("seconds") >= 0
    assert summary == {
        "output": str(tmp_path / "out"),
        "songs": 4,
        "tagged": 3,
        "failed": 1,
        "before": 0,
        "statuses": {"error": 1, "ok": 3},
    }


def test_quiet_prints_failures_only(tag: Callable[..., Result], music: Path) -> None:
    (music / "zero.wav").touch()
    small_songs.write_song(music / "short.wav", 1, 0.5)
    result = tag(music, "-q")
    assert result.stdout == ""
    assert result.stderr.startswith("zero.wav: ")
    assert len(result.stderr.splitlines()) == 1


def test_short_songs_skipped(tag: Callable[..., Result], music: Path, tmp_path: Path) -> None:
    small_songs.write_song(music / "short.wav", 1, 0.5)
    result = tag(music, "--short", "skip")
    assert result.exit_code == 0
    assert "short.wav: 0.5 s, less than the crop's 1.4 s: not scored" in result.stderr
    assert "3 of 4 songs tagged, 1 shorter than 1.4 s and not scored" in result.stdout
    assert read_csv(tmp_path / "out" / "scores.csv")[-1] == ["short.wav", "", "", "", "ok_short"]
    assert read_csv(tmp_path / "out" / "failed.jsonl") == []


def test_windows_of_a_song(tag: Callable[..., Result], music: Path, tmp_path: Path) -> None:
    scores = []
    for number in ("1", "3", "all"):
        out = tmp_path / number
        result = tag(music, "-o", out, "--windows", number)
        assert result.exit_code == 0, result.output
        scores.append([row[1:4] for row in read_csv(out / "scores.csv")[1:]])
    assert scores[0] != scores[1] != scores[2] != scores[0]
    result = tag(music, "-o", tmp_path / "3")
    assert result.exit_code == 1
    assert "tagged before with another windows; tag into another folder" in result.stderr


def test_many_songs_get_a_table_of_tags(tag: Callable[..., Result], tmp_path: Path) -> None:
    small_songs.write_songs(tmp_path / "many", 12)
    result = tag(tmp_path / "many")
    words = result.stdout.split()
    assert words[:6] == ["tag", "songs", "highest", "score", "of", "calm"]
    assert words[6] == "12"
    assert "12 of 12 songs tagged" in result.stdout


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_list_on_stdin(
    tag: Callable[..., Result], music: Path, tmp_path: Path, separator: str
) -> None:
    content = separator.join([str(music / "000.wav"), str(music / "gone.wav"), ""])
    result = tag("--from-file", "-", *(["-0"] if separator == "\0" else []), input=content)
    assert result.exit_code == 3
    rows = read_csv(tmp_path / "out" / "scores.csv")[1:]
    assert [(row[0], row[-1]) for row in rows] == [
        (str(music / "000.wav"), "ok"),
        (str(music / "gone.wav"), "error"),
    ]
    assert "(VANISHED)" in result.stderr


def test_name_that_is_no_utf8(tag: Callable[..., Result], music: Path, tmp_path: Path) -> None:
    name = os.fsencode(music) + b"/\xff\xfe.wav"
    os.rename(music / "001.wav", name)
    result = tag(music)
    assert result.exit_code == 0, result.output
    rows = read_csv(tmp_path / "out" / "scores.csv")[1:]
    assert [row[0] for row in rows] == ["000.wav", "002.wav", "\\xff\\xfe.wav"]
    assert "\\xff\\xfe.wav" in result.stdout


def test_no_audio(tag: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "cover.jpg").touch()
    result = tag(tmp_path / "empty")
    assert result.exit_code == 4
    assert result.stderr.startswith("Error: no audio found: no file with any of the extensions")
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert tag("--from-file", "-", input="").exit_code == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MISSING"], "'MISSING' does not exist"),
        ([], "give PATHS, or --from-file"),
        (["MUSIC", "-0"], "-0 belongs to --from-file"),
        (["MUSIC", "--device", "tpu9"], "--device"),
        (["MUSIC", "--device", "cuda:77"], "--device: cuda:77:"),
        (["MUSIC", "--timeout", "0"], "--timeout"),
        (["MUSIC", "--timeout", "nan"], "--timeout"),
        (["MUSIC", "--threads", "100000"], "--threads"),
        (["MUSIC", "--batch-size", "0"], "--batch-size"),
        (["MUSIC", "--short", "no"], "'repeat', 'skip'"),
        (["MUSIC", "--windows", "0"], "must be a number from 1 to 32, or all, got '0'"),
        (["MUSIC", "--windows", "some"], "or all, got 'some'"),
        (["MUSIC", "--model", "MISSING"], "'MISSING' does not exist"),
        (["MUSIC", "-o", "MUSIC/000.wav"], "is a file"),
    ],
)
def test_usage(
    tag: Callable[..., Result], music: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    named = [argument.replace("MUSIC", str(music)) for argument in arguments]
    result = tag(*named)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "fast"], "the plans of resnet18 on cpu are module, separate, grouped, "),
        (["--plan", "a b"], "a plan is written NAME or NAME:CHUNK, as separate:4, got 'a b'"),
        (["--plan", "onnx", "--precision", "bf16"], "the engine onnx does not compute in bf16"),
    ],
)
def test_plan_that_is_none(
    tag: Callable[..., Result], music: Path, arguments: list[str], message: str
) -> None:
    result = tag(music, *arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_an_engine_that_is_not_installed_is_a_usage_error(
    tag: Callable[..., Result], music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    result = tag(music, "--plan", "openvino:2")
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]
    assert line.endswith("openvino is not installed: pip install 'fastmte[openvino]'")
    assert not (tmp_path / "out").exists()


def test_an_engine_gives_the_scores(
    tag: Callable[..., Result], music: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    for plan in ("module", "onnx"):
        result = tag(music, "--plan", plan, "-o", tmp_path / plan)
        assert result.exit_code == 0, result.output
    ours, theirs = (
        np.array([row[1:4] for row in read_csv(tmp_path / plan / "scores.csv")[1:]], float)
        for plan in ("module", "onnx")
    )
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)


def test_bf16_without_units_is_said_once(
    tag: Callable[..., Result], music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    result = tag(music, "--precision", "bf16", "--plan", "separate:1")
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("Warning: bf16 would be slow here (the CPU has no AMX)")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("fields", "n_named"),
    [
        ({"member_of_label": [0, 1, 2]}, 3),
        ({"member_of_label": [0, 0, 0]}, 1),
        ({"members_of_label": [[0, 2], [1], [0]], "merge": "mean"}, 3),
    ],
)
def test_members_that_do_not_match_the_checkpoint_are_one_line(
    tag: Callable[..., Result],
    model: Path,
    music: Path,
    tmp_path: Path,
    fields: dict[str, object],
    n_named: int,
) -> None:
    wrong = shutil.copytree(model, tmp_path / "wrong")
    config = json.loads((wrong / "config.json").read_text()) | fields
    (wrong / "config.json").write_text(json.dumps(config))
    result = tag(music, "--model", wrong)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {wrong / 'model.safetensors'}: the weights are of 2 members, not of the "
        f"{n_named} that member_of_label names\n"
    )
    assert not (tmp_path / "out").exists()


def test_too_little_memory_halves_the_batch_and_loses_no_song(
    tag: Callable[..., Result], music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = InferencePlan.features

    def fits_one(self: InferencePlan, mels: torch.Tensor) -> torch.Tensor:
        if len(mels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return features(self, mels)

    monkeypatch.setattr(InferencePlan, "features", fits_one)
    result = tag(music)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("Warning: not enough memory on cpu for the batch: it is run 1")
    assert result.stderr.count("\n") == 1
    assert len(read_csv(tmp_path / "out" / "scores.csv")) == 4


def test_folder_that_is_no_model(tag: Callable[..., Result], music: Path, tmp_path: Path) -> None:
    result = tag(music, "--model", music)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "no model folder" in result.stderr
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(
    tag: Callable[..., Result], music: Path, tmp_path: Path
) -> None:
    result = tag(music, "-o", music / "000.wav" / "out")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "000.wav: a file is in the way of the folder" in result.stderr
    assert result.stderr.count("\n") == 1


def test_folder_of_another_model(
    tag: Callable[..., Result], music: Path, model: Path, tmp_path: Path
) -> None:
    assert tag(music).exit_code == 0
    scores = (tmp_path / "out" / "scores.csv").read_bytes()
    checkpoint.save(small_songs.checkpoint(seed=5), tmp_path / "other")
    result = tag(music, "--model", tmp_path / "other")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {tmp_path}/out: tagged before with another model; "
        "tag into another folder, or start anew with --force\n"
    )
    assert (tmp_path / "out" / "scores.csv").read_bytes() == scores
    assert tag(music, "--model", tmp_path / "other", "--force").exit_code == 0
    assert (tmp_path / "out" / "scores.csv").read_bytes() != scores


def test_second_run_at_once(tag: Callable[..., Result], music: Path, tmp_path: Path) -> None:
    with open_store(tmp_path / "out", small_songs.TAGS, {}, b"/"):
        result = tag(music)
    assert result.exit_code == 1
    assert "another fastmte is writing here" in result.stderr
    assert result.stderr.count("\n") == 1


def test_folder_that_cannot_be_listed(
    tag: Callable[..., Result], music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (music / "closed").mkdir()
    scandir = os.scandir

    def refuse(path: bytes) -> object:
        if os.fsencode(path).endswith(b"closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = tag(music)
    assert result.exit_code == 3
    assert result.stderr == f"{music}/closed: Permission denied; its songs are left out\n"
    assert "3 of 3 songs tagged" in result.stdout


def test_ctrl_c(
    tag: Callable[..., Result], music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predict._Scorer, "rows", interrupt)
        result = tag(music)
    assert result.exit_code == 130
    assert result.stderr == (
        f"Interrupted; 0 of 3 songs kept in {tmp_path}/out. The same command goes on there.\n"
    )
    assert os.listdir(tmp_path / "out" / "parts") == []
    assert tag(music).exit_code == 0


def test_plain_progress_without_a_terminal(
    tag: Callable[..., Result], music: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_tagging, "_PLAIN_SECONDS", 0.0)
    lines = tag(music).stderr.splitlines()
    assert lines[0].startswith("1 of 3 songs, 0 failed, ")
    assert lines[-1] == "3 of 3 songs, 0 failed, 0 s left"


def test_threads(tag: Callable[..., Result], music: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert tag(music, "--threads", 1).exit_code == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_in_a_real_run(
    model: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    small_songs.write_song(tmp_path / "m" / "song.wav", 0)
    script = (
        "import time\n"
        "from fastmte import predict\n"
        "def sleep(*args, **options):\n"
        "    print('now', flush=True)\n"
        "    time.sleep(100)\n"
        "predict._Scorer.rows = sleep\n"
        "from fastmte.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script, "tag", tmp_path / "m", "--model", model]
    with subprocess.Popen(
        [*command, "-o", tmp_path / "out", "--workers", "0"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "now\n"
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in stderr
