"""All operators: one meaning on every tier, and torch.library's rules."""

import math
import os
import subprocess
import sys

import pytest
import torch
from op_cases import STEMS, crop_case, maps_of, points_of, refuses, songs, stem_case

from fastmte import _library, ops, reference

INF, NAN = math.inf, math.nan

AUDIO_KERNELS = (
    "_linear", "_fill_taps", "_add_taps", "_filter_phase", "_mel_frames", "_gather", "_transform",
    "_pass",
)  # fmt: skip
MAP_KERNELS = ("_vgg_stem", "_resnet_stem", "_pool", "_convolve", "_keep_largest", "_activate")


@pytest.fixture
def uncompiled(monkeypatch):
    """The numba tier with its kernels as plain Python."""
    pytest.importorskip("numba")
    from fastmte import _kernels, _kernels_audio, _kernels_maps

    for module, names in (
        (_kernels, ("_crop", "_add_pairs", "_scale", "_deal")),
        (_kernels_audio, AUDIO_KERNELS),
        (_kernels_maps, MAP_KERNELS),
    ):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name).py_func)
    return _kernels


def test_the_kernels_mean_the_same_uncompiled(uncompiled):
    for name in ("odd sizes", "short songs", "given starts"):
        case = crop_case(name, torch.float16)
        assert torch.equal(uncompiled.crop_mels(*case), reference.crop_mels(*case))
    for size in ((8200, 2, 3), (70, 65, 2)):
        features, labels = songs(*size)
        expected = reference.label_centroids(features, labels)
        assert torch.equal(uncompiled.label_centroids(features, labels), expected)
    case = (*points_of(20, 3, 2), 1e-10)
    assert torch.equal(uncompiled.dkmeans_assign(*case)[1], reference.dkmeans_assign(*case)[1])
    case = (maps_of((2, 5, 6, 3)), (2, 3), "elu")
    torch.testing.assert_close(uncompiled.pool_act(*case), reference.pool_act(*case))
    for name in STEMS:
        case = *stem_case(name, 2, 1, 5, 9, 3).values(), torch.float32
        case += (2,) if name == "resnet_stem" else ()
        expected = getattr(reference, name)(*case)
        torch.testing.assert_close(getattr(uncompiled, name)(*case), expected)
    samples = maps_of((60,))
    samples[40] = NAN
    for filter in (torch.linspace(1, 0, 900), None):
        case = (samples, filter, 7, 5, 3, 2, 40)
        expected = reference.resample(*case)
        torch.testing.assert_close(uncompiled.resample(*case), expected, equal_nan=True)
    tables = torch.ones(12), torch.ones(3), torch.tensor([1, 5]), torch.tensor([0, 2, 3])
    case = (samples[None], *tables, 5, -6, 13, 10.0, -80.0)
    torch.testing.assert_close(uncompiled.mel_db(*case), reference.mel_db(*case), equal_nan=True)


def test_the_operators_compile_without_a_graph_break(device):
    crops = crop_case("odd sizes", device=device)
    features, labels = songs(30, 4, 5, torch.float64, device)

    def both(mels, features, labels):
        centroids = ops.label_centroids(features, labels)
        parts, order = ops.dkmeans_assign(centroids, torch.arange(2, device=features.device))
        return ops.crop_mels(mels, *crops[1:]) * 2, centroids + 1, parts + order

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    arguments = (crops[0], features, labels)
    for actual, expected in zip(compiled(*arguments), both(*arguments), strict=True):
        assert torch.equal(actual, expected)


def test_tensors_on_two_devices_are_refused(tier):
    if tier is torch.ops.fastmte:
        pytest.skip("torch answers for meta tensors itself")
    other = torch.zeros(2, dtype=torch.int64, device="meta")
    case = list(crop_case("odd sizes"))
    case[1] = other
    with refuses("crop_mels: offsets must be on cpu, got meta"):
        tier.crop_mels(*case)


DIGEST = """
import hashlib, torch
from fastmte import _library, ops
from op_cases import KINDS, crop_case, points_of, songs, space_of
torch.set_num_threads(2)
outputs = [ops.crop_mels(*crop_case("real", dtype)) for dtype in (torch.float32, torch.float16)]
outputs += [ops.label_centroids(*songs(*size)) for size in ((20_001, 22, 56), (9000, 250, 5))]
outputs += ops.dkmeans_assign(*points_of(50, 9, 4))
outputs += [ops.dkmeans_assign(*space_of(kind, 300, 9, 10))[1] for kind in KINDS]
outputs += [ops.dkmeans_assign(*space_of("normal", 900, 40, n), 1e-10, True)[1] for n in (2, 22)]
digest = hashlib.sha256(b"".join(x.numpy().tobytes() for x in outputs))
print(_library.status()["tier"], digest.hexdigest())
"""


def test_all_tiers_and_instruction_sets_give_the_same_bits():
    runs = [("numba", "1"), ("reference", "1")]
    if _library.status()["tier"] == "native":
        runs += [("native", "0"), ("native", "1"), ("native", "2")]
    digests = set()
    for tier, isa in runs:
        settings_of_run = {"FASTMTE_TIER": tier, "FASTMTE_ISA": isa, "FASTMTE_REQUIRE_NATIVE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env=os.environ | settings_of_run | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        name, digest = done.stdout.split()
        assert name == tier
        digests.add(digest)
    assert len(digests) == 1
