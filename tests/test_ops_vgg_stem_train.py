"""patch_moments and vgg_stem_train on the tier of this process: torch's convolution and so on."""

import math

import pytest
import torch
import torch.nn.functional as F
from op_cases import maps_of, on_threads, refuses
from torch import Tensor
from torch.testing import assert_close

from fastmte import _library, reference_training
from fastmte import training_ops as ops

INF, NAN = math.inf, math.nan
EPS = 1e-5

# (B, M, F), K, C
CASES = {
    "smallest": ((1, 2, 4), 1, 1),
    "odd sizes": ((2, 7, 15), 2, 3),
    "even sizes": ((3, 8, 16), 2, 16),
    "narrow": ((2, 2, 41), 1, 19),
    "tall": ((1, 31, 5), 3, 8),
    "one member": ((2, 20, 90), 1, 64),
    "many channels": ((1, 9, 13), 2, 70),
    "real": ((2, 96, 1366), 1, 64),
}


def case_of(name, dtype=torch.float32, device="cpu"):
    """Normalised mels and the parameters scale, shift, weight, norm_weight, norm_bias."""
    shape, n_members, channels = CASES[name]
    generator = torch.Generator().manual_seed(3)

    def draw(*sizes):
        return torch.randn(sizes, generator=generator).to(device, dtype)

    x = draw(*shape)
    # Songs are smooth in time: neighbours are alike, as are then the places of a maximum.
    x = F.avg_pool1d(x, 3, 1, 1) * 1.5
    n = n_members * channels
    scale, shift = draw(n_members) * 0.3 + 1, draw(n_members) * 0.3
    return x, [scale, shift, draw(n, 1, 3, 3) / 3, draw(n), draw(n)]


def plain(x, scale, shift, weight, norm_weight, norm_bias):
    """The same in torch's own operators, member by member."""
    outs = []
    members = zip(*(t.chunk(len(scale)) for t in (weight, norm_weight, norm_bias)), strict=True)
    for k, (own, *norm) in enumerate(members):
        y = F.conv2d((scale[k] * x + shift[k])[:, None], own, padding=1)
        y = F.batch_norm(y, None, None, *norm, True, 0.0, EPS)
        outs.append(F.max_pool2d(F.elu(y), (2, 4)).permute(0, 2, 3, 1))
    return torch.stack(outs)


def fused(x, *parameters, dtype=None):
    moments = ops.patch_moments(x)
    return ops.vgg_stem_train(x, *parameters, *moments, EPS, dtype or x.dtype)[0]


def gradients_of(function, x, parameters, gradient):
    leaves = [t.detach().clone().requires_grad_() for t in parameters]
    out = function(x, *leaves)
    out.backward(gradient.to(out.dtype))
    return [out.detach(), *(t.grad for t in leaves)]


PARTS = ["out", "scale", "shift", "weight", "norm_weight", "norm_bias"]


def patches(x):
    """(18, n) of every place, written out."""
    padded = F.pad(torch.stack([x, torch.ones_like(x)]).double(), (1, 1, 1, 1))
    m, f = x.shape[1:]
    rows = [
        padded[c, :, i : i + m, j : j + f].flatten()
        for c in range(2)
        for i in range(3)
        for j in range(3)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 2, 4), (2, 3, 5), (3, 4, 7), (2, 9, 33)])
@pytest.mark.parametrize("level", [0.0, 1000.0])
def test_patch_moments_are_mean_and_covariance(shape, level, dtype, device):
    x = (maps_of(shape) + level).to(device, dtype)
    mean, covariance = ops.patch_moments(x)
    phi = patches(x)
    centred = phi - phi.mean(1, keepdim=True)
    assert_close(mean, phi.mean(1), rtol=1e-12, atol=1e-12)
    expected = centred @ centred.T / phi.size(1)
    assert_close(covariance, expected, rtol=1e-9, atol=1e-9 * max(1.0, float(expected.abs().max())))
    assert torch.equal(covariance, covariance.T)


@pytest.mark.parametrize("name", CASES)
def test_it_is_torchs_in_float64(name, device):
    x, parameters = case_of(name, torch.float64, device)
    expected = plain(x, *parameters)
    gradient = maps_of(expected.shape, torch.float64, device)
    judge = gradients_of(plain, x, parameters, gradient)
    for part, a, b in zip(PARTS, gradients_of(fused, x, parameters, gradient), judge, strict=True):
        tolerance = 1e-9 * max(1.0, float(b.abs().max()))
        assert_close(a, b, rtol=1e-8, atol=tolerance, msg=lambda text, part=part: part + text)


@pytest.mark.parametrize("name", CASES)
def test_batch_statistics_are_those_of_the_convolution(name, device):
    x, (scale, shift, weight, *norm) = case_of(name, device=device)
    _, mean, variance = ops.vgg_stem_train(
        x, scale, shift, weight, *norm, *ops.patch_moments(x), EPS
    )
    affine = (scale.view(-1, 1, 1, 1) * x + shift.view(-1, 1, 1, 1)).double()
    own = weight.double().chunk(len(scale))
    maps = [F.conv2d(a[:, None], w, padding=1) for a, w in zip(affine, own, strict=True)]
    assert_close(mean, torch.cat([y.mean((0, 2, 3)) for y in maps]), rtol=1e-6, atol=1e-6)
    expected = torch.cat([y.var((0, 2, 3), correction=0) for y in maps])
    assert_close(variance, expected, rtol=1e-5, atol=1e-8)
    assert not mean.requires_grad and not variance.requires_grad


def error(actual: Tensor, exact: Tensor) -> float:
    """The relative error of a whole tensor."""
    return float((actual.double() - exact).norm() / exact.norm().clamp_min(1e-12))


def judged(x, parameters, gradient):
    """Errors against float64 of eager float32 and of the operator, part by part."""
    judge = gradients_of(plain, x.double(), [t.double() for t in parameters], gradient)
    runs = (gradients_of(f, x, parameters, gradient) for f in (plain, fused))
    return [
        [
            float((t.double() - j).norm() / j.norm().clamp_min(1e-12))
            for t, j in zip(run, judge, strict=True)
        ]
        for run in runs
    ]


@pytest.mark.parametrize("name", CASES)
def test_errors_are_at_most_twice_those_of_eager_float32(name, device):
    x, parameters = case_of(name, device=device)
    gradient = maps_of(plain(x, *parameters).shape, device=device)
    for part, eager, mine in zip(PARTS, *judged(x, parameters, gradient), strict=True):
        assert mine <= max(2 * eager, 1e-6), (part, mine, eager)


def test_bfloat16_is_computed_in_float32(device):
    x, parameters = case_of("one member", device=device)
    gradient = maps_of(plain(x, *parameters).shape, torch.bfloat16, device)
    whole = gradients_of(fused, x, parameters, gradient)

    def rounded(*t):
        return fused(*t, dtype=torch.bfloat16)

    half = gradients_of(rounded, x, parameters, gradient)
    assert torch.equal(half[0], whole[0].bfloat16())
    for a, b in zip(half[1:], whole[1:], strict=True):
        assert error(a, b.double()) < 2**-6


@pytest.mark.parametrize("name", ["smallest", "odd sizes"])
def test_gradcheck(name):
    x, parameters = case_of(name, torch.float64)
    parameters = [t.requires_grad_() for t in parameters]
    assert torch.autograd.gradcheck(lambda *t: fused(x, *t), parameters)


def test_the_first_of_equal_maxima_gets_the_gradient(device):
    x = torch.zeros(1, 4, 8, device=device)
    x[0, 1:3] = torch.arange(8.0, device=device).remainder(2)
    weight = torch.zeros(3, 1, 3, 3, device=device)
    weight[:, 0, 1, 1] = torch.tensor([1.0, -1.0, 0.0], device=device)
    one = torch.ones(1, device=device)
    parameters = [
        one,
        one * 0.5,
        weight,
        torch.tensor([1.0, 2.0, -1.0], device=device),
        one.repeat(3),
    ]
    gradient = maps_of((1, 1, 2, 2, 3), device=device)
    mine = gradients_of(fused, x, parameters, gradient)
    torchs = gradients_of(plain, x, parameters, gradient)
    for a, b in zip(mine, torchs, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays_in_its_member(dtype, device):
    x, parameters = case_of("even sizes", dtype, device)
    gradient = maps_of(plain(x, *parameters).shape, dtype, device)
    clean = gradients_of(fused, x, parameters, gradient)
    for part in range(5):
        dirty = [t.clone() for t in parameters]
        dirty[part].view(-1)[-1] = NAN
        out, *gradients = gradients_of(fused, x, dirty, gradient)
        assert torch.equal(out[0], clean[0][0]) and out[1, ..., -1].isnan().all()
        for a, b in zip(gradients, clean[1:], strict=True):
            half = len(a) // 2
            assert torch.equal(a[:half], b[:half])
        assert part == 4 or gradients[2][-1].isnan().all()
    x[0, 0, 0] = NAN
    assert fused(x, *parameters).isnan().all()


def test_overflow_in_the_sums_is_not_taken_for_a_maximum(device):
    # Eager float32 has inf - inf in its convolution as well.
    x, (scale, shift, weight, *norm) = case_of("one member", device=device)
    x = x.clone()
    x[0, 5, 40] = 3e38
    out = fused(x, scale * 10, shift, weight, *norm)
    eager = plain(x, scale * 10, shift, weight, *norm)
    assert eager.isnan().any()
    assert out[0, 0, 2:4, 9:11].isfinite().logical_not().any()


def test_strided_tensors_give_the_same(device):
    x, parameters = case_of("odd sizes", device=device)
    gradient = maps_of(plain(x, *parameters).shape, device=device)
    expected = gradients_of(fused, x, parameters, gradient)
    moved = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    leaves = [torch.stack([t, t], t.dim()).select(t.dim(), 0).requires_grad_() for t in parameters]
    out = fused(moved, *leaves)
    gradient = gradient.permute(4, 2, 0, 1, 3).contiguous().permute(2, 3, 1, 4, 0)
    for a, b in zip([out, *torch.autograd.grad(out, leaves, gradient)], expected, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["even sizes", "real"])
def test_the_bits_do_not_depend_on_threads(name):
    if _library.status()["operators"]["patch_products"]["cpu"] != "native":
        pytest.skip("torch's matrix product divides its sums among threads")
    x, parameters = case_of(name)
    gradient = maps_of(plain(x, *parameters).shape)
    one, two = (on_threads(n, lambda: gradients_of(fused, x, parameters, gradient)) for n in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)
    one, two = (on_threads(n, lambda: ops.patch_moments(x)) for n in (1, 2))
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_the_kernels_are_the_reference(name, dtype):
    x, parameters = case_of(name, dtype)
    scale, shift, weight, _, bias = parameters
    case = x, scale, shift, weight, bias, dtype
    out, argmax = torch.ops.fastmte.vgg_stem_argmax(*case)
    expected, places = reference_training.vgg_stem_argmax(*case)
    assert_close(out, expected)
    assert (argmax != places).double().mean() < 1e-4  # of values that only rounding tells apart
    case = maps_of(out.shape, dtype), out, argmax, x
    actual = torch.ops.fastmte.vgg_stem_sums(*case)
    expected = reference_training.vgg_stem_sums(*case)
    assert_close(actual, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


X, K2, W4, C4 = torch.zeros(2, 6, 8), torch.ones(2), torch.ones(4, 1, 3, 3), torch.ones(4)
ERRORS = {
    "x 2-D": (dict(x=X[0]), "x must be 3-D, got 2-D"),
    "x half": (dict(x=X.half()), "x must be Float or Double, got Half"),
    "x with gradient": (
        dict(x=X.clone().requires_grad_()),
        "x must not require a gradient, as none is computed",
    ),
    "no member": (dict(scale=K2[:0]), "scale.size(0) must be at least 1, got 0"),
    "shifts": (
        dict(shift=K2[:1]),
        "scale.size(0) and shift.size(0) must be equal, got 2 and 1",
    ),
    "weight": (
        dict(weight=W4[:3]),
        "weight must be (2 * C, 1, 3, 3), got (3, 1, 3, 3)",
    ),
    "weight 5x5": (
        dict(weight=torch.ones(4, 1, 5, 5)),
        "weight must be (2 * C, 1, 3, 3), got (4, 1, 5, 5)",
    ),
    "norm_bias": (
        dict(norm_bias=C4[:3]),
        "weight.size(0) and norm_bias.size(0) must be equal, got 4 and 3",
    ),
    "mean": (dict(mean=torch.zeros(18)), "mean must be Double, got Float"),
    "moments": (
        dict(mean=torch.zeros(17, dtype=torch.float64)),
        "mean and covariance must be (18,) and (18, 18), got (17,) and (18, 18)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_vgg_stem_train_refuses(name):
    changed, text = ERRORS[name]
    case = dict(
        x=X, scale=K2, shift=K2, weight=W4, norm_weight=C4, norm_bias=C4,
        mean=torch.zeros(18, dtype=torch.float64),
        covariance=torch.eye(18, dtype=torch.float64), eps=EPS, dtype=torch.float32,
    )  # fmt: skip
    with refuses(f"vgg_stem_train: {text}"):
        ops.vgg_stem_train(**(case | changed))


KERNEL_ERRORS = {
    "x": (dict(x=X.bfloat16()), "x must be Float or Double, got BFloat16"),
    "bands": (dict(x=X[:, :1]), "x.size(1) must be at least 2, got 1"),
    "frames": (dict(x=X[..., :3]), "x.size(2) must be at least 4, got 3"),
    "scale": (dict(scale=K2.double()), "scale must be Float, got Double"),
    "shift": (dict(shift=K2[:1]), "shift.size(0) and scale.size(0) must be equal, got 1 and 2"),
    "bias": (dict(bias=C4[:3]), "bias.size(0) and weight.size(0) must be equal, got 3 and 4"),
    "taps": (dict(weight=torch.ones(4, 1, 3, 2)), "weight.size(3) must be 3, got 2"),
    "channels": (
        dict(weight=W4[:3], bias=C4[:3]),
        "weight.size(0) % scale.size(0) must be 0, got 1",
    ),
    "dtype": (
        dict(dtype=torch.float64),
        "dtype must be that of x, or BFloat16 for Float, got Double",
    ),
}


@pytest.mark.parametrize("side", ["dispatched", "reference"])
@pytest.mark.parametrize("name", KERNEL_ERRORS)
def test_vgg_stem_argmax_refuses(name, side, device):
    changed, text = KERNEL_ERRORS[name]
    case = dict(x=X, scale=K2, shift=K2, weight=W4, bias=C4, dtype=torch.float32) | changed
    tier = torch.ops.fastmte if side == "dispatched" else reference_training
    with refuses(f"vgg_stem_argmax: {text}"):
        tier.vgg_stem_argmax(*(t.to(device) if isinstance(t, Tensor) else t for t in case.values()))


def test_opcheck(device):
    x, (scale, shift, weight, _, bias) = case_of("odd sizes", device=device)
    torch.library.opcheck(torch.ops.fastmte.patch_products.default, (x,))
    for dtype in (torch.float32, torch.bfloat16):
        case = x, scale, shift, weight, bias, dtype
        torch.library.opcheck(torch.ops.fastmte.vgg_stem_argmax.default, case)
        out, argmax = torch.ops.fastmte.vgg_stem_argmax(*case)
        torch.library.opcheck(torch.ops.fastmte.vgg_stem_sums.default, (out, out, argmax, x))


def test_it_compiles_with_its_gradient_and_no_graph_break(device):
    x, parameters = case_of("odd sizes", device=device)
    leaves = [t.requires_grad_() for t in parameters]
    compiled = torch.compile(
        lambda *t: fused(x, *t).square().sum(), fullgraph=True, backend="aot_eager"
    )
    expected = torch.autograd.grad(fused(x, *leaves).square().sum(), leaves)
    for a, b in zip(torch.autograd.grad(compiled(*leaves), leaves), expected, strict=True):
        assert_close(a, b)
