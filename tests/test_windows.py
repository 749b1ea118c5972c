"""Crop before compute: windows of a song are the bits of the whole song's mel.

And files that were cut off give the windows of what is left of them, whatever the place.
"""

import io
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import chirps, decoded_prefix

from fastmte.audio import mp3
from fastmte.audio.decode import AudioError, open_audio
from fastmte.audio.resample import resample
from fastmte.crop import centre, centre_start, covering, crop_mel, drawn, sliding, spread
from fastmte.data.songs import load_mel, load_windows
from fastmte.mel import PRESETS, mel_spectrogram

CONFIG = PRESETS["mtg2019"]
FRAMES = 40


def whole_mel(path: Path, is_judged: bool = True) -> np.ndarray:
    """The mel of the whole song, whose samples libsndfile gives in one call too."""
    with open_audio(path) as file:
        rate, is_mp3 = file.sample_rate, file._is_mp3
        mono = file.read(0, file.n_samples)
    if is_judged:
        sound, _ = soundfile.read(path, dtype="float32", always_2d=True)
        if is_mp3:
            sound = np.clip(sound, -1, np.float32(32767 / 32768))
        once = (sound[:, 0] + sound[:, -1]) * np.float32(0.5)
        # An mp3 of small frames is decoded from several places on.
        np.testing.assert_allclose(mono, once, rtol=0, atol=2e-7 if is_mp3 else 0)
    return mel_spectrogram(resample(mono, rate, 12000, CONFIG.resampler), CONFIG)


def untagged(data: bytes) -> bytes:
    """Return an mp3 without the frame that tells its length."""
    first = mp3._parse(data[:4])
    assert first is not None
    return data[first.size :]


KINDS = {
    "wav": {"format": "WAV"},
    "flac": {"format": "FLAC"},
    "ogg": {"format": "OGG"},
    "aiff": {"format": "AIFF"},
    # Without a level of compression soundfile does not hand on the mode.
    "mp3 CBR": {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.3},
    "mp3 VBR": {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.3},
    "mp3 CBR, low": {"format": "MP3", "bitrate_mode": "CONSTANT", "compression_level": 0.9},
    "mp3 VBR, low": {"format": "MP3", "bitrate_mode": "VARIABLE", "compression_level": 0.9},
}


@pytest.mark.parametrize(
    ("kind", "has_tag"),
    [*((kind, True) for kind in KINDS), *((kind, False) for kind in KINDS if "mp3" in kind)],
)
@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (44100, 1), (22050, 2), (16000, 1)])
def test_windows_are_the_bits_of_the_whole(
    tmp_path: Path, kind: str, has_tag: bool, rate: int, channels: int
) -> None:
    path = tmp_path / "song"
    soundfile.write(path, chirps(rate * 8 + 123, rate, channels), rate, **KINDS[kind])
    if not has_tag:
        path.write_bytes(untagged(path.read_bytes()))
        assert b"Xing" not in path.read_bytes()[:200] and b"Info" not in path.read_bytes()[:200]
    mel = whole_mel(path, has_tag)
    for windows in (centre, partial(sliding, hop=71), partial(drawn, count=9, seed=3)):
        song = load_windows(path, CONFIG, windows, FRAMES)
        starts = windows(mel.shape[1], FRAMES)
        assert song.start_frame == starts[0]
        expected = np.stack([mel[:, start : start + FRAMES] for start in starts])
        np.testing.assert_array_equal(song.mel, expected)
    np.testing.assert_array_equal(load_mel(path, CONFIG, FRAMES).mel, crop_mel(mel, FRAMES))


def test_any_number_of_threads_gives_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    soundfile.write(path, chirps(44100 * 9, 44100, 2), 44100)
    before = torch.get_num_threads()
    mels = []
    for n_threads in (1, 2, 5):
        torch.set_num_threads(n_threads)
        mels.append(load_windows(path, CONFIG, partial(spread, count=3), FRAMES).mel)
    torch.set_num_threads(before)
    np.testing.assert_array_equal(mels[0], mels[1])
    np.testing.assert_array_equal(mels[0], mels[2])


def test_a_short_song_is_repeated_in_every_window(tmp_path: Path) -> None:
    path = tmp_path / "song.wav"
    soundfile.write(path, chirps(12000, 12000), 12000, subtype="FLOAT")
    mel = whole_mel(path)
    n_frames = mel.shape[1]
    song = load_windows(path, CONFIG, lambda *_: [0, n_frames - 1, 5], 2 * n_frames + 3)
    tiled = np.tile(mel, 4)
    for crop, start in zip(song.mel, (0, n_frames - 1, 5), strict=True):
        np.testing.assert_array_equal(crop, tiled[:, start : start + 2 * n_frames + 3])
    for windows in (centre, partial(spread, count=9), partial(covering, most=9)):
        (crop,) = load_windows(path, CONFIG, windows, 2 * n_frames + 3).mel
        start = (3 * n_frames - (2 * n_frames + 3)) // 2
        np.testing.assert_array_equal(crop, tiled[:, start : start + 2 * n_frames + 3])


@pytest.mark.parametrize(
    ("starts", "text"),
    [([-1], r"must start in \[0, 8\], got -1"), ([0, 9], "got 9"), ([], "one at least, got none")],
)
def test_windows_outside_the_song_are_refused(tmp_path: Path, starts: list[int], text: str) -> None:
    path = tmp_path / "song.wav"
    soundfile.write(path, chirps(47 * 256, 12000), 12000)
    with pytest.raises(ValueError, match=text):
        load_windows(path, CONFIG, lambda *_: starts, FRAMES)


@settings(max_examples=60, deadline=None)
@given(
    n=st.sampled_from([0, 1, 2, 255, 256, 257, 511, 512, 513, 1023, 9000])
    | st.integers(0, 12_000)
    | st.sampled_from([(frames - 1) * 256 for frames in (1365, 1366, 1367)]),
    rate=st.sampled_from([8000, 11025, 12000, 22050, 44100, 48000, 96000, 192_000]),
    channels=st.integers(1, 6),
    frames=st.sampled_from([1, 2, 7, 40, 1366]),
    at=st.none() | st.floats(0, 1, exclude_max=True),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
    loud=st.sampled_from([0.0, 1e-30, 0.5, 30.0]),
)
def test_any_song_gives_its_crop_or_says_why_not(
    n: int, rate: int, channels: int, frames: int, at: float | None, value: float, loud: float
) -> None:
    if n > 12_000:
        rate = 12000  # the lengths around a crop are of its own rate
    sound = np.repeat(chirps(n, rate) * np.float32(loud), channels, axis=1)
    is_spoilt = at is not None and n > 0
    if is_spoilt:
        sound[int(at * n), -1] = value
    data = io.BytesIO()
    soundfile.write(data, sound, rate, format="WAV", subtype="FLOAT")
    with NamedTemporaryFile(suffix=".wav") as file:
        file.write(data.getvalue())
        file.flush()
        try:
            song = load_mel(file.name, CONFIG, frames)
        except AudioError as error:
            is_short = n * 12000 < 516 * rate
            assert {"EMPTY": n == 0, "NONFINITE": is_spoilt, "TOO_SHORT": is_short}[error.code]
            return
    assert n * 12000 > 508 * rate
    assert song.mel.shape == (96, frames)
    assert np.isfinite(song.mel).all()
    mono = (
        sound.mean(axis=1, dtype=np.float64).astype(np.float32)
        if channels > 2
        else ((sound[:, 0] + sound[:, -1]) * np.float32(0.5) if channels == 2 else sound[:, 0])
    )
    samples = resample(mono, rate, 12000)
    if is_spoilt:  # outside of what the crop needs
        return
    expected = crop_mel(mel_spectrogram(samples, CONFIG), frames)
    np.testing.assert_array_equal(song.mel, expected)
    assert (song.status == "silent") == bool((expected <= CONFIG.floor_db).all())


RATE, SECONDS = 16000, 1.5


@pytest.fixture(scope="module")
def cut_files() -> dict[str, bytes]:
    """One short song in five formats."""
    files = {}
    for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF"):
        data = io.BytesIO()
        soundfile.write(data, chirps(int(RATE * SECONDS), RATE, 2), RATE, format=kind)
        files[kind] = data.getvalue()
    return files


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
def test_every_cut_gives_the_crop_of_the_decoded_prefix(
    cut_files: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    """At 1, 2 ... 99 %: never silence, nor an older block, in the place of what is not there."""
    full, path, frames = cut_files[kind], tmp_path / "cut", 20
    n_crops = 0
    for percent in range(1, 100):
        path.write_bytes(full[: len(full) * percent // 100])
        try:
            prefix = decoded_prefix(path)
        except soundfile.LibsndfileError:
            prefix = np.zeros((0, 2), np.float32)
        mono = (prefix[:, 0] + prefix[:, 1]) * np.float32(0.5)
        samples = resample(mono, RATE, 12000)
        try:
            song = load_mel(path, CONFIG, frames)
        except AudioError as error:
            assert len(samples) < 512, percent
            assert error.code in ("DAMAGED", "EMPTY", "TRUNCATED", "NOT_AUDIO", "TOO_SHORT")
            continue
        n_crops += 1
        mel = mel_spectrogram(samples, CONFIG)
        assert song.start_frame == centre_start(mel.shape[1], frames), percent
        np.testing.assert_array_equal(song.mel, crop_mel(mel, frames), err_msg=f"{percent} %")
        assert song.mel.max() > -40
        assert song.status in ("truncated", "ok_short", "ok")
        assert (
            song.status == "truncated"
            or any("trunc" in w for w in song.warnings)
            or (len(prefix) > 0.9 * RATE * SECONDS)
        ), (percent, song.status, song.warnings)
    assert n_crops > (30 if kind == "OGG" else 80)  # an Ogg's first half is its headers
