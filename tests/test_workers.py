"""The supervisor of decoder processes: one bad song, one row, whatever it does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_songs
import numpy as np
import pytest
from fake_songs import SHAPE, load

from fastmte.data import workers
from fastmte.data.workers import Decoders, Outcome, attempt
from fastmte.errors import InputError


def decode(names: list[str], n_workers: int = 2, deadline: float = 60.0) -> list[Outcome]:
    with Decoders(load, n_workers, deadline, SHAPE) as decoders:
        return list(decoders.map(name.encode() for name in names))


def check_good(names: list[str], outcomes: list[Outcome]) -> None:
    for name, outcome in zip(names, outcomes, strict=True):
        if name.startswith(("good", "slow", "short", "noisy")):
            assert outcome.song is not None, (name, outcome)
            np.testing.assert_array_equal(outcome.song.mel, fake_songs.song(name).mel)


@pytest.mark.parametrize("n_workers", [0, 1, 3])
def test_order_is_that_of_the_paths(n_workers: int) -> None:
    names = [f"{'slow' if i % 5 == 0 else 'good'}-{i}" for i in range(12)] + ["short-1"]
    outcomes = decode(names, n_workers)
    check_good(names, outcomes)
    assert [outcome.status for outcome in outcomes] == ["ok"] * 12 + ["ok_short"]
    assert outcomes[-1].song.warnings == ("odd",)


def test_no_songs() -> None:
    assert decode([]) == []


@pytest.fixture(scope="module")
def mixed() -> dict[str, Outcome]:
    """The outcomes of a run with every kind of bad song among good ones."""
    names = [f"good-{i}" for i in range(30)]
    for i, bad in enumerate(["segv", "exit", "damaged", "hang", "bug", "forbidden", "huge"]):
        names.insert(3 + 4 * i, f"{bad}-{i}")
    start = time.monotonic()
    outcomes = decode(names, deadline=3.0)
    assert time.monotonic() - start < 60.0
    check_good(names, outcomes)
    return {name.split("-")[0]: outcome for name, outcome in zip(names, outcomes, strict=True)}


@pytest.mark.parametrize(
    ("name", "status", "code", "message"),
    [
        ("segv", "crash", "DECODER_CRASH", "SIGSEGV"),
        ("exit", "crash", "DECODER_CRASH", "exit code 7"),
        ("hang", "timeout", "TIMEOUT", "not decoded within 3 s"),
        ("damaged", "error", "DAMAGED", "lost sync"),
        ("bug", "crash", "DECODER_CRASH", "KeyError: 'a mistake'"),
        ("forbidden", "error", "PERMISSION", "Permission denied"),
        ("huge", "error", "OUT_OF_MEMORY", "not enough memory"),
    ],
)
def test_bad_song_is_one_row(
    mixed: dict[str, Outcome], name: str, status: str, code: str, message: str
) -> None:
    outcome = mixed[name]
    assert (outcome.status, outcome.code, outcome.song) == (status, code, None)
    assert message in outcome.message
    assert "\n" not in outcome.message


def test_song_whose_process_was_killed_once_is_tried_again(tmp_path: Path) -> None:
    paths = [os.fsencode(tmp_path / name) for name in ("good-1", "once-2", "good-3")]
    with Decoders(load, 2, 60.0, SHAPE) as decoders:
        outcomes = list(decoders.map(paths))
    assert [outcome.status for outcome in outcomes] == ["ok", "ok", "ok"]
    assert (tmp_path / "once-2").exists()


def test_slow_song_holds_back_at_most_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def paths():
        for i in range(20):
            taken.append(i)
            yield b"slow-0" if i == 0 else b"good-%d" % i

    with Decoders(load, 2, 60.0, SHAPE, ahead=4) as decoders:
        outcomes = decoders.map(paths())
        next(outcomes)
        assert len(taken) <= 6  # ahead, one in reserve, one after the first left
        assert len(list(outcomes)) == 19


def test_abandoned_map_leaves_no_song_to_the_next_one() -> None:
    with Decoders(load, 2, 60.0, SHAPE) as decoders:
        next(decoders.map(f"good-{i}".encode() for i in range(9)))
        names = ["good-100", "good-101", "good-102"]
        check_good(names, list(decoders.map(name.encode() for name in names)))


def test_processes_that_do_not_start_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_serve", os._exit)  # its arguments are wrong: exit code 1
    with (
        Decoders(load, 1, 60.0, SHAPE) as decoders,
        pytest.raises(InputError, match="do not start"),
    ):
        list(decoders.map([b"good-1"]))


def test_what_processes_inherit() -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    with Decoders(fake_songs.environment, 1, 60.0, SHAPE) as decoders:
        (outcome,) = decoders.map([b"song"])
    threads, ignores_ctrl_c, has_torch, pid = outcome.song.mel[0, :4]
    assert (threads, ignores_ctrl_c) == (1.0, 1.0)
    assert not has_torch, "decoder processes import torch: 200 MB and 1.5 s each"
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert not is_alive(int(pid)), "the process outlived close()"


def test_noise_of_c_libraries_stays_out(capfd: pytest.CaptureFixture[str]) -> None:
    check_good(["noisy-1"], decode(["noisy-1"], 1))
    assert capfd.readouterr() == ("", "")


def is_alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_parent(number: signal.Signals) -> None:
    script = (
        "import fake_songs as f, sys\n"
        "from fastmte.data.workers import Decoders\n"
        "if __name__ == '__main__':\n"
        "    decoders = Decoders(f.load, 2, 600.0, f.SHAPE)\n"
        "    outcomes = decoders.map([b'good-1', b'hang-1', b'hang-2'])\n"
        "    next(outcomes)\n"
        "    print(*(w._process.pid for w in decoders._workers), flush=True)\n"
        "    next(outcomes)\n"
    )
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": here},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(is_alive(pid) for pid in pids)
        parent.send_signal(number)
        parent.wait(20)
    deadline = time.monotonic() + 5.0
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_alive(pid) for pid in pids)


def test_in_process_failures_are_data_too() -> None:
    outcomes = decode(["good-1", "damaged-1", "forbidden-1", "huge-1"], n_workers=0)
    assert [o.code for o in outcomes] == ["", "DAMAGED", "PERMISSION", "OUT_OF_MEMORY"]
    with pytest.raises(KeyError, match="a mistake"):
        attempt(load, b"bug-1")


@pytest.mark.parametrize(
    ("n_workers", "deadline", "message"),
    [
        (-1, 1.0, "n_workers must be at least 0, got -1"),
        (1, 0.0, "deadline must be positive, got 0.0"),
    ],
)
def test_arguments(n_workers: int, deadline: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoders(load, n_workers, deadline, SHAPE)
