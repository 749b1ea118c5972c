"""Every way to run an ensemble gives the answers of its members' plain networks."""

import re
import subprocess
import sys

import pytest
import torch
from networks import FRAMES, mels_of, network, settle, state_of
from staged import Staged, Strided
from tiny import Tiny
from torch.testing import assert_close

from fastmte.ensemble import FusedEnsemble, fuse
from fastmte.errors import InputError
from fastmte.models import _registry
from fastmte.plan import Choice, InferencePlan
from fastmte.plan import convolution as convolution_module
from fastmte.plan.inference import candidates, default_choice

CHOICES = ["module", "separate", "separate:1", "separate:2", "grouped", "grouped:2"]
SIZES = (3, 1, 2)  # labels of the members


@pytest.fixture(autouse=True)
def _small_backbones(monkeypatch):
    for kind in (Staged, Strided, Tiny):
        monkeypatch.setitem(_registry._BUILDERS, kind.__name__.lower(), kind)


def plan_of(ensemble, choice, dtype=torch.float32):
    return InferencePlan(ensemble, Choice.parse(choice), dtype)


def scores(plan, mels):
    return plan(mels).sigmoid()


def members_and_ensemble(name, mels, sizes=SIZES):
    """Return plain networks and the ensemble of their weights, labels in mixed order."""
    nets = [network(name, n_labels, seed) for seed, n_labels in enumerate(sizes)]
    for net in nets:
        settle(net, torch.cat([mels, mels.flip(2)]))
    singles = [
        FusedEnsemble.from_state(name, [0] * n_labels, state_of(net))
        for net, n_labels in zip(nets, sizes, strict=True)
    ]
    order = torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])
    labels = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(0))]
    return nets, fuse(singles, labels).eval()


def in_turn(nets, ensemble, mels):
    """Return the scores of plain networks, eager and one after the other, in label order."""
    with torch.no_grad():
        parts = torch.cat([net(mels).sigmoid() for net in nets], 1)
    return parts[:, ensemble.member_of_label.argsort(stable=True).argsort()]


def small(backbone="staged", labels=(0, 1, 2, 1), seed=0):
    """Return an ensemble with statistics that are not those of the start."""
    ensemble = FusedEnsemble.create(backbone, list(labels), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, value in ensemble.backbone.state_dict().items():
        if name.endswith("running_mean"):
            start = -24.0 if value.numel() == ensemble.n_members else 0.0
            value.normal_(start, 0.2, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
            if start := value.numel() == ensemble.n_members:
                value *= 300 * start
        elif ".weight" in name and "bn_" in name:
            value[::3] *= -1  # the larger of two values is then the smaller after the norm
    return ensemble.eval()


def settled(name, labels=(0, 1, 0)):
    ensemble = FusedEnsemble.create(name, list(labels))
    settle(ensemble.backbone, mels_of(name, 6, seed=1))
    return ensemble.eval()


# -------------------------------------------------------------------------------- equal answers


@pytest.mark.parametrize(
    "name", ["vgg", "custom-vgg", "crnn", "resnet18", "resnet18-uibk", "resnet34"]
)
def test_scores_are_those_of_plain_networks(name):
    mels = mels_of(name, 3)
    nets, ensemble = members_and_ensemble(name, mels, sizes=(3, 2))
    expected = in_turn(nets, ensemble, mels)
    assert expected.std(0).min() > 1e-3, "the networks do not tell the songs apart"
    for choice in ("module",) if name == "crnn" else ("module", "separate:1", "grouped:2"):
        found = scores(plan_of(ensemble, choice), mels)
        # Folding costs nothing (8e-8 of a convolution's outputs), but oneDNN's channels-last
        # convolutions add the 576 and 1152 products of a VGG's sums one after the other: 1.2e-6,
        # twice what its convolutions of torch's own layout are off float64. Random weights
        # let that grow; scores of published weights, below, are within 1e-6.
        assert_close(found, expected, rtol=0, atol=4e-6)


@pytest.fixture(scope="module")
def published(shared):
    """MTG's published VGG, and an ensemble of four members that have its labels among them."""
    path, net = shared / "data/mtg-baseline/best_model.pth", network("vgg", 56)
    net.load_state_dict(torch.load(path, "cpu", weights_only=True))
    state = state_of(net)
    singles = []
    for member in range(4):
        own = {
            name: value[member::4] if name.startswith("head.") else value
            for name, value in state.items()
        }
        singles.append(FusedEnsemble.from_state("vgg", [0] * 14, own))
    return net, fuse(singles, [label % 4 for label in range(56)]).eval()


@pytest.mark.parametrize("choice", ["module", "separate:1", "separate:2", "grouped"])
def test_scores_of_published_weights(published, choice):
    net, ensemble = published
    mels = mels_of("vgg", 2, frames=1366)
    mels = torch.nn.functional.avg_pool2d(mels, (3, 5), 1, (1, 2))  # less like noise
    with torch.no_grad():
        expected = net(mels).sigmoid()
    assert_close(scores(plan_of(ensemble, choice), mels), expected, rtol=0, atol=1e-6)
    half = plan_of(ensemble, choice, torch.bfloat16)
    assert_close(scores(half, mels), expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", ["staged", "strided", "resnet18-uibk"])
@pytest.mark.parametrize("choice", CHOICES)
def test_bfloat16(name, choice):
    ensemble = small(name) if name.startswith("st") else settled(name)
    mels = mels_of(name, 3)
    with torch.no_grad():
        expected = ensemble.backbone(mels)
    features = plan_of(ensemble, choice, torch.bfloat16).features(mels)
    assert features.dtype == torch.float32
    error = (features - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert 1e-5 < error < 5e-2


@pytest.mark.parametrize("backbone", ["staged", "strided"])
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("n_members", [1, 2, 5, 16])
def test_float64_is_exact_for_any_number_of_members(backbone, choice, n_members):
    labels = [*range(n_members), 0]
    ensemble = small(backbone, labels).double()
    mels = mels_of(backbone, 5, frames=57).double()
    with torch.no_grad():
        expected = ensemble.backbone(mels)
    plan = plan_of(ensemble, choice, torch.float64)
    assert_close(plan.features(mels), expected, rtol=0, atol=1e-11)
    assert expected.std() > 0.1
    with torch.no_grad():
        assert_close(plan(mels), ensemble(mels), rtol=0, atol=1e-11)


@pytest.mark.parametrize("choice", CHOICES)
def test_without_prepacked_convolutions(choice, monkeypatch):
    ensemble, mels = small(), mels_of("staged", 3)
    expected = plan_of(ensemble, choice).features(mels)
    monkeypatch.setattr(convolution_module, "is_packable", lambda *_: False)
    assert_close(plan_of(ensemble, choice).features(mels), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("n_songs", [0, 1, 3, 4, 7])
def test_any_number_of_songs(choice, n_songs):
    ensemble, mels = small(), mels_of("staged", 8)[:n_songs]
    plan = plan_of(ensemble, choice)
    features = plan.features(mels)
    assert (features.shape, features.dtype) == ((n_songs, 3, 12), torch.float32)
    assert plan(mels).shape == (n_songs, 4)
    with torch.no_grad():
        assert_close(plan(mels), ensemble(mels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
def test_input_of_any_layout(choice):
    ensemble = small()
    mels = mels_of("staged", 4)
    plan = plan_of(ensemble, choice)
    expected = plan.features(mels)
    strided = torch.stack([mels, mels], 3)[..., 0]
    turned = mels.transpose(1, 2).contiguous().transpose(1, 2)
    for other in (strided, turned, mels.flip(0).flip(0)):
        assert torch.equal(plan.features(other), expected)
    assert torch.equal(plan.features(mels[::2]), plan.features(mels[::2].clone()))


@pytest.mark.parametrize("choice", CHOICES)
def test_any_number_of_frames(choice):
    ensemble = small()
    plan = plan_of(ensemble, choice)
    for frames in (8, 64, 61, 200):
        mels = mels_of("staged", 3, frames=frames)
        with torch.no_grad():
            assert_close(plan.features(mels), ensemble.backbone(mels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name, frames", [("vgg", 1280), ("vgg", 2559), ("resnet18", 32)])
def test_widest_and_narrowest_crops(name, frames):
    mels = mels_of(name, 2, frames=frames)
    ensemble = FusedEnsemble.create(name, [0, 1, 0]).eval()
    settle(ensemble.backbone, mels)
    with torch.no_grad():
        expected = ensemble.backbone(mels)
    for choice in ("separate:1", "grouped"):
        assert_close(plan_of(ensemble, choice).features(mels), expected, rtol=0, atol=1e-4)


# ------------------------------------------------------------------------------------ the bits


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ["staged", "resnet18-uibk"])
def test_neighbours_and_place_change_no_bit(choice, name):
    ensemble = small() if name == "staged" else FusedEnsemble.create(name, [0, 1, 0]).eval()
    mels = mels_of(name, 5)
    plan = plan_of(ensemble, choice)
    expected = plan(mels)
    assert torch.equal(plan(mels), expected)
    for turn in range(1, 5):
        assert torch.equal(plan(mels.roll(turn, 0)), expected.roll(turn, 0))
    others = mels_of(name, 5, seed=1)
    others[2] = mels[2]
    assert torch.equal(plan(others)[2], expected[2])


@pytest.mark.parametrize("choice", CHOICES[1:])  # the module's bits are torch's
@pytest.mark.parametrize("name", ["vgg", "resnet18-uibk"])
def test_threads_change_no_bit(choice, name):
    ensemble = FusedEnsemble.create(name, [0, 1, 0]).eval()
    mels = mels_of(name, 3)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(plan_of(ensemble, choice)(mels))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


# ------------------------------------------------------------------------ numbers that are none


@pytest.mark.parametrize("choice", CHOICES)
def test_nan_in_a_song_stays_in_the_song_and_is_seen(choice):
    ensemble = FusedEnsemble.create("resnet18", [0, 1, 0]).eval()
    mels = mels_of("resnet18", 3)
    plan = plan_of(ensemble, choice)
    expected = plan(mels)
    mels[1, 40, 30] = torch.nan
    found = plan(mels)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", ["conv1.weight", "layer4.1.bn2.bias"])
def test_nan_in_a_member_stays_in_the_member(choice, name):
    ensemble = FusedEnsemble.create("resnet18", [0, 1, 2, 1]).eval()
    mels = mels_of("resnet18", 2)
    expected = plan_of(ensemble, choice).features(mels)
    value = ensemble.backbone.state_dict()[name]
    value[len(value) // 3] = torch.nan  # the first row of member 1
    found = plan_of(ensemble, choice).features(mels)
    assert torch.equal(found[:, [0, 2]], expected[:, [0, 2]])
    assert found[:, 1].isnan().any(1).all()
    logits = plan_of(ensemble, choice)(mels)
    assert logits.isnan().any(0).tolist() == [False, True, False, True]


# --------------------------------------------------------------------------------- the ensemble


def test_a_plan_is_a_snapshot_of_the_trunk_and_runs_the_ensembles_head():
    ensemble, mels = small(), mels_of("staged", 2)
    plan = plan_of(ensemble, "separate:1")
    features, logits = plan.features(mels), plan(mels)
    with torch.no_grad():
        ensemble.head.bias += 1
        ensemble.backbone.conv_2.weight.zero_()
        ensemble.backbone.bn_2.running_mean += 1
    assert torch.equal(plan.features(mels), features)
    assert_close(plan(mels), logits + 1)
    assert not torch.equal(plan_of(ensemble, "separate:1").features(mels), features)


@pytest.mark.parametrize("choice", CHOICES)
def test_the_mode_of_the_ensemble_is_left(choice):
    ensemble, mels = small(), mels_of("staged", 2)
    expected = plan_of(ensemble, choice)(mels)
    state = {name: value.clone() for name, value in ensemble.state_dict().items()}
    ensemble.train()
    assert torch.equal(plan_of(ensemble, choice)(mels), expected)
    assert ensemble.training
    assert all(module.training for module in ensemble.modules())
    for name, value in ensemble.state_dict().items():
        assert torch.equal(value, state[name])


def test_no_gradients():
    logits = plan_of(small(), "module")(mels_of("staged", 2))
    assert not logits.requires_grad


def test_a_backbone_without_stages_runs_as_its_module():
    ensemble = FusedEnsemble.create("tiny", [0, 1]).eval()
    assert candidates(ensemble) == ["module"]
    assert default_choice(ensemble, 8).name == "module"
    text = "the plans of tiny on cpu are module, compile, onnx, openvino; got 'separate'"
    with pytest.raises(InputError, match=re.escape(text)):
        plan_of(ensemble, "separate:1")


def test_wrong_shapes_are_the_backbones_to_refuse():
    plan = plan_of(small(), "separate:1")
    with pytest.raises(ValueError, match=r"staged: mels must be \(B, 96, F\), got \(2, 95, 64\)"):
        plan(torch.zeros(2, 95, 64))
    with pytest.raises(ValueError, match="staged: mels must have at least 8 frames, got 7"):
        plan.features(torch.zeros(2, 96, 7))


# ------------------------------------------------------------------------------------ the choice


@pytest.mark.parametrize(
    "text, choice",
    [
        ("module", Choice("module")),
        ("separate:4", Choice("separate", 4)),
        ("grouped+graph", Choice("grouped+graph")),
        ("separate+graph:64", Choice("separate+graph", 64)),
    ],
)
def test_a_choice_is_written_and_read(text, choice):
    assert Choice.parse(text) == choice
    assert str(choice) == text


@pytest.mark.parametrize("text", ["", "separate:", "separate:0", "separate:x", "Separate", "a b"])
def test_a_choice_written_otherwise_is_refused(text):
    with pytest.raises(InputError, match=re.escape(f"as separate:4, got {text!r}")):
        Choice.parse(text)


@pytest.mark.parametrize(
    "chunk, n_songs, each",
    [(None, 7, 7), (4, 3, 3), (4, 4, 4), (4, 5, 3), (8, 12, 6), (8, 33, 7), (1, 9, 1), (2, 0, 0)],
)
def test_passes_are_of_one_size(chunk, n_songs, each):
    assert Choice("separate", chunk).songs_a_pass(n_songs) == each


FAULTS = """
import resource, sys
import torch
from fastmte.ensemble import FusedEnsemble
from fastmte.plan import Choice, InferencePlan
torch.set_num_threads(1)
ensemble = FusedEnsemble.create(sys.argv[1], [0, 1]).eval()
plan = InferencePlan(ensemble, Choice.parse(sys.argv[2]))
mels = torch.randn(4, 96, 1366)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    plan.features(mels)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(), faults()
print(min(faults() for _ in range(2)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts Linux' page faults")
@pytest.mark.parametrize("name, choice", [("vgg", "separate:1"), ("resnet18-uibk", "separate:2")])
def test_memory_is_used_again(name, choice):
    """A pass over maps of 100 MB and more touches few pages that are new."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, name, choice], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 2000


def test_frames_of_the_networks_are_known():
    assert set(FRAMES) <= set(_registry.backbones())
