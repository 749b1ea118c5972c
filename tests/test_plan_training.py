"""A training pass by plan has the answers and gradients of networks that are trained alone."""

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import mels_of, network, state_of
from staged import CHANNELS, Plain, Staged, Strided, plain_state, randomise, without_biases
from torch import Tensor, nn

from fastmte._library import has_kernel
from fastmte.ensemble import FusedEnsemble, fuse
from fastmte.models import _registry
from fastmte.plan import tiled, training
from fastmte.plan.training import TrainPlan

MEMBER_OF_LABEL = [1, 0, 2, 0, 1, 1, 1]
FRAMES = 40
LONG = 1000


@pytest.fixture(autouse=True)
def staged(monkeypatch: pytest.MonkeyPatch) -> None:
    for backbone in (Staged, Strided):
        monkeypatch.setitem(_registry._BUILDERS, backbone.__name__.lower(), backbone)
        monkeypatch.setattr(backbone, "dropout", 0.0)


def ensemble_of(backbone: str, labels: list[int] = MEMBER_OF_LABEL) -> FusedEnsemble:
    ensemble = FusedEnsemble.create(backbone, labels, seed=1).double()
    randomise(ensemble.state_dict())
    return ensemble.train()


def plains_of(ensemble: FusedEnsemble) -> list[nn.Module]:
    """Return the members as plain networks."""
    plains = []
    for k in range(ensemble.n_members):
        state = ensemble.select([k]).state_dict()
        plain = Plain(len(state["head.bias"]), ensemble.backbone.stride)
        plains.append(plain.to(state["head.bias"].dtype).train())
        plain.load_state_dict(plain_state(state))
    return plains


def songs(
    n_songs: int, dtype: torch.dtype = torch.float64, seed: int = 0, frames: int = FRAMES
) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    mels = torch.randn(n_songs, 96, frames, generator=random, dtype=torch.float64) * 18 - 23
    truth = torch.rand(n_songs, len(MEMBER_OF_LABEL), generator=random) < 0.4
    return mels.to(dtype), truth.to(dtype)


def loss_of(logits: Tensor, truth: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the members' means."""
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return sum(losses[:, labels == k].mean() for k in labels.unique())


def gradients(network: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def alone(plains: list[nn.Module], mels: Tensor, truth: Tensor, labels: Tensor) -> Tensor:
    """Run and derive networks by themselves; return their logits in label order."""
    logits = torch.empty_like(truth)
    for k, plain in enumerate(plains):
        own = plain(mels)
        F.binary_cross_entropy_with_logits(own, truth[:, labels == k]).backward()
        logits[:, labels == k] = own.detach()
    return logits


def rows_of(ensemble: FusedEnsemble, values: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    rows = ensemble.member_rows()
    return plain_state({name: value[rows[name] == k] for name, value in values.items()})


@pytest.mark.parametrize("backbone", ["staged", "strided"])
@pytest.mark.parametrize("labels", [[0, 0], MEMBER_OF_LABEL, [*range(16)]])
def test_gradients_are_those_of_networks_alone(backbone: str, labels: list[int]) -> None:
    ensemble = ensemble_of(backbone, labels)
    plains, owner = plains_of(ensemble), ensemble.member_of_label
    mels, truth = songs(3)
    truth = truth.repeat(1, 3)[:, : len(labels)]
    logits = TrainPlan(ensemble, choice="fused")(mels)
    loss_of(logits, truth, owner).backward()
    torch.testing.assert_close(logits, alone(plains, mels, truth, owner), rtol=0, atol=1e-10)
    for k, plain in enumerate(plains):
        found = rows_of(ensemble, gradients(ensemble), k)
        expected = gradients(plain)
        has_no_gradient = {n for n in expected if n.startswith("conv_") and n.endswith("bias")}
        assert set(expected) - set(found) == has_no_gradient
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=name)
        state, expected = (
            without_biases(one)
            for one in (rows_of(ensemble, ensemble.state_dict(), k), plain.state_dict())
        )
        assert set(state) == set(expected)
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("backbone", ["vgg", "resnet18", "resnet18-uibk"])
def test_gradients_of_real_backbones(backbone: str) -> None:
    plains = [network(backbone, n, seed).double().train() for seed, n in enumerate((2, 3))]
    singles = [
        FusedEnsemble.from_state(backbone, [0] * n, state_of(plain))
        for plain, n in zip(plains, (2, 3), strict=True)
    ]
    ensemble = fuse(singles, [0, 1, 1, 0, 1]).train()
    ensemble.dropout.p = 0.0
    mels, truth = mels_of(backbone).double(), songs(2)[1][:, :5]
    owner = ensemble.member_of_label
    logits = TrainPlan(ensemble, choice="fused")(mels)
    loss_of(logits, truth, owner).backward()
    torch.testing.assert_close(logits, alone(plains, mels, truth, owner), rtol=0, atol=1e-9)
    for k, plain in enumerate(plains):
        values = {n: v for n, v in gradients(ensemble).items()}
        rows = ensemble.member_rows()
        expected = state_of(_gradient_network(plain))
        for name, value in values.items():
            own = value[rows[name] == k]
            torch.testing.assert_close(own, expected[name], rtol=1e-7, atol=1e-9, msg=name)


def _gradient_network(plain: nn.Module) -> nn.Module:
    """Return a network whose parameters are another's gradients."""
    other = copy.deepcopy(plain)
    for mine, theirs in zip(other.parameters(), plain.parameters(), strict=True):
        mine.data = torch.zeros_like(mine) if theirs.grad is None else theirs.grad
    return other


def errors_of(found: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    return {n: float((found[n].double() - exact[n]).norm() / exact[n].norm()) for n in found}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_as_exact_as_torchs(dtype: torch.dtype) -> None:
    """Over some batches they are at most twice as far from float64's as eager's or autocast's."""
    worst: dict[str, list[list[float]]] = {}
    for seed in range(4):
        exact = ensemble_of("staged")
        mels, truth = songs(4, seed=seed, frames=LONG)
        loss_of(exact(mels), truth, exact.member_of_label).backward()
        sides = []
        for choice in ("fused", "module"):
            ensemble = copy.deepcopy(exact).float()
            ensemble.zero_grad(set_to_none=True)
            logits = TrainPlan(ensemble, dtype, choice)(mels.float())
            assert logits.dtype == torch.float32
            loss_of(logits, truth.float(), ensemble.member_of_label).backward()
            sides.append(errors_of(gradients(ensemble), gradients(exact)))
        for name, error in sides[0].items():
            worst.setdefault(name, []).append([error, sides[1][name]])
    for name, errors in worst.items():
        mine, eager = (sum(column) for column in zip(*errors, strict=True))
        # oneDNN's sums of strided convolutions of few channels are that far off in channels-last
        # maps; eager's own twice as far, if it is given such maps.
        is_strided = name.endswith(("conv_3.weight", "conv_s.weight"))
        assert mine <= max(2 * eager, 1e-4 if is_strided else 4e-6), (name, mine, eager)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet18-uibk"])
def test_gradients_on_matrix_units_are_as_exact_as_autocasts(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple] = []
    real = training.ops.map_conv
    monkeypatch.setattr(training.ops, "map_conv", lambda *a: calls.append(a) or real(*a))
    monkeypatch.setattr(tiled, "has_bf16", lambda device: True)
    exact = FusedEnsemble.create(backbone, [0, 1, 1], seed=3).double().train()
    exact.dropout.p = 0.0
    mels, truth = mels_of(backbone, 4).double(), songs(4)[1][:, :3]
    loss_of(exact(mels), truth, exact.member_of_label).backward()
    errors = []
    for choice in ("fused", "module"):
        ensemble = copy.deepcopy(exact).float()
        ensemble.zero_grad(set_to_none=True)
        logits = TrainPlan(ensemble, torch.bfloat16, choice)(mels.float())
        loss_of(logits, truth.float(), ensemble.member_of_label).backward()
        errors.append(errors_of(gradients(ensemble), gradients(exact)))
    assert calls or not has_kernel("map_conv_weights", "cpu")
    mine, autocasts = errors
    print(sorted(((e / autocasts[n], n, e) for n, e in mine.items()), reverse=True)[:8])
    for name, error in mine.items():
        assert error <= 2 * autocasts[name], (name, error, autocasts[name])


def test_forward_is_the_same_bits_on_any_number_of_threads() -> None:
    """Gradients of convolutions' weights are not: oneDNN sums them thread by thread."""
    n_threads, seen = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ensemble = ensemble_of("staged").float()
            mels, truth = songs(5, torch.float32)
            logits = TrainPlan(ensemble, choice="fused")(mels)
            loss_of(logits, truth, ensemble.member_of_label).backward()
            buffers = [value for _, value in ensemble.named_buffers()]
            others = [v for n, v in gradients(ensemble).items() if ".conv_" not in n]
            seen.append([logits.detach(), *buffers, *others])
    finally:
        torch.set_num_threads(n_threads)
    for one in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(one, seen[0], strict=True))


def test_a_nan_stays_within_its_member() -> None:
    ensemble = ensemble_of("staged")
    with torch.no_grad():
        ensemble.backbone.conv_2.weight[CHANNELS[0]] = torch.nan  # member 1's first channel
    mels, truth = songs(2)
    logits = TrainPlan(ensemble, choice="fused")(mels)
    is_hers = ensemble.member_of_label == 1
    assert logits[:, is_hers].isnan().all() and logits[:, ~is_hers].isfinite().all()
    loss_of(logits, truth, ensemble.member_of_label).backward()
    rows = ensemble.member_rows()
    for name, value in gradients(ensemble).items():
        assert value[rows[name] != 1].isfinite().all(), name


def test_what_members_share_of_a_batch_may_be_given() -> None:
    ensemble, mels = ensemble_of("staged"), songs(3)[0]
    plans = [TrainPlan(ensemble.select([k]), choice="fused") for k in range(3)]
    shared = plans[0].shared(mels)
    for plan in plans:
        assert torch.equal(plan(mels, shared), plan(mels))


def test_mels_may_be_strided() -> None:
    ensemble, mels = ensemble_of("staged"), songs(3)[0]
    plan = TrainPlan(ensemble, choice="fused")
    strided = mels.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(plan(strided), plan(mels))


def test_an_evaluating_ensemble_is_the_module() -> None:
    ensemble, mels = ensemble_of("staged"), songs(3)[0]
    before = {n: v.clone() for n, v in ensemble.state_dict().items()}
    ensemble.eval()
    assert torch.equal(TrainPlan(ensemble, choice="fused")(mels), ensemble(mels))
    assert all(torch.equal(v, before[n]) for n, v in ensemble.state_dict().items())


def test_dropout_is_the_modules() -> None:
    ensemble, mels = ensemble_of("staged"), songs(3)[0]
    ensemble.dropout.p = 0.5
    plan = TrainPlan(ensemble, choice="fused")
    with pytest.raises(RuntimeError, match="dropout has no key"):
        plan(mels)
    other = copy.deepcopy(ensemble)
    for one in (ensemble, other):
        one.set_dropout_key(4, 2)
    torch.testing.assert_close(plan(mels), other(mels), rtol=0, atol=1e-12)


def test_what_is_no_batch_is_refused() -> None:
    plan = TrainPlan(ensemble_of("staged"), choice="fused")
    with pytest.raises(ValueError, match="staged: mels must have at least 8 frames, got 7"):
        plan(torch.zeros(2, 96, 7, dtype=torch.float64))
    with pytest.raises(ValueError, match="needs more than 1 value a channel, got 0"):
        plan(torch.zeros(0, 96, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="needs more than 1 value a channel, got 1"):
        training._check_count(1)


def test_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strided, "stages", lambda self: ())
    ensemble = FusedEnsemble.create("strided", MEMBER_OF_LABEL)
    for choice in ("auto", "module"):
        assert not TrainPlan(ensemble, choice=choice).is_fused
    with pytest.raises(ValueError, match="strided: has no stages, which a fused plan needs"):
        TrainPlan(ensemble, choice="fused")
    staged = ensemble_of("staged")
    for is_there in (True, False):
        monkeypatch.setattr(training, "has_kernel", lambda *_, answer=is_there: answer)
        assert TrainPlan(staged).is_fused == is_there
    mels = songs(2)[0]
    assert torch.equal(TrainPlan(staged, choice="module")(mels), staged(mels))
