"""map_conv, map_conv_weights and map_conv_pack: torch's gradients in float64 are the judge."""

import math

import pytest
import torch
import torch.nn.functional as F
from op_cases import maps_of, on_threads, refuses, saved_on
from torch.testing import assert_close

from fastmte import reference_training
from fastmte._library import has_kernel
from fastmte.packing import unpacked
from fastmte.training_conv import map_conv, map_conv_pack

# (B, H, W, I), O, (h, w), stride, padding
CASES = {
    "one value": ((1, 1, 1, 32), 32, (1, 1), (1, 1), (0, 0)),
    "odd sizes": ((2, 5, 7, 32), 64, (3, 3), (1, 1), (1, 1)),
    "strided": ((3, 6, 9, 64), 32, (3, 3), (2, 2), (1, 1)),
    "projection": ((2, 9, 40, 64), 96, (1, 1), (2, 2), (0, 0)),
    "kernel of its own": ((2, 7, 33, 32), 32, (2, 5), (2, 1), (0, 3)),
    "rows of padding alone": ((2, 1, 3, 32), 32, (5, 3), (2, 1), (2, 1)),
    "no padding": ((1, 8, 70, 32), 32, (3, 3), (1, 1), (0, 0)),
    "even kernel": ((1, 4, 8, 32), 32, (1, 2), (1, 1), (0, 0)),
    "strided without padding": ((2, 8, 8, 32), 32, (3, 3), (2, 2), (0, 0)),
    "strided even kernel": ((2, 8, 8, 32), 32, (4, 4), (2, 2), (0, 0)),
    "groups of segments": ((2, 30, 300, 64), 64, (3, 3), (1, 1), (1, 1)),
    "more weights than maps": ((2, 3, 5, 256), 128, (3, 3), (1, 1), (1, 1)),
}


@pytest.fixture(params=["dispatched", "reference"])
def weights(request):
    """The operator on one tier; there is no numba one."""
    if request.param == "reference":
        return reference_training.map_conv_weights
    return torch.ops.fastmte.map_conv_weights


def case_of(name, device="cpu"):
    """Return gradient, maps, kernel, stride and padding."""
    shape, outputs, kernel, stride, padding = CASES[name]
    sizes = [(shape[1 + i] + 2 * padding[i] - kernel[i]) // stride[i] + 1 for i in range(2)]
    gradient = maps_of((shape[0], *sizes, outputs), torch.bfloat16, device, seed=1)
    return gradient, maps_of(shape, torch.bfloat16, device), list(kernel), stride, padding


def exact(gradient, x, kernel, stride, padding):
    """Return the same in float64."""
    g, maps = (t.permute(0, 3, 1, 2).double() for t in (gradient, x))
    shape = gradient.size(3), x.size(3), *kernel
    return torch.nn.grad.conv2d_weight(maps, shape, g, stride, padding).permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", CASES)
def test_they_are_torchs_in_float64(weights, name, device):
    case = case_of(name, device)
    actual, expected = weights(*case), exact(*case)
    assert actual.dtype == torch.float32 and actual.is_contiguous()
    assert_close(actual.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_by_hand(weights, device):
    x = torch.zeros(1, 2, 3, 32, device=device).bfloat16()
    x[0, :, :, 7] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    gradient = torch.zeros(1, 2, 2, 32, device=device).bfloat16()
    gradient[0, :, :, 3] = torch.tensor([[1.0, 0.0], [0.0, -2.0]])
    out = weights(gradient, x, [1, 2], [1, 1], [0, 0])
    assert out[3, 0, :, 7].tolist() == [1.0 - 2 * 5.0, 2.0 - 2 * 6.0]
    assert out.count_nonzero() == 2


def test_nan_and_infinity_stay_within_their_channels(weights, device):
    gradient, x, *where = case_of("odd sizes", device)
    gradient[0, 2, 3, 5], x[1, 0, 0, 9] = math.nan, math.inf
    out, expected = weights(gradient, x, *where), exact(gradient, x, *where)
    is_odd = torch.zeros(out.shape, dtype=torch.bool, device=device)
    is_odd[5], is_odd[..., 9] = True, True
    assert out[5].isnan().all() and not out[:, 1, 1, 9].isfinite().any()
    assert_close(out[~is_odd].double(), expected[~is_odd], rtol=1e-4, atol=1e-3)


def test_strided_tensors_and_no_songs(weights, device):
    gradient, x, *where = case_of("strided", device)
    turned = [t.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) for t in (gradient, x)]
    assert torch.equal(weights(*turned, *where), weights(gradient, x, *where))
    assert not weights(gradient[:0], x[:0], *where).any()


@pytest.mark.parametrize("name", CASES)
def test_threads_change_no_bit(name):
    if not has_kernel("map_conv_weights", "cpu"):
        pytest.skip("torch's convolution divides its sums among threads")
    case = case_of(name)
    op = torch.ops.fastmte.map_conv_weights
    one, *others = (on_threads(n, lambda: op(*case)) for n in (1, 2, 3))
    assert all(torch.equal(one, other) for other in others)


ERRORS = {
    "3-D": (dict(x=torch.zeros(4, 5, 32).bfloat16()), "x must be 4-D, got 3-D"),
    "float": (dict(gradient=torch.zeros(1, 4, 5, 32)), "gradient must be BFloat16, got Float"),
    "inputs": (
        dict(x=torch.zeros(1, 4, 5, 16).bfloat16()),
        "inputs must be a multiple of 32, got 16",
    ),
    "outputs": (
        dict(gradient=torch.zeros(1, 4, 5, 48).bfloat16()),
        "outputs must be a multiple of 32, got 48",
    ),
    "rows": (
        dict(gradient=torch.zeros(1, 3, 5, 32).bfloat16()),
        "gradient.size(1) must be 4, got 3",
    ),
    "songs": (
        dict(gradient=torch.zeros(2, 4, 5, 32).bfloat16()),
        "gradient.size(0) must be 1, got 2",
    ),
    "kernel": (dict(kernel=[0, 1]), "kernel[0] must be at least 1, got 0"),
    "large kernel": (dict(kernel=[3, 9]), "kernel[1] must be at most 7, got 9"),
    "stride": (dict(stride=[1, 0]), "stride[1] must be at least 1, got 0"),
    "padding": (dict(padding=[-1, 1]), "padding[0] must be at least 0, got -1"),
    "sizes": (dict(stride=[1]), "stride must be 2 sizes, got 1"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_it_refuses(weights, name, device):
    changed, text = ERRORS[name]
    case = dict(
        gradient=torch.zeros(1, 4, 5, 32).bfloat16(),
        x=torch.zeros(1, 4, 5, 32).bfloat16(),
        kernel=[3, 3],
        stride=[1, 1],
        padding=[1, 1],
    )
    args = [x.to(device) if isinstance(x, torch.Tensor) else x for x in (case | changed).values()]
    with refuses(f"map_conv_weights: {text}"):
        weights(*args)


def test_opcheck(device):
    gradient, x, kernel, stride, padding = case_of("strided", device)
    case = gradient, x, kernel, list(stride), list(padding)
    torch.library.opcheck(torch.ops.fastmte.map_conv_weights.default, case)
    weight = maps_of((64, 3, 1, 32), device=device)
    torch.library.opcheck(torch.ops.fastmte.map_conv_pack.default, (weight,))


@pytest.mark.parametrize("name", ["odd sizes", "strided", "projection", "one value"])
def test_map_conv_is_torchs_convolution(name, device):
    """In bfloat16 both ways, but for the weights' gradient, which is not rounded."""
    shape, outputs, kernel, stride, padding = CASES[name]
    x = maps_of(shape, torch.bfloat16, device).requires_grad_()
    weight = maps_of((outputs, shape[3], *kernel), device=device, seed=2).requires_grad_()
    y = map_conv(x, weight, stride, padding)
    half = weight.bfloat16()
    other = F.conv2d(x.permute(0, 3, 1, 2), half, None, stride, padding).permute(0, 2, 3, 1)
    assert y.is_contiguous() and y.dtype == torch.bfloat16
    assert_close(y, other)
    gradient = maps_of(y.shape, torch.bfloat16, device, seed=3)
    found = torch.autograd.grad(y, (x, weight), gradient)
    expected = torch.autograd.grad(other, (x, weight), gradient)
    assert_close(found[0], expected[0])
    assert found[1].dtype == torch.float32 and found[1].is_contiguous(
        memory_format=torch.channels_last
    )
    of_weights = exact(gradient, x.detach(), list(kernel), stride, padding).permute(0, 3, 1, 2)
    scale = float(of_weights.abs().max())
    assert_close(found[1].double(), of_weights, rtol=1e-4, atol=1e-5 * scale)


@pytest.fixture(params=["dispatched", "reference"])
def pack(request):
    return reference_training.map_conv_pack if request.param == "reference" else map_conv_pack


@pytest.mark.parametrize("shape", [(32, 1, 1, 32), (96, 3, 3, 64), (64, 2, 5, 128)])
def test_packed_weights_are_those_of_both_convolutions(pack, shape, device):
    weight = maps_of(shape, device=device)
    weight[3, 0, 0, 7] = math.nan
    plain = weight.permute(0, 3, 1, 2).bfloat16()
    turned = plain.transpose(0, 1).flip(2, 3)
    for actual, expected in zip(pack(weight), (plain, turned), strict=True):
        assert_close(unpacked(actual), expected, rtol=0, atol=0, equal_nan=True)
    strided = weight.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for actual, expected in zip(pack(strided), pack(weight), strict=True):
        assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def test_packing_refuses(pack, device):
    half = torch.zeros(32, 1, 1, 32, device=device).bfloat16()
    with refuses("map_conv_pack: weight must be Float, got BFloat16"):
        pack(half)
    with refuses("map_conv_pack: inputs must be a multiple of 32, got 48"):
        pack(torch.zeros(32, 1, 1, 48, device=device))
    with refuses("map_conv_pack: outputs must be a multiple of 32, got 16"):
        pack(torch.zeros(16, 1, 1, 32, device=device))
    with refuses("map_conv_pack: weight.size(1) must be at least 1, got 0"):
        pack(torch.zeros(32, 0, 1, 32, device=device))


SAVE = """
import sys, torch
from fastmte import training_conv
from test_training_conv import CASES, case_of, maps_of
op = torch.ops.fastmte.map_conv_weights
names = [name for name in CASES if name != "groups of segments"]
out = {name: op(*case_of(name)) for name in names}
out["packed"] = training_conv.map_conv_pack(maps_of((64, 3, 3, 32)))
torch.save(out, sys.argv[1])
"""


@pytest.mark.parametrize("isa", ["0", "1", "2"])
def test_every_instruction_set_computes_it(tmp_path, isa):
    saved = saved_on(isa, SAVE, tmp_path)
    for actual, expected in zip(
        saved.pop("packed"), reference_training.map_conv_pack(maps_of((64, 3, 3, 32))), strict=True
    ):
        assert torch.equal(actual, expected)
    for name, actual in saved.items():
        expected = exact(*case_of(name))
        atol = 1e-5 * float(expected.abs().max())
        assert_close(actual.double(), expected, rtol=1e-4, atol=atol)
