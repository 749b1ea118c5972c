"""pool_act on every tier: maxima, activations, NaN, rounding, edges, errors."""

import math

import pytest
import torch
import torch.nn.functional as F
from op_cases import maps_of, on_threads, refuses, saved_on
from torch import Tensor
from torch.testing import assert_close

from fastmte import ops, reference

INF, NAN = math.inf, math.nan
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
ACTIVATIONS = {"elu": F.elu, "relu": F.relu, "none": lambda x: x}

# (B, H, W, C), pool
CASES = {
    "one value": ((1, 1, 1, 1), (1, 1)),
    "odd sizes": ((2, 7, 11, 5), (2, 3)),
    "whole map": ((3, 4, 5, 33), (4, 5)),
    "activation alone": ((2, 3, 4, 64), (1, 1)),
    "real": ((2, 48, 341, 128), (2, 4)),
    "rows only": ((1, 9, 2, 17), (3, 1)),
    "no songs": ((0, 4, 6, 8), (2, 2)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_pool_act_is_the_maximum_activated(tier, name, dtype, activation, device):
    shape, pool = CASES[name]
    x = maps_of(shape, dtype, device)
    actual = tier.pool_act(x, pool, activation)
    b, h, w, c = shape
    (i, j), (n, m) = pool, (h // pool[0], w // pool[1])
    windows = x[:, : n * i, : m * j].double().reshape(b, n, i, m, j, c)
    expected = ACTIVATIONS[activation](windows.amax((2, 4))).to(dtype)
    assert actual.shape == (b, n, m, c) and actual.dtype == dtype and actual.is_contiguous()
    tolerance = {"rtol": 3e-7, "atol": 0} if dtype == torch.float32 else {}
    assert_close(actual, expected, **tolerance)


def test_pool_act_by_hand(tier, device):
    x = torch.tensor([[-2.0, -1.0, 3.0], [-4.0, -0.5, 5.0]], device=device)[None, ..., None]
    assert_close(
        tier.pool_act(x, (2, 1), "elu")[0, 0, :, 0],
        torch.tensor([math.expm1(-2), math.expm1(-0.5), 5.0], device=device),
    )
    assert tier.pool_act(x, (2, 2), "relu").flatten().tolist() == [0.0]
    assert tier.pool_act(x, (1, 3), "none").flatten().tolist() == [3.0, 5.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_elu_is_relatively_accurate_from_the_smallest_value_on(tier, dtype, device):
    tiny = torch.finfo(dtype).smallest_normal
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(20_000, generator=generator, dtype=torch.float64) * math.log(tiny)
    edges = torch.tensor([0.0, tiny, 1e-7, 0.34657, 0.34658, 17.3, 17.4, 19.9, 21, 88, 104, INF])
    values = torch.cat([sizes.exp(), sizes.exp() * 20, edges.double()]).to(dtype).to(device)
    x = torch.cat([-values, values])
    actual = tier.pool_act(x[None, None, None], (1, 1), "elu").flatten()
    exact = torch.where(x < 0, torch.expm1(x.double()), x.double())
    error = (actual.double() - exact).abs() / exact.abs()
    limit = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-8, torch.float64: 2.0**-51}[dtype]
    assert error[exact.isfinite() & (exact != 0)].max() < 1.1 * limit
    assert torch.equal(actual[exact == 0], exact[exact == 0].to(dtype))
    assert torch.equal(actual[exact.isinf()], exact[exact.isinf()].to(dtype))


@pytest.mark.parametrize("channels", [1, 4, 16, 19, 64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_go_where_torch_puts_them(tier, dtype, activation, channels, device):
    x = maps_of((2, 6, 8, channels), dtype, device)
    generator = torch.Generator().manual_seed(1)
    for value in (NAN, INF, -INF, -NAN):
        x[(torch.rand(x.shape, generator=generator) < 0.08).to(device)] = value
    x[1, :2, :4] = -INF
    pooled = F.max_pool2d(x.permute(0, 3, 1, 2), (2, 4)).permute(0, 2, 3, 1)
    assert pooled.isnan().any() and not pooled.isnan().all()
    actual = tier.pool_act(x, (2, 4), activation)
    assert_close(actual, ACTIVATIONS[activation](pooled), equal_nan=True)


def test_bfloat16_is_rounded_to_the_nearest_even(tier, device):
    x = maps_of((1, 1, 1000, 16), torch.bfloat16, device)
    exact = F.elu(x.double())
    actual = tier.pool_act(x, (1, 1), "elu").double()
    below, above = (
        torch.nextafter(actual.bfloat16(), torch.full_like(x, side)).double()
        for side in (-INF, INF)
    )
    # No other bfloat16 is nearer, up to float32's own rounding before.
    nearest = torch.minimum((exact - below).abs(), (exact - above).abs())
    assert ((exact - actual).abs() <= nearest * (1 + 1e-4)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_act_of_strided_tensors(tier, dtype, device):
    x = maps_of((2, 6, 9, 20), dtype, device)
    expected = tier.pool_act(x, (2, 3), "elu")
    for strided in (x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0), x.repeat(1, 1, 1, 2)):
        assert torch.equal(tier.pool_act(strided[..., :20], (2, 3), "elu"), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_act_does_not_depend_on_threads(dtype):
    x = maps_of((3, 30, 40, 24), dtype)
    one, two = (on_threads(n, lambda: ops.pool_act(x, (2, 4), "elu")) for n in (1, 2))
    assert torch.equal(one, two)


ERRORS = {
    "3-D": (dict(x=torch.zeros(2, 4, 4)), "x must be 4-D, got 3-D"),
    "dtype": (
        dict(x=torch.zeros(1, 4, 4, 2).half()),
        "x must be Float or BFloat16 or Double, got Half",
    ),
    "one size": (dict(pool=[2]), "pool must be 2 sizes, got 1"),
    "zero": (dict(pool=[0, 2]), "pool[0] must be at least 1, got 0"),
    "negative": (dict(pool=[2, -1]), "pool[1] must be at least 1, got -1"),
    "rows": (dict(pool=[5, 2]), "x.size(1) must be at least 5, got 4"),
    "columns": (dict(pool=[4, 6]), "x.size(2) must be at least 6, got 5"),
    "channels": (dict(x=torch.zeros(1, 4, 4, 0)), "x.size(3) must be at least 1, got 0"),
    "activation": (
        dict(activation="gelu"),
        "activation must be one of elu, none, relu, got gelu",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_pool_act_refuses(tier, name, device):
    changed, text = ERRORS[name]
    case = dict(x=torch.zeros(1, 4, 5, 2), pool=[2, 2], activation="elu") | changed
    args = [x.to(device) if isinstance(x, Tensor) else x for x in case.values()]
    with refuses(f"pool_act: {text}"):
        tier.pool_act(*args)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pool_act_opcheck(dtype, device):
    for shape in ((2, 5, 9, 18), (0, 4, 4, 3)):
        case = maps_of(shape, dtype, device), [2, 4], "elu"
        torch.library.opcheck(torch.ops.fastmte.pool_act.default, case)


SAVE = """
import sys, torch
from fastmte import ops
from op_cases import maps_of
x = maps_of((2, 7, 11, 37), torch.float32)
outputs = {f"{a}-{d}": ops.pool_act(x.to(getattr(torch, d)), (2, 3), a)
           for a in ("elu", "relu", "none") for d in ("float32", "bfloat16", "float64")}
torch.save(outputs, sys.argv[1])
"""


@pytest.mark.parametrize("isa", ["0", "1", "2"])
def test_every_instruction_set_computes_it(tmp_path, isa):
    x = maps_of((2, 7, 11, 37), torch.float32)
    for name, actual in saved_on(isa, SAVE, tmp_path).items():
        activation, dtype = name.split("-")
        expected = reference.pool_act(x.to(getattr(torch, dtype)), (2, 3), activation)
        tolerance = {"rtol": 3e-7, "atol": 0} if dtype == "float32" else {}
        assert_close(actual, expected, **tolerance)
