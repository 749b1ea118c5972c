"""A fused member is what it would have been alone, whatever happens to the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import Tiny
from torch import Tensor
from trainings import CONFIG, FRAMES, alone, of_member, records, songs, whole

from fastmte.data.batches import LabelledMels
from fastmte.errors import InputError
from fastmte.models import _registry
from fastmte.train import TrainConfig, fit
from fastmte.train.group import Group


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Tiny)


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
