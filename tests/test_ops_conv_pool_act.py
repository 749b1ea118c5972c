"""conv_pool_act on every tier: sums, borders, pooling, NaN, rounding, threads, errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from op_cases import maps_of, on_threads, refuses, saved_on
from torch import Tensor
from torch.testing import assert_close

from fastmte import ops, reference
from fastmte.packing import packed, unpacked


@pytest.fixture(params=["dispatched", "reference"])
def tier(request):
    """The operators on one tier; there is no numba one."""
    return torch.ops.fastmte if request.param == "dispatched" else reference


ACTIVATIONS = {"elu": F.elu, "relu": F.relu, "none": lambda x: x}
NAN, INF = math.nan, math.inf

# (B, H, W, I), O, (h, w), stride, padding, pool
CASES = {
    "one value": ((1, 1, 1, 32), 32, (1, 1), (1, 1), (0, 0), (1, 1)),
    "pooled": ((2, 8, 37, 64), 96, (3, 3), (1, 1), (1, 1), (2, 4)),
    "wide window": ((1, 7, 71, 32), 32, (3, 3), (1, 1), (1, 1), (3, 32)),
    "odd window": ((2, 6, 43, 32), 64, (3, 3), (1, 1), (1, 1), (3, 5)),
    "strided": ((3, 5, 38, 64), 64, (3, 3), (2, 2), (1, 1), (1, 1)),
    "projection": ((2, 6, 33, 64), 128, (1, 1), (2, 2), (0, 0), (1, 1)),
    "kernel of its own": ((1, 9, 21, 32), 32, (2, 5), (2, 1), (0, 3), (2, 2)),
    "more weights than maps": ((2, 3, 5, 256), 128, (3, 3), (1, 1), (1, 1), (1, 1)),
    "many rows": ((2, 60, 100, 64), 32, (3, 3), (1, 1), (1, 1), (1, 1)),
    "no songs": ((0, 4, 6, 32), 32, (3, 3), (1, 1), (1, 1), (2, 2)),
}


def case_of(name, with_onto=False, device="cpu"):
    """Return x, weight, bias, onto and the places of a case, whose sums are about 1."""
    shape, outputs, kernel, stride, padding, pool = CASES[name]
    x = maps_of(shape, torch.bfloat16, seed=1) / 2
    fan_in = shape[3] * math.prod(kernel)
    weight = (maps_of((outputs, shape[3], *kernel), seed=2) / (2 * fan_in**0.5)).bfloat16()
    bias = maps_of((outputs,), seed=3) / 2
    onto = None
    if with_onto:
        sizes = [(shape[1 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
        onto = maps_of((shape[0], *sizes, outputs), torch.bfloat16, seed=4).to(device)
    return x.to(device), weight.to(device), bias.to(device), onto, (stride, padding, pool)


def exact(x, weight, bias, onto, where, activation):
    """Return the same in float64, (B, H, W, O), not rounded."""
    stride, padding, pool = where
    y = F.conv2d(x.permute(0, 3, 1, 2).double(), weight.double(), bias.double(), stride, padding)
    if onto is not None:
        y = y + onto.permute(0, 3, 1, 2).double()
    return ACTIVATIONS[activation](F.max_pool2d(y, pool)).permute(0, 2, 3, 1)


def run(tier, x, weight, bias, onto, where, activation):
    return tier.conv_pool_act(x, packed(weight), bias, onto, *where, activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_convolution_pooled_and_activated(tier, name, activation, device):
    case = case_of(name, device=device)
    actual, expected = run(tier, *case, activation), exact(*case, activation)
    assert actual.shape == expected.shape and actual.dtype == torch.bfloat16
    assert actual.is_contiguous()
    assert_close(actual.double(), expected, rtol=2.0**-8, atol=1e-5)


@pytest.mark.parametrize("name", ["strided", "projection", "more weights than maps", "many rows"])
def test_onto_is_added_before_the_activation(tier, name, device):
    case = case_of(name, with_onto=True, device=device)
    before = case[3].clone()
    actual = run(tier, *case, "relu")
    assert_close(actual.double(), exact(*case, "relu"), rtol=2.0**-8, atol=1e-5)
    assert torch.equal(case[3], before)


def test_by_hand(tier, device):
    x = torch.zeros(1, 2, 3, 32, device=device).bfloat16()
    x[0, :, :, 7] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    weight = torch.zeros(32, 32, 1, 2, device=device).bfloat16()
    weight[3, 7, 0] = torch.tensor([1.0, -2.0])
    bias = torch.arange(32.0, device=device)
    y = run(tier, x, weight, bias, None, ((1, 1), (0, 0), (2, 1)), "elu")[0, 0]
    assert y[:, 4].tolist() == [4.0, 4.0]
    assert y[:, 3].tolist() == [0.0, pytest.approx(math.expm1(-1), abs=2e-3)]


def test_weights_are_packed_and_unpacked():
    weight = torch.arange(64 * 96 * 6).view(64, 96, 2, 3)
    assert torch.equal(unpacked(packed(weight)), weight)
    # block 1, point (1, 2), step 2, tile 1, pair 5, output 3, the second of the pair
    assert packed(weight)[1, 1, 2, 2, 1, 5, 3, 1] == weight[32 + 16 + 3, 64 + 11, 1, 2]
    for shape in ((48, 32, 1, 1), (32, 16, 1, 1), (0, 32, 1, 1)):
        with pytest.raises(ValueError, match=f"multiples of 32, got {shape[0]}, {shape[1]}"):
            packed(torch.zeros(shape))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_infinity_go_where_torch_puts_them(tier, activation, device):
    x, weight, bias, onto, where = case_of("pooled", device=device)
    for place, value in (((0, 3, 5, 9), NAN), ((0, 6, 30, 1), INF), ((1, 0, 0, 0), -INF)):
        x[place] = value
    expected = exact(x, weight, bias, onto, where, activation)
    actual = run(tier, x, weight, bias, onto, where, activation)
    assert actual.isnan().any() and actual.isinf().any() and not actual[1].isnan().all()
    assert_close(actual.double(), expected, rtol=2.0**-8, atol=1e-5, equal_nan=True)
    weight[40] = NAN
    found = run(tier, *case_of("pooled", device=device)[:1], weight, bias, onto, where, activation)
    assert found.isnan().flatten(0, 2).all(0).nonzero().tolist() == [[40]]
    assert not found[..., :40].isnan().any()


def test_strided_tensors(tier, device):
    x, weight, bias, onto, where = case_of("strided", with_onto=True, device=device)
    expected = run(tier, x, weight, bias, onto, where, "none")
    turned = x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    wide = torch.cat([onto, onto], 3)[..., : onto.size(3)]
    assert torch.equal(run(tier, turned, weight, bias, wide, where, "none"), expected)


@pytest.mark.parametrize("name", CASES)
def test_threads_change_no_bit(name):
    case = case_of(name)
    one, two = (on_threads(n, lambda: run(ops, *case, "elu")) for n in (1, 2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["pooled", "more weights than maps"])
def test_a_song_has_the_same_bits_alone(name):
    x, *rest = case_of(name)
    assert torch.equal(run(ops, x, *rest, "elu")[1:2], run(ops, x[1:2], *rest, "elu"))


ERRORS = {
    "3-D": (dict(x=torch.zeros(4, 5, 32).bfloat16()), "x must be 4-D, got 3-D"),
    "float": (dict(x=torch.zeros(1, 4, 5, 32)), "x must be BFloat16, got Float"),
    "plain": (dict(weight=torch.zeros(32, 32, 3, 3).bfloat16()), "weight must be 8-D, got 4-D"),
    "tiles": (
        dict(weight=torch.zeros(1, 3, 3, 1, 2, 16, 8, 4).bfloat16()),
        "weight must be that of fastmte.packing.packed",
    ),
    "points": (
        dict(weight=torch.zeros(1, 3, 0, 1, 2, 16, 16, 2).bfloat16()),
        "weight.size(2) must be at least 1, got 0",
    ),
    "no columns": (
        dict(x=torch.zeros(1, 4, 0, 32).bfloat16()),
        "x.size(2) must be at least 1, got 0",
    ),
    "no channels": (
        dict(x=torch.zeros(1, 4, 5, 0).bfloat16()),
        "x.size(3) must be at least 1, got 0",
    ),
    "inputs": (
        dict(x=torch.zeros(1, 4, 5, 64).bfloat16()),
        "x.size(3) and the weight's inputs must be equal, got 64 and 32",
    ),
    "bias": (
        dict(bias=torch.zeros(64)),
        "bias.size(0) and the weight's outputs must be equal, got 64 and 32",
    ),
    "half bias": (dict(bias=torch.zeros(32).half()), "bias must be Float, got Half"),
    "stride": (dict(stride=[0, 1]), "stride[0] must be at least 1, got 0"),
    "padding": (dict(padding=[1, -1]), "padding[1] must be at least 0, got -1"),
    "sizes": (dict(padding=[1]), "padding must be 2 sizes, got 1"),
    "pool": (dict(pool=[1, 0]), "pool[1] must be at least 1, got 0"),
    "wide pool": (dict(pool=[1, 33]), "pool[1] must be at most 32, got 33"),
    "rows": (dict(pool=[5, 1]), "x.size(1) must be at least 5, got 4"),
    "columns": (dict(padding=[1, 0], pool=[1, 4]), "x.size(2) must be at least 6, got 5"),
    "onto": (
        dict(onto=torch.zeros(1, 4, 4, 32).bfloat16()),
        "onto.size(2) and the output's must be equal, got 4 and 5",
    ),
    "pooled onto": (
        dict(onto=torch.zeros(1, 4, 5, 32).bfloat16(), pool=[2, 1]),
        "onto must be None where there is a pool",
    ),
    "activation": (
        dict(activation="gelu"),
        "activation must be one of elu, none, relu, got gelu",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_it_refuses(tier, name, device):
    changed, text = ERRORS[name]
    case = dict(
        x=torch.zeros(1, 4, 5, 32).bfloat16(),
        weight=packed(torch.zeros(32, 32, 3, 3).bfloat16()),
        bias=torch.zeros(32),
        onto=None,
        stride=[1, 1],
        padding=[1, 1],
        pool=[1, 1],
        activation="relu",
    )
    args = [x.to(device) if isinstance(x, Tensor) else x for x in (case | changed).values()]
    with refuses(f"conv_pool_act: {text}"):
        tier.conv_pool_act(*args)


@pytest.mark.parametrize("name", ["pooled", "no songs"])
def test_opcheck(name, device):
    x, weight, bias, onto, where = case_of(name, device=device)
    case = x, packed(weight), bias, onto, *map(list, where), "elu"
    torch.library.opcheck(torch.ops.fastmte.conv_pool_act.default, case)


SAVE = """
import sys, torch
from fastmte import ops
from test_ops_conv_pool_act import CASES, case_of, run
torch.save({name: run(ops, *case_of(name), "elu") for name in CASES}, sys.argv[1])
"""


@pytest.mark.parametrize("isa", ["0", "1", "2"])
def test_every_instruction_set_computes_it(tmp_path, isa):
    for name, actual in saved_on(isa, SAVE, tmp_path).items():
        expected = run(reference, *case_of(name), "elu")
        assert_close(actual.float(), expected.float(), rtol=2.0**-7, atol=1e-5)
