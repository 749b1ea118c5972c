"""``fastmte train`` in several processes, which end, and begin again, together."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from processes import together
from test_cli_train import TRAIN, write_collection
from tiny import Tiny
from torch.distributed import TCPStore

from fastmte import checkpoint, runs
from fastmte.cli import _launch, _training, main
from fastmte.cli._process import Terminated
from fastmte.cli._team import LOST, SMALLER, STOPPING, Team, is_in_team
from fastmte.cli._training_display import Silence
from fastmte.cli._training_settings import settled
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.exchange import Exchange, LostError
from fastmte.models import _registry
from fastmte.partition import Partition
from fastmte.train import SmallerBatchesError, fit

SMALL = (sys.executable, str(Path(__file__).with_name("small_fastmte.py")))


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Tiny)
    monkeypatch.setattr(_launch, "PROGRAM", SMALL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["train", *map(str, args)])


def undisturbed(run_folder: Path) -> FusedEnsemble:
    """Return what two threads, each with half of every batch, make of a run's settings."""
    settings = runs.settings_of(run_folder)
    with Silence() as silence:
        _, material = _training.open_material(settings, run_folder, 0, silence)
    members = Partition.load(run_folder / runs.PARTITION, material.tags).member_of_label.tolist()
    networks = [FusedEnsemble.create("tiny", members, settings.seed) for _ in range(2)]
    data = material.part("train"), material.part("validation")
    config = _training.train_config(settings)

    def work(exchange: Exchange) -> FusedEnsemble:
        torch.set_num_threads(1)
        return fit(networks[exchange.rank], *data, config, exchange=exchange)

    before = torch.get_num_threads()
    try:
        return together(2, work)[0]
    finally:
        torch.set_num_threads(before)


def test_a_killed_process_costs_no_bit(
    songs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two real processes, of which one is killed, and two threads that nothing happens to."""
    given = ["--data", songs, *TRAIN, "--crop", "random"]
    assert run(*given, "--out", "alone").exit_code == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("KILL", "1")
    killed = run(*given, "--out", "killed", "--processes", 2, "--max-restarts", 1)
    assert killed.exit_code == 0
    assert killed.stderr == "process 1 was ended by SIGKILL; all begin again (1 of 1)\n"
    out, err = capfd.readouterr()
    assert [err.count(f"epoch   {i}/3") for i in (1, 2, 3)] == [1, 1, 1]
    assert out.count("ROC-AUC-macro") == 1
    assert err.count("2 processes share its batches") == 2
    state = checkpoint.load("killed").ensemble.state_dict()
    for name, value in undisturbed(Path("killed")).state_dict().items():
        assert torch.equal(value, state[name]), name
    scores = [np.load(f"{name}/predictions.npy") for name in ("killed", "alone")]
    np.testing.assert_allclose(*scores, rtol=0, atol=1e-3)
    assert not list(Path("killed").glob("state.*"))


# --- the launcher --------------------------------------------------------------------------------

ACTOR = """
import json, os, signal, sys, time
parts = json.loads(os.environ["PARTS"])
rank, life = os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]
with open(f"{rank}-{life}.json", "w") as file:
    json.dump([sys.argv[1:], dict(os.environ)], file)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
act = parts[int(life)][int(rank)]
if act == "wait":
    open(f"waits-{rank}", "w").close()
    time.sleep(60)
elif act < 0:
    os.kill(os.getpid(), -act)
sys.exit(act)
"""


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Launch two processes that end, life by life, as they are told."""
    monkeypatch.setattr(_launch, "PROGRAM", (sys.executable, "-S", "-c", ACTOR))
    monkeypatch.setattr(_launch, "_GRACE_SECONDS", 0.2)

    def launched(parts: list, *given: object) -> Result:
        monkeypatch.setenv("PARTS", json.dumps(parts))
        return run("--processes", 2, *given)

    return launched


@pytest.mark.parametrize(
    ("parts", "restarts", "code", "lines"),
    [
        ([[0, 0]], 0, 0, []),
        ([[3, 0]], 0, 3, []),
        ([[2, LOST]], 3, 2, []),
        ([[LOST, 1]], 3, 1, []),
        ([["wait", 4]], 3, 4, []),
        ([[SMALLER, LOST], [LOST, SMALLER], [0, 0]], 0, 0, []),
        (
            [[LOST, -9], ["wait", -11], [-9, 0]],
            2,
            1,
            [
                "process 1 was ended by SIGKILL; all begin again (1 of 2)",
                "process 1 was ended by SIGSEGV; all begin again (2 of 2)",
                "Error: process 0 was ended by SIGKILL; epochs that are finished are kept, "
                "--resume goes on",
            ],
        ),
        (
            [["wait", -9], [3, 0]],
            1,
            3,
            ["process 1 was ended by SIGKILL; all begin again (1 of 1)"],
        ),
    ],
)
def test_processes_end_together(
    actors: Callable[..., Result], parts: list, restarts: int, code: int, lines: list[str]
) -> None:
    result = actors(parts, "--max-restarts", restarts)
    assert result.exit_code == code
    assert result.stderr.splitlines() == lines
    assert len(list(Path().glob("*-*.json"))) == 2 * len(parts)


def test_processes_are_told_who_they_are(
    actors: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    given = ["--partition", "linear", "--members", "auto", "--force", "--learning-rate", "0.002"]
    assert actors([[0, 0]], *given, "--out", "a b", "--max-restarts", 1).exit_code == 0
    told = [json.loads(Path(f"{rank}-0.json").read_text()) for rank in (0, 1)]
    words = told[0][0]
    assert words[0] == "train"
    pairs = " ".join(words[1:])
    for option in ("--partition linear", "--members auto", "--learning-rate 0.002", "--out a b"):
        assert option in pairs
    assert "--force" in words and len(words) == 10
    for rank, (_, environment) in enumerate(told):
        assert environment["RANK"] == environment["LOCAL_RANK"] == str(rank)
        assert environment["WORLD_SIZE"] == environment["LOCAL_WORLD_SIZE"] == "2"
        assert int(environment["OMP_NUM_THREADS"]) >= 1
    assert told[0][1]["MASTER_PORT"] == told[1][1]["MASTER_PORT"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_reaches_all(
    actors: Callable[..., Result], number: signal.Signals, code: int
) -> None:
    def interrupt() -> None:
        while len(list(Path().glob("waits-*"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert actors([["wait", "wait"]]).exit_code == code
    thread.join()


def test_who_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "_PATIENCE_SECONDS", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    stubborn = f"{deaf}; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-S", "-c", stubborn], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    _launch._end([process], signal.SIGTERM)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("given", "is_in", "text"),
    [
        (["--processes", 2], True, "--processes: torchrun starts the processes; leave it out"),
        (["--max-restarts", 2], True, "--max-restarts: torchrun starts the processes"),
        (["--max-restarts", 2], False, "--max-restarts: there is one process; leave it out"),
    ],
)
def test_options_that_do_nothing_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: list, is_in: bool, text: str
) -> None:
    if is_in:
        for name, value in MEMBERSHIP.items():
            monkeypatch.setenv(name, value)
    result = run(*TRAIN, *given)
    assert result.exit_code == 2
    assert text in result.stderr


# --- one of the processes ------------------------------------------------------------------------

MEMBERSHIP = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Team]:
    """Join a team of two whose store is in this process."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def joined(rank: int, life: int = 0) -> Team:
        environment = {
            **MEMBERSHIP,
            "RANK": str(rank),
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": str(life),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return Team()

    joined.store = store  # type: ignore[attr-defined]
    return joined


def ended(team: Team, error: BaseException) -> BaseException:
    """Return what comes out of ``one_voice``."""
    with pytest.raises(BaseException) as caught, team.one_voice():
        raise error
    return caught.value


def test_a_process_alone_is_in_no_team(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_in_team()
    monkeypatch.setenv("RANK", "0")
    assert not is_in_team()
    for name, value in MEMBERSHIP.items():
        monkeypatch.setenv(name, value)
    assert is_in_team()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_in_team()


@pytest.mark.parametrize("error", [InputError("no"), click.BadParameter("no"), OSError(28, "full")])
def test_one_process_speaks(team: Callable[..., Team], error: Exception) -> None:
    first, other = team(0), team(1)
    assert ended(other, error) is error
    silent = ended(first, error)
    assert isinstance(silent, SystemExit) and silent.code == 1
    assert ended(team(0, life=1), error) is error  # it is another life's turn


@pytest.mark.parametrize(
    ("error", "code"),
    [(LostError(), LOST), (KeyboardInterrupt(), 130), (Terminated(), 143)],
)
def test_others_end_in_silence(
    team: Callable[..., Team], capsys: pytest.CaptureFixture[str], error: BaseException, code: int
) -> None:
    silent = ended(team(1), error)
    assert isinstance(silent, SystemExit) and silent.code == code
    assert capsys.readouterr().err == ""


def test_one_process_speaks_of_smaller_batches(
    team: Callable[..., Team], capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = team(0), team(1)
    for one in (other, first):
        silent = ended(one, SmallerBatchesError(3, 16))
        assert isinstance(silent, SystemExit) and silent.code == SMALLER
    told = "Not enough memory in process 1: epoch 3 begins again, with batches of 16 songs\n"
    assert capsys.readouterr().err == told


def test_who_waits_for_the_first_learns_of_its_end(team: Callable[..., Team]) -> None:
    first, other = team(0), team(1)
    first.tell({"out": "x"})
    assert other.hear() == {"out": "x"}
    first, other = team(0, life=1), team(1, life=1)
    assert isinstance(ended(first, click.exceptions.Exit(4)), click.exceptions.Exit)
    with pytest.raises(LostError):
        other.hear()


def test_the_first_speaks_of_an_interruption_that_another_was_faster_to_obey(
    team: Callable[..., Team],
) -> None:
    first = team(0)
    assert not first.is_to_end()
    team.store.set(STOPPING, "1")  # type: ignore[attr-defined]
    team.store.get(STOPPING)  # type: ignore[attr-defined]  # the server has it: set does not wait
    assert first.is_to_end()
    Path("metrics.jsonl").write_text("{}\n{}\n")
    told = (
        "Interrupted; 2 epochs are kept, go on with: fastmte train --resume --out . --processes 2"
    )
    assert _training.interrupted(Path(), first) == told


def test_processes_that_begin_again_go_on_with_their_run(
    team: Callable[..., Team], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path("run \udcff")
    ctx = click.Context(click.Command("train"))
    first = team(0)
    assert first.kept_out() is None
    first.keep_out(out.absolute())
    again = team(0, life=1)
    assert again.is_restart and again.kept_out() == out.absolute()
    monkeypatch.setattr(runs, "settings_of", lambda folder: folder)
    status = "running"
    monkeypatch.setattr(runs, "read_manifest", lambda folder: {"status": status})
    monkeypatch.setattr("fastmte.cli._training_settings.new_settings", lambda *_: "new")
    monkeypatch.setattr(
        "fastmte.cli._training_settings.free_out", lambda given, settings: given["out"]
    )
    given = {"resume": False, "out": None}
    assert settled(ctx, given, None, again) == ("new", out.absolute(), False)
    out.mkdir()
    (out / runs.MANIFEST).write_text("{}")
    assert settled(ctx, given, None, again) == (out.absolute(), out.absolute(), True)
    status = "finished"
    assert settled(ctx, given, None, again) == (None, out.absolute(), True)
    assert team(1, life=1).hear() is None


def test_what_torchrun_starts_again_needs_a_name(
    team: Callable[..., Team], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    ctx, first = click.Context(click.Command("train")), team(0)
    with pytest.raises(click.UsageError, match="--max-restarts: needs --out, to find the run"):
        settled(ctx, {"out": None}, None, first)


def test_every_process_has_a_gpu_of_its_own(
    team: Callable[..., Team], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastmte.cli._team.device_of", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert team(1).device("cuda") == torch.device("cuda:1")
    assert team(1).device("cpu") == torch.device("cpu")
    with pytest.raises(click.BadParameter, match="cuda:1: 2 processes need a GPU each"):
        team(1).device("cuda:1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(click.BadParameter, match="4 processes need a GPU each, there are 2"):
        team(1).device("cuda")
