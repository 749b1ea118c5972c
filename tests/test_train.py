"""A fused member is what it would have been alone, whatever happens to the others."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from tiny import Tiny
from torch import Tensor

from fastmte.data.batches import LabelledMels, batch_order, random_starts
from fastmte.data.store import MelStore
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.mel import MelConfig
from fastmte.models import _registry
from fastmte.train import MemberAdam, Plateau, Stopping, TrainConfig, fit, loop
from fastmte.train.clip import clip_members_
from fastmte.train.group import Group
from fastmte.train.member import macro_roc_auc
from fastmte.train.records import METRICS, last_batch_size
from fastmte.train.state import SETTINGS, STATE, save_state

FRAMES = 8
MEMBER_OF_LABEL = [0, 1, 2, 0, 1, 2, 2, 0, 1, 1]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Tiny)


def songs(n: int, seed: int, lengths: tuple[int, ...] = (12, 20)) -> LabelledMels:
    """Songs whose loudness in a few bands tells, with some noise, which labels they have."""
    random = np.random.default_rng(seed)
    labels = random.random((n, len(MEMBER_OF_LABEL))) < 0.35
    flat, offsets, frames = [], [], []
    for song in range(n):
        mel = random.normal(-30, 10, (96, lengths[song % len(lengths)]))
        for label in np.flatnonzero(labels[song]):
            mel[9 * label : 9 * label + 9] += 6
        offsets.append(sum(map(len, flat)))
        flat.append(mel.astype(np.float16).ravel())
        frames.append(mel.shape[1])
    table = {"id": [str(i) for i in range(n)], "length": frames, "start": [0] * n}
    store = MelStore(
        torch.from_numpy(np.concatenate(flat)),
        torch.tensor(offsets),
        table | {"n_frames": frames},
        MelConfig.of("mtg2019"),
        digest=str(seed),
    )
    return LabelledMels(store, np.arange(n), labels)


CONFIG = TrainConfig(
    epochs=30,
    batch_size=8,
    learning_rate=(1e-2, 2e-3, 5e-3),
    plateau_patience=1,
    frames=FRAMES,
    crop="random",
    seed=7,
)


def whole(dtype: torch.dtype = torch.float64) -> FusedEnsemble:
    return FusedEnsemble.create("tiny", MEMBER_OF_LABEL, seed=8).to(dtype)


def alone(
    member: int,
    train: LabelledMels,
    validation: LabelledMels,
    clip: float | None = None,
    sizes: list[int] | None = None,
) -> tuple[dict, list, float]:
    """Train one member by itself with torch's own optimiser, clipping and scheduler."""
    labels = [i for i, owner in enumerate(MEMBER_OF_LABEL) if owner == member]
    model = FusedEnsemble.create("tiny", [0] * len(labels), 8, [member]).double()
    adam = torch.optim.Adam(model.parameters(), CONFIG.rates(3)[member])
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, "min", patience=1)
    best, best_state, bad, step, history = -math.inf, {}, 0, 0, []
    truth = torch.from_numpy(validation.labels[:, labels])
    for epoch in range(1, CONFIG.epochs + 1):
        model.train()
        starts = random_starts(train.lengths, FRAMES, CONFIG.seed, epoch)
        size = sizes[epoch - 1] if sizes else CONFIG.batch_size
        for rows in batch_order(len(train), size, CONFIG.seed, epoch):
            mels, target = train.batch(rows, FRAMES, starts[rows])
            model.set_dropout_key(CONFIG.seed, step)
            adam.zero_grad()
            logits = model(mels.double())
            F.binary_cross_entropy_with_logits(logits, target[:, labels].double()).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            adam.step()
            step += 1
        model.eval()
        with torch.no_grad():
            logits = model(validation.batch(torch.arange(len(validation)), FRAMES)[0].double())
        loss = F.binary_cross_entropy_with_logits(logits, truth.double()).item()
        score = macro_roc_auc(logits.numpy(), truth.numpy())
        history.append((loss, score))
        plateau.step(loss)
        bad += 1
        if score > best:
            best, bad = score, 0
            best_state = {k: v.clone() for k, v in model.state_dict().items()}
        if bad >= Tiny.early_stop_patience:
            break
    return best_state, history, adam.param_groups[0]["lr"]


def of_member(history: list[dict], member: int) -> list[dict]:
    """The records of the epochs in which a member was trained."""
    own = [epoch["members"][member] for epoch in history]
    assert {one["member"] for one in own} == {member}
    assert all((one["validation_loss"] is None) == (one["learning_rate"] is None) for one in own)
    return [one for one in own if one["learning_rate"] is not None]


def records(folder: Path) -> list[dict]:
    lines = (folder / METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same_bits(left: FusedEnsemble, right: FusedEnsemble) -> None:
    for name, value in left.state_dict().items():
        assert torch.equal(value, right.state_dict()[name]), name


@pytest.fixture(scope="module")
def data() -> tuple[LabelledMels, LabelledMels]:
    return songs(49, 0), songs(24, 1)


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("is_fused", [True, False])
def test_members_become_what_they_would_be_alone(
    data: tuple[LabelledMels, LabelledMels],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_fused: bool,
    clip: float | None,
) -> None:
    train, validation = data
    steps = []
    step = Group.step

    def counted(group: Group, *args: Any) -> Tensor:
        steps.extend(member.member for member in group.members)
        return step(group, *args)

    monkeypatch.setattr(Group, "step", counted)
    config = replace(CONFIG, clip=clip)
    fused = fit(whole(), train, validation, config, tmp_path, is_fused=is_fused)
    history = records(tmp_path)
    epochs = []
    for member in range(3):
        state, expected, rate = alone(member, train, validation, clip)
        mine = of_member(history, member)
        epochs.append(len(expected))
        assert len(mine) == len(expected)
        got = [(one["validation_loss"], one["roc_auc"]) for one in mine]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
        assert mine[-1]["retired"] == (len(expected) < CONFIG.epochs)
        assert mine[-1]["learning_rate"] >= rate * (1 - 1e-12)
        for name, value in fused.select([member]).state_dict().items():
            # The normalisation of the input has a gradient only where the border is padded, so
            # that Adam blows its rounding up.
            torch.testing.assert_close(value, state[name], rtol=0, atol=1e-11)
    assert len(set(epochs)) == 3, f"the members must stop at different epochs, got {epochs}"
    assert max(epochs) >= 14
    n_batches = 6  # of 49 songs, as the last one joins the batch before
    assert [steps.count(member) for member in range(3)] == [n * n_batches for n in epochs]
    assert not fused.training


def test_without_patience_the_last_weights_stay(data: tuple[LabelledMels, LabelledMels]) -> None:
    config = TrainConfig(epochs=3, batch_size=16, patience=None, frames=FRAMES, learning_rate=1e-2)
    seen: list[dict] = []
    last = fit(whole(), *data, config, on_epoch=seen.append)
    more = fit(
        whole(),
        *data,
        TrainConfig(epochs=3, batch_size=16, patience=2, frames=FRAMES, learning_rate=1e-2),
    )
    assert [one["epoch"] for one in seen] == [1, 2, 3]
    assert not any(member["retired"] for one in seen for member in one["members"])
    assert last.backbone.bn1.num_batches_tracked.tolist() == [
        9,
        9,
        9,
    ]  # the last song joins a batch
    is_best = [one["members"][0]["best_epoch"] for one in seen][-1] == 3
    same = torch.equal(last.select([0]).head.weight, more.select([0]).head.weight)
    assert same == is_best


def test_training_learns(data: tuple[LabelledMels, LabelledMels]) -> None:
    seen: list[dict] = []
    config = TrainConfig(epochs=12, batch_size=8, learning_rate=1e-2, frames=FRAMES)
    fit(whole(torch.float32), *data, config, on_epoch=seen.append)
    assert seen[-1]["train_loss"] < 0.8 * seen[0]["train_loss"]


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
    order, step, validate = loop.batch_order, Group.step, Group.validate

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

    def validated(group: Group, mels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        if seen["epoch"] >= epoch and len(mels) > 5:
            raise error
        return validate(group, mels, truth)

    monkeypatch.setattr(loop, "batch_order", ordered)
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
        state, expected, _ = alone(member, train, validation, sizes=[8] * 11 + [4] * 30)
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
import test_train as t
from fastmte.models import _registry
_registry._BUILDERS["tiny"] = t.Tiny
torch.set_num_threads(1)
ready = lambda epoch, step, steps: print(epoch, flush=True)
t.fit(t.whole(), t.songs(49, 0), t.songs(24, 1), t.CONFIG, {folder!r}, on_step=ready)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 2}, "frames: tiny: mels must have at least 4 frames, got 2"),
        ({"learning_rate": (1e-3, 1e-3)}, "learning_rate must be 3 numbers"),
        ({"learning_rate": 1e30}, r"training loss is nan in epoch \d; lower the learning rate"),
    ],
)
def test_settings_that_cannot_train(
    data: tuple[LabelledMels, LabelledMels], tmp_path: Path, change: dict, message: str
) -> None:
    config = TrainConfig(**({"frames": FRAMES, "batch_size": 8, "epochs": 4} | change))
    with pytest.raises(InputError, match=message):
        fit(whole(torch.float32), *data, config, tmp_path / "run")


def test_data_that_cannot_train(data: tuple[LabelledMels, LabelledMels]) -> None:
    train, validation = data
    config = TrainConfig(frames=FRAMES)
    none = LabelledMels(train.store, train.index[:0], train.labels[:0])
    one = LabelledMels(train.store, train.index[:1], train.labels[:1])
    fewer = LabelledMels(train.store, train.index, train.labels[:, :3])
    flat = LabelledMels(validation.store, validation.index, np.zeros_like(validation.labels))
    for broken, message in [
        ((none, validation), "training songs: there are none"),
        ((train, none), "validation songs: there are none"),
        ((one, validation), "normalisation needs 2, got 1"),
        ((fewer, validation), "have 3 labels, the ensemble has 10"),
        ((train, flat), "member 0: no label that some validation song has"),
    ]:
        with pytest.raises(InputError, match=message):
            fit(whole(), *broken, config)
    train.store.n_frames[1] = 21  # of which 20 are stored
    try:
        with pytest.raises(InputError, match="holds 20 frames a song, 21 are wanted"):
            fit(whole(), *data, TrainConfig(frames=21, crop="random"))
    finally:
        train.store.n_frames[1] = 20
    with pytest.raises(ValueError, match="labels must be"):
        LabelledMels(train.store, train.index, train.labels[:3])


@pytest.mark.parametrize(
    "setting",
    [
        {"epochs": 0},
        {"batch_size": 1},
        {"frames": 0},
        {"patience": 0},
        {"patience": "never"},
        {"plateau_patience": -1},
        {"plateau_factor": 1.0},
        {"crop": "left"},
        {"clip": 0.0},
        {"clip": math.nan},
        {"clip": math.inf},
        {"learning_rate": 0.0},
        {"learning_rate": (1e-3, -1.0)},
    ],
)
def test_settings_are_checked(setting: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        TrainConfig(**setting)


def test_the_defaults_are_the_papers() -> None:
    config = TrainConfig()
    assert (config.learning_rate, config.batch_size, config.epochs) == (1e-4, 64, 100)
    assert (config.plateau_patience, config.plateau_factor, config.crop) == (10, 0.1, "centre")
    assert config.frames == 1366
    assert _registry.create_backbone("resnet18").early_stop_patience == 30
    assert _registry.create_backbone("vgg").early_stop_patience is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_has_torchs_bits(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(0)
    shapes = [(6, 3, 3), (4,), (6,)]
    rows = [torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 1, 0])]
    rates = [[1e-3, 3e-2], [1e-3, 3e-3], [5e-4, 5e-4]]
    start = [torch.randn(shape, generator=random, dtype=dtype) for shape in shapes]
    mine = {str(i): p.clone().requires_grad_() for i, p in enumerate(start)}
    adam = MemberAdam(mine.items(), {"0": rows[0], "1": rows[1]}, rates[0])
    parts = []
    for member in range(2):
        masks = [rows[0] == member, rows[1] == member, slice(None)]
        own = [p[mask].clone().requires_grad_() for p, mask in zip(start, masks, strict=True)]
        parts.append((own, masks, torch.optim.Adam(own, rates[0][member], foreach=False)))
    for step in range(30):
        if step % 10 == 0:
            adam.set_rates(rates[step // 10])
        gradients = [torch.randn(p.shape, generator=random, dtype=dtype) for p in start]
        for parameter, gradient in zip(mine.values(), gradients, strict=True):
            parameter.grad = gradient.clone()
        adam.step()
        for member, (own, masks, torch_adam) in enumerate(parts):
            torch_adam.param_groups[0]["lr"] = rates[step // 10][member]
            for p, gradient, mask in zip(own, gradients, masks, strict=True):
                p.grad = gradient[mask].clone()
            torch_adam.step()
    for member, (own, masks, _) in enumerate(parts):
        for i in range(2 if member else 3):  # a parameter without rows is the first member's
            assert torch.equal(mine[str(i)][masks[i]], own[i]), (member, i)


def test_adam_skips_what_has_no_gradient_and_takes_its_moments_over() -> None:
    used, unused = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    adam = MemberAdam([("used", used), ("unused", unused)], {}, [0.1])

    def closure() -> Tensor:
        loss = (used**2).sum()
        loss.backward()
        return loss

    assert adam.step(closure).item() == 2.0
    assert set(adam.moments()) == {"used.exp_avg", "used.exp_avg_sq"}
    assert torch.equal(unused, torch.ones(2))
    other = MemberAdam([("used", used), ("unused", unused)], {}, [0.1])
    other.load_moments(adam.moments(), 1)
    assert torch.equal(other.moments()["used.exp_avg"], adam.moments()["used.exp_avg"])
    assert other.state[used]["step"] == 1
    with pytest.raises(ValueError, match="rates must be positive"):
        other.set_rates([0.0])


@pytest.mark.parametrize("most", [1e-3, 1.0, 1e3])
def test_clipping_is_torchs_for_each_member(most: float) -> None:
    random = torch.Generator().manual_seed(0)
    shapes = {"a": (6, 3, 3), "b": (9,), "c": (3, 0)}
    rows = {
        "a": torch.tensor([0, 0, 1, 1, 2, 2]),
        "b": torch.tensor([2, 0, 0, 1, 0, 2, 2, 1, 0]),
        "c": torch.tensor([0, 1, 2]),
    }
    gradients = {
        name: torch.randn(shape, generator=random, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    gradients["a"] = gradients["a"].mT.contiguous().mT  # of any layout
    parts = []
    for member in range(3):
        own = {name: g[rows[name] == member].clone() for name, g in gradients.items()}
        parameters = [torch.zeros_like(g).requires_grad_() for g in own.values()]
        for parameter, gradient in zip(parameters, own.values(), strict=True):
            parameter.grad = gradient
        parts.append((parameters, torch.nn.utils.clip_grad_norm_(parameters, most)))
    norms = clip_members_(gradients, rows, most, 4)
    torch.testing.assert_close(norms[:3], torch.stack([norm for _, norm in parts]))
    assert norms[3] == 0
    for member, (parameters, _) in enumerate(parts):
        for parameter, (name, gradient) in zip(parameters, gradients.items(), strict=True):
            own_rows = gradient[rows[name] == member]
            torch.testing.assert_close(own_rows, parameter.grad, rtol=1e-14, atol=0)
    assert clip_members_({}, {}, most, 2).tolist() == [0, 0]


def test_clipping_keeps_a_spoilt_gradient_to_its_member() -> None:
    gradient = torch.tensor([[3.0, 4.0], [torch.nan, 1.0], [torch.inf, 1.0]])
    norms = clip_members_({"a": gradient}, {"a": torch.arange(3)}, 1.0, 3)
    assert norms[0] == 5
    assert norms[1].isnan()
    torch.testing.assert_close(gradient[0], torch.tensor([0.6, 0.8]))
    assert gradient[1].isnan().all()


def test_plateau_is_torchs() -> None:
    random = np.random.default_rng(0)
    losses = [*np.abs(np.cumsum(random.normal(-0.1, 1, 400))), *[1e-9] * 200, math.nan, 0.5]
    parameter = torch.zeros(1, requires_grad=True)
    adam = torch.optim.Adam([parameter], 1e-2)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, "min", patience=3, factor=0.5)
    mine, rate, seen = Plateau(patience=3, factor=0.5), 1e-2, set()
    for loss in losses:
        theirs.step(loss)
        rate = mine.rate_after(loss, rate)
        assert rate == adam.param_groups[0]["lr"]
        seen.add(rate)
    assert len(seen) > 10
    assert mine.rate_after(math.inf, 1e-8) == 1e-8


def test_stopping_counts_epochs_without_a_better_score() -> None:
    stopping = Stopping(patience=2)
    assert stopping.is_better(0.5, 1)
    assert not stopping.is_better(0.5, 2)
    assert not stopping.is_over
    assert stopping.is_better(0.6, 3)
    assert not stopping.is_better(math.nan, 4)
    assert not stopping.is_better(0.1, 5)
    assert stopping.is_over
    assert (stopping.best, stopping.best_epoch) == (0.6, 3)
    never = Stopping(patience=None)
    assert not any(never.is_better(-math.inf, epoch) for epoch in range(100))
    assert not never.is_over


def test_macro_roc_auc_is_of_the_labels_that_have_one() -> None:
    scores = np.array([[0.1, 0.5, 3.0], [0.2, 0.5, 1.0], [0.3, 0.9, 2.0]])
    truth = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1]], dtype=bool)
    assert macro_roc_auc(scores, truth) == pytest.approx((0.5 + 1.0) / 2)
    assert math.isnan(macro_roc_auc(scores[:, 2:], truth[:, 2:]))
    assert math.isnan(macro_roc_auc(scores * math.nan, truth))


def test_every_song_is_in_each_epoch_once() -> None:
    batches = batch_order(65, 16, seed=1, epoch=2)
    assert [len(batch) for batch in batches] == [16, 16, 16, 17]
    assert sorted(torch.cat(batches).tolist()) == list(range(65))
    again = torch.cat(batch_order(65, 16, seed=1, epoch=2))
    assert torch.equal(torch.cat(batches), again)
    assert not torch.equal(again, torch.cat(batch_order(65, 16, seed=1, epoch=3)))
    assert not torch.equal(again, torch.cat(batch_order(65, 16, seed=2, epoch=2)))
    assert [len(batch) for batch in batch_order(1, 16, 0, 1)] == [1]


def test_random_starts_fit_and_reach_both_ends() -> None:
    lengths = np.array([5, 8, 10] * 300)
    starts = random_starts(lengths, 8, seed=0, epoch=1).numpy().reshape(300, 3)
    assert (starts[:, :2] == 0).all()
    assert set(starts[:, 2]) == {0, 1, 2}
    assert not np.array_equal(starts.ravel(), random_starts(lengths, 8, 0, 2).numpy())
