"""The demo collection: what is drawn, how it sounds, what is written."""

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fastmte.data.demo import CAUSES, DEMO_RECIPE, labels_of, synthesise, write_demo, writer
from fastmte.data.demo.composer import compose
from fastmte.data.demo.latents import BEATS, INSTRUMENTS, TEXTURES, Latents
from fastmte.data.demo.plan import MIN_SONGS, SPLITS, plan_demo
from fastmte.data.demo.voices import SAMPLE_RATE, tone
from fastmte.data.jamendo import artist_leaks, read_split
from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS
from fastmte.train import TrainConfig

PLAIN = Latents(
    tempo=110.0,
    level=-24.0,
    brightness=0.6,
    centre=62.0,
    density=1.0,
    bass=0.4,
    reverb=0.1,
    is_major=True,
    has_birds=False,
    has_sleigh_bells=False,
    instrument="organ",
    beat="rock",
    texture="chords",
    key=0,
    seconds=3.0,
)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("made") / "demo", n_songs=MIN_SONGS, workers=2)


def splits(folder: Path) -> dict:
    base = folder / "splits" / "split-0"
    return {name: read_split(base / f"autotagging_moodtheme-{name}.tsv") for name in SPLITS}


def sound(song: Latents) -> np.ndarray:
    return synthesise(song, np.random.default_rng(0))


# What is drawn


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("n_songs", [MIN_SONGS, 101, 300])
def test_plan_has_every_label_in_every_split_and_no_artist_in_two(seed: int, n_songs: int) -> None:
    songs = plan_demo(seed, n_songs)
    assert [song.number for song in songs] == list(range(1000, 1000 + n_songs))
    assert len({song.path for song in songs}) == n_songs
    for split in SPLITS:
        members = [song for song in songs if song.split == split]
        counts = Counter(tag for song in members for tag in song.tags)
        assert min(counts[tag] for tag in CAUSES) >= max(1, len(members) // 9)
    homes = {(song.artist, song.split) for song in songs}
    assert len(homes) == len({song.artist for song in songs})


def test_plan_is_a_function_of_its_seed() -> None:
    assert plan_demo(3, 60) == plan_demo(3, 60)
    assert plan_demo(3, 60) != plan_demo(4, 60)


def test_labels_of_each_planned_song_follow_from_its_latents() -> None:
    for song in plan_demo(0, 120):
        assert song.tags == labels_of(song.latents) != ()
        assert song.latents.instrument in INSTRUMENTS
        assert song.latents.beat in BEATS
        assert song.latents.texture in TEXTURES


def test_several_labels_a_song_and_labels_neither_rare_nor_common() -> None:
    songs = plan_demo(0, 300)
    counts = Counter(tag for song in songs for tag in song.tags)
    assert 2.5 < sum(counts.values()) / len(songs) < 5
    assert all(0.05 < counts[tag] / len(songs) < 0.45 for tag in CAUSES)


@pytest.mark.parametrize(("n_songs", "seed"), [(MIN_SONGS - 1, 0), (300, -1)])
def test_plan_refuses_too_few_songs_and_negative_seeds(n_songs: int, seed: int) -> None:
    with pytest.raises(ValueError, match=r"(n_songs|seed) must be"):
        plan_demo(seed, n_songs)


# Labels


def test_labels_are_labels_of_the_task_in_its_order() -> None:
    assert list(CAUSES) == sorted(CAUSES)
    assert 12 <= len(CAUSES) <= 20
    assert set(CAUSES) <= set(MOOD_THEME_TAGS)
    assert all(cause.text for cause in CAUSES.values())


@pytest.mark.parametrize(
    ("tag", "changes"),
    [
        ("calm", {"beat": "none", "density": 0.6}),
        ("children", {"instrument": "music box"}),
        ("christmas", {"has_sleigh_bells": True}),
        ("dark", {"brightness": 0.2}),
        ("dream", {"reverb": 0.8}),
        ("energetic", {"tempo": 120.0, "level": -18.0}),
        ("epic", {"beat": "march"}),
        ("fast", {"tempo": 150.0}),
        ("groovy", {"beat": "groove"}),
        ("meditative", {"texture": "drone"}),
        ("nature", {"has_birds": True}),
        ("party", {"beat": "four on the floor"}),
        ("powerful", {"level": -15.0, "bass": 0.9}),
        ("retro", {"instrument": "chip"}),
        ("sad", {"is_major": False}),
        ("slow", {"tempo": 70.0}),
        ("soft", {"level": -30.0}),
    ],
)
def test_each_label_has_its_cause(tag: str, changes: dict) -> None:
    assert labels_of(PLAIN) == ("happy",)  # 110 beats a minute in major
    assert tag in labels_of(replace(PLAIN, **changes))


# Sound


def test_sound_is_stereo_audible_and_within_bounds() -> None:
    samples = sound(PLAIN)
    assert samples.shape == (round(3.0 * SAMPLE_RATE), 2)
    assert samples.dtype == np.float32
    assert np.isfinite(samples).all()
    assert 0.05 < np.abs(samples).max() <= 1.0
    assert np.abs(samples[:, 0] - samples[:, 1]).max() > 1e-3


def test_every_instrument_beat_and_texture_sounds() -> None:
    levels = []
    for instrument in INSTRUMENTS:
        levels.append(np.abs(sound(replace(PLAIN, instrument=instrument, seconds=1.0))).max())
    for beat in BEATS:
        for texture in TEXTURES:
            song = replace(PLAIN, beat=beat, texture=texture, seconds=1.0, has_birds=True)
            levels.append(np.abs(sound(song)).max())
    assert min(levels) > 0.05


def test_level_is_the_root_mean_square() -> None:
    for level in (-30.0, -20.0):
        samples = sound(replace(PLAIN, level=level))
        assert 20 * np.log10(np.sqrt(np.mean(samples**2))) == pytest.approx(level, abs=1.5)


def test_brightness_and_bells_move_the_spectrum() -> None:
    def high(song: Latents) -> float:
        power = np.abs(np.fft.rfft(sound(song).mean(1))) ** 2
        frequencies = np.fft.rfftfreq(round(song.seconds * SAMPLE_RATE), 1 / SAMPLE_RATE)
        return float(power[frequencies > 2500].sum() / power.sum())

    assert high(replace(PLAIN, brightness=0.1)) < 0.1 * high(PLAIN)
    assert high(replace(PLAIN, has_sleigh_bells=True)) > 2 * high(PLAIN)


def test_tempo_is_the_distance_of_the_beats() -> None:
    for tempo in (80.0, 160.0):
        song = replace(PLAIN, tempo=tempo, beat="four on the floor")
        hits = compose(song, np.random.default_rng(0))[1]
        kicks = sorted(hit.start for hit in hits if hit.sound == "kick")
        np.testing.assert_allclose(np.diff(kicks), 60.0 / tempo)


def test_notes_are_of_the_key() -> None:
    for is_major, third in ((True, 4), (False, 3)):
        notes = compose(replace(PLAIN, is_major=is_major, key=2), np.random.default_rng(1))[0]
        steps = {(note.pitch - 2) % 12 for note in notes}
        scale = {0, 2, 5, 7} | ({4, 9, 11} if is_major else {3, 8, 10})
        assert steps <= scale
        assert third in steps


def test_tone_has_its_pitch() -> None:
    samples = tone("organ", 69, 2 * SAMPLE_RATE, 0.0, 1.0)
    power = np.abs(np.fft.rfft(samples))
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    assert frequencies[power.argmax()] == pytest.approx(440.0, abs=1.0)


# Files


def test_layout_is_that_of_mtg_jamendo(demo: Path) -> None:
    parts = splits(demo)
    assert sum(len(songs) for songs in parts.values()) == MIN_SONGS
    assert not artist_leaks(parts)
    held_out = (demo / "test-songs.txt").read_text().splitlines()
    assert held_out == list(parts["test"].paths)
    line = (demo / "splits/split-0/autotagging_moodtheme-train.tsv").read_text().splitlines()[1]
    track, artist, album, path, seconds, *tags = line.split("\t")
    assert (track, artist, album) == ("track_0001000", "artist_000000", "album_000000")
    assert path == "00/1000.ogg"
    assert 6 <= float(seconds) <= 8
    assert all(tag.startswith("mood/theme---") for tag in tags)


def test_songs_decode_to_their_length(demo: Path) -> None:
    songs = splits(demo)["test"]
    for path, seconds in zip(songs.paths, songs.durations, strict=True):
        samples, rate = soundfile.read(demo / "audio" / path)
        assert rate == SAMPLE_RATE
        assert len(samples) / rate == pytest.approx(seconds, abs=0.06)
        assert np.abs(samples).max() > 0.01


def test_sound_does_not_depend_on_the_number_of_workers(demo: Path, tmp_path: Path) -> None:
    paths = [song.path for song in plan_demo(0, MIN_SONGS)[:3]]
    for song in plan_demo(0, MIN_SONGS)[:3]:
        writer._write_song(tmp_path / song.path, song, 0)
    assert hashes(demo / "audio", paths) == hashes(tmp_path, paths)


def hashes(folder: Path, paths: list[str]) -> list[str]:
    decoded = (soundfile.read(folder / path, dtype="float32")[0] for path in paths)
    return [hashlib.sha256(samples.tobytes()).hexdigest() for samples in decoded]


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.ogg")}


def test_whole_demo_is_reused(demo: Path) -> None:
    before = times(demo)
    assert write_demo(demo, n_songs=MIN_SONGS) == demo
    assert times(demo) == before


def test_interrupted_write_is_completed(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    def quick(song: Latents, rng: np.random.Generator) -> np.ndarray:
        return np.zeros((1000, 2), np.float32)

    monkeypatch.setattr(writer, "synthesise", quick)
    folder = tmp_path / "demo"
    with pytest.raises(KeyboardInterrupt):
        write_demo(folder, n_songs=MIN_SONGS, workers=1, progress=stop)
    assert json.loads((folder / "demo.json").read_text())["complete"] is False
    assert not (folder / "test-songs.txt").exists()
    before = times(folder)
    assert 3 <= len(before) < MIN_SONGS
    seen = []
    write_demo(folder, n_songs=MIN_SONGS, progress=lambda done, total: seen.append((done, total)))
    after = times(folder)
    assert len(after) == MIN_SONGS
    assert before.items() <= after.items()
    assert seen[-1] == (MIN_SONGS, MIN_SONGS)
    assert len(seen) == MIN_SONGS - len(before)
    assert json.loads((folder / "demo.json").read_text())["complete"] is True
    for name in ("train", "validation", "test"):
        table = Path("splits/split-0") / f"autotagging_moodtheme-{name}.tsv"
        assert (folder / table).read_bytes() == (demo / table).read_bytes()
    assert not list(folder.rglob("*.tmp"))


def test_a_missing_song_is_made_again(demo: Path) -> None:
    path = demo / "audio" / "00" / "1000.ogg"
    was = hashes(demo / "audio", ["00/1000.ogg"])
    path.unlink()
    write_demo(demo, n_songs=MIN_SONGS)
    assert hashes(demo / "audio", ["00/1000.ogg"]) == was


def test_other_folders_are_left_alone(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="made with other settings"):
        write_demo(demo, seed=1, n_songs=MIN_SONGS)
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(InputError, match="made with other settings"):
        write_demo(tmp_path, n_songs=MIN_SONGS)
    (tmp_path / "demo.json").rename(tmp_path / "letter.txt")
    with pytest.raises(InputError, match="is not empty and holds no demo"):
        write_demo(tmp_path, n_songs=MIN_SONGS)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_recipe_is_a_training() -> None:
    config = TrainConfig(**DEMO_RECIPE)
    # The shortest song still has several crops to choose from: 256 / 12000 s a frame.
    assert config.frames * 256 / 12_000 < 0.7 * 6.0
    assert config.epochs <= 20
