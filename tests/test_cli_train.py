"""``fastmte train`` from songs to a run folder, and what it says when it cannot."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner, Result
from staged import Staged
from tiny import Tiny

from fastmte import checkpoint, runs
from fastmte.cli import _training, main
from fastmte.cli._training_display import Display, EpochDisplay
from fastmte.data.descriptors import Descriptors
from fastmte.files import locked
from fastmte.metrics import METRICS
from fastmte.models import _registry
from fastmte.partition import Partition
from fastmte.plan import training
from fastmte.train import passes
from fastmte.train.group import Group

TAGS = ("action", "calm", "dark", "epic", "fast", "happy")
HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"
PARTS = {"train": 12, "validation": 6, "test": 6}
SETTINGS = ["--frames", "32", "--epochs", "3", "--batch-size", "4", "--workers", "0"]
TRAIN = ["--partition", "linear", "--members", "2", "--backbone", "tiny", *SETTINGS]


def write_collection(folder: Path, n_seconds: float = 0.8) -> Path:
    """Noise in bands that tell the labels, in MTG-Jamendo's layout."""
    random = np.random.default_rng(3)
    number = 0
    for part, n_songs in PARTS.items():
        rows = [HEADER]
        for i in range(n_songs):
            number += 1
            tags = {TAGS[i % 6], TAGS[(i // 2 + 3) % 6]}
            samples = random.normal(0, 0.02, int(n_seconds * 12000))
            time = np.arange(len(samples)) / 12000
            for tag in tags:
                samples += 0.2 * np.sin(2 * np.pi * 500 * (1 + TAGS.index(tag)) * time)
            path = folder / "audio" / f"{number % 10:02d}" / f"{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples, 12000)
            fields = [f"track_{number:07d}", f"artist_{number:06d}", "album_000001"]
            fields += [f"{number % 10:02d}/{number}.wav", str(n_seconds)]
            rows.append("\t".join([*fields, *(f"mood/theme---{tag}" for tag in sorted(tags))]))
        table = folder / "splits" / "split-0" / f"autotagging_moodtheme-{part}.tsv"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "data")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Tiny)
    monkeypatch.delenv("FASTMTE_DATA", raising=False)
    return tmp_path


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, args)])


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_run_holds_everything_it_should(songs: Path) -> None:
    result = run("--data", songs, *TRAIN, "--out", "run")
    assert result.exit_code == 0, result.output
    out = Path("run")
    assert files(out) == {
        *("config.json", "model.safetensors", "partition.json", "metrics.jsonl", "run.json"),
        *("predictions.npy", "groundtruth.npy", "decisions.npy", "thresholds.txt"),
        *("results.tsv", "test_ids.txt", "centroids.npy", ".lock"),
    }
    scores, truth = np.load(out / "predictions.npy"), np.load(out / "groundtruth.npy")
    decisions = np.load(out / "decisions.npy")
    assert scores.dtype == np.float64
    assert truth.dtype == decisions.dtype == bool
    assert scores.shape == truth.shape == decisions.shape == (6, 6)
    thresholds = [line.split("\t") for line in (out / "thresholds.txt").read_text().splitlines()]
    assert [name for name, _ in thresholds] == [f"mood/theme---{tag}" for tag in TAGS]
    np.testing.assert_array_equal(decisions, scores > [float(value) for _, value in thresholds])
    assert (out / "test_ids.txt").read_text().split() == [f"track_{i:07d}" for i in range(19, 25)]
    table = (out / "results.tsv").read_text()
    assert [line.split("\t")[0] for line in table.splitlines()] == list(METRICS)
    values = [line.split("\t")[1] for line in table.splitlines()]
    printed = result.stdout.splitlines()
    assert [line.split() for line in printed[:-1]] == [
        [name, value] for name, value in zip(METRICS, values, strict=True)
    ]
    assert printed[-1] == "run: run"
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert set(records[0]["members"][0]) == {
        *("member", "learning_rate", "train_loss", "validation_loss", "roc_auc"),
        *("best_epoch", "retired"),
    }
    assert "epoch   3/3" in result.stderr
    assert "member 1: epic fast happy" in result.stderr


def test_the_model_of_a_run_gives_its_predictions(songs: Path) -> None:
    assert run("--data", songs, *TRAIN, "--out", "run").exit_code == 0
    model = checkpoint.load("run")
    assert model.tags == TAGS
    assert model.frames == 32
    assert model.ensemble.member_of_label.tolist() == [0, 0, 0, 1, 1, 1]
    settings = runs.settings_of(Path("run"))
    with _training.Display() as display:
        _, material = _training.open_material(settings, Path("run"), 0, display)
    mels, _ = material.part("test").batch(torch.arange(6), 32)
    with torch.no_grad():
        scores = model.ensemble(mels).sigmoid().numpy()
    np.testing.assert_allclose(scores, np.load("run/predictions.npy"), rtol=0, atol=1e-6)
    partition = Partition.load("run/partition.json", TAGS)
    assert len(partition.details["feature_names"]) == np.load("run/centroids.npy").shape[1] == 22
    curve = partition.details["elbow"]
    assert curve["k_max"] == 10 and curve["elbow"] in (None, *curve["k"])


def test_the_manifest_reproduces_the_run(songs: Path) -> None:
    given = ["--seed", 5, "--crop", "random", "--clip", 0.5]
    first = run("--data", songs, *TRAIN, *given, "--out", "run")
    assert first.exit_code == 0
    manifest = json.loads(Path("run/run.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["settings"]["seed"] == 5
    assert manifest["data"]["songs"] == PARTS
    assert set(manifest["versions"]) == {"fastmte", "python", "torch", "numpy"}
    assert list(manifest["results"]) == list(METRICS)
    assert manifest["model"] == checkpoint.fingerprint("run")
    command = manifest["command"]
    command[command.index("--out") + 1] = "again"
    assert command[:2] == ["fastmte", "train"]
    assert CliRunner().invoke(main, command[1:]).exit_code == 0
    for name in ("predictions.npy", "model.safetensors", "thresholds.txt"):
        assert (Path("run") / name).read_bytes() == (Path("again") / name).read_bytes()
    for other in (["--seed", 6], ["--clip", 1e-3]):
        result = run("--data", songs, *TRAIN, *given, *other, "--out", "other", "--force")
        assert result.exit_code == 0
        scores = Path("other/predictions.npy").read_bytes()
        assert scores != Path("run/predictions.npy").read_bytes()


@pytest.mark.parametrize(
    ("method", "members", "n_members"),
    [
        ("dkmeans", 3, 3),
        ("dkmeans-published", 2, 2),
        ("kmeans", "auto", None),
        ("moodtheme", 4, 2),
        ("single", 4, 1),
        ("random", 4, 4),
        ("parts.json", 4, 2),
    ],
)
def test_every_partition_trains(
    songs: Path, method: str, members: int | str, n_members: int | None
) -> None:
    Path("parts.json").write_text(
        json.dumps([["action", "happy"], ["calm", "dark", "epic", "fast"]])
    )
    given = ["--partition", method, "--members", members, "--backbone", "tiny", *SETTINGS]
    result = run("--data", songs, *given, "--epochs", 1)
    assert result.exit_code == 0, result.output
    out = Path("runs") / f"tiny-{Path(method).stem}"
    partition = Partition.load(out / "partition.json", TAGS)
    assert n_members is None or partition.n_members == n_members
    if members == "auto":
        has_elbow = partition.details["elbow"]["elbow"] is not None
        assert ("no elbow" in result.stderr) != has_elbow
    assert checkpoint.load(out).ensemble.n_members == partition.n_members


def test_runs_without_a_name_are_numbered(songs: Path) -> None:
    for expected in ("tiny-linear", "tiny-linear-2", "tiny-linear-3"):
        result = run("--data", songs, *TRAIN, "--epochs", 1)
        assert result.stdout.splitlines()[-1] == f"run: runs/{expected}"


def test_the_data_may_come_from_the_environment(
    songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTMTE_DATA", str(songs))
    assert run(*TRAIN, "--epochs", 1, "--out", "run").exit_code == 0
    assert runs.settings_of(Path("run")).data == str(songs)


def test_the_demo_brings_its_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"frames": 40, "epochs": 1, "crop": "random", "batch_size": 16}
    whole = _training.write_demo
    monkeypatch.setattr("fastmte.cli._training_settings.DEMO_RECIPE", recipe)
    monkeypatch.setattr(_training, "write_demo", lambda *a, **k: whole(*a, **k, n_songs=48))
    result = run("--partition", "dkmeans", "--backbone", "tiny", "--workers", 0, "--frames", 36)
    assert result.exit_code == 0, result.output
    told = "--data names another. It uses --frames 36, --epochs 1, --crop random, --batch-size 16"
    assert "built-in demo collection" in result.stderr
    assert told in result.stderr
    assert Path("demo-data/splits/split-0").is_dir()
    settings = runs.settings_of(Path("runs/tiny-dkmeans"))
    assert (settings.is_demo, settings.frames, settings.learning_rate) == (True, 36, 1e-4)
    assert "demo" in settings.command(Path("x"))


def test_the_demo_fits_itself_to_a_backbone_of_longer_crops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "fastmte.cli._training.run", lambda settings, *_: ({"frames": settings.frames}, 0)
    )
    result = run("--partition", "linear", "--backbone", "vgg")
    assert result.stdout.split()[:2] == ["frames", "1280.000000"]
    result = run("--partition", "linear", "--backbone", "vgg", "--frames", 128)
    assert result.exit_code == 2
    assert "--frames: vgg: mels must have 1280 to 2559 frames, got 128" in result.stderr


def test_the_patience_is_the_backbones_unless_given(
    songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "fastmte.cli._training.run", lambda settings, *_: (seen.append(settings.patience) or {}, 0)
    )
    for backbone, given in [("resnet18", []), ("vgg", []), ("vgg", [7]), ("resnet18", [0])]:
        options = [word for value in given for word in ("--patience", value)]
        run("--data", songs, "--partition", "single", "--backbone", backbone, *options)
    assert seen == [30, None, 7, None]


def test_the_settings_are_those_of_the_backbones_authors(
    songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(settings: runs.RunSettings, *_: object) -> tuple[dict[str, float], int]:
        names = ("epochs", "batch_size", "learning_rate")
        return {name: float(getattr(settings, name)) for name in names}, 0

    monkeypatch.setattr("fastmte.cli._training.run", told)
    for backbone, given, expected in [
        ("vgg", [], ["100.000000", "64.000000", "0.000100"]),
        ("custom-vgg", [], ["100.000000", "32.000000", "0.000100"]),
        ("crnn", [], ["32.000000", "64.000000", "0.001000"]),
        ("crnn", ["--epochs", 3, "--batch-size", 5], ["3.000000", "5.000000", "0.001000"]),
    ]:
        result = run("--data", songs, "--partition", "linear", "--backbone", backbone, *given)
        assert result.exit_code == 0, result.output
        assert result.stdout.split()[1:6:2] == expected


def test_the_patience_may_be_the_demos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastmte.cli._training_settings.DEMO_RECIPE", {"patience": 3})
    monkeypatch.setattr(
        "fastmte.cli._training.run", lambda settings, *_: ({"patience": settings.patience}, 0)
    )
    for given, expected in [([], 3), (["--patience", 7], 7)]:
        result = run("--partition", "linear", "--backbone", "resnet18", *given)
        assert result.stdout.split()[:2] == ["patience", f"{expected}.000000"]


def test_bf16_without_its_units_falls_back_and_says_so_once(
    songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    result = run("--data", songs, *TRAIN, "--device", "cpu", "--precision", "bf16", "--out", "a")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("Warning: bf16 would be slow here (the CPU has no AMX)") == 1
    assert run("--data", songs, *TRAIN, "--precision", "fp32", "--out", "b").exit_code == 0
    assert Path("a/predictions.npy").read_bytes() == Path("b/predictions.npy").read_bytes()
    assert json.loads(Path("a/run.json").read_text())["settings"]["precision"] == "bf16"


@pytest.mark.parametrize("plan", ["auto", "module"])
def test_the_plan_is_the_one_asked_for(
    songs: Path, monkeypatch: pytest.MonkeyPatch, plan: str
) -> None:
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Staged)
    monkeypatch.setattr(training, "has_kernel", lambda name, device: True)
    seen, call = set(), training.TrainPlan.__call__

    def recorded(self: training.TrainPlan, *args: object) -> torch.Tensor:
        seen.add(self.is_fused)
        return call(self, *args)

    monkeypatch.setattr(training.TrainPlan, "__call__", recorded)
    result = run("--data", songs, *TRAIN, "--plan", plan, "--out", "run")
    assert result.exit_code == 0, result.output
    assert seen == {plan == "auto"}


def test_shuffled_labels_are_other_songs_labels(songs: Path) -> None:
    assert run("--data", songs, *TRAIN, "--out", "true").exit_code == 0
    assert run("--data", songs, *TRAIN, "--out", "shuffled", "--shuffle-labels").exit_code == 0
    assert json.loads(Path("shuffled/run.json").read_text())["settings"]["shuffle_labels"] is True
    true, shuffled = (np.load(f"{name}/centroids.npy") for name in ("true", "shuffled"))
    assert not np.allclose(true, shuffled)
    np.testing.assert_array_equal(
        np.load("true/groundtruth.npy"), np.load("shuffled/groundtruth.npy")
    )
    with _training.Display() as display:
        materials = [
            _training.open_material(runs.settings_of(Path(name)), Path("x"), 0, display)[1]
            for name in ("true", "shuffled")
        ]
    for name in ("train", "validation"):
        before, after = (material.parts[name].labels for material in materials)
        assert not np.array_equal(before, after)
        assert sorted(map(bytes, before)) == sorted(map(bytes, after))


class Interrupt:
    """Raise an exception in the middle of an epoch."""

    def __init__(self, epoch: int, error: type[BaseException]) -> None:
        self.epoch, self.error = epoch, error

    def __call__(self, n_songs: int, size: int, seed: int, epoch: int) -> list[torch.Tensor]:
        batches = WHOLE_ORDER(n_songs, size, seed, epoch)
        return self._broken(batches) if epoch == self.epoch else batches

    def _broken(self, batches: list[torch.Tensor]) -> list[torch.Tensor]:
        error = self.error

        class Broken(list):
            def __iter__(self):
                yield batches[0]
                raise error

        return Broken(batches)


WHOLE_ORDER = passes.batch_order


def test_ctrl_c_keeps_the_epochs_and_resume_ends_them(
    songs: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--data", songs, *TRAIN, "--epochs", 5, "--crop", "random"]
    assert run(*given, "--out", "whole").exit_code == 0
    with monkeypatch.context() as broken:
        broken.setattr(passes, "batch_order", Interrupt(4, KeyboardInterrupt))
        result = run(*given, "--out", "a run")
    assert result.exit_code == 130
    assert "3 epochs are kept, go on with: fastmte train --resume --out 'a run'" in result.stderr
    assert "Traceback" not in result.output
    assert {"state.json", "state.safetensors"} < files(Path("a run"))
    assert not any(name.endswith(".tmp") for name in files(Path("a run")))
    monkeypatch.chdir(place.parent)
    out = Path(place.name) / "a run"
    result = run("--resume", "--out", out, "--workers", 0)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("epoch ") == 2
    for name in ("predictions.npy", "model.safetensors", "thresholds.txt"):
        assert (out / name).read_bytes() == (out.parent / "whole" / name).read_bytes()
    assert "state.safetensors" not in files(out)
    result = run("--resume", "--out", out)
    assert result.exit_code == 0
    assert "finished; nothing to resume" in result.stderr


def test_sigterm_ends_with_143(songs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def order(*args: int) -> list[torch.Tensor]:
        if args[-1] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return WHOLE_ORDER(*args)

    monkeypatch.setattr(passes, "batch_order", order)
    before = signal.getsignal(signal.SIGTERM)
    result = run("--data", songs, *TRAIN, "--out", "run")
    assert result.exit_code == 143
    assert "1 epochs are kept" in result.stderr
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c_before_training_leaves_no_run(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastmte.data.describe.load_mel", stop)
    result = run("--data", collection, *TRAIN, "--out", "run")
    assert result.exit_code == 130
    assert "the same command goes on" in result.stderr
    assert not Path("run").exists()


def test_resume_refuses_what_is_not_the_same(
    collection: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--data", collection, *TRAIN, "--out", "run"]
    with monkeypatch.context() as broken:
        broken.setattr(passes, "batch_order", Interrupt(2, KeyboardInterrupt))
        assert run(*given).exit_code == 130
    result = run(*given, "--resume", "--epochs", 9, "--seed", 1)
    assert result.exit_code == 1
    assert "cannot resume, --epochs was 3, got 9; --seed was 0, got 1; leave" in result.stderr
    table = collection / "splits/split-0/autotagging_moodtheme-train.tsv"
    table.write_text(table.read_text().replace("mood/theme---dark\n", "mood/theme---calm\n"))
    result = run("--resume", "--out", "run")
    assert result.exit_code == 1
    assert "cannot resume, the training songs are not the same" in result.stderr


def test_resume_refuses_another_number_of_members(
    songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(passes, "batch_order", Interrupt(2, KeyboardInterrupt))
        assert run("--data", songs, *TRAIN, "--out", "run").exit_code == 130
    result = run("--resume", "--out", "run", "--members", 3)
    assert result.exit_code == 1
    assert "cannot resume, --members was 2, got 3; leave these options out" in result.stderr
    lists = [["action", "calm"], ["dark", "epic"], ["fast", "happy"]]
    Path("run/partition.json").write_text(json.dumps(lists))
    result = run("--resume", "--out", "run")
    assert result.exit_code == 1
    assert "cannot resume, members was 2, is 3; member_of_label was [0, 0, 0, 1" in result.stderr


def test_too_little_memory_halves_the_batch_and_loses_no_run(
    songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Group.step

    def stepped(group: Group, mels: torch.Tensor, *args: Any) -> torch.Tensor:
        if len(mels) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(group, mels, *args)

    monkeypatch.setattr(Group, "step", stepped)
    result = run("--data", songs, *TRAIN, "--out", "run")
    assert result.exit_code == 0, result.output
    said = "Not enough memory: epoch 1 begins again, with batches of 2 songs"
    assert result.stderr.count("Not enough memory") == result.stderr.count(said) == 1
    records = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [record["batch_size"] for record in records] == [2, 2, 2]
    manifest = runs.read_manifest(Path("run"))
    assert (manifest["settings"]["batch_size"], manifest["last_batch_size"]) == (4, 2)


def test_resume_needs_a_run() -> None:
    result = run("--resume")
    assert result.exit_code == 2
    assert "--resume needs --out" in result.stderr
    result = run("--resume", "--out", "nothing")
    assert result.exit_code == 2
    assert "Directory 'nothing' does not exist" in result.stderr
    Path("nothing").mkdir()
    result = run("--resume", "--out", "nothing")
    assert result.exit_code == 1
    assert "nothing: holds no run (there is no run.json)" in result.stderr
    for content, message in [
        ("{", "not JSON"),
        ("{}", "not of the format"),
        (json.dumps({"format": runs.FORMAT, "status": "running"}), "written by another version"),
    ]:
        Path("nothing/run.json").write_text(content)
        result = run("--resume", "--out", "nothing")
        assert (result.exit_code, message in result.stderr) == (1, True), result.stderr


def test_a_run_is_not_overwritten_unasked(songs: Path) -> None:
    assert run("--data", songs, *TRAIN, "--out", "run").exit_code == 0
    kept = Path("run/model.safetensors").read_bytes()
    result = run("--data", songs, *TRAIN, "--out", "run", "--seed", 1)
    assert result.exit_code == 1
    assert "run: holds a run; --resume goes on with it, --force replaces it" in result.stderr
    assert Path("run/model.safetensors").read_bytes() == kept
    Path("run/report.html").write_text("of the old run")
    Path("run/notes.txt").write_text("mine")
    result = run("--data", songs, *TRAIN, "--out", "run", "--seed", 1, "--force")
    assert result.exit_code == 0
    assert Path("run/model.safetensors").read_bytes() != kept
    assert not Path("run/report.html").exists()
    assert Path("run/notes.txt").exists()
    Path("other").mkdir()
    Path("other/thesis.tex").write_text("")
    result = run("--data", songs, *TRAIN, "--out", "other", "--force")
    assert result.exit_code == 1
    assert "other: is not empty and holds no run" in result.stderr


def test_damaged_songs_are_left_out_and_listed(collection: Path) -> None:
    (collection / "audio/01/1.wav").write_bytes(b"")
    (collection / "audio/04/24.wav").unlink()
    result = run("--data", collection, *TRAIN, "--out", "run")
    assert result.exit_code == 3, result.output
    assert "1.wav" in result.stderr
    assert "(EMPTY); left out" in result.stderr
    assert "(VANISHED); left out" in result.stderr
    data = json.loads(Path("run/run.json").read_text())["data"]
    assert data["songs"] == {"train": 11, "validation": 6, "test": 5}
    assert [failure["id"] for failure in data["failed"]] == ["track_0000001", "track_0000024"]
    assert np.load("run/predictions.npy").shape == (5, 6)
    assert len(Path("run/test_ids.txt").read_text().split()) == 5


def test_many_damaged_songs_are_counted(collection: Path) -> None:
    for number in range(1, 12):
        next((collection / "audio").glob(f"*/{number}.wav")).write_bytes(b"")
    result = run("--data", collection, *TRAIN)
    assert result.exit_code == 1
    assert result.stderr.count("(EMPTY); left out") == 10
    assert "... and 1 more songs are left out" in result.stderr
    next((collection / "audio").glob("*/12.wav")).write_bytes(b"")
    result = run("--data", collection, *TRAIN)
    assert result.exit_code == 1
    assert "no train song has a mel" in result.stderr


def test_a_tag_without_test_songs_is_left_out_of_the_means(collection: Path) -> None:
    table = collection / "splits/split-0/autotagging_moodtheme-test.tsv"
    table.write_text(table.read_text().replace("---dark", "---calm"))
    result = run("--data", collection, *TRAIN, "--epochs", 1)
    assert result.exit_code == 0
    assert "Warning: left out of the macro averages" in result.stderr
    assert "dark" in result.stderr.partition("Warning: ")[2]


def test_the_display_shows_steps_and_retired_members(capsys: pytest.CaptureFixture[str]) -> None:
    member = {"member": 0, "learning_rate": 1e-3, "roc_auc": 0.75, "retired": True}
    gone = {"member": 1, "learning_rate": None, "roc_auc": None, "retired": True}
    record = {"epoch": 2, "train_loss": 1.0, "validation_loss": 2.0, "seconds": 3.0}
    with Display() as display:
        display._spoke -= 100
        display.songs(3, 9)
        epochs = EpochDisplay(display, 1000)
        epochs.step(2, 1, 4)
        for seconds, text in [(0.1, "100 s"), (3, "50 min"), (60, "16.6 h")]:
            epochs._n_seen, epochs._began = 0, time.monotonic() - seconds
            epochs.epoch(record | {"members": [member, gone]})
            shown = capsys.readouterr().err
            assert f"({text} left)" in shown
    assert "ROC-AUC 0.750   -    rate 0.001  3.0 s  done: member 0  (" in shown


def test_mels_are_made_once(collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("--data", collection, *TRAIN, "--epochs", 1).exit_code == 0
    caches = list((collection / ".fastmte").iterdir())
    assert len(caches) == 1
    monkeypatch.setattr("fastmte.data.describe.load_mel", None)
    assert run("--data", collection, *TRAIN, "--epochs", 1).exit_code == 0


def test_a_read_only_collection_keeps_its_mels_in_the_run(collection: Path) -> None:
    (collection / ".fastmte").write_text("a file, so that no folder can be made")
    result = run("--data", collection, *TRAIN, "--epochs", 1, "--out", "run")
    assert result.exit_code == 0, result.output
    assert (Path("run") / "mels" / "store.json").is_file()


def test_a_prepared_store_and_descriptors_are_used(collection: Path) -> None:
    made = CliRunner().invoke(
        main, ["prepare", str(collection), "-o", "store", "--frames", "36", "--workers", "0"]
    )
    assert made.exit_code == 0, made.output
    random = np.random.default_rng(0)
    ids = tuple(f"track_{i:07d}" for i in range(1, 13))
    Descriptors(ids, ("a", "b", "c"), random.random((12, 3)), "mine").save("features.npz")
    given = ["--data", collection, *TRAIN, "--store", "store", "--features", "features.npz"]
    result = run(*given, "--out", "run")
    assert result.exit_code == 0, result.output
    assert np.load("run/centroids.npy").shape == (6, 3)
    assert Partition.load("run/partition.json", TAGS).details["feature_names"] == ["a", "b", "c"]
    assert not (collection / ".fastmte").exists()
    result = run(*given, "--mel", "mtg2023", "--out", "other")
    assert result.exit_code == 1
    assert "mel store of preset mtg2019 where mtg2023 is wanted" in result.stderr
    result = run(*given, "--frames", "64", "--out", "other")
    assert result.exit_code == 1
    assert "holds 36 frames a song, 64 are wanted" in result.stderr
    assert not Path("other").exists()


def test_published_mels_and_acousticbrainz_are_used(collection: Path) -> None:
    random = np.random.default_rng(0)
    for path in sorted((collection / "audio").glob("*/*.wav")):
        mel = collection / "melspecs" / path.parent.name / f"{path.stem}.npy"
        mel.parent.mkdir(parents=True, exist_ok=True)
        np.save(mel, random.normal(-30, 8, (96, 50)).astype(np.float32))
        path.unlink()
    assert _json_of_song(collection)
    result = run("--data", collection, *TRAIN, "--out", "run")
    assert result.exit_code == 0, result.output
    details = Partition.load("run/partition.json", TAGS).details
    assert (details["features"], details["standardised"]) == ("acousticbrainz", False)
    result = run("--data", collection, *TRAIN, "--out", "other", "--mel", "mtg2023")
    assert result.exit_code == 1
    assert "published mels are mtg2019, which must not be mixed with mtg2023" in result.stderr
    damaged = next((collection / "melspecs").glob("*/1.npy"))
    damaged.write_bytes(b"no array")
    result = run("--data", collection, *TRAIN, "--out", "other")
    assert result.exit_code == 3
    assert "1.npy: not a mel in .npy" in result.stderr


def _json_of_song(collection: Path) -> int:
    from fastmte.features import ACOUSTICBRAINZ_KEYS

    random, count = np.random.default_rng(1), 0
    for path in (collection / "melspecs").glob("*/*.npy"):
        document: dict = {}
        for key in ACOUSTICBRAINZ_KEYS:
            inner = document
            *way, last = key.split(".")
            for name in way:
                inner = inner.setdefault(name, {})
            inner[last] = float(random.random())
        file = collection / "acousticbrainz" / path.parent.name / f"{path.stem}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document))
        count += 1
    return count


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--backbone", "tiny"], "Missing option '--partition'"),
        (["--partition", "linear"], "Missing option '--backbone'"),
        (["--partition", "linear", "--backbone", "alexnet"], "--backbone: must be one of "),
        (["--partition", "alphabet", "--backbone", "tiny"], "--partition: must be one of dkmeans"),
        ([*TRAIN, "--data", "nowhere"], "--data: Directory 'nowhere' does not exist"),
        ([*TRAIN, "--frames", "2"], "--frames: tiny: mels must have at least 4 frames, got 2"),
        ([*TRAIN, "--members", "0"], "--members"),
        ([*TRAIN, "--epochs", "0"], "--epochs"),
        ([*TRAIN, "--batch-size", "1"], "--batch-size"),
        ([*TRAIN, "--learning-rate", "0"], "--learning-rate"),
        ([*TRAIN, "--learning-rate", "nan"], "--learning-rate: must be a finite number"),
        ([*TRAIN, "--learning-rate", "inf"], "--learning-rate: must be a finite number"),
        ([*TRAIN, "--seed", "-5"], "--seed"),
        ([*TRAIN, "--seed", str(2**32)], "--seed"),
        ([*TRAIN, "--threads", "100000"], "--threads"),
        ([*TRAIN, "--device", "abacus"], "--device: abacus"),
        ([*TRAIN, "--device", "meta"], "--device: meta: must be auto, cpu, "),
        ([*TRAIN, "--device", "cuda:77"], "--device: cuda:77: cannot be used here; there is cpu"),
        ([*TRAIN, "--data", "demo", "--split", "1"], "--split: the demo has split 0 only, got 1"),
        ([*TRAIN, "--features", "none.npz"], "--features"),
        ([*TRAIN, "--store", "none"], "--store"),
        ([*TRAIN, "--split", "5"], "--split"),
    ],
)
def test_usage_errors(songs: Path, words: list[str], message: str) -> None:
    given = words if "--data" in words else [*words, "--data", str(songs)]
    result = run(*given)
    assert result.exit_code == 2, result.output
    assert (
        message in result.stderr.replace("'--", "--").replace("':", ":") or message in result.stderr
    )
    assert not Path("runs").exists()


def test_a_folder_named_demo_is_not_taken_for_the_demo() -> None:
    Path("demo").mkdir()
    result = run("--data", "demo", *TRAIN)
    assert result.exit_code == 2
    assert "write ./demo for the folder" in result.stderr
    assert "demo: is empty" in run("--data", "./demo", *TRAIN).stderr


def test_two_trainings_do_not_share_a_folder(songs: Path) -> None:
    Path("run").mkdir()
    with locked(Path("run")):
        result = run("--data", songs, *TRAIN, "--out", "run")
    assert result.exit_code == 1
    assert "run: another fastmte is writing here" in result.stderr
    assert files(Path("run")) == {".lock"}
    assert run("--data", songs, *TRAIN, "--epochs", 1, "--out", "run").exit_code == 0


def test_a_diverged_run_says_how_to_go_on(songs: Path) -> None:
    given = ["--data", songs, *TRAIN, "--out", "run"]
    result = run(*given, "--learning-rate", "1e30")
    assert result.exit_code == 1
    assert "lower the learning rate, 1e+30 now, and train again with --force" in result.stderr
    assert run(*given, "--epochs", 1, "--force").exit_code == 0


def test_an_empty_folder_has_no_collection() -> None:
    Path("empty").mkdir()
    result = run("--data", "empty", *TRAIN)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].endswith("empty: is empty")
    assert not Path("runs").exists()


def test_a_collection_without_files_has_no_audio(collection: Path) -> None:
    for path in (collection / "audio").glob("*/*.wav"):
        path.unlink()
    result = run("--data", collection, *TRAIN)
    assert result.exit_code == 4
    assert "no audio found: none of the 24 songs of its tables" in result.stderr
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--members", "7"], "number of members must be in [1, 6], the number of labels"),
        (["--partition", "bad.json"], "bad.json: no partition of the 6 labels"),
        (["--out", "file/run"], "file/run: "),
    ],
)
def test_what_cannot_be_trained_leaves_no_run(songs: Path, words: list[str], message: str) -> None:
    Path("bad.json").write_text('[["action", "calm"], ["dark", "dark"]]')
    Path("file").write_text("")
    result = run("--data", songs, *TRAIN, *words)
    assert result.exit_code == 1, result.output
    assert message in result.stderr
    assert not Path("runs").exists()


def test_labels_need_training_songs(collection: Path) -> None:
    table = collection / "splits/split-0/autotagging_moodtheme-train.tsv"
    whole = table.read_text()
    table.write_text(whole.replace("mood/theme---dark", "mood/theme---calm"))
    result = run("--data", collection, *TRAIN)
    assert result.exit_code == 1
    assert "no training song has dark, but other songs do" in result.stderr
    rows = whole.splitlines()
    table.write_text(
        "\n".join([rows[0], *rows[1:3], *rows[4:]]).replace("---dark", "---calm") + "\n"
    )
    assert run("--data", collection, *TRAIN).exit_code == 1


def test_a_label_all_of_whose_songs_are_damaged_is_named(collection: Path) -> None:
    table = collection / "splits/split-0/autotagging_moodtheme-train.tsv"
    for line in table.read_text().splitlines()[1:]:
        if "---dark" in line:
            (collection / "audio" / line.split("\t")[3]).write_bytes(b"")
    result = run("--data", collection, *TRAIN)
    assert result.exit_code == 1
    assert "no training song that could be read has dark" in result.stderr


def test_artists_in_two_parts_are_told(collection: Path) -> None:
    table = collection / "splits/split-0/autotagging_moodtheme-test.tsv"
    table.write_text(table.read_text().replace("artist_000020", "artist_000001"))
    result = run("--data", collection, *TRAIN, "--epochs", 1)
    assert result.exit_code == 0
    assert "Warning: 1 artists are in more than one part (artist_000001 ...)" in result.stderr


def test_an_output_that_cannot_be_written_is_one_line(
    songs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    result = run("--data", songs, *TRAIN, "--out", "run")
    assert result.exit_code == 1
    assert "cannot be written; name another folder with --out" in result.stderr
    assert not Path("run").exists()


COMMAND = """
import sys
from fastmte.models import _registry
sys.path.insert(0, sys.argv.pop(1))
from tiny import Tiny
_registry._BUILDERS["tiny"] = Tiny
from fastmte.cli import main
main()
"""


def test_ctrl_c_in_a_process_of_its_own(songs: Path, tmp_path: Path) -> None:
    root, tests = str(Path(__file__).parents[1]), str(Path(__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *sys.path])}
    given = ["train", "--data", str(songs), *TRAIN, "--epochs", "100000", "--patience", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, tests, *given, "--out", "run"],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("epoch   2/"):
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130, lines
    assert "epochs are kept, go on with: fastmte train --resume --out run" in lines[-1]
    assert not any("Traceback" in line for line in lines)
