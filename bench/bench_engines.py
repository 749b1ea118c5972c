"""The ensemble's plan beside the engines a user might run it on instead.

All run the same weights; all but vmap, with batch norms folded in and poolings before
activations. OpenVINO has the best of three forms: one graph of K trunks, K graphs, and
one graph of grouped convolutions. Time is the process's own, on one thread, with the
allocator settings that spare every side its page faults (``make bench``).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time

import pytest
import torch
from torch.func import functional_call, stack_module_state, vmap

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from networks import network, settle, state_of  # noqa: E402

from fastmte.ensemble import FusedEnsemble, fuse  # noqa: E402
from fastmte.plan import engines  # noqa: E402
from fastmte.plan.autotune import make_plan  # noqa: E402
from fastmte.plan.network import FoldedNetwork  # noqa: E402
from fastmte.plan.precision import has_bf16  # noqa: E402

N_LABELS, N_MEMBERS, FRAMES = 56, 4, 1366
MEMBER_OF_LABEL = torch.arange(N_LABELS) % N_MEMBERS
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-5, "bf16": 3e-2}  # of scores; random weights let rounding grow
Run = Callable[[], torch.Tensor]

no_bf16 = pytest.mark.skipif(not has_bf16(torch.device("cpu")), reason="this CPU has no bf16")
precisions = pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=no_bf16)])
sizes = pytest.mark.parametrize(
    ("backbone", "batch"), [("vgg", 1), ("vgg", 8), ("resnet18-uibk", 1), ("resnet18-uibk", 8)]
)


class Sides:
    """The same models as an ensemble and as plain networks, and what they are given."""

    def __init__(self, backbone: str, batch: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.backbone = backbone
        self.mels = torch.randn(batch, 96, FRAMES, generator=generator) * 18 - 23
        each = N_LABELS // N_MEMBERS
        self.models = [network(backbone, each, seed=k) for k in range(N_MEMBERS)]
        for model in self.models:
            some = self.mels[:1]
            settle(model, torch.cat([some, some.flip(2)]))  # scores that are not all 0 or 1
        singles = [
            FusedEnsemble.from_state(backbone, [0] * each, state_of(model)) for model in self.models
        ]
        self.ensemble = fuse(singles, MEMBER_OF_LABEL).eval()

    def plan(self, precision: str) -> Run:
        """Return the plan that fastmte chooses."""
        plan = make_plan(self.ensemble, len(self.mels), FRAMES, precision=precision)
        return lambda: plan(self.mels).sigmoid()

    def scores(self, features: Run) -> Run:
        """Return what gives scores, of what gives features (B, K, D)."""

        def run() -> torch.Tensor:
            with torch.inference_mode():
                return self.ensemble.head(features()).sigmoid()

        return run


def compare(versus: Callable[..., None], sides: Sides, precision: str, run: Run, name: str) -> None:
    tolerance = TOLERANCE[precision]
    versus(
        sides.plan(precision),
        run,
        what=f"inference plan, {sides.backbone}, K = {N_MEMBERS}, {precision}",
        size=" x ".join(map(str, sides.mels.shape)),
        instead=name,
        same=lambda a, b: torch.testing.assert_close(a, b, rtol=0, atol=tolerance),
        rounds=7,
        clock=process_time,
    )


@sizes
@precisions
def test_openvino(versus, backbone, batch, precision):
    openvino = pytest.importorskip("openvino")
    sides = Sides(backbone, batch)
    name, run = fastest(openvino_forms(sides, DTYPES[precision]))
    release = ".".join(openvino.__version__.split(".")[:2])
    compare(versus, sides, precision, run, f"OpenVINO {release}, {name}")


@sizes
@pytest.mark.parametrize("engine", ["onnx", "compile"])
def test_engine(versus, backbone, batch, engine):
    if reason := engines.missing(engine):
        pytest.skip(reason)
    sides = Sides(backbone, batch)
    run = engines.engine_runner(engine, sides.ensemble, torch.float32)
    name = {"onnx": "onnxruntime, one graph", "compile": "`torch.compile`, one graph"}[engine]
    compare(versus, sides, "fp32", sides.scores(lambda: run(sides.mels)), name)


@sizes
def test_vmap(versus, backbone, batch):
    sides = Sides(backbone, batch)
    parameters, buffers = stack_module_state(sides.models)
    model = sides.models[0]
    models = vmap(
        lambda parameters, buffers, mels: functional_call(model, (parameters, buffers), (mels,)),
        in_dims=(0, 0, None),
    )
    order = MEMBER_OF_LABEL.argsort(stable=True).argsort()

    def run() -> torch.Tensor:
        with torch.no_grad():
            logits = models(parameters, buffers, sides.mels)  # (K, B, L / K)
            return logits.transpose(0, 1).flatten(1)[:, order].sigmoid()

    compare(versus, sides, "fp32", run, "`torch.vmap` over the models")


def openvino_forms(sides: Sides, dtype: torch.dtype) -> dict[str, Run]:
    """Return what runs the ensemble in OpenVINO, in each form."""
    from fastmte.plan.openvino_graph import compiled

    backbone = sides.ensemble.backbone
    singles = [sides.ensemble.select([k]).backbone for k in range(N_MEMBERS)]
    networks = {
        "one graph": [FoldedNetwork(backbone)],
        "K graphs": [FoldedNetwork(single) for single in singles],
        "one grouped graph": [FoldedNetwork(backbone, grouped=True)],
    }
    shape, mels = tuple(sides.mels.shape), sides.mels.numpy()

    def features(graphs: list) -> Run:
        def run() -> torch.Tensor:
            parts = [torch.from_numpy(graph(mels)[0]) for graph in graphs]
            return torch.cat(parts, 1).view(len(mels), N_MEMBERS, -1)

        return run

    return {
        name: sides.scores(features([compiled(one, shape, dtype) for one in form]))
        for name, form in networks.items()
    }


def fastest(forms: dict[str, Run]) -> tuple[str, Run]:
    """Return the form that takes the least time in rounds of all; they must agree."""
    first, *others = (run() for run in forms.values())
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=TOLERANCE["bf16"])
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(3):
        for name, run in forms.items():
            start = process_time()
            run()
            seconds[name].append(process_time() - start)
    best = min(forms, key=lambda name: median(seconds[name]))
    print({name: f"{median(times) * 1e3:.1f} ms" for name, times in seconds.items()})
    return best, forms[best]
