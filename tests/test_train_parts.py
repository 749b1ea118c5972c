"""The parts of a training, each beside torch's own: Adam, clipping, plateau, stopping, batches."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastmte.data.batches import batch_order, random_starts
from fastmte.models import _registry
from fastmte.train import MemberAdam, Plateau, Stopping, TrainConfig
from fastmte.train.clip import clip_members_
from fastmte.train.member import macro_roc_auc


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
