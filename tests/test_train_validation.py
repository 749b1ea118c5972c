"""Validation runs the inference plan, with the scores of the module."""

import pytest
import torch
from networks import mels_of, network, state_of

from fastmte.ensemble import FusedEnsemble, fuse
from fastmte.plan.inference import InferencePlan
from fastmte.train.group import Group
from fastmte.train.member import MemberState
from fastmte.train.schedule import Plateau, Stopping

COUNTS = (3, 2)


def group_of(backbone: str, dtype: torch.dtype | None = None) -> Group:
    singles = []
    for k, n_labels in enumerate(COUNTS):
        plain = network(backbone, n_labels, seed=k)
        singles.append(FusedEnsemble.from_state(backbone, [0] * n_labels, state_of(plain)))
    members = [MemberState(k, [], 1e-3, Plateau(), Stopping()) for k in range(len(COUNTS))]
    ensemble = fuse(singles, [1, 0, 0, 1, 0]).train()
    return Group(ensemble, members, choice="fused", dtype=dtype)


@pytest.mark.parametrize("backbone", ["vgg", "resnet18", "resnet18-uibk"])
@pytest.mark.parametrize(("dtype", "atol"), [(None, 1e-6), (torch.bfloat16, 5e-3)])
def test_scores_are_the_modules(backbone: str, dtype: torch.dtype | None, atol: float) -> None:
    group, mels = group_of(backbone, dtype), mels_of(backbone, n_songs=3, seed=5)
    truth = (torch.arange(15) % 3 == 0).view(3, 5).float()
    scorer = group.scorer(2)
    assert scorer.choice.name == "separate"
    losses, logits = group.validate(scorer, mels, truth)
    assert group.ensemble.training  # as before
    with torch.no_grad():
        expected = group.ensemble.eval()(mels)
    torch.testing.assert_close(logits.sigmoid(), expected.sigmoid().double(), rtol=0, atol=atol)
    own = torch.nn.functional.binary_cross_entropy_with_logits(expected, truth, reduction="none")
    torch.testing.assert_close(losses, own.mean(0).double(), rtol=0, atol=10 * atol)


def test_each_validation_has_the_weights_of_its_epoch() -> None:
    group, mels = group_of("resnet18"), mels_of("resnet18")
    before = group.scorer(2)(mels)
    with torch.no_grad():
        group.ensemble.backbone.layer1[0].conv1.weight.mul_(1.5)
        group.ensemble.backbone.bn1.running_mean.add_(0.1)
    after = group.scorer(2)(mels)
    assert not torch.equal(before, after)
    assert torch.equal(after, InferencePlan(group.ensemble, group.scorer(2).choice)(mels))


def test_a_training_by_the_module_validates_by_it() -> None:
    group = group_of("resnet18")
    group.plan.is_fused = False
    assert group.scorer(2).choice.name == "module"
