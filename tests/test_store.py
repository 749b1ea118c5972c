"""The mel store gives back what the songs' files hold, or says which song it has not."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fastmte import _light
from fastmte.crop import centre_start, crop_mel
from fastmte.data import describe, npy_mels
from fastmte.data.batches import BatchRoom, LabelledMels
from fastmte.data.songs import load_mel
from fastmte.data.store import FORMAT, MELS, SIDECAR, MelStore
from fastmte.errors import InputError
from fastmte.mel import MelConfig

CONFIG = MelConfig.of("mtg2019")
FRAMES = 40
SECONDS = (0.3, 0.9, 1.0, 2.0)  # 16, 44, 48 and 95 frames


def write_songs(folder: Path, seconds: tuple[float, ...] = SECONDS) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(5)
    paths = []
    for i, length in enumerate(seconds):
        paths.append(folder / f"song-{i}.wav")
        soundfile.write(paths[-1], random.normal(0, 0.1, int(length * 12000)), 12000)
    return paths


def names(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


@pytest.fixture
def songs(tmp_path: Path) -> list[Path]:
    return write_songs(tmp_path / "songs")


def whole_mel(path: Path) -> np.ndarray:
    n_frames = load_mel(path, CONFIG, FRAMES).n_frames
    return load_mel(path, CONFIG, n_frames).mel.astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_holds_the_songs_middles(
    songs: list[Path], tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if workers:  # so few songs are decoded without processes
        songs = write_songs(tmp_path / "songs", SECONDS * 6)
    told: list[tuple[int, int]] = []
    store = MelStore.build(
        songs,
        names(songs),
        tmp_path / "store",
        CONFIG,
        FRAMES,
        workers,
        lambda done, total: told.append((done, total)),
    )
    assert told == [(i + 1, len(songs)) for i in range(len(songs))]
    assert store.ids == tuple(names(songs))
    assert len(store) == len(songs)
    assert store.n_frames.tolist()[:4] == [16, 44, 48, 95]
    assert store.lengths.tolist()[:4] == [16, 40, 40, 40]
    assert store.starts.tolist()[:4] == [0, 2, 4, 27]
    assert store.failed == ()
    crops = store.gather(np.arange(len(songs)), FRAMES)
    assert crops.dtype == torch.float32
    for crop, path in zip(crops.numpy(), songs, strict=True):
        expected = load_mel(path, CONFIG, FRAMES).mel
        np.testing.assert_array_equal(crop, expected.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 39, 40])
def test_narrower_crops_are_of_the_song_to_the_frame(
    songs: list[Path], tmp_path: Path, frames: int
) -> None:
    store = MelStore.build(songs, names(songs), tmp_path / "store", CONFIG, FRAMES)
    for row, path in enumerate(songs):
        mel = whole_mel(path)
        got = store.gather(torch.tensor([row]), frames, "centre")[0].numpy()
        np.testing.assert_array_equal(got, crop_mel(mel, frames))
        np.testing.assert_array_equal(store.gather([row], frames, None)[0].numpy(), got)
        if frames <= store.lengths[row]:
            start = torch.tensor([int(store.lengths[row]) - frames])
            first = int(store.starts[row] + start)
            part = store.gather(torch.tensor([row]), frames, start)[0].numpy()
            np.testing.assert_array_equal(part, mel[:, first : first + frames])


def test_a_store_is_not_asked_for_more_than_it_holds(songs: list[Path], tmp_path: Path) -> None:
    store = MelStore.build(songs, names(songs), tmp_path / "store", CONFIG, FRAMES)
    assert store.gather([0], 60).shape == (1, 96, 60)  # the whole song is there, and is repeated
    with pytest.raises(InputError, match="holds 40 frames a song, 60 are wanted; prepare"):
        store.gather([0, 3], 60)


def test_damaged_songs_are_listed_and_left_out(songs: list[Path], tmp_path: Path) -> None:
    songs[1].write_bytes(b"")
    songs[3].write_text("<html>not found</html>")
    songs.append(tmp_path / "songs" / "gone.wav")
    store = MelStore.build(songs, names(songs), tmp_path / "store", CONFIG, FRAMES)
    assert store.ids == ("song-0", "song-2")
    assert [one["id"] for one in store.failed] == ["song-1", "song-3", "gone"]
    assert [one["code"] for one in store.failed] == ["EMPTY", "NOT_AUDIO", "VANISHED"]
    assert all(one["message"] and one["path"] for one in store.failed)
    expected = load_mel(songs[2], CONFIG, FRAMES).mel.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(store.gather([1], FRAMES)[0].numpy(), expected)
    assert store.index_of(["song-2", "song-0"]).tolist() == [1, 0]
    assert store.has("song-0")
    assert not store.has("song-1")
    with pytest.raises(InputError, match=r"song-1: not in the mel store \(2 songs of 3 are not\)"):
        store.index_of(["song-1", "song-0", "song-3"])


def test_no_song_at_all_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 1 songs could be decoded; the first: .*a\.wav"):
        MelStore.build([tmp_path / "a.wav"], ["a"], tmp_path / "store", CONFIG, FRAMES)
    assert not (tmp_path / "store" / MELS).exists()
    with pytest.raises(InputError, match="no finished mel store"):
        MelStore.open(tmp_path / "store")


@pytest.mark.parametrize(("n", "ids"), [(0, []), (2, ["a", "a"]), (2, ["a"])])
def test_songs_need_distinct_ids(songs: list[Path], tmp_path: Path, n: int, ids: list[str]) -> None:
    with pytest.raises(InputError, match="needs songs of distinct ids"):
        MelStore.build(songs[:n], ids, tmp_path / "store", CONFIG, FRAMES)
    assert not (tmp_path / "store").exists()


class Counted:
    """``load_mel`` that notes which songs it is asked for, and may break off."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.paths: list[str] = []
        self.stop_after = stop_after

    def __call__(self, path: bytes, config: MelConfig, frames: int) -> object:
        if len(self.paths) == self.stop_after:
            raise KeyboardInterrupt
        self.paths.append(Path(os.fsdecode(path)).stem)
        return load_mel(path, config, frames)


def test_an_interrupted_build_goes_on(
    songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs[0].write_bytes(b"")
    build = partial(MelStore.build, songs, names(songs), config=CONFIG, frames=FRAMES, workers=0)
    monkeypatch.setattr(describe, "load_mel", Counted(stop_after=2))
    with pytest.raises(KeyboardInterrupt):
        build(folder=tmp_path / "store")
    with pytest.raises(InputError, match="no finished mel store"):
        MelStore.open(tmp_path / "store")
    with open(tmp_path / "store" / "journal.jsonl", "ab") as file:
        file.write(b'{"row": 2, "id": "so')  # cut off by a power failure
    rest = Counted()
    monkeypatch.setattr(describe, "load_mel", rest)
    store = build(folder=tmp_path / "store")
    assert rest.paths == ["song-2", "song-3"]
    fresh = build(folder=tmp_path / "fresh")
    assert store.hash == fresh.hash
    assert torch.equal(store.gather([0, 1, 2], FRAMES), fresh.gather([0, 1, 2], FRAMES))
    assert not (tmp_path / "store" / "journal.jsonl").exists()
    rest.paths.clear()
    build(folder=tmp_path / "store")
    assert rest.paths == []


KILLED = """
import sys
from fastmte.data.store import MelStore
from fastmte.data import store_build
from fastmte.mel import MelConfig
store_build._COMMIT_SONGS = 3
paths = sys.argv[2:]
ready = lambda done, total: print(done, flush=True)
MelStore.build(paths, paths, sys.argv[1], MelConfig.of("mtg2019"), 40, 0, ready)
"""


def test_a_killed_build_keeps_its_songs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    songs = write_songs(tmp_path / "songs", (1.0,) * 300)
    root = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), *map(str, songs)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *sys.path])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 10:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    rest = Counted()
    monkeypatch.setattr(describe, "load_mel", rest)
    ids = [str(path) for path in songs]
    store = MelStore.build(songs, ids, tmp_path / "store", CONFIG, FRAMES, 0)
    assert len(rest.paths) <= 300 - 9
    fresh = MelStore.build(songs, ids, tmp_path / "fresh", CONFIG, FRAMES, 0)
    everything = np.arange(300)
    assert torch.equal(store.gather(everything, FRAMES), fresh.gather(everything, FRAMES))


def test_a_store_is_never_of_two_kinds(songs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    store = MelStore.build(songs, names(songs), folder, CONFIG, FRAMES)
    other = MelConfig.of("mtg2023")
    for change, message in [
        ({"config": other}, "mel preset was mtg2019, got mtg2023"),
        ({"frames": 41}, "--frames was 40, got 41"),
        ({"paths": songs[:3], "ids": names(songs[:3])}, "number of songs was 4, got 3"),
        ({"ids": ["a", "b", "c", "d"]}, "the songs differ"),
    ]:
        settings = {"paths": songs, "ids": names(songs), "config": CONFIG, "frames": FRAMES}
        with pytest.raises(InputError, match=message):
            MelStore.build(folder=folder, **(settings | change))
    store.require(CONFIG)
    with pytest.raises(InputError, match=r"of preset mtg2019 where mtg2023 is wanted: .* --mel"):
        store.require(other)


def test_songs_that_have_changed_are_decoded_again_and_no_others(
    songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    songs[0].write_bytes(b"")
    build = partial(MelStore.build, songs, names(songs), tmp_path / "store", CONFIG, FRAMES, 0)
    before = build()
    assert before.ids == ("song-1", "song-2", "song-3")
    decoded = Counted()
    monkeypatch.setattr(describe, "load_mel", decoded)
    assert build(is_checked=True).hash == before.hash
    assert decoded.paths == []
    write_songs(tmp_path / "songs", SECONDS[:1])  # the broken one has been mended
    os.utime(songs[2], (1, 1))
    after = build()
    assert decoded.paths == ["song-0", "song-2"]
    assert after.ids == ("song-0", "song-1", "song-2", "song-3") and after.failed == ()
    assert after.hash != before.hash
    fresh = MelStore.build(songs, names(songs), tmp_path / "fresh", CONFIG, FRAMES, 0)
    everything = np.arange(4)
    assert torch.equal(after.gather(everything, FRAMES), fresh.gather(everything, FRAMES))
    assert after.hash == fresh.hash


def test_songs_that_failed_are_tried_again_on_request(
    songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = partial(MelStore.build, songs, names(songs), tmp_path / "store", CONFIG, FRAMES, 0)
    whole = describe.load_mel

    def fails_once(path: bytes, *how: object) -> object:
        if path.endswith(b"song-1.wav"):
            raise OSError(errno.EIO, "Input/output error")
        return whole(path, *how)

    monkeypatch.setattr(describe, "load_mel", fails_once)
    assert [one["id"] for one in build().failed] == ["song-1"]
    monkeypatch.setattr(describe, "load_mel", whole)
    assert len(build().failed) == 1
    store = build(retry_failed=True)
    assert (len(store), store.failed) == (4, ())


@pytest.mark.parametrize("is_finished", [True, False])
def test_damaged_mels_are_found_and_made_again(
    songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_finished: bool
) -> None:
    folder = tmp_path / "store"
    build = partial(MelStore.build, songs, names(songs), folder, CONFIG, FRAMES, 0)
    if is_finished:
        before = build()
    else:
        monkeypatch.setattr(describe, "load_mel", Counted(stop_after=3))
        with pytest.raises(KeyboardInterrupt):
            build()
        monkeypatch.undo()
    mels = np.load(folder / MELS, mmap_mode="r+")
    mels[1, 5, 7] += 1
    mels[3, :, :] = 0
    mels.flush()
    decoded = Counted()
    monkeypatch.setattr(describe, "load_mel", decoded)
    after = build(is_checked=is_finished)
    assert decoded.paths == ["song-1", "song-3"]
    fresh = MelStore.build(songs, names(songs), tmp_path / "fresh", CONFIG, FRAMES, 0)
    everything = np.arange(4)
    assert torch.equal(after.gather(everything, FRAMES), fresh.gather(everything, FRAMES))
    assert after.hash == (before.hash if is_finished else fresh.hash)
    (folder / MELS).unlink()
    decoded.paths.clear()
    build()
    assert decoded.paths == names(songs)


def test_two_builds_do_not_share_a_folder(songs: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    with open(folder / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another fastmte is writing"):
            MelStore.build(songs, names(songs), folder, CONFIG, FRAMES)


def test_a_full_disk_is_an_error_that_leaves_nothing(
    songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as caught:
        MelStore.build(songs, names(songs), tmp_path / "store", CONFIG, FRAMES)
    assert caught.value.filename == str(tmp_path / "store" / MELS)
    assert not (tmp_path / "store" / MELS).exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (SIDECAR, b"{", "not JSON"),
        (SIDECAR, b'{"format": "other"}', "not of the format"),
        (SIDECAR, b"[]", "not of the format"),
        (MELS, b"", "not the mels of this store"),
        (MELS, None, "not the mels of this store"),
    ],
)
def test_a_damaged_store_is_not_opened(
    songs: list[Path], tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    MelStore.build(songs, names(songs), tmp_path / "store", CONFIG, FRAMES)
    path = tmp_path / "store" / name
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(InputError, match=message):
        MelStore.open(tmp_path / "store")


def test_another_array_is_not_opened(songs: list[Path], tmp_path: Path) -> None:
    MelStore.build(songs, names(songs), tmp_path / "store", CONFIG, FRAMES)
    np.save(tmp_path / "store" / MELS, np.zeros((4, 96, FRAMES), np.float32))
    with pytest.raises(InputError, match=r"must be \(N, 96, 40\) float16, got .* float32"):
        MelStore.open(tmp_path / "store")
    assert json.loads((tmp_path / "store" / SIDECAR).read_text())["format"] == FORMAT


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_published_mels_are_read_where_they_are(
    tmp_path: Path, rng: np.random.Generator, dtype: type, order: str
) -> None:
    mels = [rng.normal(-40, 10, (96, n)).astype(dtype, order=order) for n in (30, 57, 100)]
    paths = [tmp_path / f"{i}.npy" for i in range(3)]
    for path, mel in zip(paths, mels, strict=True):
        np.save(path, mel)
    store = MelStore.from_npy(paths)
    assert store.ids == ("0", "1", "2")
    assert store.mel == CONFIG
    assert store.lengths.tolist() == [30, 57, 100]
    crops = store.gather([2, 0, 1], FRAMES).numpy()
    for crop, row in zip(crops, [2, 0, 1], strict=True):
        np.testing.assert_array_equal(crop, crop_mel(mels[row], FRAMES))
    starts = torch.tensor([60, 17])
    crops = store.gather([2, 1], FRAMES, starts).numpy()
    np.testing.assert_array_equal(crops[0], mels[2][:, 60:100])
    np.testing.assert_array_equal(crops[1], mels[1][:, 17:57])
    assert store.gather([], FRAMES).shape == (0, 96, FRAMES)
    assert MelStore.from_npy(paths, ["a", "b", "c"], MelConfig.of("mtg2023")).hash != store.hash


def test_a_large_store_does_not_stay_in_this_process(
    songs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    expected = MelStore.build(songs, names(songs), folder, CONFIG, FRAMES).gather([0, 1], FRAMES)
    monkeypatch.setattr("fastmte.data.store.MOST_MAPPED", 2 * 96 * FRAMES * 2)
    store = MelStore.open(folder)
    assert store._mapping is not None
    for _ in range(5):  # the second and fourth time after its pages were given back
        assert torch.equal(store.gather([0, 1], FRAMES), expected)
    monkeypatch.setattr("fastmte.data.store.MOST_MAPPED", 1 << 30)
    assert MelStore.open(folder)._mapping is None


def test_crops_of_a_store_go_into_memory_that_is_given(
    songs: list[Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    np.save(tmp_path / "0.npy", rng.normal(-40, 10, (96, 57)).astype(np.float32))
    for store in (
        MelStore.build(songs, names(songs), tmp_path / "store", CONFIG, FRAMES),
        MelStore.from_npy([tmp_path / "0.npy"]),
    ):
        out = torch.full((2, 96, FRAMES), torch.nan)
        assert store.gather([0, 0], FRAMES, out=out) is out
        assert torch.equal(out, store.gather([0, 0], FRAMES))
        with pytest.raises(ValueError, match=r"out must be \(1, 96, 40\), got \(2, 96, 40\)"):
            store.gather([0], FRAMES, out=out)
        wide = torch.zeros(2, 96, 2 * FRAMES)
        store.gather([0, 0], FRAMES, out=wide[:, :, ::2])
        assert torch.equal(wide[:, :, ::2], out)
        assert not wide[:, :, 1::2].any()


def test_a_published_mel_has_no_frames_outside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((96, 57), np.float32))
    store = MelStore.from_npy([tmp_path / "a.npy"])
    for frames, last in ((FRAMES, 17), (60, 56)):
        for start in (-1, last + 1):
            message = rf"a: starts must be in \[0, {last}\], got {start}"
            with pytest.raises(ValueError, match=message):
                store.gather([0], frames, torch.tensor([start]))
        assert store.gather([0], frames, torch.tensor([last])).eq(1).all()


@pytest.mark.parametrize("is_compiled", [True, False])
def test_a_published_mel_that_changes_meanwhile_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_compiled: bool
) -> None:
    if not is_compiled:
        plain = _light.light()._replace(read_rows=_light.read_rows)
        monkeypatch.setattr(npy_mels, "light", lambda: plain)
    path = tmp_path / "a.npy"
    mel = np.zeros((96, 100), np.float32)
    np.save(path, mel)
    store = MelStore.from_npy([path])
    assert not store.gather([0], 40).any()
    mel[50, 50] = np.inf
    np.save(path, mel)
    assert not store.gather([0], 40, torch.tensor([0])).any()  # outside this crop
    with pytest.raises(InputError, match=r"a\.npy: has values that are not finite"):
        store.gather([0], 40)
    with open(path, "r+b") as file:
        file.truncate(30000)
    with pytest.raises(InputError, match=r"a\.npy: ends too early"):
        store.gather([0], 40)
    np.save(path, np.zeros((96, 90), np.float32))
    with pytest.raises(InputError, match=r"a\.npy: had 100 frames, has 90 now"):
        store.gather([0], 200)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.npy: cannot be read \(No such file or directory\)"):
        store.gather([0], 40)


def test_mels_of_somebody_else_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.ones((96, 57), np.float32))
    real_open = os.open

    def open_as_another(path: str, flags: int) -> int:
        if flags & getattr(os, "O_NOATIME", 0):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", open_as_another)
    assert MelStore.from_npy([tmp_path / "a.npy"]).gather([0], FRAMES).eq(1).all()


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="needs Linux")
def test_what_is_not_in_memory_is_fetched_as_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a.npy", np.ones((96, 100), np.float32))
    store = MelStore.from_npy([tmp_path / "a.npy"])
    asked, read = [], os.preadv

    def waits(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError
        return read(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", waits)
    monkeypatch.setattr(os, "posix_fadvise", lambda _, *place: asked.append(place))
    assert store.gather([0], 40, torch.tensor([7])).eq(1).all()
    assert asked == [(128 + 7 * 4, 95 * 400 + 160, os.POSIX_FADV_WILLNEED)]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((95, 10), np.float32), r"must be \(96, frames\), got \(95, 10\)"),
        (np.zeros((96, 0), np.float32), r"must be \(96, frames\), got \(96, 0\)"),
        (np.zeros((96, 10, 2), np.float32), r"must be \(96, frames\)"),
        (np.zeros((96, 10), np.float64), "must be float32 or float16, got float64"),
        (b"no array", "not a mel in .npy"),
        (np.array([{"a": 1}], object), "not a mel in .npy"),
    ],
)
def test_other_arrays_are_no_mels(tmp_path: Path, array: np.ndarray | bytes, message: str) -> None:
    if isinstance(array, bytes):
        (tmp_path / "a.npy").write_bytes(array)
    else:
        np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        MelStore.from_npy([tmp_path / "a.npy"])


def test_batches_carry_the_labels_of_their_songs(songs: list[Path], tmp_path: Path) -> None:
    store = MelStore.build(songs, names(songs), tmp_path / "store", CONFIG, FRAMES)
    labels = np.array([[True, False], [False, False], [False, True]])
    data = LabelledMels(store, store.index_of(["song-3", "song-0", "song-1"]), labels)
    mels, truth = data.batch(torch.tensor([2, 0]), FRAMES)
    assert torch.equal(mels, store.gather([1, 3], FRAMES))
    room = BatchRoom()
    for rows in ([2, 0], [1], [0, 1, 2]):
        again, _ = data.batch(torch.tensor(rows), FRAMES, out=room.take(len(rows), FRAMES))
        assert torch.equal(again, data.batch(torch.tensor(rows), FRAMES)[0])
    assert room.take(2, FRAMES).data_ptr() == again.data_ptr()
    assert room.take(2, FRAMES + 1).shape == (2, 96, FRAMES + 1)
    assert truth.tolist() == [[False, True], [True, False]]
    assert data.lengths.tolist() == [40, 16, 40]
    digests = {
        data.digest(),
        LabelledMels(store, data.index, ~labels).digest(),
        LabelledMels(store, data.index[::-1].copy(), labels).digest(),
    }
    assert len(digests) == 3


def test_the_centre_is_the_songs_and_not_the_stored_parts(tmp_path: Path) -> None:
    songs = write_songs(tmp_path / "songs", (1.0, 1.02, 1.04, 1.07, 1.09))
    store = MelStore.build(songs, names(songs), tmp_path / "store", CONFIG, FRAMES)
    seen = set()
    for row, path in enumerate(songs):
        mel = whole_mel(path)
        for frames in (10, 11):
            start = centre_start(mel.shape[1], frames)
            got = store.gather([row], frames)[0].numpy()
            np.testing.assert_array_equal(got, mel[:, start : start + frames])
            seen.add(start - store.starts[row] - centre_start(FRAMES, frames))
    assert seen == {0, 1}
