"""Plans in bfloat16: on the matrix units of CPUs, near float32, each member for itself."""

import warnings

import pytest
import torch
from networks import mels_of
from staged import Wide
from torch.testing import assert_close

from fastmte import ops
from fastmte.ensemble import FusedEnsemble
from fastmte.models import _registry
from fastmte.plan import Choice, InferencePlan, Scores, tiled

CHOICES = ["module", "separate", "separate:1", "separate:2", "grouped", "grouped:2"]
HALF = torch.bfloat16


@pytest.fixture(autouse=True)
def _tiles(monkeypatch):
    """Take the operator on every CPU: it has a slow way where there are no matrix units."""
    monkeypatch.setitem(_registry._BUILDERS, "wide", Wide)
    monkeypatch.setattr(tiled, "has_bf16", lambda _: True)
    monkeypatch.setattr(tiled, "has_kernel", lambda *_: True)


@pytest.fixture
def calls(monkeypatch):
    """Output shapes of the operators' calls."""
    shapes = []

    def count(name):
        operator = getattr(ops, name)

        def counted(*args):
            y = operator(*args)
            shapes.append(tuple(y.shape))
            return y

        monkeypatch.setattr(ops, name, counted)

    count("conv_pool_act")
    count("residual_blocks")
    return shapes


def wide(labels=(0, 1, 2, 1), seed=0):
    """Return an ensemble with statistics that are not those of the start."""
    ensemble = FusedEnsemble.create("wide", list(labels), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, value in ensemble.backbone.state_dict().items():
        if name == "bn_init.running_mean":
            value.fill_(-24)
        elif name == "bn_init.running_var":
            value.fill_(300)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.2, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
    return ensemble.eval()


def plan_of(ensemble, choice, dtype=HALF):
    return InferencePlan(ensemble, Choice.parse(choice), dtype)


def relative_error(found, expected):
    return (found - expected).square().mean().sqrt() / expected.square().mean().sqrt()


@pytest.mark.parametrize("n_members", [1, 2, 5, 16])
@pytest.mark.parametrize("choice", CHOICES)
def test_features_are_those_of_float32_but_for_rounding(choice, n_members, calls):
    ensemble, mels = wide([*range(n_members), 0]), mels_of("wide", 3, frames=57)
    with torch.no_grad():
        expected = ensemble.backbone(mels)
    found = plan_of(ensemble, choice).features(mels)
    assert found.dtype == torch.float32 and found.shape == (3, n_members, 64)
    assert 1e-5 < relative_error(found, expected) < 1e-2
    # Grouped convolutions of several members are not for them.
    assert bool(calls) == (choice.startswith("separate") or (n_members == 1 and choice != "module"))


def test_layers_are_run_by_the_operator(calls):
    plan_of(wide([0]), "separate").features(mels_of("wide", 2, frames=64))
    # conv_3, the shortcut, conv_4, conv_5; the pool after conv_2 overlaps.
    assert calls == [(2, 12, 4, 64)] * 4


def test_residual_blocks_are_run_by_one_operator(calls):
    ensemble = FusedEnsemble.create("resnet18-uibk", [0]).eval()
    plan_of(ensemble, "separate").features(mels_of("resnet18-uibk", 2, frames=64))
    assert calls == [(2, 3, 2, 512)]


@pytest.mark.parametrize("choice", ["separate", "separate:1", "separate:2"])
def test_a_member_is_what_it_is_alone(choice):
    ensemble, mels = wide(), mels_of("wide", 3, frames=70)
    together = plan_of(ensemble, choice).features(mels)
    for k in range(3):
        alone = plan_of(ensemble.select([k]), choice).features(mels)
        assert torch.equal(together[:, k], alone[:, 0])


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("n_songs", [0, 1, 5])
def test_any_number_of_songs_of_any_layout(choice, n_songs):
    ensemble, mels = wide(), mels_of("wide", 6, frames=61)[:n_songs]
    plan = plan_of(ensemble, choice)
    expected = plan.features(mels)
    assert expected.shape == (n_songs, 3, 64) and plan(mels).shape == (n_songs, 4)
    strided = torch.stack([mels, mels], 3)[..., 0]
    turned = mels.transpose(1, 2).contiguous().transpose(1, 2)
    for other in (strided, turned):
        assert torch.equal(plan.features(other), expected)


@pytest.mark.parametrize("choice", ["separate", "separate:2"])
def test_neighbours_place_and_threads_change_no_bit(choice):
    ensemble, mels = wide(), mels_of("wide", 5, frames=61)
    expected = plan_of(ensemble, choice)(mels)
    before = torch.get_num_threads()
    try:
        for turn in range(1, 5):
            torch.set_num_threads(turn)
            found = plan_of(ensemble, choice)(mels.roll(turn, 0))
            assert torch.equal(found, expected.roll(turn, 0))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("choice", CHOICES)
def test_nan_stays_where_it_is(choice):
    ensemble, mels = wide(), mels_of("wide", 3, frames=61)
    expected = plan_of(ensemble, choice).features(mels)
    broken = mels.clone()
    broken[1, 40, 30] = torch.nan
    found = plan_of(ensemble, choice).features(broken)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])
    ensemble.backbone.state_dict()["conv_3.weight"][64 + 5] = torch.nan  # of member 1
    found = plan_of(ensemble, choice).features(mels)
    assert found[:, 1].isnan().any(1).all()
    assert torch.equal(found[:, [0, 2]], expected[:, [0, 2]])


@pytest.mark.parametrize(
    "name", ["vgg", "custom-vgg", "crnn", "resnet18", "resnet18-uibk", "resnet34"]
)
def test_scores_of_every_backbone(name, calls):
    ensemble, mels = FusedEnsemble.create(name, [0, 1, 0]).eval(), mels_of(name, 1)
    with torch.no_grad():
        expected = ensemble(mels).sigmoid()
    choice = "module" if name == "crnn" else "separate:1"
    assert_close(plan_of(ensemble, choice)(mels).sigmoid(), expected, rtol=0, atol=5e-3)
    assert bool(calls) == (name != "crnn")


def test_a_cpu_without_bfloat16_says_so_once(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    ensemble, mels = wide(), mels_of("wide", 5, frames=64)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        scores = Scores(ensemble, 2, 64, "separate", "bf16")
        found = scores(mels)
        scores(mels)
    assert [str(w.message) for w in said if "bf16" in str(w.message)] == [
        "bf16 would be slow here (the CPU has no AMX): fp32 is used"
    ]
    expected = Scores(ensemble, 2, 64, "separate", "fp32")(mels)
    assert (found == expected).all()
