"""A training of fused members is as many trainings of plain networks by torch's own means."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from staged import Plain, Staged, plain_state, without_biases
from torch import Tensor
from trainings import MEMBER_OF_LABEL, songs

from fastmte.data.batches import LabelledMels, batch_order, random_starts
from fastmte.ensemble import FusedEnsemble
from fastmte.models import _registry
from fastmte.models.layers import Dropout
from fastmte.plan.training import TrainPlan
from fastmte.train import TrainConfig, fit
from fastmte.train.member import macro_roc_auc

FRAMES = 12
CONFIG = TrainConfig(
    epochs=40,
    batch_size=8,
    learning_rate=(2e-3, 5e-3, 1e-3),
    patience=4,
    plateau_patience=1,
    frames=FRAMES,
    crop="random",
    seed=7,
    plan="fused",
    precision="fp32",
)


@pytest.fixture(autouse=True)
def staged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_registry._BUILDERS, "staged", Staged)


def whole(dtype: torch.dtype) -> FusedEnsemble:
    return FusedEnsemble.create("staged", MEMBER_OF_LABEL, seed=3).to(dtype)


class Alone:
    """One member as a plain network, trained by torch's Adam and scheduler."""

    def __init__(self, member: int, dtype: torch.dtype) -> None:
        self.member, self.dtype = member, dtype
        self.labels = [i for i, owner in enumerate(MEMBER_OF_LABEL) if owner == member]
        start = whole(dtype).select([member]).state_dict()
        self.net = Plain(len(self.labels)).to(dtype)
        self.net.load_state_dict(plain_state(start))
        self.adam = torch.optim.Adam(self.net.parameters(), CONFIG.rates(3)[member])
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(self.adam, "min", patience=1)
        self.dropout = Dropout([member], Staged.dropout)
        self.step, self.scores, self.best = 0, [], {}
        self.rates = set()

    def train(
        self,
        data: LabelledMels,
        validation: LabelledMels,
        epochs: int = CONFIG.epochs,
        patience: int | None = 4,
    ) -> None:
        for epoch in range(1, epochs + 1):
            starts = random_starts(data.lengths, FRAMES, CONFIG.seed, epoch)
            for rows in batch_order(len(data), CONFIG.batch_size, CONFIG.seed, epoch):
                self._step(*data.batch(rows, FRAMES, starts[rows]))
            loss, score = self._validate(validation)
            self.plateau.step(loss)
            self.rates.add(self.adam.param_groups[0]["lr"])
            if score > max(self.scores, default=-math.inf):
                self.best = {k: v.clone() for k, v in self.net.state_dict().items()}
            self.scores.append(score)
            best = self.scores.index(max(self.scores))
            if patience is not None and len(self.scores) - 1 - best >= patience:
                return

    def _step(self, mels: Tensor, truth: Tensor) -> None:
        self.dropout.set_key(CONFIG.seed, self.step)
        kept = self.dropout(torch.ones(len(mels), 1, Staged.n_features, dtype=self.dtype))[:, 0]
        self.adam.zero_grad()
        logits = self.net.train()(mels.to(self.dtype), kept)
        target = truth[:, self.labels].to(self.dtype)
        F.binary_cross_entropy_with_logits(logits, target).backward()
        self.adam.step()
        self.step += 1

    @torch.no_grad()
    def _validate(self, data: LabelledMels) -> tuple[float, float]:
        mels, truth = data.batch(torch.arange(len(data)), FRAMES)
        logits, truth = self.net.eval()(mels.to(self.dtype)), truth[:, self.labels]
        loss = F.binary_cross_entropy_with_logits(logits, truth.to(self.dtype)).item()
        return loss, macro_roc_auc(logits.double().numpy(), truth.numpy())


def errors(fused: FusedEnsemble, alone: list[Alone]) -> dict[str, float]:
    """Return how far each tensor of the state is from the plain networks', at most."""
    rows, worst = fused.member_rows(), {}
    for one in alone:
        state = {n: v[rows[n] == one.member] for n, v in fused.state_dict().items()}
        state, expected = without_biases(plain_state(state)), without_biases(one.best)
        assert set(state) == set(expected)
        for name, value in state.items():
            error = float((value.double() - expected[name].double()).abs().max())
            worst[name] = max(worst.get(name, 0.0), error)
    return worst


@pytest.mark.parametrize("is_fused", [True, False])
def test_members_become_what_plain_networks_become(
    monkeypatch: pytest.MonkeyPatch, is_fused: bool
) -> None:
    data, validation = songs(49, 0), songs(24, 1)
    steps: list[int] = []
    run = TrainPlan.__call__

    def counted(plan: TrainPlan, *args: Any) -> Tensor:
        assert plan.is_fused
        steps.append(plan.ensemble.n_members)
        return run(plan, *args)

    monkeypatch.setattr(TrainPlan, "__call__", counted)
    fused = fit(whole(torch.float64), data, validation, CONFIG, is_fused=is_fused)
    alone = [Alone(member, torch.float64) for member in range(3)]
    for one in alone:
        one.train(data, validation)
    epochs = [len(one.scores) for one in alone]
    assert len(set(epochs)) == 3 and max(epochs) >= 15, epochs
    assert all(len(one.rates) > 1 for one in alone), "every rate must have fallen"
    assert sum(steps) == sum(one.step for one in alone)  # who has stopped costs nothing more
    for name, error in errors(fused, alone).items():
        # What follows the input's normalisation takes its scale away again, so its gradient is
        # almost 0, and like a bias's for a good part torch's rounding; see ``without_biases``.
        # The running means still hold a share of the biases of earlier steps.
        is_rounding = name.startswith("bn_init") or "running" in name
        assert error <= (1e-9 if is_rounding else 1e-12), (name, error)


def test_float32_stays_closer_to_float64_than_plain_networks_do() -> None:
    """After 4 epochs probabilities are within 1e-5; torch's own are about 1e-3 away.

    Theirs wander off with what has no gradient but rounding; see ``without_biases``.
    """
    # Songs of which no tier's rounding takes a value over a ReLU's corner or to another maximum,
    # as it may: the difference then grows to 1e-3 like torch's.
    data, validation = songs(49, 2), songs(24, 3)
    config = replace(CONFIG, epochs=4, patience=None)
    mels = validation.batch(torch.arange(len(validation)), FRAMES)[0]
    exact, mine = (
        fit(whole(dtype), data, validation, config)(mels.to(dtype)).sigmoid()
        for dtype in (torch.float64, torch.float32)
    )
    torch.testing.assert_close(mine.double(), exact, rtol=0, atol=1e-5)
    plain = Alone(0, torch.float32)
    plain.train(data, validation, epochs=4, patience=None)
    own = exact[:, plain.labels]
    error = (mine[:, plain.labels] - own).abs().max()
    assert error < (plain.net(mels).sigmoid() - own).abs().max()
