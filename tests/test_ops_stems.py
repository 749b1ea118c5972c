"""vgg_stem and resnet_stem on every tier: sums, borders, NaN, rounding, threads, errors."""

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from op_cases import STEMS, on_threads, refuses, saved_on, stem_case
from torch import Tensor
from torch.testing import assert_close

from fastmte import ops, reference

INF, NAN = math.inf, math.nan
OUTPUTS = [torch.float32, torch.bfloat16, torch.float64]

# K, B, M, F, C
CASES = {
    "one window": (1, 1, 2, 4, 1),
    "odd sizes": (2, 3, 7, 21, 5),
    "half a block": (2, 1, 6, 26, 16),
    "more than a block": (3, 2, 5, 50, 40),
    "sixteen members": (16, 1, 8, 13, 9),
    "real": (4, 1, 96, 1366, 64),
    "large": (1, 1, 131, 2049, 65),
    "no songs": (2, 0, 8, 16, 4),
}


def run(tier, name: str, case: dict[str, Tensor], members: int, dtype: torch.dtype) -> Tensor:
    if name == "vgg_stem":
        return tier.vgg_stem(*case.values(), dtype)
    return tier.resnet_stem(*case.values(), dtype, members)


def by_patches(name: str, case: dict[str, Tensor], members: int) -> Tensor:
    """The same from patches and sums in float64, member by member."""
    case = {key: value.double().cpu() for key, value in case.items()}
    mels, outputs = case["mels"], []
    for k in range(members):
        weight, bias = (case[key].chunk(members)[k] for key in ("weight", "bias"))
        if name == "vgg_stem":
            x, stride = case["scale"][k] * mels + case["shift"][k], 1
        else:
            x, stride = mels, 2
        side = weight.size(-1)
        pad = side // 2
        patches = F.pad(x, (pad,) * 4).unfold(1, side, stride).unfold(2, side, stride)
        sums = torch.einsum("bhwij,cij->bhwc", patches, weight[:, 0]) + bias
        if name == "vgg_stem":
            maxima = sums.unfold(1, 2, 2).unfold(2, 4, 4).amax((4, 5))
            outputs.append(torch.where(maxima < 0, maxima.expm1(), maxima))
        else:
            padded = F.pad(sums, (0, 0, 1, 1, 1, 1), value=-INF)
            outputs.append(padded.unfold(1, 3, 2).unfold(2, 3, 2).amax((4, 5)).clamp(min=0))
    return torch.stack(outputs)


@cache
def expected_of(name: str, size: str, is_double: bool) -> Tensor:
    dtype = torch.float64 if is_double else torch.float32
    return by_patches(name, stem_case(name, *CASES[size], dtype=dtype), CASES[size][0])


@pytest.mark.parametrize("dtype", OUTPUTS)
@pytest.mark.parametrize("size", CASES)
@pytest.mark.parametrize("name", STEMS)
def test_a_stem_is_what_its_patches_say(tier, name, size, dtype, device):
    members = CASES[size][0]
    case = stem_case(name, *CASES[size], dtype=dtype, device=device)
    actual = run(tier, name, case, members, dtype)
    expected = expected_of(name, size, dtype == torch.float64)
    assert actual.dtype == dtype
    assert actual.is_contiguous()
    limit = {
        torch.float64: {"rtol": 1e-13, "atol": 1e-14},
        torch.float32: {"rtol": 1e-5, "atol": 1e-5},
        torch.bfloat16: {"rtol": 2.0**-8, "atol": 1e-4},  # matrix units sum products of halves
    }[dtype]
    assert_close(actual.double().cpu(), expected, **limit)


@pytest.mark.parametrize("name", STEMS)
def test_float32_errs_no_more_than_the_reference(name):
    case = stem_case(name, *CASES["real"])
    exact = expected_of(name, "real", False)
    errors = [
        (run(tier, name, case, 4, torch.float32).double() - exact).square().mean().sqrt()
        for tier in (torch.ops.fastmte, reference)
    ]
    assert errors[0] <= 2 * errors[1]


def test_vgg_stem_by_hand(tier, device):
    mels = torch.tensor([[[1.0, 2, 3, 4], [5, 6, 7, 8]]])
    weight = torch.zeros(2, 1, 3, 3)
    weight[0, 0, 1, 1] = weight[1, 0, 1, 2] = 1.0  # the value itself, its right neighbour
    arguments = (mels, torch.tensor([2.0, -1]), torch.tensor([1.0, -1]), weight, torch.zeros(2))
    out = tier.vgg_stem(*(x.to(device) for x in arguments), torch.float32)
    assert out.shape == (2, 1, 1, 1, 1)
    # 2 * 8 + 1; the border is 0 after the affine map, larger than any -x - 1.
    assert out.flatten().tolist() == [17.0, 0.0]


def test_resnet_stem_by_hand(tier, device):
    mels = torch.arange(1.0, 26).view(1, 5, 5)
    weight = torch.zeros(2, 1, 7, 7)
    weight[0, 0, 3, 3], weight[1, 0, 3, 3] = 1.0, -1.0
    bias = torch.tensor([0.5, 14.5])
    out = tier.resnet_stem(*(x.to(device) for x in (mels, weight, bias)), torch.float32, 2)
    # Conv sums are at 1 3 5, 11 13 15, 21 23 25; windows of two or all of them around every other.
    assert out[0, 0, ..., 0].tolist() == [[13.5, 15.5], [23.5, 25.5]]
    assert out[1, 0, ..., 0].tolist() == [[13.5, 11.5], [3.5, 1.5]]


@pytest.mark.parametrize("name", STEMS)
def test_members_do_not_know_each_other(tier, name, device):
    case = stem_case(name, 3, 2, 9, 30, 20, device=device)
    together = run(tier, name, case, 3, torch.float32)
    for k in range(3):
        one = {key: x if key == "mels" else x.chunk(3)[k] for key, x in case.items()}
        assert torch.equal(run(tier, name, one, 1, torch.float32)[0], together[k])


@pytest.mark.parametrize("dtype", OUTPUTS)
@pytest.mark.parametrize("channels", [3, 40])
@pytest.mark.parametrize("name", STEMS)
def test_nan_and_infinity_go_where_torch_puts_them(tier, name, channels, dtype, device):
    case = stem_case(name, 2, 4, 20, 90, channels, dtype=dtype, device=device)
    for song, value in enumerate((NAN, INF, -INF), start=1):
        for band, frame in ((0, 0), (7, 41), (19, 89), (12, 64)):
            case["mels"][song, band, frame] = value
    actual = run(tier, name, case, 2, dtype).cpu()
    double = {key: x.double().cpu() for key, x in case.items()}
    expected = run(reference, name, double, 2, torch.float64).to(dtype)
    assert torch.equal(actual.isnan(), expected.isnan())
    assert actual[:, 1].isnan().any() and actual[:, 2].isinf().any() and actual[:, 3].isinf().any()
    assert actual[:, 0].isfinite().all()
    assert_close(actual, expected, equal_nan=True, rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("what", ["scale", "shift", "weight", "bias"])
@pytest.mark.parametrize("name", STEMS)
def test_nan_stays_inside_its_member(tier, name, what, device):
    case = stem_case(name, 3, 2, 10, 40, 33, device=device)
    if what not in case:
        pytest.skip("resnet_stem has none")
    expected = run(tier, name, case, 3, torch.float32)
    case[what].chunk(3)[1].flatten()[-1] = NAN
    actual = run(tier, name, case, 3, torch.float32)
    assert torch.equal(actual[[0, 2]], expected[[0, 2]])
    assert actual[1, ..., -1].isnan().any()
    if what in ("weight", "bias"):
        assert torch.equal(actual[1, ..., :-1], expected[1, ..., :-1])


@pytest.mark.parametrize("name", STEMS)
def test_overflow_does_not_hide(tier, name, device):
    case = stem_case(name, 1, 1, 8, 32, 20, device=device)
    for x in case.values():
        x.zero_()
    case["mels"] += 3e38
    if name == "vgg_stem":
        case["scale"] += 1
    middle = STEMS[name] // 2
    case["weight"][0, 0, middle, middle : middle + 2] = torch.tensor([2.0, -2.0])
    case["weight"][1, 0, middle, middle] = 0.5
    actual = run(tier, name, case, 1, torch.float32)
    # 6e38 - 6e38 is infinite, or NaN where the products are rounded: never the 0 of another tap.
    assert not actual[..., 0].isfinite().any()
    assert (actual[..., 1] == 1.5e38).all()
    assert (actual[..., 2:] == 0).all()


@pytest.mark.parametrize("name", STEMS)
def test_bfloat16_is_float32_rounded_to_the_nearest(tier, name, device):
    case = stem_case(name, 2, 1, 30, 200, 37, device=device)
    single = run(tier, name, case, 2, torch.float32)
    half, rounded = run(tier, name, case, 2, torch.bfloat16), single.bfloat16()
    assert_close(half.float(), single, rtol=2.0**-8, atol=1e-4)
    assert (half == rounded).double().mean() > 0.995  # else a sum was near the middle of two


@pytest.mark.parametrize("name", STEMS)
def test_weights_that_bfloat16_holds_are_exact_too(name):
    case = stem_case(name, 2, 2, 30, 200, 37)
    case["weight"] = case["weight"].bfloat16().float()
    half = run(torch.ops.fastmte, name, case, 2, torch.bfloat16)
    assert_close(half.double(), by_patches(name, case, 2), rtol=2.0**-8, atol=1e-4)


@pytest.mark.parametrize("name", STEMS)
def test_a_stem_of_strided_tensors(tier, name, device):
    case = stem_case(name, 2, 3, 10, 50, 12, device=device)
    expected = run(tier, name, case, 2, torch.float32)
    strided = {key: torch.stack([x, x + 1], -1)[..., 0] for key, x in case.items()}
    strided["mels"] = case["mels"].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not any(x.is_contiguous() for x in strided.values())
    assert torch.equal(run(tier, name, strided, 2, torch.float32), expected)


@pytest.mark.parametrize("dtype", OUTPUTS)
@pytest.mark.parametrize("name", STEMS)
def test_a_stem_does_not_depend_on_threads(name, dtype):
    case = stem_case(name, 3, 2, 27, 61, 24, dtype=dtype)
    case["mels"][1, 9, 9] = NAN
    outputs = [
        on_threads(n, lambda: run(torch.ops.fastmte, name, case, 3, dtype)) for n in (1, 2, 5)
    ]
    for other in outputs[1:]:
        assert_close(outputs[0], other, rtol=0, atol=0, equal_nan=True)


VGG = dict(
    mels=torch.zeros(2, 6, 8),
    scale=torch.ones(4),
    shift=torch.zeros(4),
    weight=torch.zeros(20, 1, 3, 3),
    bias=torch.zeros(20),
    dtype=torch.float32,
)
RESNET = dict(
    mels=torch.zeros(2, 6, 8),
    weight=torch.zeros(20, 1, 7, 7),
    bias=torch.zeros(20),
    dtype=torch.float32,
    members=4,
)
HALF = torch.zeros(2, 6, 8).half()
BOTH_ERRORS = {
    "2-D": (dict(mels=torch.zeros(6, 8)), "mels must be 3-D, got 2-D"),
    "half": (dict(mels=HALF), "mels must be Float or Double, got Half"),
    "weight's shape": (dict(weight=torch.zeros(20, 9)), "weight must be 4-D, got 2-D"),
    "weight's dtype": (
        dict(weight=torch.zeros(20, 1, 3, 3).double()),
        "weight must be Float, got Double",
    ),
    "members": (
        dict(weight="rows 18", bias=torch.zeros(18)),
        "weight.size(0) must be a multiple of 4, the number of members, got 18",
    ),
    "no rows": (
        dict(weight="rows 0", bias=torch.zeros(0)),
        "weight.size(0) must be a multiple of 4, the number of members, got 0",
    ),
    "bias": (
        dict(bias=torch.zeros(19)),
        "weight.size(0) and bias.size(0) must be equal, got 20 and 19",
    ),
    "bias 2-D": (dict(bias=torch.zeros(4, 5)), "bias must be 1-D, got 2-D"),
    "dtype": (
        dict(dtype=torch.float64),
        "dtype must be Float or BFloat16 for Float mels, got Double",
    ),
    "half out": (
        dict(dtype=torch.float16),
        "dtype must be Float or BFloat16 for Float mels, got Half",
    ),
}
VGG_ERRORS = BOTH_ERRORS | {
    "scale": (dict(scale=torch.ones(4).double()), "scale must be Float, got Double"),
    "shift": (dict(shift=torch.ones(4, 1)), "shift must be 1-D, got 2-D"),
    "no member": (
        dict(scale=torch.ones(0), shift=torch.ones(0)),
        "scale.size(0) must be at least 1, got 0",
    ),
    "shifts": (
        dict(shift=torch.zeros(5)),
        "scale.size(0) and shift.size(0) must be equal, got 4 and 5",
    ),
    "bands": (dict(mels=torch.zeros(2, 1, 8)), "mels.size(1) must be at least 2, got 1"),
    "frames": (dict(mels=torch.zeros(2, 6, 3)), "mels.size(2) must be at least 4, got 3"),
    "kernel": (
        dict(weight=torch.zeros(20, 1, 3, 5)),
        "weight must be (n, 1, 3, 3), got (n, 1, 3, 5)",
    ),
}
RESNET_ERRORS = BOTH_ERRORS | {
    "no member": (dict(members=0), "members must be at least 1, got 0"),
    "bands": (dict(mels=torch.zeros(2, 0, 8)), "mels.size(1) must be at least 1, got 0"),
    "frames": (dict(mels=torch.zeros(2, 6, 0)), "mels.size(2) must be at least 1, got 0"),
    "kernel": (
        dict(weight=torch.zeros(20, 3, 7, 7)),
        "weight must be (n, 1, 7, 7), got (n, 3, 7, 7)",
    ),
}


@pytest.mark.parametrize(
    "name, error",
    [("vgg_stem", error) for error in VGG_ERRORS]
    + [("resnet_stem", error) for error in RESNET_ERRORS],
)
def test_a_stem_refuses(tier, name, error, device):
    good, errors, side = (VGG, VGG_ERRORS, 3) if name == "vgg_stem" else (RESNET, RESNET_ERRORS, 7)
    changed, text = errors[error]
    case = good | changed
    if isinstance(case["weight"], str):
        case["weight"] = torch.zeros(int(case["weight"].split()[1]), 1, side, side)
    args = [x.to(device) if isinstance(x, Tensor) else x for x in case.values()]
    with refuses(f"{name}: {text}"):
        getattr(tier, name)(*args)


@pytest.mark.parametrize("name", STEMS)
def test_double_mels_give_a_double_map(tier, name):
    case = stem_case(name, 1, 1, 4, 8, 2, dtype=torch.float64)
    with refuses(f"{name}: dtype must be Double for Double mels, got Float"):
        run(tier, name, case, 1, torch.float32)


@pytest.mark.parametrize("dtype", OUTPUTS)
@pytest.mark.parametrize("name", STEMS)
def test_a_stem_opcheck(name, dtype, device):
    op = getattr(torch.ops.fastmte, name).default
    for size in ((2, 2, 6, 13, 18), (2, 0, 4, 8, 3)):
        case = stem_case(name, *size, dtype=dtype, device=device)
        last = (dtype,) if name == "vgg_stem" else (dtype, 2)
        torch.library.opcheck(op, (*case.values(), *last))


def test_the_functions_have_float32_and_one_member_by_default():
    case = stem_case("vgg_stem", 2, 1, 6, 16, 4)
    expected = reference.vgg_stem(*case.values(), torch.float32)
    assert_close(ops.vgg_stem(*case.values()), expected)
    case = stem_case("resnet_stem", 1, 1, 6, 16, 4)
    expected = reference.resnet_stem(*case.values(), torch.float32, 1)
    assert_close(ops.resnet_stem(*case.values()), expected)


SAVE = """
import sys, torch
from op_cases import STEMS, stem_case
from fastmte import _library, ops
assert _library.status()["tier"] == "native"
outputs = {}
for name in STEMS:
    for dtype in (torch.float32, torch.bfloat16):
        case = stem_case(name, 3, 2, 13, 90, 41)
        case["mels"][1, 5, 5] = float("nan")
        case["mels"][0, 5, 5] = float("inf")
        op = getattr(torch.ops.fastmte, name)
        outputs[name, dtype] = op(*case.values(), dtype, *([3] if name == "resnet_stem" else []))
torch.save(outputs, sys.argv[1])
"""


@pytest.mark.parametrize("isa", ["0", "1", "2"])
def test_every_instruction_set_computes_the_stems(tmp_path, isa):
    for (name, dtype), actual in saved_on(isa, SAVE, tmp_path).items():
        case = stem_case(name, 3, 2, 13, 90, 41)
        case["mels"][1, 5, 5] = NAN
        case["mels"][0, 5, 5] = INF
        expected = run(reference, name, case, 3, torch.float32)
        limit = (
            {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 1e-4}
        )
        assert_close(actual.float(), expected, equal_nan=True, **limit)
