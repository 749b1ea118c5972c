"""Audio files in every state: what is read, what is refused, and how it is said."""

import os
import pickle
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sounds import chirps, decoded_prefix

from fastmte.audio import mp3, opening
from fastmte.audio.decode import AudioError, display_name, open_audio

RATE = 22050
FORMATS = ["WAV", "FLAC", "OGG", "MP3", "AIFF"]


def write(
    path: Path, sound: np.ndarray, rate: int = RATE, kind: str = "WAV", **more: object
) -> Path:
    soundfile.write(path, sound, rate, format=kind, **more)
    return path


def code_of(path: Path | bytes | str) -> str:
    with pytest.raises(AudioError) as error, open_audio(path) as file:
        file.read(0, file.n_samples)
    assert str(error.value).startswith(f"{display_name(path)}: ")
    assert "\n" not in str(error.value)
    return error.value.code


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 2])
def test_reads_the_mean_of_the_channels(tmp_path: Path, kind: str, channels: int) -> None:
    sound = chirps(RATE, RATE, channels)
    path = write(tmp_path / "song", sound, kind=kind)
    with open_audio(path) as file:
        assert (file.sample_rate, file.channels, file.warnings) == (RATE, channels, [])
        assert file.n_samples == RATE
        mono = file.read(0, file.n_samples)
    assert mono.dtype == np.float32
    expected = sound.mean(axis=1)
    loud = np.sqrt(np.mean(expected**2))
    assert (
        np.sqrt(np.mean((mono - expected) ** 2)) < (0.15 if kind in ("OGG", "MP3") else 1e-4) * loud
    )


@pytest.mark.parametrize("channels", [3, 4, 5, 6, 64])
def test_many_channels(tmp_path: Path, channels: int) -> None:
    sound = chirps(1000, RATE, channels)
    path = write(tmp_path / "song", sound, subtype="FLOAT")
    with open_audio(path) as file:
        np.testing.assert_allclose(file.read(0, 1000), sound.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_sample_formats(tmp_path: Path, subtype: str) -> None:
    sound = chirps(1000, RATE)
    path = write(tmp_path / "song", sound, subtype=subtype)
    with open_audio(path) as file:
        result = file.read(0, 1000)
    np.testing.assert_allclose(result, sound[:, 0], atol=0.01 if subtype == "PCM_U8" else 4e-5)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_part_is_the_same_as_in_the_whole(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "song", chirps(RATE * 8, RATE, 2), kind=kind)
    with open_audio(path) as file:
        everything = file.read(0, file.n_samples)
    for start, stop in [
        (176_300, 176_310),
        (0, 10),
        (1, 70_000),
        (50_000, 50_001),
        (99_999, 170_000),
        (176_390, 176_400),
    ]:
        with open_audio(path) as file:
            part = file.read(start, stop)
        np.testing.assert_array_equal(part, everything[start:stop])


def test_reading_past_the_end_gives_what_is_there(tmp_path: Path) -> None:
    path = write(tmp_path / "song", chirps(1000, RATE))
    with open_audio(path) as file:
        assert len(file.read(990, 1010)) == 10
        assert len(file.read(1000, 1010)) == 0
        assert len(file.read(5000, 5010)) == 0
        assert len(file.read(5, 5)) == 0
        with pytest.raises(ValueError, match=r"range must be 0 <= start <= stop, got \[5, 4\)"):
            file.read(5, 4)


def test_closing_twice_is_harmless_and_closes_the_descriptor(tmp_path: Path) -> None:
    path = write(tmp_path / "song", chirps(1000, RATE))
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    file = open_audio(path)
    file.close()
    file.close()
    if before:
        (tmp_path / "bad").write_bytes(b"no music" * 100)
        assert code_of(tmp_path / "bad") == "NOT_AUDIO"
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("percent", [1, 5, 20, 50, 80, 99])
def test_cut_files_end_where_they_end(tmp_path: Path, kind: str, percent: int) -> None:
    full = write(tmp_path / "full", chirps(RATE * 3, RATE, 2), kind=kind).read_bytes()
    path = tmp_path / "cut"
    path.write_bytes(full[: len(full) * percent // 100])
    try:
        expected = decoded_prefix(path)
    except soundfile.LibsndfileError:
        expected = np.zeros((0, 2), np.float32)
    if not len(expected):
        assert code_of(path) in {"DAMAGED", "EMPTY", "TRUNCATED", "NOT_AUDIO"}
        return
    with open_audio(path) as file:
        assert file.n_samples == len(expected)
        result = file.read(0, len(expected) + 1000)
        middle = file.read(len(expected) // 2, len(expected) // 2 + 50)
        assert file.n_samples > 0.95 * 3 * RATE or any("truncated" in w for w in file.warnings)
    tolerance = 2e-7 if kind == "MP3" else 0  # an LSF one is decoded from several places on
    np.testing.assert_allclose(result, expected.mean(axis=1), atol=tolerance, rtol=0)
    np.testing.assert_array_equal(middle, result[len(expected) // 2 :][:50])


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
def test_mp3_without_a_tag_is_counted(tmp_path: Path, mode: str, rate: int, channels: int) -> None:
    """Loud, then quiet: from the first frame's bit rate libsndfile would guess half the length."""
    sound = chirps(rate * 6, rate, channels)
    sound[rate * 3 :] *= 1e-5
    tagged = write(
        tmp_path / "tagged", sound, rate, "MP3", compression_level=0.3, bitrate_mode=mode
    ).read_bytes()
    first = mp3._parse(tagged[:4])
    assert first is not None
    path = tmp_path / "untagged"
    path.write_bytes(b"ID3\x04\0\0\0\0\0\x14" + bytes(20) + tagged[first.size :])
    with open_audio(tmp_path / "tagged") as file:
        assert file.n_samples == rate * 6
        expected = file.read(0, file.n_samples)
    with open_audio(path) as file:
        n_frames, rest = divmod(file.n_samples, first.samples)
        assert rest == 0
        assert file.n_samples - rate * 6 in range(first.samples * 4)
        assert file.warnings == []
        samples = file.read(0, file.n_samples)
        part = file.read(rate, rate + 3000)
    # Without the tag the encoder's and decoder's delay is no longer cut off.
    delay = 576 + 529
    np.testing.assert_allclose(
        samples[delay + 3000 :][: rate * 5], expected[3000:][: rate * 5], atol=1e-5
    )
    np.testing.assert_allclose(part, samples[rate : rate + 3000], atol=1e-6)
    assert len(samples) == n_frames * first.samples


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("field", ["frames", "bytes", "flags"])
@pytest.mark.parametrize("factor", [0, 0.2, 0.5, 0.97, 1, 1.5, 30])
def test_mp3_whose_tag_lies(tmp_path: Path, mode: str, field: str, factor: float) -> None:
    """Whatever the tag tells, all of the music is there, and nothing but the music."""
    data = bytearray(
        write(
            tmp_path / "a",
            chirps(RATE * 9, RATE),
            kind="MP3",
            compression_level=0.3,
            bitrate_mode=mode,
        ).read_bytes()
    )
    tag = max(data.find(b"Xing", 0, 200), data.find(b"Info", 0, 200))
    at = tag + {"flags": 4, "frames": 8, "bytes": 12}[field]
    value = int.from_bytes(data[at : at + 4], "big")
    wrong = int(value * factor) if field != "flags" else value & ~1 if factor < 1 else value & ~2
    data[at : at + 4] = wrong.to_bytes(4, "big")
    path = tmp_path / "b"
    path.write_bytes(data)
    with open_audio(tmp_path / "a") as whole, open_audio(path) as file:
        # Where the tag is not believed, the silence around the music is not cut off either.
        assert 0 <= file.n_samples - whole.n_samples <= 4 * 576
        assert len(file.read(0, file.n_samples)) == file.n_samples
        late = file.n_samples - whole.n_samples > 1000
        delay = 576 + 529 if late else 0
        expected = whole.read(RATE, 2 * RATE)
        got = file.read(RATE + delay, 2 * RATE + delay)
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("percent", [30, 60, 90])
def test_an_mp3_that_ends_in_zeros(tmp_path: Path, mode: str, percent: int) -> None:
    """Of its whole size, as a download that was broken off."""
    sound = chirps(RATE * 20, RATE, 2)
    path = write(tmp_path / "a", sound, kind="MP3", compression_level=0.3, bitrate_mode=mode)
    data = path.read_bytes()
    there = len(data) * percent // 100
    path.write_bytes(data[:there] + bytes(len(data) - there))
    with open_audio(path) as file:
        assert file.n_samples == pytest.approx(RATE * 20 * percent / 100, rel=0.1)
        assert file.is_cut and "truncated" in file.warnings[0]
        assert len(file.read(0, file.n_samples)) == file.n_samples


def test_two_mp3_files_behind_one_another_are_read_as_one(tmp_path: Path) -> None:
    sound = chirps(RATE * 30, RATE, 2)
    one = write(tmp_path / "one", sound, kind="MP3", compression_level=0).read_bytes()
    assert len(one) > 1 << 18
    path = tmp_path / "two"
    path.write_bytes(one + one)
    with open_audio(path) as file:
        assert file.n_samples == pytest.approx(RATE * 60, abs=8 * 576)


def test_mp3_with_the_older_tag_and_damage_between_frames(tmp_path: Path) -> None:
    tagged = write(tmp_path / "tagged", chirps(RATE * 2, RATE), kind="MP3").read_bytes()
    first = mp3._parse(tagged[:4])
    assert first is not None
    music = tagged[first.size :]
    vbri = (tagged[:4] + bytes(32) + b"VBRI").ljust(first.size, b"\0")
    path = tmp_path / "vbri"
    path.write_bytes(vbri + music)
    plain = tmp_path / "plain"
    plain.write_bytes(music)
    with open_audio(path) as tag, open_audio(plain) as none:
        assert tag.n_samples == none.n_samples
        np.testing.assert_array_equal(tag.read(0, 9999), none.read(0, 9999))
    second = mp3._parse(music[:4])
    assert second is not None
    path.write_bytes(music[: second.size] + b"\x55" * 300 + music[second.size :])
    descriptor = os.open(path, os.O_RDONLY)
    frames = mp3._Frames(descriptor)
    clean = mp3._Frames(os.open(plain, os.O_RDONLY))
    assert frames.count(0) == clean.count(0)
    os.close(descriptor)
    os.close(clean.descriptor)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff\xfb",
        b"\xff\xf9\x90\x00",
        b"\xff\xea\x90\x00",
        b"\xff\xfb\x9c\x00",
        b"\xff\xfb\x00\x00",
    ],
)
def test_what_is_no_mp3_frame(header: bytes, tmp_path: Path) -> None:
    assert mp3._parse(header) is None
    path = tmp_path / "file"
    path.write_bytes(header + bytes(3000))
    descriptor = os.open(path, os.O_RDONLY)
    assert mp3.layout(descriptor) is None
    os.close(descriptor)


def test_the_led_stream_behaves_like_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    descriptor = os.open(path, os.O_RDONLY)
    stream = mp3._Led(b"abc", descriptor, 4, 10)
    assert (stream.readable(), stream.seekable()) == (True, True)
    assert stream.read() == b"abc456789"
    assert stream.read(5) == b""
    assert stream.seek(-2, os.SEEK_END) == 7
    assert stream.read(1) == b"8"
    assert stream.seek(-6, os.SEEK_CUR) == 2
    buffer = bytearray(4)
    assert stream.readinto(buffer) == 4
    assert (buffer, stream.tell()) == (b"c456", 6)
    os.close(descriptor)


def test_loud_mp3_is_clipped_as_16_bit_decoders_do(tmp_path: Path) -> None:
    sound = np.sign(chirps(RATE, RATE)) * 0.99
    path = write(tmp_path / "loud", sound, kind="MP3")
    assert np.abs(soundfile.read(path)[0]).max() > 1.01
    with open_audio(path) as file:
        samples = file.read(0, RATE)
    assert samples.max() == np.float32(32767 / 32768)
    assert samples.min() == -1


def test_a_file_whose_header_claims_too_little_audio_at_the_end(tmp_path: Path) -> None:
    """A zeroed middle of a FLAC: what lies before it is read, and only that."""
    data = bytearray(write(tmp_path / "a", chirps(RATE * 4, RATE, 2), kind="FLAC").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path = tmp_path / "hole"
    path.write_bytes(data)
    with open_audio(path) as file:
        assert file.n_samples == RATE * 4  # the end is there
        got = file.read(0, RATE * 4)
        assert 0.3 < len(got) / (RATE * 4) < 0.6
        assert file.measure() == len(got)
        assert "truncated or damaged" in file.warnings[0]
        np.testing.assert_array_equal(file.read(0, len(got)), got)


def test_streamed_wav_without_a_length(tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a", chirps(5000, RATE)).read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "b").write_bytes(data)
    with open_audio(tmp_path / "b") as file:
        assert file.n_samples == 5000
        assert file.warnings == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_is_refused_with_its_place(tmp_path: Path, value: float) -> None:
    sound = chirps(100_000, RATE, 2)
    sound[70_000, 1] = value
    path = write(tmp_path / "song.wav", sound, subtype="FLOAT")
    with open_audio(path) as file:
        assert len(file.read(0, 70_000)) == 70_000
        with pytest.raises(
            AudioError, match=r"sample 70000 \(3\.175 s\) is NaN or infinite"
        ) as error:
            file.read(10, 80_000)
    assert error.value.code == "NONFINITE"


def header(rate: int, channels: int) -> bytes:
    """A WAV of 100 samples with any rate and channel count."""
    body = bytes(100 * channels * 2)
    fmt = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * 2, channels * 2, 16)
    chunks = (
        b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", len(body)) + body
    )
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


@pytest.mark.parametrize(
    ("rate", "channels", "text"),
    [
        (3999, 1, "a sample rate of 3999 Hz is outside"),
        (768_001, 2, "a sample rate of 768001 Hz is outside"),
        (44100, 65, "65 channels are more than 64"),
    ],
)
def test_absurd_headers_are_refused(tmp_path: Path, rate: int, channels: int, text: str) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(header(rate, channels))
    with pytest.raises(AudioError, match=text) as error:
        open_audio(path)
    assert error.value.code == "UNSUPPORTED"


@pytest.mark.parametrize("rate", [4000, 768_000])
def test_extreme_headers_are_read(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "song.wav"
    path.write_bytes(header(rate, 1))
    with open_audio(path) as file:
        assert (file.sample_rate, file.n_samples) == (rate, 100)


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (b"", "EMPTY", "the file is empty"),
        (b"<html>not found</html>" * 20, "NOT_AUDIO", "no audio that libsndfile knows"),
        (bytes(5000), "NOT_AUDIO", "begins with zeros"),
        (b"\0\0\0\x20ftypM4A " + bytes(500), "UNSUPPORTED", "MP4/AAC is not read; convert it"),
        (b"wvpk" + bytes(500), "UNSUPPORTED", "WavPack"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "DAMAGED", "its header is damaged"),
        (b"OggS" + bytes(200), "DAMAGED", "its header is damaged"),
        (header(44100, 1)[:44], "EMPTY", "it has no samples"),
    ],
)
def test_what_is_no_music(tmp_path: Path, content: bytes, code: str, text: str) -> None:
    path = tmp_path / "song.mp3"
    path.write_bytes(content)
    assert code_of(path) == code
    with pytest.raises(AudioError, match=text):
        open_audio(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp3")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere.wav")
    with socket.socket(socket.AF_UNIX) as unix:
        os.chdir(tmp_path)  # a socket's name may have 107 bytes only
        unix.bind("socket")
    expected = {
        tmp_path: "NOT_REGULAR",
        tmp_path / "pipe.mp3": "NOT_REGULAR",
        tmp_path / "socket": "NOT_REGULAR",
        Path("/dev/null"): "NOT_REGULAR",
        tmp_path / "loop": "NOT_REGULAR",
        tmp_path / "dangling": "VANISHED",
        tmp_path / "missing.wav": "VANISHED",
        tmp_path / "missing" / "song.wav": "VANISHED",
        tmp_path / ("x" * 300): "VANISHED",
    }
    assert {path: code_of(path) for path in expected} == expected
    assert code_of(b"nul\0byte") == "VANISHED"


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "song.wav", chirps(1000, RATE))

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(opening.os, "open", refuse)  # root may read everything
    assert code_of(path) == "PERMISSION"


def test_a_file_swapped_for_an_empty_one_after_it_was_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "song.wav", chirps(1000, RATE))
    real = os.open

    def swap(name: bytes, flags: int) -> int:
        path.write_bytes(b"")
        return real(name, flags)

    monkeypatch.setattr(opening.os, "open", swap)
    assert code_of(path) == "EMPTY"


@pytest.mark.parametrize(
    "name",
    [b"a b.wav", b"\xff\xfe.wav", b"line\nbreak.flac", b"-x.wav", "Füße✓.ogg".encode(), b"noext"],
)
def test_any_name(tmp_path: Path, name: bytes) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    write(tmp_path / "song", chirps(1000, RATE)).rename(os.fsdecode(path))
    for form in (path, os.fsdecode(path), Path(os.fsdecode(path))):
        with open_audio(form) as file:
            assert file.n_samples == 1000
    assert display_name(path).isprintable()
    display_name(path).encode("utf-8")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("suffix", ["mp3", "flac", "txt"])
def test_the_content_decides(tmp_path: Path, kind: str, suffix: str) -> None:
    path = write(tmp_path / f"song.{suffix}", chirps(4000, RATE), kind=kind)
    with open_audio(path) as file:
        assert file.n_samples == 4000


def test_errors_travel_between_processes(tmp_path: Path) -> None:
    error = AudioError("EMPTY", b"a\xff\n", "it is empty")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.code, str(copy)) == ("EMPTY", "a\\xff\\n: it is empty")
    assert copy.code in opening.CODES
