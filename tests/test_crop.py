"""Which frames of a song a model sees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmte.crop import (
    BANDS,
    FRAMES,
    centre,
    centre_start,
    covering,
    crop_mel,
    drawn,
    repeats,
    sliding,
    spread,
)


def tiled(mel: np.ndarray, frames: int) -> np.ndarray:
    """The rule of the paper's code, by the book: repeat whole, then take the centre."""
    if mel.shape[1] < frames:
        mel = np.tile(mel, int(np.ceil(frames / mel.shape[1])))
    start = int((mel.shape[1] - frames) / 2)
    return mel[:, start : start + frames]


def test_the_paper_crops_1366_of_96_bands() -> None:
    assert (FRAMES, BANDS) == (1366, 96)


@pytest.mark.parametrize(
    ("n_frames", "start"),
    [(1366, 0), (1367, 0), (1368, 1), (3283, 958), (1365, 682), (1000, 317), (1, 0), (683, 0)],
)
def test_centre_start_by_hand(n_frames: int, start: int) -> None:
    assert centre_start(n_frames, 1366) == start


@given(st.integers(1, 5000), st.integers(1, 2000))
def test_centre_lies_in_the_song(n_frames: int, frames: int) -> None:
    start = centre_start(n_frames, frames)
    assert 0 <= start < n_frames
    assert n_frames < frames or start + frames <= n_frames


@pytest.mark.parametrize("n_frames", [1, 2, 3, 7, 9, 10, 11, 19, 20, 21, 30])
def test_crop_is_the_centre_of_the_repeated_song(n_frames: int, rng: np.random.Generator) -> None:
    mel = rng.standard_normal((4, n_frames)).astype(np.float32)
    crop = crop_mel(mel, 10)
    np.testing.assert_array_equal(crop, tiled(mel, 10))
    assert crop.flags.c_contiguous and crop.base is None


def test_crop_starts_where_it_is_told() -> None:
    mel = np.arange(6.0)[None].astype(np.float16)
    np.testing.assert_array_equal(crop_mel(mel, 3, start=3), [[3, 4, 5]])
    np.testing.assert_array_equal(crop_mel(mel, 8, start=5), [[5, 0, 1, 2, 3, 4, 5, 0]])
    assert crop_mel(mel, 3).dtype == np.float32


def test_crop_copies() -> None:
    mel = np.zeros((2, 5), np.float32)
    crop_mel(mel, 5)[:] = 1
    assert not mel.any()


@pytest.mark.parametrize(("frames", "start", "last"), [(3, 4, 3), (3, -1, 3), (8, 6, 5)])
def test_a_start_outside_the_song_is_refused(frames: int, start: int, last: int) -> None:
    with pytest.raises(ValueError, match=rf"start must be in \[0, {last}\], got {start}"):
        crop_mel(np.zeros((1, 6), np.float32), frames, start)


def test_nothing_to_crop_is_refused() -> None:
    with pytest.raises(ValueError, match="n_frames must be at least 1, got 0"):
        crop_mel(np.zeros((96, 0), np.float32), 10)
    with pytest.raises(ValueError, match="n_frames must be at least 1, got 0"):
        crop_mel(np.zeros((96, 0), np.float32), 10, start=0)
    with pytest.raises(ValueError, match="frames must be at least 1, got 0"):
        repeats(5, 0)
    with pytest.raises(ValueError, match="2 dimensions"):
        crop_mel(np.zeros(5, np.float32), 10)


@given(st.integers(1, 5000), st.integers(1, 700), st.integers(1, 40))
def test_windows_lie_in_the_song(n_frames: int, frames: int, count: int) -> None:
    for starts in (
        centre(n_frames, frames),
        spread(n_frames, frames, count),
        covering(n_frames, frames, count),
        sliding(n_frames, frames, count),
        drawn(n_frames, frames, count, 7),
    ):
        if n_frames < frames:
            assert starts == [centre_start(n_frames, frames)]
        assert starts and 0 <= min(starts) <= max(starts) <= max(n_frames - frames, n_frames - 1)
        assert n_frames < frames or max(starts) <= n_frames - frames
    assert len(spread(n_frames, frames, count)) <= count
    assert len(covering(n_frames, frames, count)) <= count
    starts = covering(n_frames, frames, 5000)
    if n_frames >= frames:
        ends = [0, *(start + frames for start in starts)]
        assert all(start <= end for start, end in zip(starts, ends, strict=False))
        assert ends[-1] == n_frames or len(starts) == 1
        assert len(starts) == -(-n_frames // frames)
        assert set(np.diff(starts).tolist()) <= {frames - i for i in range(frames + 1)}


def test_windows_by_hand() -> None:
    assert centre(100, 20) == spread(100, 20, 1) == covering(100, 20, 1) == [40]
    assert spread(100, 20, 4) == [10, 30, 50, 70]
    assert spread(21, 20, 5) == [0]
    assert covering(100, 20, 9) == [0, 20, 40, 60, 80]
    assert covering(101, 20, 9) == [0, 16, 32, 48, 64, 81]
    assert covering(101, 20, 4) == spread(101, 20, 4)
    assert sliding(50, 20, 15) == [0, 15, 30]
    starts = drawn(50, 20, 1000, 3)
    assert (min(starts), max(starts)) == (0, 30)
    assert starts == drawn(50, 20, 1000, 3) != drawn(50, 20, 1000, 4)


def test_windows_of_no_number_are_refused() -> None:
    for make in (spread, sliding):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            make(100, 20, 0)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        drawn(100, 20, 0, 1)
