"""channel_moments on the tier of this process: torch.var_mean in float64."""

import math

import pytest
import torch
from op_cases import maps_of, on_threads, refuses

from fastmte import _library, reference_training
from fastmte import training_ops as ops

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
SHAPES = [(1, 1, 1, 1), (2, 1, 1, 3), (3, 7, 11, 5), (2, 24, 85, 128), (5, 13, 4, 37)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_var_mean(shape, dtype, device):
    x = maps_of(shape, dtype, device) + 5
    mean, variance = ops.channel_moments(x)
    expected = torch.var_mean(x.double(), (0, 1, 2), correction=0)
    exact = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close((variance, mean), expected, rtol=exact, atol=exact)
    assert mean.dtype == variance.dtype == torch.float64


def test_by_hand(device):
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, 6.0]], device=device).view(1, 3, 1, 2)
    mean, variance = ops.channel_moments(x)
    assert mean.tolist() == [3, 2]
    assert variance.tolist() == [8 / 3, 8]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_in_its_channel(value, device):
    x = maps_of((2, 5, 6, 70), device=device)
    expected = ops.channel_moments(x)
    x[1, 2, 3, 33] = value
    for one, whole in zip(ops.channel_moments(x), expected, strict=True):
        assert not one[33].isfinite()
        one[33] = whole[33]
        assert torch.equal(one, whole)


def test_values_far_from_0_keep_their_digits(device):
    x = maps_of((4, 9, 31, 40), torch.float32, device) + 1e4
    mean, variance = ops.channel_moments(x)
    expected = torch.var_mean(x.double(), (0, 1, 2), correction=0)
    torch.testing.assert_close((variance, mean), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_is_the_reference(dtype):
    if _library.status()["operators"]["channel_moments"]["cpu"] != "native":
        pytest.skip("no kernel")
    x = maps_of((3, 9, 22, 67), dtype)
    exact = 1e-12 if dtype == torch.float64 else 1e-6
    expected = reference_training.channel_moments(x)
    torch.testing.assert_close(ops.channel_moments(x), expected, rtol=exact, atol=exact)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_depend_on_values_alone(dtype):
    x = maps_of((3, 67, 9, 50), dtype)
    one, many = (on_threads(n, lambda: ops.channel_moments(x)) for n in (1, 3))
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))
    strided = torch.stack([x, x], 4)[..., 0].transpose(0, 1).contiguous().transpose(0, 1)
    other = ops.channel_moments(strided)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("side", ["dispatched", "reference"])
@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.zeros(2, 3, 4), "x must be 4-D, got 3-D"),
        (torch.zeros(1, 2, 2, 2).half(), "x must be Float or BFloat16 or Double, got Half"),
        (torch.zeros(1, 0, 2, 2), "x.size(1) must be at least 1, got 0"),
        (torch.zeros(1, 1, 2, 0), "x.size(3) must be at least 1, got 0"),
    ],
)
def test_it_refuses(x, text, side):
    run = ops.channel_moments if side == "dispatched" else reference_training.channel_moments
    with refuses(f"channel_moments: {text}"):
        run(x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, device):
    x = maps_of((2, 3, 4, 5), dtype, device)
    torch.library.opcheck(torch.ops.fastmte.channel_moments.default, (x,))
