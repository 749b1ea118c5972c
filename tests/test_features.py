"""Descriptors: AcousticBrainz's files, and what mels of known sounds give."""

import json

import numpy as np
import pytest

from fastmte.data.descriptors import Descriptors, describe_json
from fastmte.data.jamendo import Songs
from fastmte.errors import InputError
from fastmte.features import (
    ACOUSTICBRAINZ_KEYS,
    FRAME_RATE,
    MEL_DESCRIPTORS,
    mel_descriptors,
    read_acousticbrainz,
)


def nested(values):
    """Return {"a.b": 1} as {"a": {"b": 1}}."""
    document = {}
    for key, value in values.items():
        *path, last = key.split(".")
        inner = document
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return document


VALUES = {key: (i + 1) / 23 for i, key in enumerate(ACOUSTICBRAINZ_KEYS)}


def described(mel, **options):
    return dict(zip(MEL_DESCRIPTORS, mel_descriptors(mel, **options), strict=True))


def clicks(per_second, frames=1366):
    """Return a mel that is loud for one frame ``per_second`` times a second."""
    mel = np.full((96, frames), -60.0)
    mel[:, np.round(np.arange(0, frames, FRAME_RATE / per_second)).astype(int) % frames] = -10.0
    return mel


def test_keys_are_the_papers():
    assert len(set(ACOUSTICBRAINZ_KEYS)) == len(set(MEL_DESCRIPTORS)) == 22
    assert ACOUSTICBRAINZ_KEYS[0] == "lowlevel.average_loudness"
    assert ACOUSTICBRAINZ_KEYS[2:4] == (
        "highlevel.genre_tzanetakis.all.blu",
        "highlevel.genre_tzanetakis.all.cla",
    )
    assert ACOUSTICBRAINZ_KEYS[-1] == "highlevel.tonal_atonal.all.tonal"


def test_acousticbrainz_in_one_file_or_two(tmp_path):
    path = tmp_path / "1.json"
    path.write_text(json.dumps(nested(VALUES)))
    assert read_acousticbrainz(path).tolist() == list(VALUES.values())
    whole = nested(VALUES)
    path.write_text(json.dumps({"lowlevel": whole["lowlevel"]}))
    (tmp_path / "1.json.highlevel.json").write_text(json.dumps({"highlevel": whole["highlevel"]}))
    assert read_acousticbrainz(path).tolist() == list(VALUES.values())


def test_missing_descriptors_are_named(tmp_path):
    path = tmp_path / "1.json"
    path.write_text(json.dumps({"lowlevel": {"average_loudness": 0.5}}))
    with pytest.raises(InputError, match=r"1\.json: lacks highlevel\.danceability.*tonal \(there "):
        read_acousticbrainz(path)
    bad = {**VALUES, ACOUSTICBRAINZ_KEYS[3]: "much", ACOUSTICBRAINZ_KEYS[5]: float("nan")}
    path.write_text(json.dumps(nested(bad)))
    (tmp_path / "1.json.highlevel.json").write_text("{}")
    with pytest.raises(InputError, match=r"lacks \S+\.cla, \S+\.dis$"):
        read_acousticbrainz(path)


@pytest.mark.parametrize("text", ["", "{", "\x00"])
def test_no_json(tmp_path, text):
    path = tmp_path / "1.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"1\.json: no JSON"):
        read_acousticbrainz(path)


def test_bad_files_among_good_ones(tmp_path):
    good, bad, gone = (tmp_path / name for name in ("good.json", "bad.json", "gone.json"))
    good.write_text(json.dumps(nested(VALUES)))
    bad.write_text("[]")
    row, lacking, missing = describe_json([good, bad, gone])
    assert row.tolist() == list(VALUES.values())
    assert lacking.startswith("lacks lowlevel.average_loudness")
    assert missing == "No such file or directory"


@pytest.mark.parametrize("level", [-200.0, -90.0, 0.0, 30.0])
@pytest.mark.parametrize("frames", [1, 2, 50, 1366])
def test_constant_sound_and_silence(level, frames):
    values = described(np.full((96, frames), level))
    assert np.isfinite(list(values.values())).all()
    assert values["level_mean"] == pytest.approx(level)
    assert values["flatness_mean"] == pytest.approx(1)
    assert values["centroid_mean"] == pytest.approx(95 / 2)
    for name in ("bass", "brightness", "contrast_mean"):
        assert values[name] == pytest.approx(0, abs=1e-9)
    for name in ("level_deviation", "quiet_share", "flux_mean", "onset_density", "pulse_strength"):
        assert values[name] == pytest.approx(0, abs=1e-9)


def test_any_sound_is_finite_and_the_same_twice(rng):
    for scale in (1, 30, 1000):
        mel = rng.normal(-40, scale, (96, 700)).astype(np.float32)
        first = mel_descriptors(mel)
        assert first.shape == (22,) and first.dtype == np.float64
        assert np.isfinite(first).all()
        np.testing.assert_array_equal(first, mel_descriptors(mel.copy()))


def test_level_moves_with_the_gain_and_nothing_else_does(rng):
    mel = rng.normal(-40, 8, (96, 700))
    quiet, loud = mel_descriptors(mel), mel_descriptors(mel + 6)
    assert loud[0] == pytest.approx(quiet[0] + 6)
    np.testing.assert_allclose(loud[1:], quiet[1:], atol=1e-9)


def test_twenty_db_a_decade_is_the_same_sound(rng):
    mel = rng.normal(-40, 8, (96, 700))
    np.testing.assert_allclose(
        mel_descriptors(2 * mel, db_per_decade=20), mel_descriptors(mel), atol=1e-9
    )


def test_one_band_of_sound():
    mel = np.full((96, 200), -150.0)
    mel[20] = -10.0
    values = described(mel)
    for name in ("centroid_mean", "rolloff_mean"):
        assert values[name] == pytest.approx(20, abs=1e-6)
    assert values["spread_mean"] == pytest.approx(0, abs=1e-3)
    assert values["flatness_mean"] < 1e-10
    # One of the 20 bands 12-31 has all the power: 10 log10(96 / 20) above the average.
    assert values["low_middle"] == pytest.approx(10 * np.log10(96 / 20), abs=1e-6)
    assert values["brightness"] < -100


def test_quiet_half():
    mel = np.full((96, 200), -10.0)
    mel[:, :100] = -35.0
    values = described(mel)
    assert values["quiet_share"] == 0.5
    assert values["level_range"] == pytest.approx(25)
    assert values["level_deviation"] == pytest.approx(12.5)


@pytest.mark.parametrize("per_second", [1.0, 1.5, 2.0, 2.5])
def test_pulse_of_clicks(per_second):
    values = described(clicks(per_second))
    assert values["onset_density"] == pytest.approx(per_second, rel=0.05)
    # Clicks of one frame fall between frames, so the period is found to one frame.
    assert values["pulse_rate"] == pytest.approx(per_second, rel=0.05)
    assert values["pulse_strength"] > 0.3


def test_noise_has_less_pulse_than_clicks(rng):
    noise = described(rng.normal(-40, 6, (96, 1366)))
    assert noise["pulse_strength"] < 0.15 < described(clicks(2.0))["pulse_strength"]


@pytest.mark.parametrize(
    ("mel", "text"),
    [
        (np.zeros((95, 10)), r"mel must have shape \(96, frames\), got \(95, 10\)"),
        (np.zeros((96, 0)), r"mel must have shape"),
        (np.zeros(96), r"mel must have shape"),
        (np.full((96, 3), np.nan), "mel must be finite, got nan in band 0 frame 0"),
    ],
)
def test_bad_mel(mel, text):
    with pytest.raises(ValueError, match=text):
        mel_descriptors(mel)


def test_file_of_descriptors_goes_round(tmp_path, rng):
    table = Descriptors(("a/ä.mp3", "b"), ("x", "y", "z"), rng.normal(size=(2, 3)), "mel:mtg2019")
    table.save(tmp_path / "features.npz")
    back = Descriptors.load(tmp_path / "features.npz")
    assert (back.ids, back.names, back.source) == (table.ids, table.names, table.source)
    np.testing.assert_array_equal(back.features, table.features)


def test_rows_of_songs(rng):
    songs = Songs(("b", "a"), ("x", "x"), ("b", "a"), np.ones(2), np.ones((2, 1), bool), ("calm",))
    table = Descriptors(("a", "b", "c"), ("x",), np.array([[1.0], [2.0], [3.0]]), "mel:mtg2019")
    assert table.of(songs).tolist() == [[2.0], [1.0]]
    fewer = Descriptors(("b",), ("x",), np.array([[2.0]]), "mel:mtg2019")
    assert fewer.has(songs).tolist() == [True, False]
    with pytest.raises(InputError, match="1 of 2 songs have none, the first is a"):
        fewer.of(songs)


def test_other_files_are_no_descriptors(tmp_path):
    path = tmp_path / "features.npz"
    cases = {
        "text": lambda: path.write_text("nothing"),
        "empty": lambda: path.write_bytes(b""),
        "array": lambda: np.save(open(path, "wb"), np.zeros(3)),  # noqa: SIM115
        "lacks": lambda: np.savez(path, ids=np.array(["a"])),
        "pickle": lambda: np.savez(path, ids=np.array([{}], object), names=[], features=[]),
    }
    for write in cases.values():
        write()
        text = r"features\.npz: (no file of `fastmte features`|not a NumPy array file)"
        with pytest.raises(InputError, match=text):
            Descriptors.load(path)
    np.savez(path, ids=["a"], names=["x"], features=np.zeros((2, 1)), source="mel")
    with pytest.raises(InputError, match="must have one row for each of 1 ids"):
        Descriptors.load(path)
