"""Cases of the operators that more than one test file uses."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from fastmte import _library

TRAINING = {  # on a GPU the ensemble trains as a module
    "bn_act_pool",
    "bn_act_pool_backward",
    "bn_add_relu",
    "bn_add_relu_backward",
    "channel_moments",
    "map_conv_pack",
    "map_conv_weights",
    "member_adam_",
    "patch_products",
    "vgg_stem_argmax",
    "vgg_stem_sums",
}
CPU_ONLY = TRAINING | {"conv_pool_act", "residual_blocks"}  # for the matrix units of CPUs


def on_threads(n_threads: int, function):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        return function()
    finally:
        torch.set_num_threads(before)


def saved_on(isa: str, code: str, folder):
    """Return what ``code`` saves to ``sys.argv[1]``, run with one of the instruction sets."""
    if _library.status()["tier"] != "native":
        pytest.skip("the native library is not loaded")
    path = folder / "out.pt"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=os.environ | {"FASTMTE_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(path)


def refuses(text: str):
    """Expect exactly this error; torch may only put a context before it."""
    return pytest.raises(RuntimeError, match=f"(^|, ){re.escape(text)}$")


def packed(lengths, bands=3, dtype=torch.float32, device="cpu", gap=5):
    """Songs of random values, a few unused values between them."""
    generator = torch.Generator().manual_seed(sum(lengths))
    starts = [gap + sum(bands * t + gap for t in lengths[:i]) for i in range(len(lengths))]
    n_values = gap + sum(bands * t + gap for t in lengths)
    mels = torch.randn(n_values, generator=generator).to(dtype)
    tables = (torch.tensor(starts), torch.tensor(lengths))
    return mels.to(device), *(t.to(device) for t in tables)


CROPS = {
    "one value": ([1], [0], None, 1, 1),
    "odd sizes": ([7, 13, 5], [2, 0, 1, 1], None, 5, 3),
    "short songs": ([1, 2, 3, 9], [0, 1, 2, 3], None, 10, 3),
    "given starts": ([20, 30, 20], [0, 1, 2], [3, 0, 10], 10, 2),
    "short with starts": ([4, 4, 4], [0, 1, 2], [0, 3, 1], 11, 2),
    "exactly fitting": ([10, 10], [1, 0], [0, 0], 10, 4),
    "real": ([2000, 1366, 900], [0, 1, 2, 0], None, 1366, 96),
    "no crops": ([5], [], None, 4, 3),
}


def crop_case(name, dtype=torch.float32, device="cpu"):
    lengths, index, starts, frames, bands = CROPS[name]
    mels, offsets, lengths = packed(lengths, bands, dtype, device)
    index = torch.tensor(index, dtype=torch.int64, device=device)
    starts = None if starts is None else torch.tensor(starts, device=device)
    return mels, offsets, lengths, index, starts, frames, bands


def songs(n_songs, n_features, n_labels, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(n_songs + n_features)
    features = torch.randn(n_songs, n_features, generator=generator).to(dtype)
    labels = torch.rand(n_songs, n_labels, generator=generator) < 2 / max(2, n_labels)
    labels[: min(1, n_songs)] = True
    return features.to(device), labels.to(device)


def csr(labels: Tensor) -> tuple[Tensor, Tensor, int]:
    crow = torch.nn.functional.pad(labels.sum(1).cumsum(0), (1, 0))
    return crow, labels.nonzero()[:, 1], labels.size(1)


def points_of(n_points, n_features, n_members, device="cpu", seed=0):
    rng = np.random.default_rng(seed)
    points = torch.from_numpy(rng.normal(size=(n_points, n_features)))
    seeds = torch.from_numpy(rng.choice(n_points, n_members, replace=False))
    return points.to(device), seeds.to(device)


def maps_of(shape, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x.mul(2).to(dtype).to(device)


STEMS = {"vgg_stem": 3, "resnet_stem": 7}  # side of the kernel


def stem_case(name, members, n_songs, bands, frames, channels, dtype=torch.float32, device="cpu"):
    """Arguments of a stem by their names, whose sums are about 1; dtype is that of the output."""
    side = STEMS[name]
    n_rows = members * channels
    shapes = {"mels": (n_songs, bands, frames)}
    if name == "vgg_stem":
        shapes |= {"scale": (members,), "shift": (members,)}
    shapes |= {"weight": (n_rows, 1, side, side), "bias": (n_rows,)}
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    case = {
        key: maps_of(shape, torch.float64, seed=i) / 2
        for i, (key, shape) in enumerate(shapes.items())
    }
    case["weight"] /= side
    if name == "vgg_stem":
        case["scale"] += 1
    return {key: x.to(dtype).to(device) for key, x in case.items()}


KINDS = [
    "normal", "heavy tails", "constant", "duplicates", "ties", "grid", "two points", "line",
    "far cluster", "very far cluster", "subnormal", "huge", "offset", "sphere",
]  # fmt: skip


def space_of(kind, n_points, n_features, n_members):
    """Points of a kind that is hard on a filter, and seeds."""
    rng = np.random.default_rng(n_points + n_features)
    normal = rng.normal(size=(n_points, n_features))
    far = np.where(rng.random((n_points, 1)) < 0.1, 1.0, 0.0)
    points = {
        "normal": lambda: normal,
        "heavy tails": lambda: rng.standard_t(1.2, normal.shape),
        "constant": lambda: np.full_like(normal, 0.3),
        "duplicates": lambda: normal[rng.integers(max(1, n_points // 5), size=n_points)],
        "ties": lambda: rng.integers(0, 3, normal.shape).astype(float),
        "grid": lambda: rng.integers(0, 3, normal.shape) * 0.1,
        "two points": lambda: normal[rng.integers(min(2, n_points), size=n_points)],
        "line": lambda: normal[:, :1] * normal[:1],
        "far cluster": lambda: normal + 1e6 * far,
        "very far cluster": lambda: normal + 1e13 * far,
        "subnormal": lambda: normal * 1e-310,
        "huge": lambda: normal * 1e300,
        "offset": lambda: normal + 1e12,
        "sphere": lambda: normal / np.linalg.norm(normal, axis=1, keepdims=True),
    }[kind]()
    seeds = torch.from_numpy(rng.choice(n_points, n_members, replace=False))
    return torch.from_numpy(points), seeds
