"""residual_blocks on every tier: sums, shortcuts, chains, NaN, threads, errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from op_cases import maps_of, on_threads, refuses, saved_on
from torch.testing import assert_close

from fastmte import ops, reference
from fastmte.packing import packed


@pytest.fixture(params=["dispatched", "reference"])
def tier(request):
    """The operators on one tier; there is no numba one."""
    return torch.ops.fastmte if request.param == "dispatched" else reference


# (B, H, W, I), then of each block its middle and outer channels, kernel, stride
CASES = {
    "one value": ((1, 1, 1, 32), [(32, 32, (1, 1), 1)]),
    "identity": ((2, 5, 37, 64), [(32, 64, (3, 3), 1)]),
    "projected": ((2, 6, 33, 32), [(64, 96, (3, 3), 2)]),
    "own kernel": ((1, 4, 70, 32), [(32, 64, (5, 1), 3)]),
    "chain": ((3, 7, 38, 32), [(32, 64, (3, 3), 1), (64, 64, (3, 3), 1), (64, 96, (3, 3), 2)]),
    "many weights": (
        (2, 3, 5, 64),
        [(64, 192, (3, 3), 1), (192, 192, (3, 3), 1), (32, 192, (3, 3), 1)],
    ),
    "two chains": ((1, 9, 40, 128), [(128, 128, (3, 3), 1)] * 4),
    "a stride beyond the map": ((2, 4, 5, 32), [(32, 32, (3, 3), 1), (32, 32, (3, 3), 1 << 30)]),
    "no songs": ((0, 4, 6, 32), [(32, 32, (3, 3), 1)]),
}


def case_of(name, device="cpu"):
    """Return x, weights, projects, shortcuts (None for x), biases and strides; all are about 1."""
    shape, blocks = CASES[name]
    parts, inputs = ([], [], [], [], []), shape[3]
    for i, (middle, outputs, kernel, stride) in enumerate(blocks):
        kernels = [(middle, inputs, *kernel), (outputs, middle, 1, 1), (outputs, inputs, 1, 1)]
        weights = [
            (maps_of(size, seed=10 * i + j) / (2 * math.prod(size[1:]) ** 0.5)).bfloat16()
            for j, size in enumerate(kernels)
        ]
        if stride == 1 and outputs == inputs:
            weights[2] = None
        biases = [maps_of((n,), seed=10 * i + 5 + j) / 4 for j, n in enumerate((middle, outputs))]
        for part, more in zip(parts, ([w] for w in weights), strict=False):
            part += more
        parts[3].extend(bias.to(device) for bias in biases)
        parts[4].append(stride)
        inputs = outputs
    move = [[None if w is None else w.to(device) for w in part] for part in parts[:3]]
    return (maps_of(shape, torch.bfloat16, seed=1) / 2).to(device), *move, parts[3], parts[4]


def exact(x, weights, projects, shortcuts, biases, strides):
    """Return the same in float64, rounded where maps are."""
    maps = x.permute(0, 3, 1, 2).double()
    for i, stride in enumerate(strides):
        padding = weights[i].size(2) // 2, weights[i].size(3) // 2
        y = F.conv2d(maps, weights[i].double(), biases[2 * i].double(), stride, padding).relu()
        z = F.conv2d(y.bfloat16().double(), projects[i].double(), biases[2 * i + 1].double())
        onto = maps
        if shortcuts[i] is not None:
            onto = F.conv2d(maps, shortcuts[i].double(), stride=stride)
        maps = (z + onto).relu().bfloat16().double()
    return maps.permute(0, 2, 3, 1)


def packed_case(x, weights, projects, shortcuts, biases, strides):
    nothing = x.new_empty(0)
    tiles = [[nothing if w is None else packed(w) for w in p] for p in (weights, projects)]
    own = [nothing if w is None else packed(w) for w in shortcuts]
    return x, *tiles, own, biases, strides


def run(tier, *case):
    return tier.residual_blocks(*packed_case(*case))


def assert_near(actual, expected, n_blocks):
    """What one block rounds otherwise grows in the next."""
    assert_close(actual.double(), expected, rtol=2.0**-6, atol=2.0**-7 * n_blocks, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_blocks_one_after_another(tier, name, device):
    case = case_of(name, device=device)
    before = case[0].clone()
    actual, expected = run(tier, *case), exact(*case)
    assert actual.shape == expected.shape and actual.dtype == torch.bfloat16
    assert actual.is_contiguous()
    assert_near(actual, expected, len(case[5]))
    assert torch.equal(case[0], before)


def test_by_hand(tier, device):
    x = torch.zeros(1, 1, 3, 32, device=device).bfloat16()
    x[0, 0, :, 7] = torch.tensor([1.0, 2.0, -3.0])
    weight, project, shortcut = (torch.zeros(32, 32, *k, device=device).bfloat16() for k in _SIDES)
    weight[3, 7, 0] = torch.tensor([1.0, 0.0, 2.0])  # 2 * 2, 1 + 2 * -3, 2
    project[5, 3] = -1.0
    shortcut[5, 7] = 4.0
    biases = [torch.zeros(32, device=device), torch.full((32,), 0.5, device=device)]
    y = run(tier, x, [weight], [project], [shortcut], biases, [1])[0, 0]
    assert y[:, 5].tolist() == [0.5, 8.5, 0.0]  # 4 - 4, 8 - 0, -12 - 2
    same = run(tier, x, [weight], [project], [None], biases, [1])[0, 0]
    assert same[:, 7].tolist() == [1.5, 2.5, 0.0]


_SIDES = ((1, 3), (1, 1), (1, 1))


def test_nan_and_infinity_go_where_torch_puts_them(tier, device):
    case = case_of("chain", device=device)
    for place, value in (((0, 3, 5, 9), math.nan), ((0, 6, 30, 1), math.inf)):
        case[0][place] = value
    actual, expected = run(tier, *case), exact(*case)
    assert expected[0].isnan().any() and not expected[1:].isnan().any()
    assert_near(actual, expected, 3)


def test_strided_maps(tier, device):
    x, *rest = case_of("projected", device=device)
    turned = x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    assert torch.equal(run(tier, turned, *rest), run(tier, x, *rest))


@pytest.mark.parametrize("name", CASES)
def test_threads_change_no_bit(name):
    case = case_of(name)
    one, two, more = (on_threads(n, lambda: run(ops, *case)) for n in (1, 2, 3))
    assert torch.equal(one, two) and torch.equal(one, more)


@pytest.mark.parametrize("name", ["chain", "many weights"])
def test_a_song_has_the_same_bits_alone(name):
    x, *rest = case_of(name)
    assert torch.equal(run(ops, x, *rest)[1:2], run(ops, x[1:2], *rest))


def test_blocks_have_the_same_bits_alone():
    x, *lists, strides = case_of("two chains")
    weights, projects, shortcuts, biases = lists
    y = x
    for i in range(len(strides)):
        parts = [part[i : i + 1] for part in (weights, projects, shortcuts)]
        y = run(ops, y, *parts, biases[2 * i : 2 * i + 2], strides[i : i + 1])
    assert torch.equal(run(ops, x, *lists, strides), y)


_TILES = (2, 16, 16, 2)
ERRORS = {
    "3-D": (dict(x=torch.zeros(4, 5, 32).bfloat16()), "x must be 4-D, got 3-D"),
    "float": (dict(x=torch.zeros(1, 4, 5, 32)), "x must be BFloat16, got Float"),
    "no rows": (dict(x=torch.zeros(1, 0, 5, 32).bfloat16()), "x.size(1) must be at least 1, got 0"),
    "no blocks": (dict(weight=[]), "blocks must be at least 1, got 0"),
    "projects": (dict(project=[]), "project and weight must be equal, got 0 and 1"),
    "no columns": (
        dict(x=torch.zeros(1, 4, 0, 32).bfloat16()),
        "x.size(2) must be at least 1, got 0",
    ),
    "nothing between": (
        dict(weight=[torch.zeros(0, 3, 3, 1, *_TILES).bfloat16()]),
        "weight[0].size(0) must be at least 1, got 0",
    ),
    "biases and strides": (
        dict(bias=[torch.zeros(32)], stride=[1, 1]),
        "stride and weight must be equal, got 2 and 1",
    ),
    "biases": (
        dict(bias=[torch.zeros(32)]),
        "bias and twice weight must be equal, got 1 and 2",
    ),
    "plain": (
        dict(weight=[torch.zeros(32, 32, 3, 3).bfloat16()]),
        "weight[0] must be 8-D, got 4-D",
    ),
    "tiles": (
        dict(project=[torch.zeros(1, 1, 1, 1, 2, 16, 8, 4).bfloat16()]),
        "project[0] must be that of fastmte.packing.packed",
    ),
    "even": (
        dict(weight=[torch.zeros(1, 2, 3, 1, *_TILES).bfloat16()]),
        "weight[0].size(1) must be odd, got 2",
    ),
    "no point": (
        dict(project=[torch.zeros(1, 1, 3, 1, *_TILES).bfloat16()]),
        "project[0].size(2) must be 1, got 3",
    ),
    "inputs": (
        dict(x=torch.zeros(1, 4, 5, 64).bfloat16()),
        "inputs of weight[0] and the maps' channels must be equal, got 32 and 64",
    ),
    "middle": (
        dict(project=[torch.zeros(1, 1, 1, 2, *_TILES).bfloat16()]),
        "inputs of project[0] and the weight's outputs must be equal, got 64 and 32",
    ),
    "missing shortcut": (
        dict(stride=[2]),
        "shortcut[0] must not be empty where the shape changes",
    ),
    "shortcut": (
        dict(shortcut=[torch.zeros(2, 1, 1, 1, *_TILES).bfloat16()]),
        "outputs of shortcut[0] and the project's outputs must be equal, got 64 and 32",
    ),
    "stride": (dict(stride=[0]), "stride[0] must be at least 1, got 0"),
    "bias": (
        dict(bias=[torch.zeros(32), torch.zeros(64)]),
        "bias[1].size(0) and the outputs must be equal, got 64 and 32",
    ),
    "half bias": (
        dict(bias=[torch.zeros(32).half(), torch.zeros(32)]),
        "bias[0] must be Float, got Half",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_it_refuses(tier, name):
    changed, text = ERRORS[name]
    case = dict(
        x=torch.zeros(1, 4, 5, 32).bfloat16(),
        weight=[packed(torch.zeros(32, 32, 3, 3).bfloat16())],
        project=[packed(torch.zeros(32, 32, 1, 1).bfloat16())],
        shortcut=[torch.empty(0).bfloat16()],
        bias=[torch.zeros(32), torch.zeros(32)],
        stride=[1],
    )
    with refuses(f"residual_blocks: {text}"):
        tier.residual_blocks(*(case | changed).values())


@pytest.mark.parametrize("name", ["projected", "no songs"])
def test_opcheck(name, device):
    case = packed_case(*case_of(name, device=device))
    torch.library.opcheck(torch.ops.fastmte.residual_blocks.default, case)


SAVE = """
import sys, torch
from fastmte import ops
from test_ops_residual_blocks import CASES, case_of, run
torch.save({name: run(ops, *case_of(name)) for name in CASES}, sys.argv[1])
"""


@pytest.mark.parametrize("isa", ["0", "1", "2"])
def test_every_instruction_set_computes_it(tmp_path, isa):
    for name, actual in saved_on(isa, SAVE, tmp_path).items():
        assert_near(actual, exact(*case_of(name)), len(CASES[name][1]))
