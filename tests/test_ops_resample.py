"""resample on every tier: sums, windows, drift, NaN, threads, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import on_threads, refuses, saved_on
from torch.testing import assert_close

from fastmte import ops, reference
from fastmte._places import STEPS, Places
from fastmte.audio.resample import low_pass, n_resampled

INF, NAN = float("inf"), float("nan")
FILTER = torch.from_numpy(low_pass())
SMALL = torch.linspace(1, 0, 1500)  # a triangle of three samples' width
RATES = [(44100, 12000), (48000, 12000), (8000, 12000), (11025, 12000), (192000, 12000)]
ODD = (2999, 3001)  # 3001 phases


def noise(n: int, seed: int = 0, device: str = "cpu") -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)).to(device)


def case(rates, n=4000, filter=FILTER, device="cpu"):
    """Arguments for the whole of a song of n samples."""
    method = "linear" if filter is None else "sinc"
    total = n_resampled(n, *rates, method)
    return (
        noise(n, sum(rates), device),
        filter if filter is None else filter.to(device),
        *rates,
        0,
        0,
        total,
    )


def by_definition(samples, filter, rate, target, first, start, stop):
    """Each output as one sum over all inputs, in float64, with its filter where it exactly lies."""
    places = Places.of(rate, target, len(filter))
    k = np.arange(start, stop)[:, None] * (1 / places.ratio)
    at = np.arange(first, first + len(samples))[None]
    whole = np.floor(k)
    steps = np.abs((at - whole) * places.spacing - (k - whole) * places.cut)
    table = np.append(filter.double().numpy(), 0)
    low = np.minimum(steps.astype(int), len(table) - 2)
    tap = table[low] + (steps - low) * (table[low + 1] - table[low])
    tap[steps >= len(filter) - 1] = 0
    return (tap * places.cut / STEPS) @ samples.double().numpy()


@pytest.mark.parametrize("rates", [*RATES, ODD])
@pytest.mark.parametrize("filter", [FILTER, SMALL], ids=["sinc", "triangle"])
def test_resample_is_what_its_filter_says(tier, rates, filter, device):
    arguments = case(rates, 1000, filter, device)
    actual = tier.resample(*arguments)
    assert actual.dtype == torch.float32
    samples, filter, *rest = (x.cpu() if isinstance(x, torch.Tensor) else x for x in arguments)
    expected = torch.from_numpy(by_definition(samples, filter, *rest))
    assert_close(actual.cpu().double(), expected, rtol=0, atol=4e-6)


def test_resample_by_hand(tier, device):
    samples = torch.tensor([1.0, 2, 4], device=device)
    halves = tier.resample(samples, None, 1, 2, 0, 0, 6)  # one input late
    assert halves.tolist() == [1, 1, 1, 1.5, 2, 3]
    # Twice the rate, a triangle 2 inputs wide: each input, then the mean of two.
    triangle = (torch.arange(492, 0, -1) - 1).float().to(device) / 491
    assert_close(
        tier.resample(samples, triangle, 1, 2, 0, 0, 6).cpu(), torch.tensor([1, 1.5, 2, 3, 4, 2])
    )


WINDOWS = [(0, 1), (0, 700), (33, 34), (20470, 20500), (40000, 44000), (1, 45000)]


@pytest.mark.parametrize("rates", [(44100, 12000), (48000, 12000), (11025, 12000)])
@pytest.mark.parametrize("filter", [SMALL, None], ids=["sinc", "linear"])
def test_resample_gives_a_window_the_bits_of_the_whole(tier, rates, filter, device):
    samples = noise(round(46000 * rates[0] / rates[1]), device=device)
    filter = filter if filter is None else filter.to(device)
    places = Places.of(*rates, 0 if filter is None else len(filter))
    whole = tier.resample(samples, filter, *rates, 0, 0, 45000)
    for start, stop in WINDOWS:
        low = max(0, int(start * places.step) - places.half - 2)
        high = int(stop * places.step) + places.half + 3
        part = tier.resample(samples[low:high], filter, *rates, low, start, stop)
        assert torch.equal(part, whole[start:stop])


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 90),
    rates=st.sampled_from([(3, 2), (2, 3), (147, 40), (7, 5), (16, 1), (101, 97)]),
    first=st.integers(0, 300),
    start=st.integers(0, 200),
    length=st.integers(0, 120),
    linear=st.booleans(),
)
def test_resample_equals_its_reference(n, rates, first, start, length, linear):
    arguments = (noise(n), None if linear else SMALL, *rates, first, start, start + length)
    expected = reference.resample(*arguments)
    assert_close(torch.ops.fastmte.resample(*arguments), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("filter", [SMALL, None], ids=["sinc", "linear"])
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_resample_keeps_what_is_not_finite_where_it_is(tier, filter, bad, device):
    arguments = case((44100, 12000), 3000, filter, device)
    clean = tier.resample(*arguments).cpu()
    arguments[0][[700, 1500]] = bad
    result = tier.resample(*arguments).cpu()
    covered = ~result.isfinite()
    reach = 1 if filter is None else Places.of(44100, 12000, len(filter)).half + 1
    place = torch.arange(len(result)) * 3.675
    near = ((place - 700).abs() <= reach + 1) | ((place - 1500).abs() <= reach + 1)
    assert covered.any()
    assert not (covered & ~near).any()
    assert torch.equal(result[~covered], clean[~covered])
    expected = reference.resample(
        *(x.cpu() if isinstance(x, torch.Tensor) else x for x in arguments)
    )
    assert torch.equal(covered, ~expected.isfinite())


@pytest.mark.parametrize("filter", [FILTER, None], ids=["sinc", "linear"])
def test_resample_of_huge_samples(tier, filter, device):
    arguments = case((48000, 12000), 2000, filter, device)
    scaled = (arguments[0] * 2.0**100, *arguments[1:])
    assert torch.equal(tier.resample(*scaled), tier.resample(*arguments) * 2.0**100)


def test_resample_of_strided_tensors(tier, device):
    samples, filter, *rest = case((44100, 12000), device=device)
    strided = torch.stack([samples, samples + 1], 1)[:, 0]
    doubled = torch.stack([filter, filter], 1)[:, 1]
    expected = tier.resample(samples, filter, *rest)
    assert torch.equal(tier.resample(strided, doubled, *rest), expected)


@pytest.mark.parametrize("filter", [FILTER, None], ids=["sinc", "linear"])
def test_resample_does_not_depend_on_threads(filter):
    arguments = case((44100, 12000), 300_000, filter)
    one, two, five = (on_threads(n, lambda: ops.resample(*arguments)) for n in (1, 2, 5))
    assert torch.equal(one, two)
    assert torch.equal(one, five)


ERRORS = {
    "2-D": (dict(samples=torch.zeros(2, 9)), "samples must be 1-D, got 2-D"),
    "dtype": (dict(samples=torch.zeros(9).double()), "samples must be Float, got Double"),
    "filter": (dict(filter=torch.zeros(9, 1)), "filter must be 1-D, got 2-D"),
    "short": (dict(filter=torch.zeros(2)), "filter.size(0) must be at least 3, got 2"),
    "rate": (dict(sample_rate=0), "sample_rate must be at least 1, got 0"),
    "target": (dict(target=-5), "target must be at least 1, got -5"),
    "far": (
        dict(target=43),
        "sample_rate and target must be within a factor of 1024 of each other, got 44100 and 43",
    ),
    "far up": (
        dict(sample_rate=1, target=1025),
        "sample_rate and target must be within a factor of 1024 of each other, got 1 and 1025",
    ),
    "first": (dict(first=-1), "first must be at least 0, got -1"),
    "start": (dict(start=-1), "start must be at least 0, got -1"),
    "stop": (dict(stop=3, start=4), "stop must be at least 4, got 3"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_resample_refuses(tier, name, device):
    good = dict(
        samples=torch.zeros(90),
        filter=torch.zeros(100),
        sample_rate=44100,
        target=12000,
        first=0,
        start=0,
        stop=9,
    )
    changed, text = ERRORS[name]
    arguments = (good | changed).values()
    with refuses(f"resample: {text}"):
        tier.resample(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments))


@pytest.mark.parametrize("filter", [SMALL, None], ids=["sinc", "linear"])
def test_resample_opcheck(filter, device):
    operator = torch.ops.fastmte.resample.default
    torch.library.opcheck(operator, case((44100, 12000), 500, filter, device))
    torch.library.opcheck(operator, case((44100, 12000), 0, filter, device))


SAVE = """
import sys, torch
from test_ops_resample import FILTER, RATES, case
from fastmte import _library, ops
assert _library.status()["tier"] == "native"
torch.save([ops.resample(*case(rates, 30_000, f)) for rates in RATES for f in (FILTER, None)],
           sys.argv[1])
"""


@pytest.mark.parametrize("isa", ["0", "1", "2"])
def test_every_instruction_set_resamples(tmp_path, isa):
    cases = [(rates, filter) for rates in RATES for filter in (FILTER, None)]
    for actual, (rates, filter) in zip(saved_on(isa, SAVE, tmp_path), cases, strict=True):
        expected = reference.resample(*case(rates, 30_000, filter))
        assert_close(actual, expected, rtol=1e-6, atol=2e-6)
