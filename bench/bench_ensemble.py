"""The fused ensemble beside the paper's way, K models one after another.

About two fifths of a plain sequential run are page faults, because glibc maps every
large activation anew. So ``make bench`` runs this file twice, plain and with the
allocator settings below (``FASTMTE_BENCH_ALLOCATOR=tuned``), and both are reported.
"""

import os

import pytest
import torch

from bench import paper
from fastmte.ensemble import FusedEnsemble, unfuse

TUNED = os.environ.get("FASTMTE_BENCH_ALLOCATOR") == "tuned"
ALLOCATOR = "tuned malloc" if TUNED else "plain malloc"
N_LABELS, N_MEMBERS = 56, 4


@pytest.mark.parametrize("backbone", ["vgg", "resnet18", "resnet18-uibk"])
@pytest.mark.parametrize("batch", [1, 8])
def test_forward(versus, backbone, batch):
    member_of_label = torch.arange(N_LABELS) % N_MEMBERS
    ensemble = FusedEnsemble.create(backbone, member_of_label, seed=0).eval()
    members = [member.eval() for member in unfuse(ensemble)]
    parts = [(member_of_label == k).nonzero()[:, 0] for k in range(N_MEMBERS)]
    mels = torch.randn(batch, 96, 1366, generator=torch.Generator().manual_seed(0)) * 18 - 23

    def fused():
        with torch.inference_mode():
            return torch.sigmoid(ensemble(mels))

    def sequential():
        with torch.inference_mode():
            return paper.one_after_another(members, parts, mels)

    versus(
        fused,
        sequential,
        what=f"fused forward, {backbone}, K = {N_MEMBERS}",
        size=f"{batch} x 96 x 1366",
        instead=f"the members in turn, {ALLOCATOR}",
        rounds=5,
    )
