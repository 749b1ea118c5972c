"""A training that was cut off, by whatever, goes on to the bits it would have had."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from tiny import Tiny
from torch import Tensor
from trainings import CONFIG, FRAMES, alone, assert_same_bits, of_member, records, songs, whole

from fastmte.data.batches import LabelledMels
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.models import _registry
from fastmte.train import TrainConfig, fit, passes
from fastmte.train.group import Group
from fastmte.train.records import METRICS, last_batch_size
from fastmte.train.state import SETTINGS, STATE, save_state


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Tiny)


@pytest.fixture(scope="module")
def data() -> tuple[LabelledMels, LabelledMels]:
    return songs(49, 0), songs(24, 1)


@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("epochs", [1, 6, 11])
def test_resume_gives_the_same_bits(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path, epochs: int, is_fused: bool
) -> None:
    expected = fit(whole(), *data, CONFIG, tmp_path / "whole", is_fused=is_fused)

    class Stop(Exception):
        pass

    def stop(epoch: int, step: int, steps: int) -> None:
        if epoch == epochs + 1 and step == 3:
            raise Stop

    with pytest.raises(Stop):
        fit(whole(), *data, CONFIG, tmp_path / "parts", on_step=stop, is_fused=is_fused)
    assert len(records(tmp_path / "parts")) == epochs
    resumed = fit(whole(), *data, CONFIG, tmp_path / "parts", True, is_fused=is_fused)
    assert_same_bits(resumed, expected)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")


def test_a_full_disk_keeps_the_last_state(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(epochs=2, batch_size=16, frames=FRAMES)
    fit(whole(), *data, config, tmp_path)
    kept = (tmp_path / STATE).read_bytes()

    def full(tensors: dict, path: Path, metadata: dict) -> None:
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left"):
        save_state(tmp_path, {}, {"a": torch.zeros(1)})
    assert (tmp_path / STATE).read_bytes() == kept
    assert {path.name for path in tmp_path.iterdir()} == {METRICS, SETTINGS, STATE}


def test_a_training_may_be_resumed_in_the_other_grouping(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path
) -> None:
    def stop(epoch: int, step: int, steps: int) -> None:
        if epoch == 8:
            raise KeyboardInterrupt

    expected = fit(whole(), *data, CONFIG, is_fused=False)
    with pytest.raises(KeyboardInterrupt):
        fit(whole(), *data, CONFIG, tmp_path, on_step=stop, is_fused=True)
    resumed = fit(whole(), *data, CONFIG, tmp_path, True, is_fused=False)
    for name, value in resumed.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=0, atol=1e-10)


def test_a_finished_training_resumes_to_itself(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path
) -> None:
    first = fit(whole(), *data, CONFIG, tmp_path)
    seen: list[dict] = []
    assert_same_bits(fit(whole(), *data, CONFIG, tmp_path, True, seen.append), first)
    assert seen == []


def test_a_record_without_a_state_is_dropped(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path
) -> None:
    config = TrainConfig(epochs=4, batch_size=16, frames=FRAMES)
    expected = fit(whole(), *data, config, tmp_path)
    kept = records(tmp_path)
    with open(tmp_path / METRICS, "a") as file:
        file.write('{"epoch": 5}\n{"epo')
    (tmp_path / ".state.tmp").mkdir()
    (tmp_path / ".state.tmp" / "half").write_bytes(b"of a save that was killed")
    assert_same_bits(fit(whole(), *data, config, tmp_path, resume=True), expected)
    assert records(tmp_path) == kept
    assert {path.name for path in tmp_path.iterdir()} == {METRICS, SETTINGS, STATE}


def test_resume_refuses_other_settings_and_data(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path
) -> None:
    config = TrainConfig(epochs=1, batch_size=16, frames=FRAMES)
    fit(whole(), *data, config, tmp_path)
    with pytest.raises(
        InputError, match=r"cannot resume, epochs was 1, is 2; seed was 0, is 5"
    ) as e:
        other = TrainConfig(epochs=2, batch_size=16, frames=FRAMES, seed=5)
        fit(whole(), *data, other, tmp_path, resume=True)
    assert "batch_size" not in str(e.value)
    with pytest.raises(InputError, match="resume, the training songs are not the same; train"):
        fit(whole(), songs(49, 5), data[1], config, tmp_path, resume=True)
    with pytest.raises(InputError, match="member_of_label was"):
        other = FusedEnsemble.create("tiny", [0] * 10).double()
        fit(other, *data, config, tmp_path, resume=True)
    (tmp_path / STATE).write_bytes(b"12345678 no state")
    with pytest.raises(InputError, match="no state of a training"):
        fit(whole(), *data, config, tmp_path, resume=True)
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        fit(whole(), *data, config, tmp_path, resume=True)


def short_of_memory(
    monkeypatch: pytest.MonkeyPatch, epoch: int, place: str, error: Exception
) -> None:
    """Let batches of more than 4 songs not fit into memory from an epoch on."""
    seen = {"epoch": 0, "steps": 0}
    order, step, validate = passes.batch_order, Group.step, Group.validate

    def ordered(n_songs: int, batch_size: int, seed: int, now: int) -> list[Tensor]:
        seen.update(epoch=now, steps=0)
        return order(n_songs, batch_size, seed, now)

    def stepped(group: Group, mels: Tensor, *args: Any) -> Tensor:
        seen["steps"] += 1
        late = place == "validation" or (place == "middle" and seen["steps"] < 8)
        if seen["epoch"] >= epoch and len(mels) > 5 and not late:
            group.ensemble.backbone.bn1.running_mean.fill_(7.0)  # as a pass that was cut off
            raise error
        return step(group, mels, *args)

    def validated(group: Group, scorer: Any, mels: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
        if seen["epoch"] >= epoch and len(mels) > 5:
            raise error
        return validate(group, scorer, mels, *args)

    monkeypatch.setattr(passes, "batch_order", ordered)
    monkeypatch.setattr(Group, "step", stepped)
    monkeypatch.setattr(Group, "validate", validated)


@pytest.mark.parametrize("has_folder", [True, False])
@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("start", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
        ("middle", RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")),
        ("validation", MemoryError()),
    ],
)
def test_an_epoch_without_memory_begins_again_with_half_the_batch(
    data: tuple[LabelledMels, LabelledMels],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    error: Exception,
    has_folder: bool,
) -> None:
    train, validation = data
    folder = tmp_path if has_folder else None
    history: list[dict] = []
    told = []
    with monkeypatch.context() as patch:
        short_of_memory(patch, 12, place, error)
        fused = fit(
            whole(),
            *data,
            CONFIG,
            folder,
            on_epoch=history.append,
            is_fused=False,
            on_smaller=lambda *numbers: told.append(numbers),
        )
    assert told == [(12, 4)]
    assert [one["batch_size"] for one in history] == [8] * 11 + [4] * (len(history) - 11)
    for member in range(3):
        state, expected, _ = alone(member, train, validation, sizes=(8,) * 11 + (4,) * 30)
        mine = of_member(history, member)
        assert len(mine) == len(expected)
        got = [(one["validation_loss"], one["roc_auc"]) for one in mine]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
        for name, value in fused.select([member]).state_dict().items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=1e-10)


def test_the_smaller_batch_survives_an_interruption(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted(folder: Path, until: int, resume: bool = False) -> FusedEnsemble:
        def stop(epoch: int, step: int, steps: int) -> None:
            if epoch == until:
                raise KeyboardInterrupt

        return fit(whole(), *data, CONFIG, folder, resume, on_step=stop)

    error = torch.OutOfMemoryError("CUDA out of memory")
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="epoch 3 begins again"):
        short_of_memory(patch, 3, "start", error)
        expected = fitted(tmp_path / "whole", 0)
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "parts", 3)
    assert last_batch_size(tmp_path / "parts") == 8  # of epoch 2
    resumed = fitted(tmp_path / "parts", 0, True)  # with memory enough
    assert_same_bits(resumed, expected)
    assert records(tmp_path / "parts") == records(tmp_path / "whole")
    assert last_batch_size(tmp_path / "parts") == 4


def test_memory_for_two_songs_is_the_least(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def broken(*_: Any) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Group, "step", never)
    with (
        pytest.warns(UserWarning, match="begins again") as caught,
        pytest.raises(InputError, match="not enough memory on cpu for batches of 2 songs, the few"),
    ):
        fit(whole(), *data, CONFIG, tmp_path)
    assert [str(one.message).split("batches of ")[1] for one in caught] == ["4 songs", "2 songs"]
    monkeypatch.setattr(Group, "step", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        fit(whole(), *data, CONFIG, tmp_path)


KILLED = """
import sys, torch
sys.path[:0] = [{tests!r}]
import trainings as t
from tiny import Tiny
from fastmte.models import _registry
from fastmte.train import fit
_registry._BUILDERS["tiny"] = Tiny
torch.set_num_threads(1)
ready = lambda epoch, step, steps: print(epoch, flush=True)
fit(t.whole(), t.songs(49, 0), t.songs(24, 1), t.CONFIG, {folder!r}, on_step=ready)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_killed_training_resumes_to_the_same_bits(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path
) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run"))
    root = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "5":
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = fit(whole(), *data, CONFIG)
        resumed = fit(whole(), *data, CONFIG, tmp_path / "run", resume=True)
    finally:
        torch.set_num_threads(n_threads)
    assert_same_bits(resumed, expected)
