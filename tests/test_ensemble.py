import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import mels_of, network, randomise, settle, state_of
from torch import nn
from torch.testing import assert_close

from fastmte.ensemble import FusedEnsemble, fuse, unfuse
from fastmte.models import _registry

KMEANS = (17, 11, 16, 12)  # labels of the members in the paper's k-means run
NAMES = ["vgg", "custom-vgg", "crnn", "resnet18", "resnet18-uibk", "resnet34", "resnet34-uibk"]
FAMILIES = ["vgg", "custom-vgg", "crnn", "resnet18", "resnet18-uibk"]


class Tiny(_registry.Backbone):
    """The smallest network with every kind of layer state."""

    origin, n_features, min_frames, dropout, name = "a test", 3, 1, 0.5, "tiny"

    def __init__(self, members):
        super().__init__(members)
        self.conv = _layers().Conv2d(members, 1, 3, 3, shared_input=True)
        self.bn = _layers().BatchNorm2d(members, 3)
        self.mix = _layers().Conv2d(members, 3, 3, 1)

    def features(self, x):
        x = self.mix(self.bn(self.conv(x)).relu())
        return x.mean((2, 3)).view(len(x), self.members, 3)


def _layers():
    from fastmte.models import layers

    return layers


@pytest.fixture(autouse=True, scope="module")
def tiny():
    _registry._BUILDERS["tiny"] = Tiny
    yield
    del _registry._BUILDERS["tiny"]


def ragged(sizes=KMEANS, seed=0):
    """Return a partition with members of these sizes, labels in random order."""
    members = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(members).tolist()


def trained(name, labels, seed=0):
    """Return an ensemble whose state is nowhere at its start values."""
    ensemble = FusedEnsemble.create(name, labels, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        randomise(ensemble.backbone)
    return ensemble


def equal(a, b):
    """Whether two ensembles have the same bits."""
    one, other = a.state_dict(), b.state_dict()
    return (
        list(one) == list(other)
        and all(torch.equal(one[name], other[name]) for name in one)
        and torch.equal(a.member_of_label, b.member_of_label)
        and torch.equal(a.label_index, b.label_index)
        and a.member_ids == b.member_ids
    )


# ------------------------------------------------------------------- fused against one by one


@pytest.mark.parametrize("name", NAMES)
def test_scores_equal_those_of_the_members_one_by_one(name):
    ensemble = trained(name, ragged())
    mels = mels_of(name)
    settle(ensemble.backbone, mels)
    ensemble.eval()
    with torch.no_grad():
        together = ensemble(mels).sigmoid()
        assert together.shape == (2, 56)
        alone = torch.full_like(together, torch.nan)
        for member in unfuse(ensemble):
            alone[:, member.label_index] = member(mels).sigmoid()
    difference = (together - alone).abs().max().item()
    print(f"{name}: largest difference {difference:.1e}")  # pytest -rP shows it
    assert difference <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_equal_those_of_plain_networks(name):
    plain, mels = [network(name, n, seed=k) for k, n in enumerate((3, 1, 2))], mels_of(name)
    for net in plain:
        settle(net, mels)
    singles = [
        FusedEnsemble.from_state(name, [0] * n, state_of(net))
        for net, n in zip(plain, (3, 1, 2), strict=True)
    ]
    labels = [2, 0, 0, 1, 2, 0]
    ensemble = fuse(singles, labels).eval()
    with torch.no_grad():
        scores = ensemble(mels)
        for k, net in enumerate(plain):
            mine = scores[:, torch.tensor(labels) == k]
            assert_close(mine, net(mels), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_members", [1, 2, 3, 7, 16])
def test_any_number_of_members_works(n_members):
    labels = [k % n_members for k in range(n_members + 2)]
    ensemble = trained("resnet18-uibk", labels).eval()
    mels = mels_of("resnet18-uibk", 1, frames=32)
    with torch.no_grad():
        scores = ensemble(mels)
        last = ensemble.select([n_members - 1])
        assert_close(scores[:, last.label_index], last(mels), rtol=1e-5, atol=1e-5)
    assert (ensemble.n_members, ensemble.n_labels) == (n_members, n_members + 2)


def gradients(ensemble, mels, truth, step=5):
    """Return the gradients of the sum of the members' mean losses in a training step."""
    ensemble.train().set_dropout_key(1, step)
    ensemble.zero_grad()
    losses = nn.functional.binary_cross_entropy_with_logits(ensemble(mels), truth, reduction="none")
    for k in range(ensemble.n_members):
        losses[:, ensemble.member_of_label == k].mean().backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in ensemble.named_parameters()}


def gradients_one_by_one(ensemble, mels, truth):
    """Return the same, each member trained as a network of its own; and those networks."""
    members = unfuse(ensemble)
    rows = ensemble.member_rows()
    result = {name: torch.zeros_like(p) for name, p in ensemble.named_parameters()}
    for k, member in enumerate(members):
        for name, gradient in gradients(member, mels, truth[:, member.label_index]).items():
            result[name][rows[name] == k] = gradient
    return result, members


def relative_error(got, expected):
    return max(
        ((got[name].double() - value).norm() / value.norm()).item()
        for name, value in expected.items()
        if value.norm() > 1e-9  # biases before a normalisation have no gradient but rounding
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_a_training_step_equals_that_of_the_members_one_by_one(name):
    labels = [1, 0, 1]
    fused = trained(name, labels)
    # A batch norm over a single point, as the last of custom-vgg's, needs two songs.
    mels = mels_of(name, 1 if name in ("vgg", "crnn") else 2)
    truth = torch.rand(len(mels), len(labels), generator=torch.Generator().manual_seed(0)).round()
    exact = trained(name, labels).double()
    alone64, members64 = gradients_one_by_one(exact, mels.double(), truth.double())
    fused64 = gradients(exact, mels.double(), truth.double())
    assert relative_error(fused64, alone64) <= 1e-10
    for k, member in enumerate(members64):  # running statistics and counts too
        for key, value in exact.select([k]).state_dict().items():
            assert_close(value, member.state_dict()[key], rtol=1e-12, atol=1e-12)

    alone, _ = gradients_one_by_one(fused, mels, truth)
    error, eager = (
        relative_error(gradients(fused, mels, truth), alone64),
        relative_error(alone, alone64),
    )
    print(f"{name}: error of the gradients {error:.1e}, one by one {eager:.1e}")
    assert error <= max(2 * eager, 1e-6)


def test_dropout_of_a_member_is_what_it_is_alone_and_after_others_retire():
    ensemble = trained("tiny", [0, 1, 2, 3, 2]).train()
    mels = mels_of("tiny", 16, frames=8)
    statistics = {name: value.clone() for name, value in ensemble.state_dict().items()}
    ensemble.set_dropout_key(9, 30)
    scores = ensemble(mels)
    ensemble.load_state_dict(statistics)
    for part in (
        ensemble.select([2]),
        ensemble.select([3, 2]),
        ensemble.select([1, 2]).select([1]),
    ):
        part.set_dropout_key(9, 30)
        position = part.member_ids.index(2)
        mine = part.label_index[part.member_of_label == position]
        assert mine.tolist() == [2, 4]
        got = part(mels)[:, part.member_of_label == position]
        assert_close(got, scores[:, mine])
    assert not torch.allclose(scores, _with_step(ensemble, mels, 31))


def _with_step(ensemble, mels, step):
    ensemble.set_dropout_key(9, step)
    return ensemble(mels)


@pytest.mark.parametrize("name", ["vgg", "crnn", "resnet18"])
@pytest.mark.parametrize("training", [False, True])
def test_a_member_that_diverged_poisons_no_other(name, training):
    ensemble = trained(name, [0, 1, 2, 1]).train(training)
    mels = mels_of(name, 1)
    rows = ensemble.member_rows()
    with torch.no_grad():
        ensemble.set_dropout_key(0, 0)
        healthy = ensemble.select([0, 2])
        healthy.set_dropout_key(0, 0)
        for key, value in ensemble.state_dict().items():
            if value.is_floating_point():
                value[rows[key] == 1] = torch.nan
        scores = ensemble(mels)
        assert scores[:, [1, 3]].isnan().all()
        assert_close(scores[:, [0, 2]], healthy(mels), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------- fuse, unfuse, select


@pytest.mark.parametrize("name", NAMES)
def test_fuse_and_unfuse_keep_every_bit_both_ways(name):
    ensemble = trained(name, ragged((3, 1, 2)))
    for key, value in ensemble.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.copy_(torch.tensor([3, 100, 27]))  # stopped at different epochs
    members = unfuse(ensemble)
    for member, n_batches in zip(members, (3, 100, 27), strict=True):
        counts = [v for k, v in member.state_dict().items() if k.endswith("num_batches_tracked")]
        assert counts and all(count.tolist() == [n_batches] for count in counts)
    assert [m.n_labels for m in members] == [3, 1, 2]
    again = fuse(members, ensemble.member_of_label)
    assert equal(again, ensemble)
    assert all(equal(a, b) for a, b in zip(unfuse(again), members, strict=True))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), n_members=st.integers(1, 16))
def test_select_of_any_partition_keeps_the_members_it_names(data, n_members):
    extra = data.draw(st.lists(st.integers(0, n_members - 1), max_size=8))
    labels = data.draw(st.permutations([*range(n_members), *extra]))
    wanted = data.draw(st.permutations(range(n_members)))
    wanted = wanted[: data.draw(st.integers(1, n_members))]
    ensemble = trained("tiny", labels).eval()
    for key, value in ensemble.state_dict().items():
        if key.endswith("num_batches_tracked"):
            value.copy_(torch.arange(n_members) * 7)  # stopped at different epochs
    part = ensemble.select(wanted)
    assert part.member_ids == tuple(wanted)
    assert part.label_index.tolist() == [i for i, k in enumerate(labels) if k in wanted]
    assert [wanted[k] for k in part.member_of_label] == [labels[i] for i in part.label_index]
    for position, k in enumerate(wanted):
        one, same = part.select([position]), ensemble.select([k])
        assert one.label_index.tolist() == same.label_index.tolist()
        assert equal(one, same)
    mels = mels_of("tiny", 2, frames=5)
    with torch.no_grad():
        assert_close(part(mels), ensemble(mels)[:, part.label_index])
    assert equal(fuse(unfuse(ensemble), labels), ensemble)


def test_select_copies_and_keeps_the_mode():
    ensemble = trained("tiny", [0, 1]).eval()
    before = {name: value.clone() for name, value in ensemble.state_dict().items()}
    part = ensemble.select([1])
    assert not part.training and ensemble.train().select([0]).training
    with torch.no_grad():
        for p in part.parameters():
            assert p.requires_grad and p.is_leaf
            p.zero_()
    assert all(torch.equal(v, before[name]) for name, v in ensemble.state_dict().items())


@pytest.mark.parametrize("members", [[], [0, 0], [2], [-1], [0, 1, 2]])
def test_select_names_the_members_there_are(members):
    with pytest.raises(ValueError, match=r"members must be different numbers in \[0, 1\], got"):
        FusedEnsemble("tiny", [0, 1]).select(members)


def test_fuse_keeps_different_ids_and_numbers_equal_ones():
    one = FusedEnsemble.create("tiny", [0], member_ids=[4])
    two = FusedEnsemble.create("tiny", [0], member_ids=[1])
    assert fuse([one, two], [0, 1]).member_ids == (4, 1)
    assert fuse([one, one], [0, 1]).member_ids == (0, 1)


def test_fuse_refuses_what_does_not_fit():
    one, two = FusedEnsemble("tiny", [0]), FusedEnsemble("tiny", [0, 0])
    with pytest.raises(ValueError, match="members must be 2 ensembles, got 1"):
        fuse([one], [0, 1])
    with pytest.raises(ValueError, match="member 1 must be one member of 1 labels, got 1 of 2"):
        fuse([one, two], [0, 1])
    with pytest.raises(ValueError, match="member 0 must be one member of 2 labels, got 2 of 2"):
        fuse([FusedEnsemble("tiny", [0, 1])], [0, 0])
    with pytest.raises(ValueError, match="members must have one backbone, got tiny, vgg"):
        fuse([one, FusedEnsemble("vgg", [0])], [0, 1])


# ------------------------------------------------------------------------------- making and rows


def test_a_member_starts_as_it_would_alone():
    labels = [0, 2, 1, 2]
    ensemble = FusedEnsemble.create("resnet18-uibk", labels, seed=5)
    for k, member in enumerate(unfuse(ensemble)):
        alone = FusedEnsemble.create("resnet18-uibk", [0] * labels.count(k), 5, member_ids=[k])
        state = member.state_dict()
        assert all(torch.equal(v, state[name]) for name, v in alone.state_dict().items())
    first = ensemble.state_dict()["backbone.layer1.0.conv2.weight"].chunk(3)
    assert not torch.equal(first[0], first[1])  # members differ
    other = FusedEnsemble.create("resnet18-uibk", labels, seed=6)
    assert not torch.equal(other.head.weight, ensemble.head.weight)


def test_create_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    FusedEnsemble.create("tiny", [0, 1], seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("labels", [[], [1], [0, 2], [-1, 0], [0, 10**12]])
def test_member_of_label_must_be_a_partition(labels):
    with pytest.raises(ValueError, match="must name every member from 0 on at least once"):
        FusedEnsemble("tiny", labels)


@pytest.mark.parametrize("ids", [[0], [1, 1], [0, 1, 2]])
def test_member_ids_must_differ(ids):
    with pytest.raises(ValueError, match="member_ids must be 2 different ids"):
        FusedEnsemble("tiny", [0, 1], ids)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_every_tensor_belong_to_one_member(name):
    labels = [1, 0, 2, 1]
    with torch.device("meta"):
        ensemble = FusedEnsemble(name, labels)
    state = ensemble.state_dict()
    rows = ensemble.member_rows()
    assert list(rows) == list(state)
    assert rows["head.weight"].tolist() == rows["head.bias"].tolist() == labels
    for key, members in rows.items():
        assert len(members) == len(state[key])
        if not key.startswith("head."):
            assert members.bincount().tolist() == [len(members) // 3] * 3


@pytest.mark.parametrize("name", ["vgg", "crnn", "resnet18"])
def test_changing_the_rows_of_a_member_changes_its_scores_alone(name):
    ensemble = trained(name, [1, 0, 1]).eval()
    mels, rows = mels_of(name, 1), ensemble.member_rows()
    with torch.no_grad():
        before = ensemble(mels)
        for key, value in ensemble.state_dict().items():
            if value.is_floating_point():
                value[rows[key] == 0] *= 1.5
        after = ensemble(mels)
    assert torch.equal(after[:, [0, 2]], before[:, [0, 2]])
    assert (after[:, 1] - before[:, 1]).abs() > 1e-3


def test_wrong_state_is_refused():
    state = FusedEnsemble("tiny", [0, 1]).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for head"):
        FusedEnsemble.from_state("tiny", [0, 1, 1], state)


def test_training_with_dropout_needs_a_key():
    ensemble = FusedEnsemble("tiny", [0, 1]).train()
    with pytest.raises(RuntimeError, match="set_dropout_key"):
        ensemble(mels_of("tiny", frames=5))


def test_an_ensemble_moves_with_all_it_has(device):
    ensemble = trained("tiny", [1, 0, 1]).to(device).train()
    ensemble.set_dropout_key(0, 1)
    mels = mels_of("tiny", 4, frames=6).to(device)
    scores = ensemble(mels)
    part = ensemble.select([1])
    assert scores.device == part.label_index.device == ensemble.member_of_label.device
    assert all(rows.device == scores.device for rows in ensemble.member_rows().values())
    part.eval(), ensemble.eval()
    assert_close(part(mels), ensemble(mels)[:, part.label_index])
