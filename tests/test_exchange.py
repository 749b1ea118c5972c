"""A training shared by several processes is that of one process with the whole batches."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processes import together
from staged import Staged, Strided
from tiny import Tiny
from trainings import MEMBER_OF_LABEL, assert_same_bits, records, songs

from fastmte import synchronised, training_ops
from fastmte.ensemble import FusedEnsemble
from fastmte.exchange import Exchange, LostError
from fastmte.models import _registry
from fastmte.train import SmallerBatchesError, TrainConfig, fit
from fastmte.train.group import Group
from fastmte.train.records import METRICS
from fastmte.train.state import remove_state

FRAMES = 12
CONFIG = TrainConfig(
    epochs=4,
    batch_size=7,
    learning_rate=(2e-3, 5e-3, 1e-3),
    patience=1,
    plateau_patience=0,
    frames=FRAMES,
    crop="random",
    clip=1.0,
    seed=7,
    precision="fp32",
)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, build in (("staged", Staged), ("strided", Strided), ("tiny", Tiny)):
        monkeypatch.setitem(_registry._BUILDERS, name, build)


def whole(backbone: str = "staged", dtype: torch.dtype = torch.float64) -> FusedEnsemble:
    return FusedEnsemble.create(backbone, MEMBER_OF_LABEL, seed=3).to(dtype)


@pytest.mark.parametrize("n_songs", [1, 2, 3, 4, 5, 7, 8, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_every_song_of_a_batch_is_one_process_s(n_songs: int, size: int) -> None:
    rows, taken = torch.randperm(n_songs), []
    for rank in range(size):
        exchange = Exchange(rank, size)
        own = exchange.take(rows)
        assert exchange.has_songs == (rank < max(1, n_songs // 2))
        assert len(own) >= min(2, n_songs)
        assert exchange.count(5 * len(own)) == 5 * n_songs
        if exchange.has_songs:
            assert torch.equal(own, rows[exchange.first :][: len(own)])
            assert exchange.portion == len(own) / n_songs
            taken.append(own)
    assert torch.equal(torch.cat(taken), rows)


@pytest.mark.parametrize("is_whole", [True, False])
def test_moments_are_those_of_all_songs(is_whole: bool) -> None:
    x = torch.randn(7, 5, dtype=torch.float64) * 3 + 100

    def work(exchange: Exchange) -> tuple[torch.Tensor, torch.Tensor]:
        own = x[exchange.take(torch.arange(7))]
        if not exchange.has_songs:
            own = own * torch.nan  # of which nothing may count
        spread = own.T.cov(correction=0) if is_whole else own.var(0, correction=0)
        return exchange.moments(own.mean(0), spread)

    results = together(4, work)
    expected = x.T.cov(correction=0) if is_whole else x.var(0, correction=0)
    torch.testing.assert_close(results[0], (x.mean(0), expected), rtol=1e-13, atol=1e-13)
    assert all(torch.equal(a, b) for r in results[1:] for a, b in zip(r, results[0], strict=True))


@pytest.mark.parametrize(
    ("backbone", "plan", "is_fused", "size"),
    [
        ("staged", "fused", False, 2),
        ("staged", "fused", True, 3),
        ("staged", "module", True, 4),
        ("strided", "fused", False, 3),
        ("tiny", "module", False, 2),
    ],
)
def test_processes_train_what_one_does(
    tmp_path: Path, backbone: str, plan: str, is_fused: bool, size: int
) -> None:
    """To rounding, in float64, with clipping, retirement and processes without songs."""
    data, validation = songs(31, 0), songs(20, 1)
    config = replace(CONFIG, plan=plan)
    networks = [whole(backbone) for _ in range(size + 1)]  # torch's generator is no thread's own

    def work(exchange: Exchange | None) -> FusedEnsemble:
        folder = tmp_path / ("alone" if exchange is None else f"{exchange.size}")
        ensemble = networks.pop()
        return fit(ensemble, data, validation, config, folder, is_fused=is_fused, exchange=exchange)

    alone = work(None)
    shared = together(size, work)
    for other in shared[1:]:
        assert_same_bits(shared[0], other)
    state = alone.state_dict()
    for name, value in shared[0].state_dict().items():
        # A module's biases before batch norms have no gradient but rounding; see staged.py.
        is_rounding = "bias" in name or "running" in name or "bn_init" in name
        limit = 1e-9 if is_rounding else 1e-11
        torch.testing.assert_close(value, state[name], rtol=0, atol=limit, msg=name)
    histories = [records(tmp_path / name) for name in ("alone", str(size))]
    is_early = any(one["retired"] for one in histories[0][-2]["members"])
    assert is_early or backbone != "staged"
    for mine, theirs in zip(*histories, strict=True):
        assert mine["validation_loss"] == pytest.approx(theirs["validation_loss"], abs=1e-9)
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-9)
        for a, b in zip(mine["members"], theirs["members"], strict=True):
            assert {**a, "train_loss": 0, "validation_loss": 0, "roc_auc": 0} == {
                **b, "train_loss": 0, "validation_loss": 0, "roc_auc": 0
            }  # fmt: skip


def test_float32_is_as_exact_as_that_of_one_process() -> None:
    data, validation = songs(31, 0), songs(20, 1)
    config = replace(CONFIG, epochs=2, patience=None)
    mels = validation.batch(torch.arange(len(validation)), FRAMES)[0]

    @torch.no_grad()
    def scores(result: FusedEnsemble) -> torch.Tensor:
        return result(mels.to(result.head.weight.dtype)).sigmoid().double()

    def error(result: FusedEnsemble) -> float:
        return float((scores(result) - exact).abs().max())

    exact = scores(fit(whole(), data, validation, config))
    alone = fit(whole(dtype=torch.float32), data, validation, config)
    networks = [whole(dtype=torch.float32) for _ in range(2)]
    shared = together(
        2, lambda exchange: fit(networks.pop(), data, validation, config, exchange=exchange)
    )
    assert error(shared[0]) <= max(2 * error(alone), 1e-6)


def test_too_little_memory_in_one_process_halves_the_batches_of_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, validation = songs(20, 0), songs(12, 1)
    config = replace(CONFIG, epochs=3, patience=None, batch_size=9)
    step = Group.step

    def stepped(self: Group, *args: Any, **more: Any) -> torch.Tensor:
        assert self.exchange is not None
        if self.exchange.rank == 1 and args[3] == 4 and len(args[0]) > 2:
            raise MemoryError("not enough memory")
        return step(self, *args, **more)

    def run() -> list[Any]:
        networks = [whole() for _ in range(2)]
        return together(
            2,
            lambda exchange: fit(
                networks.pop(), data, validation, config, tmp_path, True, exchange=exchange
            ),
        )

    monkeypatch.setattr(Group, "step", stepped)
    results = run()
    assert isinstance(results[1], SmallerBatchesError)
    assert (results[1].epoch, results[1].batch_size) == (2, 4)
    assert isinstance(results[0], LostError)
    assert_same_bits(*run())
    assert [(one["epoch"], one["batch_size"]) for one in records(tmp_path)] == [
        (1, 9), (2, 4), (3, 4)
    ]  # fmt: skip
    remove_state(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [METRICS]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["pool", "residual", "plain", "module"])
def test_synchronised_operators_are_those_of_the_whole_batch(kind: str, dtype: torch.dtype) -> None:
    """As exact as on the whole batch, whose songs differ much from process to process."""
    n_songs, size, channels = 7, 3, 37
    random = torch.Generator().manual_seed(0)
    x = torch.randn(n_songs, 6, 8, channels, generator=random) + torch.arange(n_songs).view(
        -1, 1, 1, 1
    )
    residual = torch.randn(x.shape, generator=random) if kind == "residual" else None
    x, residual = x.to(dtype), None if residual is None else residual.to(dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    weight, bias = torch.randn(2, channels, generator=random).to(wide)

    def run(exchange, x, residual, weight, bias):
        x = x.permute(0, 3, 1, 2) if kind == "module" else x
        if exchange is not None:
            dim = 1 if kind == "module" else 3
            x, weight, bias, *_ = synchronised.own_norm(x, weight, bias, 1e-5, exchange, dim)
        if kind == "module":
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, 1e-5)
        if kind == "pool":
            return training_ops.bn_act_pool(x, weight, bias, 1e-5, (2, 4), "elu")[0]
        return training_ops.bn_add_relu(x, residual, weight, bias, 1e-5, "elu")[0]

    def on(exchange, rows, dtype, wide):
        inputs = [None if t is None else t[rows].to(dtype) for t in (x, residual)]
        inputs += [weight.to(wide), bias.to(wide)]
        leaves = [None if t is None else t.detach().clone().requires_grad_() for t in inputs]
        out = run(exchange, *leaves)
        out.backward(gradient[rows].to(out.dtype))
        return [out.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]

    shape = run(None, x, residual, weight, bias).shape
    gradient = torch.randn(shape, generator=random)
    exact = on(None, slice(None), torch.float64, torch.float64)
    eager = on(None, slice(None), dtype, wide)
    rows = torch.arange(n_songs)
    parts = together(size, lambda exchange: on(exchange, exchange.take(rows), dtype, wide))
    n_maps = 2 if residual is None else 3  # the result, and the gradients of maps
    mine = [torch.cat([part[i] for part in parts]) for i in range(n_maps)]
    mine += [sum(part[i] for part in parts) for i in range(n_maps, len(exact))]
    floor = {torch.float32: 1e-6, torch.bfloat16: 6e-3, torch.float64: 1e-14}[dtype]
    for one, other, true in zip(mine, eager, exact, strict=True):
        errors = [float((t.double() - true).norm() / true.norm()) for t in (one, other)]
        assert errors[0] <= max(2 * errors[1], floor), errors
