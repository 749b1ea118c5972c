"""mel_db on every tier: spectra, windows, scale, NaN, threads, errors."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import on_threads, refuses, saved_on
from torch.testing import assert_close

from fastmte import ops, reference
from fastmte.mel import PRESETS, MelConfig, tables

INF, NAN = float("inf"), float("nan")
CONFIGS = {
    **PRESETS,
    "smallest": MelConfig("smallest", frame_size=4, hop=3, bands=1),
    "odd half": MelConfig("odd half", frame_size=14, hop=5, bands=2),
    "three": MelConfig("three", frame_size=48, hop=50, bands=4),
    "256": MelConfig("256", frame_size=256, hop=100, bands=30),
    "600": MelConfig("600", frame_size=600, hop=100, bands=40),
    "1024": MelConfig("1024", frame_size=1024, hop=333),
    "2048": MelConfig("2048", frame_size=2048, hop=2048, db_per_decade=20, floor_db=-300.0),
}


def tables_of(config: MelConfig, device: str = "cpu") -> list[torch.Tensor]:
    return [torch.from_numpy(table).to(device) for table in tables(config)]


def noise(shape, seed: int = 0, device: str = "cpu") -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def case(config: MelConfig, samples: torch.Tensor, frames: int, offset: int | None = None):
    offset = -(config.frame_size // 2) if offset is None else offset
    numbers = (config.hop, offset, frames, float(config.db_per_decade), config.floor_db)
    return samples, *tables_of(config, samples.device), *numbers


def by_definition(samples, window, weights, first_bins, splits, hop, offset, frames, scale, floor):
    """Every bin of every frame as a sum over its samples, in float64."""
    size = len(window)
    padded = np.zeros(10 * size + samples.shape[1] + frames * hop)
    at = 5 * size
    padded[at : at + samples.shape[1]] = samples[0]
    rows = (
        np.stack([padded[at + offset + t * hop :][:size] for t in range(frames)]) * window.numpy()
    )
    turns = np.exp(-2j * np.pi * np.outer(np.arange(size), np.arange(size // 2 + 1)) / size)
    power = np.abs(rows @ turns) ** 2
    bank = np.zeros((size // 2 + 1, len(first_bins)))
    for band, first in enumerate(first_bins.tolist()):
        values = weights[splits[band] : splits[band + 1]].numpy()
        bank[first : first + len(values), band] = values
    with np.errstate(divide="ignore"):
        return np.maximum(scale * np.log10(power @ bank), floor).T[None]


@pytest.mark.parametrize("name", CONFIGS)
def test_mel_db_is_what_its_sums_say(tier, name, device):
    config = CONFIGS[name]
    samples = noise((1, 9 * config.hop + 11))
    arguments = case(config, samples, 19)
    expected = torch.from_numpy(by_definition(*arguments))
    actual = tier.mel_db(*case(config, samples.to(device), 19))
    assert actual.dtype == torch.float32
    assert actual.shape == (1, config.bands, 19)
    assert_close(actual.cpu().double(), expected, rtol=0, atol=5e-4)
    assert (actual[..., -1] == config.floor_db).all()


def test_mel_db_by_hand(tier, device):
    samples = torch.tensor([[1.0, 0, 0, 0, 2, 2, 2, 2, 0, 3, 0, -3]], device=device)
    window = torch.ones(4, device=device)
    # Bins 0 and 1 by weights 1 and 10; then bin 2; then nothing.
    weights = torch.tensor([1.0, 10, 1], device=device)
    first_bins = torch.tensor([0, 2, 0], device=device)
    splits = torch.tensor([0, 2, 3, 3], device=device)
    out = tier.mel_db(samples, window, weights, first_bins, splits, 4, 0, 4, 10.0, -50.0)
    # An impulse has power 1 in all bins, a constant 8 ** 2 in the first, the sine 6 ** 2 in one.
    sums = torch.tensor([[11, 64, 360], [1, 0, 0], [0, 0, 0]])
    expected = (10 * sums.log10()).clamp(min=-50)
    assert_close(out[0, :, :3].cpu(), expected)
    assert (out[0, :, 3] == -50).all()


@pytest.mark.parametrize("name", ["mtg2019", "mtg2023", "600", "256"])
def test_mel_db_gives_a_window_the_bits_of_the_whole(tier, name, device):
    config = CONFIGS[name]
    samples = noise((1, config.hop * 150), device=device)
    samples[:, config.hop * 40 : config.hop * 45] = 0
    samples[:, config.hop * 50] = NAN
    samples[:, config.hop * 60 : config.hop * 63] *= 1e25  # leaves float32's range of powers
    half = config.frame_size // 2
    whole = tier.mel_db(*case(config, samples, 151))
    for first, frames in ((0, 1), (0, 17), (3, 33), (37, 31), (61, 1), (100, 51), (150, 1)):
        low = max(0, first * config.hop - half)
        part = samples[:, low : (first + frames - 1) * config.hop + half]
        result = tier.mel_db(*case(config, part, frames, first * config.hop - half - low))
        expected = whole[..., first : first + frames]
        assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(0, 60),
    n_songs=st.integers(0, 3),
    frames=st.integers(0, 40),
    offset=st.integers(-100, 100),
    name=st.sampled_from(["smallest", "odd half", "three"]),
)
def test_mel_db_equals_its_reference(n, n_songs, frames, offset, name):
    config = dataclasses.replace(CONFIGS[name], floor_db=-60.0)
    arguments = case(config, noise((n_songs, n)), frames, offset)
    expected = reference.mel_db(*arguments)
    assert_close(torch.ops.fastmte.mel_db(*arguments), expected, rtol=0, atol=2e-2)


def test_songs_do_not_know_each_other(tier, device):
    config = PRESETS["mtg2019"]
    samples = noise((3, 3000), device=device)
    samples[1, 700] = NAN
    samples[2] *= 1e20
    together = tier.mel_db(*case(config, samples, 12))
    for i in range(3):
        alone = tier.mel_db(*case(config, samples[i : i + 1], 12))[0]
        assert_close(together[i], alone, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_what_is_not_finite_stays_in_its_frames(tier, bad, device):
    config = PRESETS["mtg2019"]
    samples = noise((1, 10_000), device=device)
    clean = tier.mel_db(*case(config, samples, 40))
    samples[0, 2100] = bad
    result = tier.mel_db(*case(config, samples, 40))
    is_bad = torch.zeros(40, dtype=torch.bool, device=device)
    is_bad[[8, 9]] = True  # [1792, 2304) and [2048, 2560)
    assert result[..., is_bad].isnan().all()
    assert torch.equal(result[..., ~is_bad], clean[..., ~is_bad])


@pytest.mark.parametrize("exponent", [-70, -45, 60, 110])
def test_any_magnitude_has_its_decibels(tier, exponent, device):
    """Powers beyond float32's range, down to a floor below it."""
    config = dataclasses.replace(PRESETS["mtg2019"], floor_db=-2000.0)
    samples = noise((1, 4000), device=device)
    usual = tier.mel_db(*case(config, samples, 16))
    scaled = tier.mel_db(*case(config, samples * 2.0**exponent, 16))
    shift = 20 * exponent * float(np.log10(2))
    assert_close(scaled, usual + shift, rtol=0, atol=2e-3)


def test_silence_and_an_empty_song_are_the_floor(tier, device):
    for config in PRESETS.values():
        for n in (0, 1000):
            out = tier.mel_db(*case(config, torch.zeros(2, n, device=device), 9))
            assert (out == config.floor_db).all()
    assert tier.mel_db(*case(config, torch.zeros(2, 99, device=device), 0)).shape == (2, 96, 0)


def test_float32_errs_little_in_quiet_bands(tier, device):
    """A loud low tone beside a quiet high one: amplitudes err by 1e-7 of the loudest."""
    config = PRESETS["mtg2019"]
    t = torch.arange(30_000, dtype=torch.float64) / 12_000
    samples = (0.9 * (2000 * t).sin() + 1e-4 * (30_000 * t).sin()).float()[None]
    expected = torch.from_numpy(by_definition(*case(config, samples, 100)))
    actual = tier.mel_db(*case(config, samples.to(device), 100)).cpu()
    amplitude, expected = (10 ** (db.double() / 20) for db in (actual, expected))
    limit = 1e-6 * expected + 1e-7 * expected.amax(1, keepdim=True)
    assert ((amplitude - expected).abs() <= limit).all()


def test_mel_db_of_strided_tensors(tier, device):
    config = PRESETS["mtg2019"]
    arguments = case(config, noise((2, 3000), device=device), 12)
    strided = [
        torch.stack([x, x], -1)[..., 0] if isinstance(x, torch.Tensor) else x for x in arguments
    ]
    assert torch.equal(tier.mel_db(*strided), tier.mel_db(*arguments))


def test_mel_db_does_not_depend_on_threads():
    arguments = case(PRESETS["mtg2019"], noise((3, 100_000)), 391)
    one, two, five = (on_threads(n, lambda: ops.mel_db(*arguments)) for n in (1, 2, 5))
    assert torch.equal(one, two)
    assert torch.equal(one, five)


ERRORS = {
    "1-D": (dict(samples=torch.zeros(9)), "samples must be 2-D, got 1-D"),
    "dtype": (dict(samples=torch.zeros(2, 9).double()), "samples must be Float, got Double"),
    "window": (dict(window=torch.ones(8).double()), "window must be Float, got Double"),
    "odd": (dict(window=torch.ones(9)), "window.size(0) must be even and at least 4, got 9"),
    "short": (dict(window=torch.ones(2)), "window.size(0) must be even and at least 4, got 2"),
    "weights": (dict(weights=torch.zeros(5, 1)), "weights must be 1-D, got 2-D"),
    "bins": (dict(first_bins=torch.zeros(2).int()), "first_bins must be Long, got Int"),
    "splits": (
        dict(splits=torch.tensor([0, 5])),
        "first_bins.size(0) + 1 and splits.size(0) must be equal, got 3 and 2",
    ),
    "falls": (dict(splits=torch.tensor([0, 6, 5])), "splits must rise from 0 to 5"),
    "ends": (dict(splits=torch.tensor([0, 2, 4])), "splits must rise from 0 to 5"),
    "begins": (dict(splits=torch.tensor([1, 2, 5])), "splits must rise from 0 to 5"),
    "below": (
        dict(first_bins=torch.tensor([0, -1])),
        "first_bins must be in [0, 5), got -1 at [1]",
    ),
    "beyond": (
        dict(first_bins=torch.tensor([0, 3])),
        "first_bins + splits.diff() must be in [0, 6), got 6 at [1]",
    ),
    "hop": (dict(hop=0), "hop must be at least 1, got 0"),
    "frames": (dict(frames=-1), "frames must be at least 0, got -1"),
    "decade": (dict(db_per_decade=INF), "db_per_decade must be finite, got inf"),
    "floor": (dict(floor_db=-NAN), "floor_db must be finite, got nan"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_mel_db_refuses(tier, name, device):
    good = dict(
        samples=torch.zeros(2, 90),
        window=torch.ones(8),
        weights=torch.ones(5),
        first_bins=torch.tensor([0, 1]),
        splits=torch.tensor([0, 2, 5]),
        hop=4,
        offset=-4,
        frames=3,
        db_per_decade=10.0,
        floor_db=-100.0,
    )
    changed, text = ERRORS[name]
    arguments = (good | changed).values()
    with refuses(f"mel_db: {text}"):
        tier.mel_db(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments))


def test_mel_db_opcheck(device):
    operator = torch.ops.fastmte.mel_db.default
    config = CONFIGS["three"]
    torch.library.opcheck(operator, case(config, noise((2, 500), device=device), 9))
    torch.library.opcheck(operator, case(config, noise((0, 0), device=device), 0))


SAVE = """
import sys, torch
from test_ops_mel_db import CONFIGS, case, noise
from fastmte import _library, ops
assert _library.status()["tier"] == "native"
samples = noise((2, 9000))
torch.save([ops.mel_db(*case(config, samples, 20)) for config in CONFIGS.values()], sys.argv[1])
"""


@pytest.mark.parametrize("isa", ["0", "1", "2"])
def test_every_instruction_set_computes_mels(tmp_path, isa):
    samples = noise((2, 9000))
    for actual, config in zip(saved_on(isa, SAVE, tmp_path), CONFIGS.values(), strict=True):
        expected = reference.mel_db(*case(config, samples, 20))
        assert_close(actual, expected, rtol=0, atol=2e-2 if config.frame_size < 20 else 5e-4)
