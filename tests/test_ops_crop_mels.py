"""crop_mels on every tier: crops, edges, errors."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import CROPS, crop_case, on_threads, packed, refuses
from torch import Tensor

from fastmte import ops, reference
from fastmte.crop import crop_mel

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("name", CROPS)
def test_crop_mels_is_each_song_cut(tier, name, dtype, device):
    case = mels, offsets, lengths, index, starts, frames, bands = crop_case(name, dtype, device)
    crops = tier.crop_mels(*case)
    assert crops.shape == (len(index), bands, frames)
    assert crops.dtype == torch.float32
    assert crops.device == mels.device
    for crop, song in enumerate(index.tolist()):
        begin, length = int(offsets[song]), int(lengths[song])
        mel = mels[begin : begin + bands * length].view(bands, length).cpu().numpy()
        start = None if starts is None else int(starts[crop])
        assert np.array_equal(crops[crop].cpu().numpy(), crop_mel(mel, frames, start))


def test_crop_mels_by_hand(tier, device):
    mels = torch.arange(24.0, device=device)
    offsets, lengths = (torch.tensor(t, device=device) for t in ([0, 14], [7, 5]))
    index = torch.tensor([0, 1], device=device)
    crops = tier.crop_mels(mels, offsets, lengths, index, None, 6, 2)
    long, short = [0, 1, 2, 3, 4, 5], [2, 3, 4, 0, 1, 2]  # 5 frames twice: the centre starts at 2
    assert crops[0, 0].tolist() == long
    assert crops[0, 1].tolist() == [7 + x for x in long]
    assert crops[1, 0].tolist() == [14 + x for x in short]
    assert crops[1, 1].tolist() == [19 + x for x in short]


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    frames=st.integers(1, 50),
    bands=st.integers(1, 4),
    half=st.booleans(),
)
def test_crop_mels_equals_its_reference(lengths, frames, bands, half):
    mels, offsets, lengths = packed(lengths, bands, torch.float16 if half else torch.float32)
    case = (mels, offsets, lengths, torch.arange(len(lengths)).flip(0), None, frames, bands)
    assert torch.equal(torch.ops.fastmte.crop_mels(*case), reference.crop_mels(*case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_crop_mels_of_strided_tensors(tier, dtype, device):
    mels, offsets, lengths, index, starts, *sizes = crop_case("given starts", dtype, device)
    expected = tier.crop_mels(mels, offsets, lengths, index, starts, *sizes)

    def spread(x: Tensor) -> Tensor:
        return x.repeat_interleave(2)[::2]

    strided = [spread(x) for x in (mels, offsets, lengths, index, starts)]
    assert not strided[0].is_contiguous()
    assert torch.equal(tier.crop_mels(*strided, *sizes), expected)


def test_crop_mels_reads_only_the_crop(tier):
    mels, offsets, lengths = packed([10], bands=1, gap=0)
    mels[0] = mels[9] = NAN
    crops = tier.crop_mels(mels, offsets, lengths, torch.tensor([0]), None, 8, 1)
    assert torch.equal(crops.flatten(), mels[1:9])


def test_crop_mels_has_defaults():
    mels, offsets, lengths = packed([1400], bands=96)
    crops = ops.crop_mels(mels, offsets, lengths, torch.tensor([0]))
    assert crops.shape == (1, 96, 1366)
    assert torch.equal(crops, torch.ops.fastmte.crop_mels(mels, offsets, lengths, *CENTRE))


CENTRE = (torch.tensor([0]), torch.tensor([17]), 1366, 96)  # (1400 - 1366) / 2


def test_crop_mels_does_not_depend_on_threads():
    case = crop_case("real", torch.float16)
    one, two = (on_threads(n, lambda: torch.ops.fastmte.crop_mels(*case)) for n in (1, 2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("name", CROPS)
@pytest.mark.parametrize("is_strided", [False, True])
def test_crops_go_into_memory_that_is_given(tier, name, is_strided, device):
    case = *_, frames, bands = crop_case(name, torch.float16, device)
    expected = tier.crop_mels(*case)
    room = torch.full((len(expected), bands, 2 * frames), NAN, device=device)
    crops = room[:, :, ::2] if is_strided else room.flatten()[: expected.numel()].view_as(expected)
    op = getattr(tier, "crop_mels_into", None) or tier.crop_mels.into
    assert op(*case[:5], crops) is None
    assert torch.equal(crops, expected)


@pytest.mark.parametrize("length", [1366, 1400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_crop_mels_of_a_batch_that_no_cache_holds(length, dtype, n_threads):
    mels, offsets, lengths = packed([length] * 3 + [900], 96, dtype)
    index = torch.arange(18) % 4
    case = [mels, offsets, lengths, index, None, 1366, 96]
    expected = reference.crop_mels(*case)
    room = torch.empty(1 + expected.numel())
    for skip in (0, 1):  # lines of the cache that begin with a row, and that do not
        crops = room[skip:][: expected.numel()].view_as(expected)
        into = partial(torch.ops.fastmte.crop_mels.into, *case[:5], crops)
        on_threads(n_threads, into)
        assert torch.equal(crops, expected)
    assert torch.equal(on_threads(n_threads, lambda: ops.crop_mels(*case)), expected)
    for position in (int(offsets[2]) + 95 * length + 700, int(offsets[2]) + 50 * length + 699):
        mels[position] = INF
        with refuses(f"crop_mels: mels must be finite, got inf at [{position}] (song 2)"):
            on_threads(n_threads, lambda: ops.crop_mels(*case))


def test_memory_for_crops_has_their_shape():
    case = crop_case("odd sizes")
    out = torch.empty(4, 3, 5)
    assert ops.crop_mels(*case, out=out) is out
    with refuses("crop_mels: out must be (B, 3, 5), got (4, 3, 6)"):
        ops.crop_mels(*case, out=torch.empty(4, 3, 6))


@pytest.mark.parametrize(
    ("crops", "text"),
    [
        (torch.empty(2, 3), "crops must be 3-D, got 2-D"),
        (torch.empty(2, 3, 4).double(), "crops must be Float, got Double"),
        (
            torch.empty(3, 3, 5),
            "crops.size(0) and index.size(0) must be equal, got 3 and 4",
        ),
    ],
)
def test_memory_of_another_kind_is_refused(tier, crops, text):
    op = getattr(tier, "crop_mels_into", None) or tier.crop_mels.into
    with refuses(f"crop_mels: {text}"):
        op(*crop_case("odd sizes")[:5], crops)


CROP_ERRORS = {
    "2-D": (dict(mels=torch.zeros(2, 9)), "mels must be 1-D, got 2-D"),
    "dtype": (dict(mels=torch.zeros(60).double()), "mels must be Float or Half, got Double"),
    "table": (dict(offsets=torch.tensor([0, 1]).int()), "offsets must be Long, got Int"),
    "starts": (dict(starts=torch.zeros(2, 1).long()), "starts must be 1-D, got 2-D"),
    "tables": (
        dict(lengths=torch.tensor([4])),
        "offsets.size(0) and lengths.size(0) must be equal, got 2 and 1",
    ),
    "batch": (
        dict(starts=torch.tensor([1])),
        "index.size(0) and starts.size(0) must be equal, got 2 and 1",
    ),
    "frames": (dict(frames=0), "frames must be at least 1, got 0"),
    "bands": (dict(bands=-1), "bands must be at least 1, got -1"),
    "index": (dict(index=torch.tensor([0, 2])), "index must be in [0, 2), got 2 at [1]"),
    "below": (dict(index=torch.tensor([-1, 2])), "index must be in [0, 2), got -1 at [0]"),
    "no frames": (
        dict(lengths=torch.tensor([0, 9])),
        "lengths must be at least 1, got 0 for song 0",
    ),
    "outside": (
        dict(offsets=torch.tensor([0, 43])),
        "song 1 must lie inside mels of 60 elements, got offset 43 and length 9",
    ),
    "far outside": (
        dict(lengths=torch.tensor([2**62, 9])),
        f"song 0 must lie inside mels of 60 elements, got offset 0 and length {2**62}",
    ),
    "before": (
        dict(offsets=torch.tensor([-2, 20])),
        "song 0 must lie inside mels of 60 elements, got offset -2 and length 10",
    ),
    "late": (dict(starts=torch.tensor([6, 2])), "starts must be in [0, 6], got 7 at [1]"),
    "early": (dict(starts=torch.tensor([-1, 2])), "starts must be in [0, 6], got -1 at [0]"),
}
CROP_ERRORS["late"][0]["starts"] = torch.tensor([6, 7])


@pytest.mark.parametrize("name", CROP_ERRORS)
def test_crop_mels_refuses(tier, name, device):
    changed, text = CROP_ERRORS[name]
    case = dict(
        mels=torch.zeros(60),
        offsets=torch.tensor([0, 20]),
        lengths=torch.tensor([10, 9]),
        index=torch.tensor([0, 0]),
        starts=torch.tensor([0, 0]),
        frames=4,
        bands=2,
    )
    case |= {"index": torch.tensor([0, 1])} if name == "outside" else {}
    case |= changed
    args = [x.to(device) if isinstance(x, Tensor) else x for x in case.values()]
    with refuses(f"crop_mels: {text}"):
        tier.crop_mels(*args)


def test_crop_mels_start_of_a_short_song_is_one_of_its_frames(tier):
    mels, offsets, lengths = packed([4], bands=1)
    with refuses("crop_mels: starts must be in [0, 3], got 4 at [0]"):
        tier.crop_mels(mels, offsets, lengths, torch.tensor([0]), torch.tensor([4]), 9, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("value, text", [(NAN, "nan"), (-NAN, "nan"), (INF, "inf"), (-INF, "-inf")])
def test_crop_mels_refuses_what_is_not_finite(tier, value, text, dtype, device):
    mels, offsets, lengths = packed([20, 31], bands=2, dtype=dtype, device=device, gap=0)
    mels[[40 + 31 + 9, 40 + 31 + 12]] = value  # both in the second band of the second song
    index = torch.tensor([0, 1], device=device)
    starts = torch.tensor([0, 1], device=device)
    with refuses(f"crop_mels: mels must be finite, got {text} at [80] (song 1)"):
        tier.crop_mels(mels, offsets, lengths, index, starts, 17, 2)


@pytest.mark.parametrize("name", ["odd sizes", "given starts", "no crops"])
def test_crop_mels_opcheck(name, device):
    case = *_, frames, bands = crop_case(name, device=device)
    torch.library.opcheck(torch.ops.fastmte.crop_mels.default, case)
    crops = torch.empty(len(case[3]), bands, frames, device=device)
    torch.library.opcheck(torch.ops.fastmte.crop_mels.into, (*case[:5], crops))
