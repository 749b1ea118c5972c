"""bn_act_pool and bn_add_relu on the tier of this process: torch's batch norm, act and pool."""

import math

import pytest
import torch
import torch.nn.functional as F
from op_cases import maps_of, on_threads, refuses
from torch import Tensor
from torch.testing import assert_close

from fastmte import reference_training
from fastmte import training_ops as ops

INF, NAN = math.inf, math.nan
EPS = 1e-5
DTYPES = [torch.float32, torch.bfloat16, torch.float64]
ACTIVATIONS = {"elu": F.elu, "relu": F.relu, "none": lambda x: x}

# (B, H, W, C), kernel, stride, padding
CASES = {
    "real": ((2, 24, 85, 128), (2, 4), None, (0, 0)),
    "odd sizes": ((3, 7, 11, 5), (2, 3), None, (0, 0)),
    "one song": ((1, 6, 9, 64), (3, 5), None, (0, 0)),
    "whole map": ((3, 4, 5, 33), (4, 5), None, (0, 0)),
    "two values": ((2, 1, 1, 3), (1, 1), None, (0, 0)),
    "no pool": ((2, 5, 4, 37), (1, 1), None, (0, 0)),
    "overlapping": ((2, 13, 22, 64), (3, 3), (2, 2), (1, 1)),
    "overlapping, even": ((1, 8, 6, 19), (3, 3), (2, 2), (1, 1)),
    "dense windows": ((2, 5, 6, 7), (3, 2), (1, 1), (1, 0)),
    "gaps": ((2, 9, 11, 16), (2, 2), (3, 4), (0, 1)),
    "largest window": ((1, 16, 17, 2), (16, 16), (1, 1), (8, 8)),
}


def norm_of(channels, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    weight, bias = (t if dtype == torch.float64 else t.float() for t in (weight, bias))
    return weight, bias


def plain(x, weight, bias, kernel, activation, stride, padding, residual=None):
    """The same in torch's own operators, and its batch statistics."""
    y = x.permute(0, 3, 1, 2)
    dtype = None if x.dtype != torch.bfloat16 else torch.bfloat16
    y = F.batch_norm(y, None, None, weight.to(dtype), bias.to(dtype), True, 0.0, EPS)
    y = y if residual is None else y + residual.permute(0, 3, 1, 2)
    return F.max_pool2d(ACTIVATIONS[activation](y), kernel, stride, padding).permute(0, 2, 3, 1)


def error(actual: Tensor, exact: Tensor) -> float:
    """The relative error of a whole tensor."""
    return float((actual.double() - exact).norm() / exact.norm().clamp_min(1e-30))


def gradients_of(function, inputs, gradient):
    """The result and the gradients of all inputs that are tensors."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in inputs]
    out = function(*leaves)
    out.backward(gradient.to(out.dtype))
    return [out.detach(), *(t.grad for t in leaves if t is not None)]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_it_is_torchs_in_float64(name, activation, device):
    shape, *pool = CASES[name]
    inputs = [maps_of(shape, torch.float64, device), *(t.to(device) for t in norm_of(shape[3]))]
    inputs[1:] = [t.double() for t in inputs[1:]]
    kernel, stride, padding = pool

    def mine(*inputs):
        return ops.bn_act_pool(*inputs, EPS, kernel, activation, stride, padding)[0]

    expected = plain(*inputs, kernel, activation, stride, padding)
    gradient = maps_of(expected.shape, torch.float64, device, seed=2)
    actual = gradients_of(mine, inputs, gradient)
    judge = gradients_of(
        lambda *t: plain(*t, kernel, activation, stride, padding), inputs, gradient
    )
    for a, b in zip(actual, judge, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-9)
    _, mean, variance = ops.bn_act_pool(*inputs, EPS, kernel, activation, stride, padding)
    assert_close(mean, inputs[0].mean((0, 1, 2)))
    assert_close(variance, inputs[0].var((0, 1, 2), correction=0))
    assert not mean.requires_grad and not variance.requires_grad


SPREADS = {"centred": (0.0, 1.0), "far from 0": (300.0, 1.0), "tiny": (0.0, 1e-4)}


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_errors_are_at_most_twice_those_of_eager_float32(name, activation, spread, device):
    (*shape, channels), kernel, stride, padding = CASES[name]
    level, deviation = SPREADS[spread]
    x = maps_of((*shape, channels), device=device) * deviation + level
    inputs = [x, *(t.to(device) for t in norm_of(channels))]
    judge_inputs = [t.double() for t in inputs]
    options = kernel, activation, stride, padding
    exact_out = plain(*judge_inputs, *options)
    gradient = maps_of(exact_out.shape, device=device, seed=2)
    exact = gradients_of(lambda *t: plain(*t, *options), judge_inputs, gradient)
    eager = gradients_of(lambda *t: plain(*t, *options), inputs, gradient)
    mine = gradients_of(lambda *t: ops.bn_act_pool(*t, EPS, *options)[0], inputs, gradient)
    for part, a, e, j in zip(["out", "x", "weight", "bias"], mine, eager, exact, strict=True):
        assert error(a, j) <= max(2 * error(e, j), 3e-7), part


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", CASES)
def test_bfloat16_is_computed_in_float32(name, activation, device):
    (*shape, channels), kernel, stride, padding = CASES[name]
    x = maps_of((*shape, channels), torch.bfloat16, device)
    norm = [t.to(device) for t in norm_of(channels)]
    options = EPS, kernel, activation, stride, padding
    gradient = maps_of(ops.bn_act_pool(x, *norm, *options)[0].shape, torch.bfloat16, device, 2)
    run = [
        gradients_of(lambda *t: ops.bn_act_pool(*t, *options)[0], [values, *norm], gradient)
        for values in (x, x.float())
    ]
    for half, whole in zip(*run, strict=True):
        assert half.dtype == whole.dtype or half.dtype == torch.bfloat16
        assert error(half, whole.double()) < 2**-6


def test_by_hand(device):
    x = torch.tensor([[-1.0, 3.0, 1.0, 1.0]], device=device)[..., None, None].expand(1, 4, 1, 1)
    weight, bias = torch.tensor([-2.0], device=device), torch.tensor([0.5], device=device)
    out, mean, variance = ops.bn_act_pool(x, weight, bias, 0.0, (2, 1), "none")
    assert (mean.item(), variance.item()) == (1.0, 2.0)
    assert_close(out.flatten(), torch.tensor([0.5 + 4 / math.sqrt(2), 0.5], device=device))


def test_the_first_of_equal_maxima_gets_the_gradient(device):
    x = torch.zeros(1, 4, 4, 3, device=device)
    x[0, :2, :2] = torch.tensor([2.0, 1.0, 0.0], device=device)  # all four values of a window tie
    weight = torch.tensor([1.0, -1.0, 0.0], device=device)
    inputs = [x, weight, torch.full((3,), 4.0, device=device)]
    gradient = maps_of((1, 2, 2, 3), device=device)
    options = (2, 2), "relu", None, (0, 0)
    mine = gradients_of(lambda *t: ops.bn_act_pool(*t, EPS, *options)[0], inputs, gradient)
    torchs = gradients_of(lambda *t: plain(*t, *options), inputs, gradient)
    for a, b in zip(mine, torchs, strict=True):
        assert_close(a, b, rtol=1e-5, atol=1e-5)
    dx = mine[1][0, :2, :2]
    assert (dx[0, 0, 0] - dx[1, 1, 0]).abs() > 0.1 and dx[0, 1, 0] == dx[1, 1, 0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["odd sizes", "no pool", "overlapping"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_what_is_not_finite_stays_in_its_channel(name, value, dtype, device):
    (*shape, channels), kernel, stride, padding = CASES[name]
    x = maps_of((*shape, channels), dtype, device)
    norm = [t.to(device) for t in norm_of(channels, dtype)]
    options = EPS, kernel, "elu", stride, padding
    gradient = maps_of(ops.bn_act_pool(x, *norm, *options)[0].shape, dtype, device, 2)
    clean = gradients_of(lambda *t: ops.bn_act_pool(*t, *options)[0], [x, *norm], gradient)
    x[0, 1, 2, 3] = value
    dirty = gradients_of(lambda *t: ops.bn_act_pool(*t, *options)[0], [x, *norm], gradient)
    others = [c for c in range(channels) if c != 3]
    for a, b in zip(clean, dirty, strict=True):
        assert torch.equal(a[..., others], b[..., others])
    assert dirty[0][..., 3].isnan().all() and dirty[1][..., 3].isnan().all()


@pytest.mark.parametrize("name", ["odd sizes", "no pool", "overlapping"])
def test_gradcheck(name):
    (*shape, _), kernel, stride, padding = CASES[name]
    x = maps_of((*shape[:1], 5, 7, 3), torch.float64).requires_grad_()
    norm = [t.double().requires_grad_() for t in norm_of(3)]
    for activation in ACTIVATIONS:

        def function(*inputs):
            return ops.bn_act_pool(*inputs, EPS, kernel, activation, stride, padding)[0]  # noqa: B023

        assert torch.autograd.gradcheck(function, (x, *norm))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("has_residual", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 7, 64), (1, 2, 1, 3), (3, 4, 9, 21)])
def test_bn_add_relu_is_torchs(shape, has_residual, activation, device):
    residual = maps_of(shape, torch.float64, device, 5) if has_residual else None
    weight, bias = (t.double().to(device) for t in norm_of(shape[3]))
    inputs = [maps_of(shape, torch.float64, device), residual, weight, bias]
    gradient = maps_of(shape, torch.float64, device, 2)

    def torchs(x, residual, weight, bias):
        return plain(x, weight, bias, 1, activation, 1, 0, residual)

    exact = gradients_of(torchs, inputs, gradient)
    mine = gradients_of(lambda *t: ops.bn_add_relu(*t, EPS, activation)[0], inputs, gradient)
    for a, b in zip(mine, exact, strict=True):
        assert_close(a, b, rtol=1e-9, atol=1e-9)
    single = [None if t is None else t.float() for t in inputs]
    eager = gradients_of(torchs, single, gradient.float())
    mine = gradients_of(lambda *t: ops.bn_add_relu(*t, EPS, activation)[0], single, gradient)
    for a, e, j in zip(mine, eager, exact, strict=True):
        assert error(a, j) <= max(2 * error(e, j), 3e-7)
    half = [None if t is None else t.bfloat16() for t in inputs[:2]] + single[2:]
    out, mean, variance = ops.bn_add_relu(*half, EPS, activation)
    whole = [None if t is None else t.float() for t in half]
    assert_close(out, ops.bn_add_relu(*whole, EPS, activation)[0].bfloat16())
    assert_close(mean, half[0].double().mean((0, 1, 2)), rtol=1e-5, atol=1e-5)
    assert_close(variance, half[0].double().var((0, 1, 2), correction=0), rtol=1e-5, atol=1e-5)


def test_bn_add_relu_gradcheck():
    x, residual = (maps_of((2, 3, 4, 3), torch.float64, seed=i).requires_grad_() for i in (0, 1))
    norm = [t.double().requires_grad_() for t in norm_of(3)]
    assert torch.autograd.gradcheck(lambda *t: ops.bn_add_relu(*t, EPS)[0], (x, residual, *norm))


def test_the_gradient_itself_has_none():
    x = maps_of((2, 3, 4, 3)).requires_grad_()
    out = ops.bn_act_pool(x, *norm_of(3), EPS, (2, 2), "elu")[0]
    (dx,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="the gradient of a fused operator has itself no"):
        dx.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["odd sizes", "overlapping", "gaps"])
def test_the_kernel_is_the_reference(name, dtype):
    (*shape, channels), kernel, stride, padding = CASES[name]
    x = maps_of((*shape, channels), dtype)
    case = x, *norm_of(channels, dtype), EPS, kernel, "elu", stride or kernel, padding
    actual, expected = torch.ops.fastmte.bn_act_pool(*case), reference_training.bn_act_pool(*case)
    for i in (0, 3, 4):
        assert_close(
            actual[i].double(),
            expected[i].double(),
            rtol=8e-3 if i == 0 and dtype == torch.bfloat16 else 1e-6,
            atol=2e-6,
        )
    for i in (1, 2):
        assert (actual[i] != expected[i]).double().mean() < 1e-3  # of values that rounding ties
    gradient = maps_of(actual[0].shape, dtype, seed=2)
    out, argmax, winner, mean, variance = actual
    weight, options = case[1], (EPS, kernel, "elu", stride or kernel, padding)
    case = gradient, x, out, argmax, winner, weight, mean, variance, *options
    actual = torch.ops.fastmte.bn_act_pool_backward(*case)
    for a, b in zip(actual, reference_training.bn_act_pool_backward(*case), strict=True):
        assert_close(a, b, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["odd sizes", "no pool", "overlapping"])
def test_strided_tensors_give_the_same(name, dtype, device):
    (*shape, channels), kernel, stride, padding = CASES[name]
    x = maps_of((*shape, channels), dtype, device)
    norm = [t.to(device) for t in norm_of(channels, dtype)]
    options = EPS, kernel, "relu", stride, padding
    expected_out = ops.bn_act_pool(x, *norm, *options)[0]
    gradient = maps_of(expected_out.shape, dtype, device, 2)
    expected = gradients_of(lambda *t: ops.bn_act_pool(*t, *options)[0], [x, *norm], gradient)
    moved = x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0).requires_grad_()
    norm = [t.repeat_interleave(2)[::2].requires_grad_() for t in norm]
    out = ops.bn_act_pool(moved, *norm, *options)[0]
    out.backward(gradient.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0))
    for a, b in zip([out, moved.grad, *(t.grad for t in norm)], expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["real", "overlapping", "no pool"])
def test_the_bits_do_not_depend_on_threads(name, dtype):
    (*shape, channels), kernel, stride, padding = CASES[name]
    inputs = [maps_of((*shape, channels), dtype), *norm_of(channels, dtype)]
    options = EPS, kernel, "elu", stride, padding
    gradient = maps_of(ops.bn_act_pool(*inputs, *options)[0].shape, dtype, seed=2)
    one, two = (
        on_threads(
            n, lambda: gradients_of(lambda *t: ops.bn_act_pool(*t, *options)[0], inputs, gradient)
        )
        for n in (1, 2)
    )
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


MAP, C3 = torch.zeros(2, 4, 5, 3), torch.zeros(3)
ERRORS = {
    "3-D": (dict(x=MAP[0]), "x must be 4-D, got 3-D"),
    "half": (dict(x=MAP.half()), "x must be Float or BFloat16 or Double, got Half"),
    "weight": (dict(weight=C3.double()), "norm_weight must be Float, got Double"),
    "weight of double": (dict(x=MAP.double()), "norm_weight must be Double, got Float"),
    "weight 2-D": (dict(weight=C3[None]), "norm_weight must be 1-D, got 2-D"),
    "weights": (
        dict(weight=torch.zeros(2)),
        "norm_weight.size(0) and x.size(3) must be equal, got 2 and 3",
    ),
    "biases": (
        dict(bias=torch.zeros(4)),
        "norm_bias.size(0) and x.size(3) must be equal, got 4 and 3",
    ),
    "no channels": (
        dict(x=torch.zeros(2, 4, 5, 0), weight=C3[:0], bias=C3[:0]),
        "x.size(3) must be at least 1, got 0",
    ),
    "no songs": (dict(x=MAP[:0]), "x.size(0) must be at least 1, got 0"),
    "one value": (dict(x=MAP[:1, :1, :1]), "x must have 2 values a channel or more, got 1"),
    "one size": (dict(kernel=[2]), "kernel must be 2 sizes, got 1"),
    "strides": (dict(stride=[2, 2, 2]), "stride must be 2 sizes, got 3"),
    "kernel": (dict(kernel=[2, 0]), "kernel[1] must be at least 1, got 0"),
    "stride": (dict(stride=[0, 1]), "stride[0] must be at least 1, got 0"),
    "padding": (dict(padding=[0, -1]), "padding[1] must be at least 0, got -1"),
    "padding of more": (
        dict(padding=[2, 0]),
        "padding[0] must be at most half the kernel, got 2 of 2",
    ),
    "rows": (dict(kernel=[7, 2], padding=[1, 0]), "kernel[0] must be at most 6, got 7"),
    "columns": (dict(kernel=[4, 6]), "kernel[1] must be at most 5, got 6"),
    "area": (
        dict(x=torch.zeros(1, 20, 20, 3), kernel=[16, 17]),
        "kernel must have at most 256 points, got 272",
    ),
    "activation": (
        dict(activation="gelu"),
        "activation must be one of elu, none, relu, got gelu",
    ),
}


@pytest.mark.parametrize("side", ["dispatched", "reference"])
@pytest.mark.parametrize("name", ERRORS)
def test_bn_act_pool_refuses(name, side, device):
    changed, text = ERRORS[name]
    case = dict(
        x=MAP, weight=C3, bias=C3, eps=EPS, kernel=[2, 2], activation="elu", stride=[1, 1],
        padding=[0, 0],
    )  # fmt: skip
    args = [t.to(device) if isinstance(t, Tensor) else t for t in (case | changed).values()]
    tier = torch.ops.fastmte if side == "dispatched" else reference_training
    with refuses(f"bn_act_pool: {text}"):
        tier.bn_act_pool(*args)


@pytest.mark.parametrize("side", ["dispatched", "reference"])
@pytest.mark.parametrize(
    "residual, text",
    [
        (MAP[0], "residual must be 4-D, got 3-D"),
        (MAP.double(), "residual must be Float, got Double"),
        (MAP[:, :3], "residual.size(1) must be 4, got 3"),
    ],
)
def test_bn_add_relu_refuses(residual, text, side, device):
    tier = torch.ops.fastmte if side == "dispatched" else reference_training
    c3 = C3.to(device)
    with refuses(f"bn_add_relu: {text}"):
        tier.bn_add_relu(MAP.to(device), residual.to(device), c3, c3, EPS, "relu")
    with refuses("bn_add_relu: activation must be one of elu, none, relu, got tanh"):
        tier.bn_add_relu(MAP.to(device), None, c3, c3, EPS, "tanh")


@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype, device):
    x = maps_of((2, 5, 6, 3), dtype, device).requires_grad_()
    norm = [t.to(device).requires_grad_() for t in norm_of(3, dtype)]
    for activation in ("elu", "relu"):
        case = x, *norm, EPS, [3, 3], activation, [2, 2], [1, 1]
        torch.library.opcheck(torch.ops.fastmte.bn_act_pool.default, case)
        for residual in (None, maps_of(x.shape, dtype, device, 7).requires_grad_()):
            case = x, residual, *norm, EPS, activation
            torch.library.opcheck(torch.ops.fastmte.bn_add_relu.default, case)


def test_it_compiles_with_its_gradient_and_no_graph_break(device):
    x = maps_of((2, 5, 6, 3), device=device).requires_grad_()
    norm = [t.to(device).requires_grad_() for t in norm_of(3)]

    def loss(x, weight, bias):
        y, mean, variance = ops.bn_act_pool(x, weight, bias, EPS, (2, 2), "elu")
        z, *_ = ops.bn_add_relu(y, y, weight, bias, EPS)
        return z.square().sum() + (mean * variance).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(loss(x, *norm), (x, *norm))
    for a, b in zip(torch.autograd.grad(compiled(x, *norm), (x, *norm)), expected, strict=True):
        assert_close(a, b)
