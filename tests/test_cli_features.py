"""``fastmte features`` as a user types it, on audio, MTG's mels and AcousticBrainz's files."""

import json

import numpy as np
import pytest
import small_songs
import soundfile
import torch
from click.testing import CliRunner

from fastmte import checkpoint
from fastmte.cli import main
from fastmte.data import extractor
from fastmte.data.descriptors import Descriptors
from fastmte.data.extractor import SVM_MODELS
from fastmte.data.songs import load_mel
from fastmte.features import ACOUSTICBRAINZ_KEYS, MEL_DESCRIPTORS, mel_descriptors
from fastmte.mel import MelConfig

HEADER = "TRACK_ID\tARTIST_ID\tALBUM_ID\tPATH\tDURATION\tTAGS"


def run(*arguments):
    return CliRunner().invoke(main, ["features", *map(str, arguments)])


def write_tone(path, hertz=440.0, seconds=31.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * 12000)) / 12000
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), 12000)


def write_tables(folder):
    """Write a collection of one song a part."""
    folder.mkdir(exist_ok=True)
    for i, part in enumerate(("train", "validation", "test")):
        row = f"song_{i}\tartist_{i}\tb\t0{i}/{i}.wav\t30\tmood/theme---calm"
        (folder / f"s-{part}.tsv").write_text(f"{HEADER}\n{row}\n")


def write_acousticbrainz(path, value):
    document = {}
    for key in ACOUSTICBRAINZ_KEYS:
        inner = document
        *names, last = key.split(".")
        for name in names:
            inner = inner.setdefault(name, {})
        inner[last] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize("workers", [0, 2])
def test_folder_of_audio(tmp_path, workers):
    music, output = tmp_path / "music", tmp_path / "features.npz"
    write_tone(music / "low.wav", 200)
    write_tone(music / "inside/high.wav", 3000)
    write_tone(music / "short.wav", 200, seconds=5)
    (music / "broken.wav").write_bytes(b"RIFF nothing")
    result = run(music, "-o", output, "--workers", workers)
    assert result.exit_code == 3
    assert "broken.wav: " in result.stderr
    assert "1 songs have no descriptors" in result.stderr
    table = Descriptors.load(output)
    assert table.ids == ("inside/high.wav", "low.wav", "short.wav")
    assert (table.names, table.source) == (MEL_DESCRIPTORS, "mel:mtg2019")
    centroid = table.features[:, MEL_DESCRIPTORS.index("centroid_mean")]
    assert centroid[0] > centroid[1] + 20
    assert centroid[2] == pytest.approx(centroid[1], abs=1)


def test_collection_of_audio_in_split_order(tmp_path):
    write_tables(tmp_path / "data")
    for i in (0, 2):
        write_tone(tmp_path / f"data/audio/0{i}/{i}.wav", 300 * (i + 1))
    result = run(tmp_path / "data", "-o", tmp_path / "f.npz", "--workers", 0, "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {
        "output": str(tmp_path / "f.npz"),
        "source": "mel:mtg2019",
        "songs": 2,
        "failed": {"song_1": "no file of it found"},
    }
    assert Descriptors.load(tmp_path / "f.npz").ids == ("song_0", "song_2")


def test_collection_of_published_mels(tmp_path, rng):
    write_tables(tmp_path / "data")
    mels = [rng.normal(-40, 10, (96, frames)).astype(np.float32) for frames in (1366, 1999, 700)]
    for i, mel in enumerate(mels):
        path = tmp_path / f"data/melspecs/0{i}/{i}.npy"
        path.parent.mkdir(parents=True)
        np.save(path, mel)
    arguments = (tmp_path / "data", "-o", tmp_path / "f.npz", "--workers", 0)
    assert run(*arguments).exit_code == 0
    features = Descriptors.load(tmp_path / "f.npz").features
    np.testing.assert_array_equal(features[0], mel_descriptors(mels[0]))
    np.testing.assert_array_equal(features[1], mel_descriptors(mels[1][:, 316 : 316 + 1366]))
    for array, message in (
        (mels[0].T, "must be (96, frames), got (1366, 96)"),
        (np.full((96, 2000), np.nan, np.float32), "has values that are not finite"),
        (np.array([{}], object), "not a mel in .npy (Array can't be memory-mapped"),
    ):
        np.save(path, array, allow_pickle=True)
        result = run(*arguments)
        assert result.exit_code == 3
        assert f"song_2: {message}" in result.stderr
        assert Descriptors.load(tmp_path / "f.npz").ids == ("song_0", "song_1")


def test_acousticbrainz_comes_first(tmp_path):
    write_tables(tmp_path / "data")
    for i in range(3):
        write_acousticbrainz(tmp_path / f"data/acousticbrainz/0{i}/{i}.json", i / 4)
    assert run(tmp_path / "data", "-o", tmp_path / "f.npz").exit_code == 0
    table = Descriptors.load(tmp_path / "f.npz")
    assert (table.names, table.source) == (ACOUSTICBRAINZ_KEYS, "acousticbrainz")
    assert table.features.tolist() == [[0.0] * 22, [0.25] * 22, [0.5] * 22]
    (tmp_path / "data/acousticbrainz/01/1.json").write_text("{}")
    result = run(tmp_path / "data", "-o", tmp_path / "f.npz")
    assert result.exit_code == 3 and "song_1: lacks lowlevel.average_loudness" in result.stderr
    assert Descriptors.load(tmp_path / "f.npz").ids == ("song_0", "song_2")


def test_folder_of_acousticbrainz(tmp_path):
    write_acousticbrainz(tmp_path / "in/7/7.json", 0.5)
    (tmp_path / "in/7/7.json.highlevel.json").write_text("{}")
    result = run(tmp_path / "in", "-o", tmp_path / "f.npz", "--source", "acousticbrainz")
    assert result.exit_code == 0, result.output
    assert Descriptors.load(tmp_path / "f.npz").ids == ("7/7.json",)


def test_other_mels_are_named(tmp_path):
    write_tone(tmp_path / "in/a.wav")
    arguments = (tmp_path / "in", "-o", tmp_path / "f.npz", "--workers", 0, "--mel", "mtg2023")
    assert run(*arguments).exit_code == 0
    assert Descriptors.load(tmp_path / "f.npz").source == "mel:mtg2023"


def test_embeddings_of_a_model(tmp_path, rng):
    model = small_songs.checkpoint()
    checkpoint.save(model, tmp_path / "model")
    write_tone(tmp_path / "in/a.wav", 300)
    np.save(tmp_path / "mel.npy", rng.normal(-40, 10, (96, 90)).astype(np.float32))
    for workers in (0, 1):
        output = tmp_path / f"{workers}.npz"
        arguments = ("-o", output, "--model", tmp_path / "model", "--workers", workers)
        result = run(tmp_path / "in", *arguments)
        assert result.exit_code == 0, result.output
        assert "1 songs, 1024 descriptors (embedding:resnet18:" in result.stdout
        table = Descriptors.load(output)
        assert table.names[0] == "member_0.feature_0" and table.names[-1] == "member_1.feature_511"
        assert table.is_uniform and len(table.source.split(":")[2]) == 12
        mel = load_mel(tmp_path / "in/a.wav", MelConfig.of("mtg2019"), small_songs.FRAMES).mel
        with torch.inference_mode():
            expected = model.ensemble.backbone(torch.from_numpy(mel)[None]).flatten()
        np.testing.assert_allclose(table.features[0], expected, rtol=1e-5, atol=1e-6)


def models_in(folder, names=SVM_MODELS):
    folder.mkdir()
    for name in names:
        (folder / f"{name}.history").write_bytes(b"no model")
    return folder


def test_svm_models_that_are_not_there_are_named(tmp_path):
    pytest.importorskip("essentia")
    write_tone(tmp_path / "in/a.wav")
    folder = models_in(tmp_path / "models", SVM_MODELS[:-2])
    result = run(tmp_path / "in", "-o", tmp_path / "f.npz", "--svm-models", folder)
    assert result.exit_code == 1
    assert "models: lacks timbre.history, tonal_atonal.history; Essentia's" in result.stderr
    assert len(SVM_MODELS) == 11


def test_files_that_are_no_svm_models_are_named(tmp_path):
    pytest.importorskip("essentia")
    write_tone(tmp_path / "in/a.wav")
    folder = models_in(tmp_path / "models")
    result = run(tmp_path / "in", "-o", tmp_path / "f.npz", "--svm-models", folder, "--workers", 0)
    assert result.exit_code == 1
    assert "models: not Essentia's SVM models (Error while configuring" in result.stderr


class Pool(dict):
    def descriptorNames(self):
        return list(self)


@pytest.mark.parametrize("lacks", [None, "highlevel.timbre.all.dark"])
def test_svm_models_give_the_papers_descriptors(tmp_path, monkeypatch, lacks):
    """The extractor's pool and the classifiers' together, in the paper's order."""
    pytest.importorskip("essentia")
    values = {key: 0.5 + i / 64 for i, key in enumerate(reversed(ACOUSTICBRAINZ_KEYS))}
    high = Pool({k: v for k, v in values.items() if k.startswith("high") and k != lacks})
    low = Pool({k: v for k, v in values.items() if k.startswith("low")})
    monkeypatch.setattr(
        extractor, "_algorithms", lambda models: (lambda path: (low, None), lambda pool: high)
    )
    write_tone(tmp_path / "in/a.wav")
    folder = models_in(tmp_path / "models")
    result = run(tmp_path / "in", "-o", tmp_path / "f.npz", "--svm-models", folder, "--workers", 0)
    if lacks:
        assert result.exit_code == 1
        assert f"the SVM models do not give {lacks}" in result.stderr
        return
    assert result.exit_code == 0, result.output
    table = Descriptors.load(tmp_path / "f.npz")
    assert (table.names, table.source, table.is_uniform) == (ACOUSTICBRAINZ_KEYS, "svm", True)
    assert table.features.tolist() == [[values[key] for key in ACOUSTICBRAINZ_KEYS]]


def test_essentias_own_numbers(tmp_path):
    pytest.importorskip("essentia")
    write_tone(tmp_path / "in/a.wav", 440, seconds=3)
    (tmp_path / "in/b.wav").write_bytes(b"RIFF nothing")
    soundfile.write(tmp_path / "in/c.wav", np.zeros((1000, 3)), 12000)
    result = run(tmp_path / "in", "-o", tmp_path / "f.npz", "--source", "essentia", "--workers", 0)
    assert result.exit_code == 3, result.output
    assert "c.wav: Essentia reads one or two channels, it has 3 [UNSUPPORTED]" in result.stderr
    table = Descriptors.load(tmp_path / "f.npz")
    assert (table.ids, table.source, table.is_uniform) == (("a.wav",), "essentia", False)
    assert len(table.names) > 100 and list(table.names) == sorted(table.names)
    centroid = table.features[0, table.names.index("lowlevel.spectral_centroid.mean")]
    assert centroid == pytest.approx(440, rel=0.1)


@pytest.mark.parametrize("options", [("--source", "essentia"), ("--svm-models", ".")])
def test_without_essentia_it_is_said_how_to_get_it(tmp_path, monkeypatch, options):
    monkeypatch.setattr("fastmte.extras.find_spec", lambda name: None)
    result = run(tmp_path, "-o", tmp_path / "f.npz", *options)
    assert result.exit_code == 2
    assert f"'{options[0]}'" in result.stderr or options[0] in result.stderr
    assert "essentia is not installed: pip install 'fastmte[essentia]'" in result.stderr


def test_one_kind_of_descriptors_at_a_time(tmp_path):
    result = run(tmp_path, "-o", tmp_path / "f.npz", "--source", "mel", "--model", tmp_path)
    assert result.exit_code == 2
    assert "--source and --model exclude each other" in result.stderr


def test_nothing_to_describe(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", "-o", tmp_path / "f.npz")
    assert result.exit_code == 4
    assert result.stderr == f"Error: {tmp_path / 'empty'}: no audio found\n"
    (tmp_path / "empty/a.mp3").touch()
    result = run(tmp_path / "empty", "-o", tmp_path / "f.npz", "--workers", 0)
    assert result.exit_code == 1 and "none of 1 songs could be described" in result.stderr
    assert run(tmp_path / "missing", "-o", tmp_path / "f.npz").exit_code == 2
    assert not (tmp_path / "f.npz").exists()


def test_a_missing_folder_is_found_out_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("fastmte.cli.features._find", None)
    result = run(tmp_path, "-o", tmp_path / "no/f.npz")
    assert result.exit_code == 2
    assert "there is no such folder; make it first" in result.stderr
