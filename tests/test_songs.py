"""From a file to a mel crop."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import chirps, decoded_prefix

from fastmte.audio.decode import AudioError
from fastmte.audio.resample import resample
from fastmte.crop import centre_start, crop_mel
from fastmte.data import songs
from fastmte.data.songs import load_mel
from fastmte.mel import PRESETS, MelConfig, mel_spectrogram

CONFIG = PRESETS["mtg2019"]
MUSIC = Path.home() / ".cache" / "fastmte-real-music"


def write(path: Path, sound: np.ndarray, rate: int, kind: str = "WAV", **more: object) -> Path:
    soundfile.write(path, sound, rate, format=kind, **more)
    return path


def whole_mel(path: Path, config: MelConfig = CONFIG) -> np.ndarray:
    """The mels of the whole song, decoded by one call of libsndfile."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if soundfile.info(path).format == "MP3":
        sound = np.clip(sound, -1, np.float32(32767 / 32768))
    mono = (sound[:, 0] + sound[:, -1]) * np.float32(0.5)
    return mel_spectrogram(resample(mono, rate, 12000, config.resampler), config)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("rate", [48000])
def test_crop_before_compute_equals_crop_of_the_whole(
    tmp_path: Path, kind: str, preset: str, rate: int
) -> None:
    path = write(tmp_path / "song", chirps(rate * 7 + 123, rate, 2), rate, kind)
    song = load_mel(path, PRESETS[preset], frames=100)
    mel = whole_mel(path, PRESETS[preset])
    assert (song.status, song.warnings) == ("ok", ())
    assert (song.n_frames, song.sample_rate, song.channels) == (mel.shape[1], rate, 2)
    assert song.start_frame == centre_start(mel.shape[1], 100)
    assert song.duration_s == pytest.approx(7 + 123 / rate)
    expected = crop_mel(mel, 100)
    np.testing.assert_array_equal(song.mel, expected)


def test_only_the_crop_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "song", chirps(44100 * 20, 44100, 1), 44100)
    ranges = []
    read = songs.AudioFile.read

    def spy(file: songs.AudioFile, start: int, stop: int) -> np.ndarray:
        ranges.append((start, stop))
        return read(file, start, stop)

    monkeypatch.setattr(songs.AudioFile, "read", spy)
    load_mel(path, CONFIG, frames=100)
    ((start, stop),) = ranges
    assert 44100 * 2 < stop - start < 44100 * 2.3
    assert (start + stop) / 2 == pytest.approx(44100 * 10, abs=1000)


@pytest.mark.parametrize("frames", [1365, 1366, 1367])
def test_around_the_length_of_the_crop(tmp_path: Path, frames: int) -> None:
    path = write(tmp_path / "song", chirps((frames - 1) * 256, 12000), 12000, subtype="FLOAT")
    song = load_mel(path, CONFIG)
    assert (song.n_samples, song.n_frames) == ((frames - 1) * 256, frames)
    assert song.status == ("ok_short" if frames < 1366 else "ok")
    np.testing.assert_array_equal(song.mel, crop_mel(whole_mel(path), 1366))
    assert song.start_frame == (682 if frames < 1366 else 0)


@pytest.mark.parametrize("n", [512, 513, 1000, 12000])
def test_short_songs_are_repeated(tmp_path: Path, n: int) -> None:
    path = write(tmp_path / "song", chirps(n, 12000), 12000)
    song = load_mel(path, CONFIG)
    assert song.mel.shape == (96, 1366)
    assert (song.status, song.n_samples) == ("ok_short", n)
    assert song.warnings == (f"shorter than the crop: {n / 12000:.1f} s repeated to 29.1 s",)
    np.testing.assert_array_equal(song.mel, crop_mel(whole_mel(path), 1366))


@pytest.mark.parametrize("n", [1, 255, 256, 257, 511])
def test_less_than_a_frame_is_too_short(tmp_path: Path, n: int) -> None:
    path = write(tmp_path / "song", chirps(n, 12000), 12000)
    with pytest.raises(AudioError, match=r"shorter than one frame \(0\.043 s\)") as error:
        load_mel(path, CONFIG)
    assert error.value.code == "TOO_SHORT"


def test_no_samples(tmp_path: Path) -> None:
    path = write(tmp_path / "song", chirps(0, 12000), 12000)
    with pytest.raises(AudioError) as error:
        load_mel(path, CONFIG)
    assert error.value.code == "EMPTY"


@pytest.mark.parametrize("seconds", [1, 4])
def test_silence_is_said(tmp_path: Path, seconds: int) -> None:
    path = write(tmp_path / "song", np.zeros((8000 * seconds, 2)), 8000, "FLAC")
    song = load_mel(path, CONFIG, frames=100)
    assert song.status == "silent"
    assert song.warnings[-1] == "nothing but silence in the crop"
    assert (song.mel == CONFIG.floor_db).all()


def test_a_constant_is_no_silence(tmp_path: Path) -> None:
    path = write(tmp_path / "song", np.full((40000, 1), 0.5), 8000)
    assert load_mel(path, CONFIG, frames=100).status == "ok"


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("rate", [8000, 192_000])
def test_channels_and_rates(tmp_path: Path, channels: int, rate: int) -> None:
    sound = np.repeat(chirps(rate * 3, rate), channels, axis=1)
    path = write(tmp_path / "song", sound, rate)
    song = load_mel(path, CONFIG, frames=100)
    assert song.channels == channels
    mono = load_mel(write(tmp_path / "mono", sound[:, :1], rate), CONFIG, frames=100)
    np.testing.assert_allclose(song.mel, mono.mel, atol=0.01)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("percent", [30, 75])
def test_a_cut_file_gives_the_centre_of_what_is_left(
    tmp_path: Path, kind: str, percent: int
) -> None:
    rate = 22050
    full = write(tmp_path / "full", chirps(rate * 12, rate, 2), rate, kind).read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(full[: len(full) * percent // 100])
    song = load_mel(path, CONFIG, frames=100)
    assert song.status == "truncated"
    assert "truncated" in song.warnings[0]
    assert song.duration_s == pytest.approx(12 * percent / 100, rel=0.3)
    # The same samples in a file that is whole: the kept prefix, decoded, written as floats.
    prefix = decoded_prefix(path)
    again = write(tmp_path / "again", prefix, rate, subtype="FLOAT")
    expected = load_mel(again, CONFIG, frames=100)
    assert (song.n_frames, song.start_frame) == (expected.n_frames, expected.start_frame)
    np.testing.assert_allclose(song.mel, expected.mel, atol=1e-3 if kind == "MP3" else 0, rtol=0)


def test_a_hole_in_the_middle_gives_what_lies_before_it(tmp_path: Path) -> None:
    rate = 22050
    data = bytearray(write(tmp_path / "a", chirps(rate * 9, rate, 2), rate, "FLAC").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path = tmp_path / "hole"
    path.write_bytes(data)
    song = load_mel(path, CONFIG, frames=100)
    assert song.status == "truncated"
    assert 3 < song.duration_s < 5
    assert "truncated or damaged" in song.warnings[0]


def test_a_file_that_never_ends_the_same_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "song", chirps(50_000, 12000), 12000)
    monkeypatch.setattr(songs.AudioFile, "read", lambda *_: np.zeros(5, np.float32))
    with pytest.raises(AudioError, match="decodes to another length each time") as error:
        load_mel(path, CONFIG, frames=100)
    assert error.value.code == "DAMAGED"


@pytest.mark.filterwarnings("error")
def test_nan_and_absurdly_loud_songs_are_refused(tmp_path: Path) -> None:
    sound = chirps(12000, 12000)
    sound[5000] = np.nan
    path = write(tmp_path / "nan.wav", sound, 12000, subtype="FLOAT")
    with pytest.raises(AudioError, match="sample 5000"):
        load_mel(path, CONFIG, frames=10)
    path = write(
        tmp_path / "loud.wav", np.sign(chirps(24000, 24000)) * 3.4e38, 24000, subtype="FLOAT"
    )
    with pytest.raises(AudioError, match="too large to be music") as error:
        load_mel(path, CONFIG, frames=10)
    assert error.value.code == "NONFINITE"


@pytest.fixture(scope="module")
def real_songs(shared: Path) -> list[dict[str, str]]:
    table = shared / "data" / "real-music" / "expected_scores.csv"
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    if not all((MUSIC / row["path"]).exists() for row in rows):
        pytest.skip(f"the real songs are not in {MUSIC}")
    return rows


def test_real_songs_have_the_expected_lengths(real_songs: list[dict[str, str]]) -> None:
    expected = {}
    found = {}
    for row in real_songs:
        song = load_mel(MUSIC / row["path"], CONFIG)
        assert (song.status, song.warnings) == ("ok", ())
        found[row["path"]] = [song.n_samples, song.n_frames, song.start_frame]
        expected[row["path"]] = [int(row[k]) for k in ("samples_12k", "frames", "start_frame")]
    assert found == expected


def test_real_songs_have_essentias_mels(real_songs: list[dict[str, str]]) -> None:
    es = pytest.importorskip("essentia.standard")
    from test_mel import essentia_mel

    for row in real_songs[:: max(1, len(real_songs) // 4)]:
        sound, rate = soundfile.read(MUSIC / row["path"], dtype="float32", always_2d=True)
        mono = (sound[:, 0] + sound[:, -1]) * np.float32(0.5)
        start, stop = int(row["start_frame"]), int(row["start_frame"]) + 1366
        samples = es.Resample(inputSampleRate=rate, outputSampleRate=12000, quality=1)(mono)
        # FrameCutter begins half a frame before what it is given.
        part = np.ascontiguousarray(samples[start * 256 : stop * 256 + 256])
        expected = essentia_mel(part, scale=1)[:, 1:1365]
        mel = load_mel(MUSIC / row["path"], CONFIG).mel[:, 1:1365]
        difference = np.abs(mel - expected)
        assert difference.mean() <= 2e-4, os.path.basename(row["path"])
        assert difference.max() <= 0.05, os.path.basename(row["path"])
