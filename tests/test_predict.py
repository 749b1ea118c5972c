"""From files, or a store, to scores; and what bad songs cannot do to them."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_songs
import torch
from torch import Tensor

from fastmte import predict
from fastmte.checkpoint import Checkpoint, save
from fastmte.crop import covering, spread
from fastmte.data.parts import read_tagged
from fastmte.data.songs import load_mel, load_windows
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.mel import MelConfig
from fastmte.plan import InferencePlan
from fastmte.predict import Progress, model_hash, predict_store, tag_paths


@pytest.fixture(scope="module")
def model() -> Checkpoint:
    return small_songs.checkpoint()


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("music")
    small_songs.write_songs(folder, 11)
    return folder


def tag(music: Path, model: Checkpoint, out: Path, **options: Any) -> predict.Tagging:
    return tag_paths([music], model, out, **{"workers": 0, "batch_size": 4, **options})


def scores_of(out: Path) -> dict[bytes, np.ndarray]:
    tagged = read_tagged(out)
    return dict(zip(tagged.names, tagged.scores(), strict=True))


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "parts").iterdir())}


def test_scores_are_those_of_the_model(music: Path, model: Checkpoint, tmp_path: Path) -> None:
    tagging = tag(music, model, tmp_path)
    assert (tagging.n_songs, tagging.n_scored, tagging.n_failed) == (11, 11, 0)
    assert tagging.statuses == Counter(ok=11)
    scores = scores_of(tmp_path)
    assert sorted(scores) == [b"%03d.wav" % i for i in range(11)]
    mels = [load_mel(music / name.decode(), MelConfig.of("mtg2019"), 64).mel for name in scores]
    with torch.inference_mode():
        expected = model.ensemble(torch.from_numpy(np.stack(mels))).sigmoid().numpy()
    np.testing.assert_allclose(np.stack(list(scores.values())), expected, atol=2e-6)
    assert expected.std(axis=0).min() > 1e-4, "the model does not tell the songs apart"


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (2, 4), (3, 5)])
def test_same_scores_for_any_workers_and_batch(
    music: Path, model: Checkpoint, tmp_path: Path, workers: int, batch_size: int
) -> None:
    tag(music, model, tmp_path / "a")
    tag(music, model, tmp_path / "b", workers=workers, batch_size=batch_size)
    if batch_size == 4:
        assert contents(tmp_path / "a") == contents(tmp_path / "b")
    a, b = scores_of(tmp_path / "a"), scores_of(tmp_path / "b")
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=2e-7, rtol=0)


@pytest.fixture
def mixed(music: Path, tmp_path: Path) -> Path:
    """The good songs among files of every bad kind."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in music.iterdir():
        os.link(path, folder / path.name)
    whole = (music / "000.wav").read_bytes()
    (folder / "000-zero.wav").write_bytes(b"")
    (folder / "001-text.mp3").write_text("<html>404</html>\n" * 50)
    (folder / "002-header.wav").write_bytes(whole[:30])
    (folder / "003-noise.ogg").write_bytes(np.random.default_rng(0).bytes(5000))
    os.mkfifo(folder / "004-pipe.mp3")
    (folder / "005-gone.mp3").symlink_to("nowhere")
    (folder / "006-folder.mp3").mkdir()
    (folder / "007-cut.wav").write_bytes(whole[: len(whole) // 2])
    small_songs.write_song(folder / "008-short.wav", 8, 0.5)
    (folder / "009-nan.wav").write_bytes(nan_wav())
    return folder


def nan_wav() -> bytes:
    import io

    import soundfile

    data = small_songs.samples(9)
    data[len(data) // 2] = np.nan
    file = io.BytesIO()
    soundfile.write(file, data, small_songs.RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_songs_change_no_other(
    music: Path, mixed: Path, model: Checkpoint, tmp_path: Path, workers: int
) -> None:
    tag(music, model, tmp_path / "good")
    tagging = tag(mixed, model, tmp_path / "out", workers=workers)
    tagged = read_tagged(tmp_path / "out")
    codes = {
        row["path"][4:-4].decode(): (row["status"], row["code"])
        for row in tagged.table.select(["path", "status", "code"]).to_pylist()
        if len(row["path"]) > 7
    }
    assert codes == {
        "zero": ("error", "EMPTY"),
        "text": ("error", "NOT_AUDIO"),
        "header": ("error", codes["header"][1]),
        "noise": ("error", "NOT_AUDIO"),
        "pipe": ("error", "NOT_REGULAR"),
        "gone": ("error", "VANISHED"),
        "cut": ("truncated", "TRUNCATED"),
        "short": ("ok_short", ""),
        "nan": ("error", "NONFINITE"),
    }
    assert (tagging.n_songs, tagging.n_failed, tagging.n_scored) == (20, 8, 13)
    after, before = scores_of(tmp_path / "out"), scores_of(tmp_path / "good")
    for name, scores in before.items():
        assert after[name].tobytes() == scores.tobytes(), name
    assert np.isnan(after[b"000-zero.wav"]).all()
    assert np.isfinite(after[b"007-cut.wav"]).all()


def test_short_songs_can_be_skipped(model: Checkpoint, tmp_path: Path) -> None:
    small_songs.write_song(tmp_path / "m" / "a.wav", 1)
    small_songs.write_song(tmp_path / "m" / "b.wav", 2, 0.5)
    tagging = tag(tmp_path / "m", model, tmp_path / "out", short="skip")
    assert (tagging.n_scored, tagging.n_failed) == (1, 0)
    row = read_tagged(tmp_path / "out").table.slice(1, 1).to_pylist()[0]
    assert (row["status"], row["code"], row["calm"]) == ("ok_short", "TOO_SHORT", None)
    assert row["message"] == "0.5 s, less than the crop's 1.4 s: not scored"
    with pytest.raises(InputError, match="another short;"):
        tag(tmp_path / "m", model, tmp_path / "out")


@pytest.mark.parametrize(("workers", "batch_size"), [(0, 1), (0, 5), (2, 3)])
def test_scores_of_several_windows_are_their_means(
    music: Path, model: Checkpoint, tmp_path: Path, workers: int, batch_size: int
) -> None:
    windows: dict[Any, Any] = {3: partial(spread, count=3), "all": partial(covering, most=32)}
    for number, places in windows.items():
        out = tmp_path / str(number)
        tag(music, model, out, workers=workers, batch_size=batch_size, windows=number)
        for name, scores in scores_of(out).items():
            path = music / name.decode()
            song = load_windows(path, MelConfig.of("mtg2019"), places, 64)
            assert len(song.mel) == len(places(song.n_frames, 64)) > 1
            with torch.inference_mode():
                each = model.ensemble(torch.from_numpy(song.mel)).sigmoid().numpy()
            np.testing.assert_allclose(scores, each.mean(axis=0), atol=2e-6)
    with pytest.raises(InputError, match="tagged before with another windows"):
        tag(music, model, tmp_path / "3", windows=4)
    with pytest.raises(InputError, match="tagged before with another windows"):
        tag(music, model, tmp_path / "3")


@pytest.mark.parametrize("windows", [0, 33])
def test_windows_are_between_one_and_many(
    music: Path, model: Checkpoint, tmp_path: Path, windows: int
) -> None:
    with pytest.raises(ValueError, match=rf"windows must be all or in \[1, 32\], got {windows}"):
        tag(music, model, tmp_path, windows=windows)


def test_nothing_is_done_twice(
    music: Path, model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag(music, model, tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(predict, "load_windows", lambda path: pytest.fail("decoded twice"))
    tagging = tag(music, model, tmp_path)
    assert (tagging.n_before, tagging.n_scored, tagging.statuses) == (11, 11, Counter(ok=11))
    assert contents(tmp_path) == before


def test_another_model_is_refused(music: Path, model: Checkpoint, tmp_path: Path) -> None:
    tag(music, model, tmp_path)
    with pytest.raises(InputError, match="tagged before with another model; tag into another"):
        tag(music, small_songs.checkpoint(seed=1), tmp_path)
    assert tag(music, small_songs.checkpoint(seed=1), tmp_path, force=True).n_before == 0


def test_other_thresholds_are_no_other_model(
    music: Path, model: Checkpoint, tmp_path: Path
) -> None:
    tag(music, model, tmp_path)
    again = Checkpoint(model.ensemble, model.tags, model.mel, model.frames, np.full(3, 0.5))
    assert tag(music, again, tmp_path).n_before == 11
    np.testing.assert_array_equal(read_tagged(tmp_path).thresholds, np.full(3, 0.5))


def test_model_hash_sees_every_weight(model: Checkpoint) -> None:
    other = small_songs.checkpoint()
    assert model_hash(other.ensemble) == model_hash(model.ensemble)
    with torch.no_grad():
        other.ensemble.head.bias[1] += 1e-6
    assert model_hash(other.ensemble) != model_hash(model.ensemble)


def test_scores_that_are_not_finite_are_failures(
    music: Path, model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: InferencePlan, mels: Tensor) -> Tensor:
        found = features(self, mels).clone()
        found[1, 0, 2] = torch.nan
        return found

    features = InferencePlan.features
    monkeypatch.setattr(InferencePlan, "features", broken)
    tagging = tag(music, model, tmp_path)
    assert tagging.statuses == Counter(ok=8, error=3)
    tagged = read_tagged(tmp_path)
    assert tagged.table.column("code").to_pylist().count("NONFINITE_SCORE") == 3
    has_scores = np.isfinite(tagged.scores()).all(axis=1)
    assert has_scores.sum() == 8
    assert np.isnan(tagged.scores()[~has_scores]).all()


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 PiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"
    ),
    MemoryError(),
]


def fits(most: int, error: Exception) -> Any:
    """Return features of a machine whose memory holds ``most`` songs."""

    def run(self: InferencePlan, mels: Tensor) -> Tensor:
        if len(mels) > most:
            raise error
        return features(self, mels)

    features = InferencePlan.features
    return run


@pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
def test_batches_that_do_not_fit_are_halved_and_nothing_is_lost(
    music: Path,
    model: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    tag(music, model, tmp_path / "a", batch_size=5)
    monkeypatch.setattr(InferencePlan, "features", fits(2, error))
    with pytest.warns(
        UserWarning, match="not enough memory on cpu for the batch: it is run"
    ) as said:
        tagging = tag(music, model, tmp_path / "b", batch_size=5)
    assert len([warning for warning in said if "memory" in str(warning.message)]) == 1
    assert (tagging.n_scored, tagging.n_failed) == (11, 0)
    a, b = scores_of(tmp_path / "a"), scores_of(tmp_path / "b")
    for name in a:
        np.testing.assert_allclose(a[name], b[name], atol=2e-7, rtol=0)


def test_a_song_that_does_not_fit_ends_the_run(
    music: Path, model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InferencePlan, "features", fits(0, FULL[0]))
    with (
        pytest.warns(UserWarning, match="it is run 2 songs at a time from here on"),
        pytest.raises(InputError, match="not enough memory on cpu for one song; run on another"),
    ):
        tag(music, model, tmp_path)


def test_another_error_is_not_taken_for_full_memory(
    model: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(InferencePlan, "features", fits(0, RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        predict_store(model.ensemble, Songs(2), frames=64)


@pytest.mark.parametrize("plan", ["module", "separate:1", "grouped:2", "default"])
def test_every_plan_gives_the_same_scores(model: Checkpoint, plan: str) -> None:
    expected = predict_store(model.ensemble, Songs(3), batch_size=4, frames=64, plan="module")
    found = predict_store(model.ensemble, Songs(3), batch_size=4, frames=64, plan=plan)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_a_plan_by_the_environment(model: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMTE_PLAN", "fastest")
    with pytest.raises(InputError, match="are module, separate, grouped"):
        predict_store(model.ensemble, Songs(3), frames=64)
    predict_store(model.ensemble, Songs(3), frames=64, plan="module")


def test_bf16_is_another_folder_and_falls_back_where_there_is_none(
    music: Path, model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    amx = "_is_amx_tile_supported"
    monkeypatch.setattr(torch.cpu, amx, lambda: False)
    with pytest.warns(UserWarning, match="bf16 would be slow here") as said:
        tag(music, model, tmp_path / "a", precision="bf16")
    assert len([warning for warning in said if "bf16" in str(warning.message)]) == 1
    assert tag(music, model, tmp_path / "a").n_before == 11
    assert "precision" not in read_tagged(tmp_path / "a").manifest["made_with"]
    monkeypatch.setattr(torch.cpu, amx, lambda: True)
    tag(music, model, tmp_path / "b", precision="auto")
    assert read_tagged(tmp_path / "b").manifest["made_with"]["precision"] == "bf16"
    a, b = scores_of(tmp_path / "a"), scores_of(tmp_path / "b")
    difference = max(abs(a[name] - b[name]).max() for name in a)
    assert 1e-6 < difference < 5e-3
    with pytest.raises(InputError, match="tagged before with another precision; tag into another"):
        tag(music, model, tmp_path / "b", precision="fp32")


def test_progress_counts_every_song(mixed: Path, model: Checkpoint, tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []

    def listen(state: Progress) -> None:
        seen.append((state.n_songs, state.n_done, state.n_failed))

    tag(mixed, model, tmp_path / "out", on_progress=listen)
    assert seen[0] == (20, 0, 0)
    assert seen[-1] == (20, 20, 8)
    assert len(seen) == 21


KILLED = """
import sys
from pathlib import Path
from fastmte import checkpoint, predict
if __name__ == "__main__":
    music, model, out, n_parts = sys.argv[1:]
    def listen(state):
        if len(list(Path(out, "parts").glob("part-*"))) >= int(n_parts):
            print("now", flush=True)
            sys.stdin.read()  # until the end
    predict.tag_paths([music], checkpoint.load(model), out, workers=1, batch_size=2,
                      shard_size=3, on_progress=listen)
"""


def test_killed_run_goes_on_to_the_same_bytes(
    music: Path, model: Checkpoint, tmp_path: Path
) -> None:
    n_parts = 2
    save(model, tmp_path / "model")
    out = tmp_path / "out"
    options = {"batch_size": 2, "shard_size": 3}
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, music, tmp_path / "model", out, str(n_parts)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = contents(out)
    assert len(kept) == n_parts
    tagging = tag(music, model, out, **options)
    assert tagging.n_before == 3 * n_parts
    tag(music, model, tmp_path / "whole", **options)
    assert len(contents(out)) == 4
    assert contents(out) == contents(tmp_path / "whole")
    assert kept.items() <= contents(out).items()


class Songs:
    """A store of random mels."""

    def __init__(self, n_songs: int, frames: int = 64) -> None:
        generator = torch.Generator().manual_seed(0)
        self.mels = torch.randn(n_songs, 96, frames, generator=generator) * 18 - 40

    def __len__(self) -> int:
        return len(self.mels)

    def gather(self, index: Tensor, frames: int, starts: str) -> Tensor:
        assert (frames, starts) == (self.mels.shape[2], "centre")
        return self.mels[index]


def test_store(model: Checkpoint) -> None:
    store = Songs(7)
    scores = predict_store(model.ensemble, store, batch_size=3, frames=64)
    assert scores.dtype == np.float64
    with torch.inference_mode():
        expected = model.ensemble(store.mels).double().sigmoid().numpy()
    np.testing.assert_allclose(scores, expected, atol=2e-7)
    some = predict_store(model.ensemble, store, [6, 2], batch_size=3, frames=64)
    np.testing.assert_array_equal(some, scores[[6, 2]])
    assert predict_store(model.ensemble, store, [], frames=64).shape == (0, 3)


def test_store_leaves_the_mode_of_the_model(model: Checkpoint) -> None:
    expected = predict_store(model.ensemble, Songs(2), frames=64)
    model.ensemble.train()
    before = model_hash(model.ensemble)
    try:
        scores = predict_store(model.ensemble, Songs(2), frames=64)
        assert model.ensemble.training
    finally:
        model.ensemble.eval()
    np.testing.assert_array_equal(scores, expected)
    assert model_hash(model.ensemble) == before


def test_store_with_a_mel_that_is_not_finite(model: Checkpoint) -> None:
    store = Songs(5)
    store.mels[3, 0, 0] = torch.nan
    with pytest.raises(InputError, match=r"scores of 1 songs are not finite \(first: song 3\)"):
        predict_store(model.ensemble, store, frames=64)


def test_batch_size_must_be_positive(model: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        predict_store(model.ensemble, Songs(1), batch_size=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        tag(tmp_path, model, tmp_path, batch_size=0)


@pytest.mark.parametrize(("backbone", "batch_size"), [("resnet18", 3), ("vgg", 4)])
def test_neighbours_and_place_in_a_batch_change_no_bit(backbone: str, batch_size: int) -> None:
    frames = 64 if backbone == "resnet18" else 1280
    ensemble = FusedEnsemble.create(backbone, [0, 1, 0]).eval()
    store = Songs(batch_size, frames)
    places = [np.roll(np.arange(batch_size), i) for i in range(2)]
    scores = [predict_store(ensemble, store, place, batch_size, "cpu", frames) for place in places]
    alone = predict_store(ensemble, store, [0], batch_size, "cpu", frames)
    for i, place in enumerate(places):
        np.testing.assert_array_equal(scores[i], scores[0][place])
    np.testing.assert_array_equal(alone[0], scores[0][0])


def test_time_is_told(music: Path, model: Checkpoint, tmp_path: Path) -> None:
    start = time.monotonic()
    seconds = tag(music, model, tmp_path).seconds
    assert 0 < seconds <= time.monotonic() - start
