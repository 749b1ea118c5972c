"""A training step of the ensemble beside the paper's way, K models one after another.

One step is forward, backward and Adam of all K models. As the forward in
``bench_ensemble.py``, it is timed with the allocator as it is and with settings that spare
the other side its page faults. Time is the process's own, so that a neighbour on the machine
counts less. Memory is the most a process of its own held beyond what it held before it made
the models, in two steps.
"""

import subprocess
import sys
from pathlib import Path
from time import process_time

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from networks import network, state_of  # noqa: E402

from bench import paper  # noqa: E402
from bench.bench_ensemble import ALLOCATOR  # noqa: E402
from bench.process import bytes_of  # noqa: E402
from fastmte.ensemble import FusedEnsemble  # noqa: E402
from fastmte.train.group import Group  # noqa: E402
from fastmte.train.member import MemberState  # noqa: E402
from fastmte.train.schedule import Plateau, Stopping  # noqa: E402

N_LABELS, N_MEMBERS, RATE = 56, 4, 1e-4
DTYPES = {"fp32": None, "bf16": torch.bfloat16}  # None: the parameters'
BATCH = {"vgg": 8, "resnet18": 4, "resnet18-uibk": 4}
PARTS = [torch.arange(k, N_LABELS, N_MEMBERS) for k in range(N_MEMBERS)]
COUNTS = [len(part) for part in PARTS]


def fused_step(singles, mels, truth, dtype):
    """Return a function that makes one step of every member, and gives each label's loss."""
    groups = []
    for k, (single, labels) in enumerate(zip(singles, PARTS, strict=True)):
        single.label_index.copy_(labels)
        single.dropout.p = 0.0  # the other side's masks would be others
        member = MemberState(k, labels.tolist(), RATE, Plateau(), Stopping(None))
        groups.append(Group(single.train(), [member], dtype=dtype))

    def step():
        plan = groups[0].plan
        shared = plan.shared(mels) if plan.is_fused else None
        losses = torch.empty(N_LABELS, dtype=torch.float64)
        for group in groups:
            losses[torch.from_numpy(group.labels)] = group.step(mels, truth, 0, 0, shared)
        return losses

    return step


def sequential_step(models, mels, truth):
    optimisers = [torch.optim.Adam(model.parameters(), RATE) for model in models]
    return lambda: paper.step_one_after_another(models, optimisers, PARTS, mels, truth)


def batch_of(backbone):
    generator = torch.Generator().manual_seed(0)
    mels = torch.randn(BATCH[backbone], 96, 1366, generator=generator) * 18 - 23
    return mels, (torch.rand(len(mels), N_LABELS, generator=generator) < 0.05).float()


@pytest.mark.parametrize("precision", list(DTYPES))
@pytest.mark.parametrize("backbone", list(BATCH))
def test_step(versus, backbone, precision):
    mels, truth = batch_of(backbone)
    models = [network(backbone, n, seed=k).train() for k, n in enumerate(COUNTS)]
    singles = [
        FusedEnsemble.from_state(backbone, [0] * n, state_of(model))
        for model, n in zip(models, COUNTS, strict=True)
    ]
    atol = 1e-4 if precision == "fp32" else 3e-2
    versus(
        fused_step(singles, mels, truth, DTYPES[precision]),
        sequential_step(models, mels, truth),
        what=f"training step, {backbone}, K = {N_MEMBERS}, {precision}",
        size=f"{len(mels)} x 96 x 1366",
        instead=f"the models in turn in fp32, {ALLOCATOR}",
        same=lambda a, b: torch.testing.assert_close(a, b, rtol=1e-3, atol=atol),
        rounds=3,
        clock=process_time,
    )


@pytest.fixture(scope="module")
def sequential_peak():
    return peak_of("vgg", "sequential")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("precision", list(DTYPES))
def test_memory(benchmark, sequential_peak, precision):
    mine = benchmark.pedantic(peak_of, ("vgg", precision))
    ratio = sequential_peak / mine
    benchmark.extra_info |= {
        "what": f"memory of a training step, vgg, K = {N_MEMBERS}, {precision}",
        "size": f"{BATCH['vgg']} x 96 x 1366",
        "instead": f"the models in turn in fp32, {ALLOCATOR}",
        "bytes": mine,
        "instead_bytes": sequential_peak,
        "speedup": ratio,
        "speedup_quartiles": [ratio, ratio],
    }


def peak_of(backbone, side):
    """Return the bytes that training takes in a process of its own."""
    command = [sys.executable, __file__, backbone, side]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(backbone, side):
    """Return the bytes that two steps, the models and their moments took at most."""
    torch.set_num_threads(1)
    mels, truth = batch_of(backbone)
    before = bytes_of("VmRSS")
    if side in DTYPES:
        pairs = enumerate(COUNTS)
        singles = [FusedEnsemble.create(backbone, [0] * n, 0, [k]) for k, n in pairs]
        step = fused_step(singles, mels, truth, DTYPES[side])
    else:
        models = [network(backbone, n, seed=k).train() for k, n in enumerate(COUNTS)]
        step = sequential_step(models, mels, truth)
    for _ in range(2):
        step()
    return bytes_of("VmHWM") - before


if __name__ == "__main__":
    print(measure(*sys.argv[1:]))
