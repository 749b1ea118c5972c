"""The fused ensemble beside the paper's way, K models one after another.

The models of the other side are plain torch.nn networks that know nothing of
fastmte (``tests/networks.py``). About two fifths of such a sequential run are page
faults, because glibc maps every large activation anew. So ``make bench`` runs this
file twice, plain and with allocator settings that avoid it
(``FASTMTE_BENCH_ALLOCATOR=tuned``), and both are reported.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

from bench import paper
from fastmte.ensemble import FusedEnsemble, fuse

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from networks import network, settle, state_of

TUNED = os.environ.get("FASTMTE_BENCH_ALLOCATOR") == "tuned"
ALLOCATOR = "tuned malloc" if TUNED else "plain malloc"
N_LABELS, N_MEMBERS = 56, 4


@pytest.mark.parametrize("backbone", ["vgg", "resnet18", "resnet18-uibk"])
@pytest.mark.parametrize("batch", [1, 8])
def test_forward(versus, backbone, batch):
    mels = torch.randn(batch, 96, 1366, generator=torch.Generator().manual_seed(0)) * 18 - 23
    member_of_label = torch.arange(N_LABELS) % N_MEMBERS
    parts = [(member_of_label == k).nonzero()[:, 0] for k in range(N_MEMBERS)]
    models = [network(backbone, len(part), seed=k) for k, part in enumerate(parts)]
    for model in models:
        settle(model, torch.cat([mels, mels.flip(2)]))  # scores that are not all 0 or 1
    singles = [
        FusedEnsemble.from_state(backbone, [0] * len(part), state_of(model))
        for model, part in zip(models, parts, strict=True)
    ]
    ensemble = fuse(singles, member_of_label).eval()

    def fused():
        with torch.inference_mode():
            return torch.sigmoid(ensemble(mels))

    def sequential():
        with torch.inference_mode():
            return paper.one_after_another(models, parts, mels)

    versus(
        fused,
        sequential,
        what=f"fused forward, {backbone}, K = {N_MEMBERS}",
        size=f"{batch} x 96 x 1366",
        instead=f"the models in turn, {ALLOCATOR}",
        same=lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=1e-5),
        rounds=5,
    )
