import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from networks import NETWORKS, mels_of, network, state_of
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from fastmte.checkpoint import Checkpoint, fingerprint, load, save
from fastmte.convert import convert_pth, read_tags
from fastmte.data.task_files import read_thresholds
from fastmte.ensemble import FusedEnsemble, fuse
from fastmte.errors import InputError
from fastmte.labels import MOOD_THEME_TAGS

TAGS = ("calm", "dark", "épique", "fun")
LABELS = [1, 0, 2, 1]


def checkpoint(seed=0, thresholds=(0.1, 0.2, 1 / 3, 1e-9)):
    ensemble = FusedEnsemble.create("vgg", LABELS, seed)
    ensemble.backbone.bn_3.num_batches_tracked.copy_(torch.tensor([3, 0, 2**40]))
    levels = None if thresholds is None else np.array(thresholds)
    return Checkpoint(ensemble, TAGS, {"preset": "mtg2019"}, 1366, levels, {"made by": "a tëst"})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    save(checkpoint(), folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of a checkpoint, to damage."""
    return shutil.copytree(saved, tmp_path / "model")


def edit(folder, **fields):
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config.update(fields)
    path.write_text(json.dumps(config), "utf-8")


def edit_weights(folder, change):
    state = load_file(folder / "model.safetensors")
    state = {name: value.clone() for name, value in state.items()}
    change(state)
    save_file(state, folder / "model.safetensors")


# --------------------------------------------------------------------------------- save and load


def test_what_is_saved_is_loaded(saved):
    first, again = checkpoint(), load(saved)
    assert again.tags == TAGS
    assert again.frames == 1366
    assert (again.mel, again.provenance) == ({"preset": "mtg2019"}, {"made by": "a tëst"})
    assert again.thresholds.dtype == np.float64
    np.testing.assert_array_equal(again.thresholds, first.thresholds)
    assert again.ensemble.member_of_label.tolist() == LABELS
    assert not again.ensemble.training
    state = again.ensemble.state_dict()
    for name, value in first.ensemble.state_dict().items():
        assert torch.equal(value, state[name])


def test_no_thresholds_stay_none(tmp_path):
    save(checkpoint(thresholds=None), tmp_path / "model")
    assert load(tmp_path / "model").thresholds is None


def test_weights_of_half_precision_are_loaded_as_float32(folder):
    def halve(state):
        state.update({k: v.half() for k, v in state.items() if v.is_floating_point()})

    edit_weights(folder, halve)
    state = load(folder).ensemble.state_dict()
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}


def test_saving_again_replaces_the_checkpoint_and_nothing_else(folder):
    (folder / "metrics.jsonl").write_text("{}")
    before = fingerprint(folder)
    save(checkpoint(seed=1, thresholds=None), folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
    ]
    assert fingerprint(folder) != before
    weight = load(folder).ensemble.head.weight
    assert torch.equal(weight, checkpoint(seed=1).ensemble.head.weight)


def test_the_same_checkpoint_has_the_same_fingerprint(saved, tmp_path):
    save(checkpoint(), tmp_path / "deep" / "er")
    assert fingerprint(tmp_path / "deep" / "er") == fingerprint(saved)
    assert len(fingerprint(saved)) == 64


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(OSError, match="No space left"):
        save(checkpoint(), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def _no_space(descriptor):
    raise OSError(28, "No space left on device")


def test_a_full_disk_keeps_the_checkpoint_that_was_there(folder, monkeypatch):
    before = fingerprint(folder)
    monkeypatch.setattr(os, "fsync", _no_space)
    with pytest.raises(OSError, match="No space left"):
        save(checkpoint(seed=1, thresholds=None), folder)
    monkeypatch.undo()
    assert fingerprint(folder) == before
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("renames", [0, 1])
def test_a_crash_between_never_mixes_two_checkpoints(folder, monkeypatch, renames):
    real, done = os.replace, []

    def replace(source, target):
        if len(done) == renames:
            raise KeyboardInterrupt
        done.append(target)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save(checkpoint(seed=1, thresholds=None), folder)
    with pytest.raises(InputError, match=r"there is no config\.json"):
        load(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="model"):
        save(checkpoint(), tmp_path / "model")


def test_a_path_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        save(checkpoint(), tmp_path / "file" / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_folder_is_named_where_it_cannot_be_made(tmp_path, monkeypatch):
    name = "m" * 300  # longer than a file system allows
    with pytest.raises(OSError) as error:
        save(checkpoint(), tmp_path / name)
    assert error.value.filename == str(tmp_path / name)


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"tags": TAGS[:3]}, "3 tags for 4 labels"),
        ({"tags": ("calm", "dark", "fun", "fun")}, "tags must be different, got 'fun' twice"),
        ({"thresholds": np.zeros(3)}, "3 thresholds for 4 tags"),
        ({"thresholds": np.array([0, 1, np.nan, 0])}, "thresholds must be finite"),
        ({"frames": 100}, "vgg: mels must have 1280 to 2559 frames, got 100"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(fields, text):
    whole = {"tags": TAGS, "mel": {"preset": "mtg2019"}, "frames": 1366} | fields
    with pytest.raises(ValueError, match=text):
        Checkpoint(FusedEnsemble("vgg", LABELS), **whole)


# ---------------------------------------------------------------------------- damaged checkpoints


def refused(folder):
    """Return the one line with which a folder is refused; it names the folder."""
    with pytest.raises(InputError) as error:
        load(folder)
    line = str(error.value)
    assert str(folder) in line and "\n" not in line
    return line


def test_a_missing_folder_or_file_is_named(folder, tmp_path):
    assert "no such folder" in refused(tmp_path / "nothing")
    (folder / "model.safetensors").unlink()
    assert "there is no model.safetensors" in refused(folder)
    (folder / "config.json").unlink()
    assert "there is no config.json" in refused(folder)


@pytest.mark.parametrize(
    "fields, text",
    [
        ({"model_type": "bert"}, "not the configuration of a fastmte model"),
        ({"format_version": 2}, "format_version must be 1, got 2"),
        ({"format_version": None}, "format_version must be 1, got None"),
        ({"backbone": "vgg19"}, "backbone must be one of crnn, "),
        ({"backbone": ["vgg"]}, "backbone must be a name"),
        ({"tags": "calm"}, "tags must be a list of texts, got 'calm'"),
        ({"tags": ["calm"]}, "1 tags for 4 labels"),
        ({"tags": ["calm", "calm", "dark", "fun"]}, "got 'calm' twice"),
        ({"member_of_label": [0, 2, 2, 0]}, "must name every member from 0 on"),
        ({"member_of_label": [0, 10**30, 2, 0]}, "must name every member from 0 on"),
        ({"member_of_label": []}, "must name every member from 0 on"),
        ({"member_of_label": [0.0, 1, 2, 0]}, "member_of_label must be a list of integers"),
        ({"member_of_label": [True, 0, 0, 0]}, "member_of_label must be a list of integers"),
        ({"mel": None}, "mel must be an object, got None"),
        ({"mel": {"preset": "x", "bands": 40}}, "vgg: mels must be (B, 96, F), got (1, 40, 1366)"),
        ({"mel": {"preset": "x", "floor_db": "-100"}}, "floor_db must be a finite number, got"),
        ({"mel": {"preset": "x", "hop": "far"}}, "hop must be a positive integer, got 'far'"),
        ({"frames": 1366.0}, "frames must be an integer, got 1366.0"),
        ({"frames": 30}, "1280 to 2559 frames, got 30"),
        ({"thresholds": [0.1]}, "1 thresholds for 4 tags"),
        ({"thresholds": [0.1, 0.2, "x", 0]}, "thresholds must be a list of numbers or null"),
        ({"thresholds": [0.1, 0.2, float("nan"), 0]}, "thresholds must be finite"),
        ({"provenance": "me"}, "provenance must be an object"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(folder, fields, text):
    edit(folder, **fields)
    line = refused(folder)
    assert "config.json: " in line and text in line


@pytest.mark.parametrize("text", ["", "{", "\x00", "[]", "null", "\udce9", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "config.json: " in refused(folder)


def test_weights_of_another_architecture_say_what_differs(folder):
    edit(folder, backbone="resnet18", frames=1366)
    line = refused(folder)
    assert "the weights are not those of resnet18" in line
    assert "120 missing (first backbone.conv1.weight)" in line
    assert "40 unknown (first backbone." in line


def test_weights_of_another_partition_say_what_differs(folder):
    edit(folder, member_of_label=[0, 1, 0, 1])
    assert "the weights are of 3 members, not of the 2 that member_of_label names" in refused(
        folder
    )
    edit(folder, member_of_label=[0, 1, 2, 0, 1])
    line = refused(folder)
    assert "head.weight is (4, 64) numbers instead of (5, 64) numbers, and 1 more" in line


def test_a_missing_or_foreign_tensor_is_named(folder):
    edit_weights(folder, lambda state: state.pop("backbone.bn_4.running_var"))
    assert "1 missing (first backbone.bn_4.running_var)" in refused(folder)


def test_integers_for_weights_are_refused(folder):
    edit_weights(folder, lambda state: state.update({"head.bias": torch.zeros(4, dtype=torch.int)}))
    assert "head.bias is (4,) integers instead of (4,) numbers" in refused(folder)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(folder, value):
    edit_weights(folder, lambda state: state["backbone.conv_3.weight"].view(-1)[77].fill_(value))
    assert "backbone.conv_3.weight has values that are not finite" in refused(folder)


@pytest.mark.parametrize("size", [0, 7, 8, 100, 5000, -1])
def test_cut_off_weights_are_refused(folder, size):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:size])
    assert "model.safetensors: damaged or not a safetensors file" in refused(folder)


def test_no_flipped_byte_of_the_header_ends_in_a_traceback(folder, rng):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = 8 + int.from_bytes(data[:8], "little")
    refusals = 0
    for position in [*range(8), *rng.integers(8, length, 60)]:
        broken = bytearray(data)
        broken[position] ^= int(rng.integers(1, 256))
        path.write_bytes(broken)
        try:
            load(folder)
        except InputError:
            refusals += 1
    assert refusals > 50  # the rest fell on blanks or metadata


# ------------------------------------------------------------------------------- conversions


def test_mtg_weights_convert_strictly(shared, tmp_path):
    path = shared / "data/mtg-baseline/best_model.pth"
    converted = convert_pth(path, tmp_path / "model")
    raw = torch.load(path, map_location="cpu", weights_only=True)
    state = load(tmp_path / "model").ensemble.state_dict()
    assert len(raw) == len(state)  # every key used, none missing
    for name, value in raw.items():
        head = name.startswith("dense.")
        mine = state[name.replace("dense.", "head.") if head else "backbone." + name]
        assert torch.equal(mine, value.reshape(mine.shape))
    assert converted.tags == MOOD_THEME_TAGS
    assert converted.provenance["converted_from"] == "best_model.pth"
    assert converted.provenance["unused_tensors_dropped"] == 0
    assert load(tmp_path / "model").mel["preset"] == "mtg2019"


def test_mtg_weights_score_as_the_plain_network(shared, tmp_path):
    path = shared / "data/mtg-baseline/best_model.pth"
    one = convert_pth(path, tmp_path / "model").ensemble
    plain = NETWORKS["vgg"](56)
    plain.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    mels = mels_of("vgg", 2, frames=1366)
    mels[0] = mels[0].cumsum(1) / torch.arange(1, 1367) ** 0.5 - 20  # smooth, as music is
    with torch.no_grad():
        expected = plain.eval()(mels).sigmoid()
        assert_close(one(mels).sigmoid(), expected, rtol=0, atol=1e-6)
        four = fuse([one] * 4, np.repeat(np.arange(4), 56).tolist())
        assert four.n_labels == 4 * 56
        assert_close(four(mels).sigmoid(), expected.repeat(1, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name, wrapping",
    [
        *((name, "plain") for name in NETWORKS if name != "crnn"),
        ("vgg", "model_state_dict"),
        ("vgg", "module."),
    ],
)
def test_every_layout_converts(tmp_path, name, wrapping):
    plain = network(name, 56)
    state = plain.state_dict()
    if wrapping == "model_state_dict":
        state = {"model_state_dict": state, "epoch": 3, "accuracy": 0.7}
    elif wrapping == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    torch.save(state, tmp_path / "weights.pth")
    convert_pth(tmp_path / "weights.pth", tmp_path / "model")
    converted = load(tmp_path / "model")
    assert converted.ensemble.backbone_name == name
    dead = {"resnet18-uibk": 8 * 7, "resnet34-uibk": 16 * 7}.get(name, 0)
    assert converted.provenance["unused_tensors_dropped"] == dead
    expected = state_of(plain)
    for key, value in converted.ensemble.state_dict().items():
        assert torch.equal(value, expected[key])


class Canary:
    """Unpickled by anything but a careful reader, it leaves a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def refused_pth(path, folder, **options):
    with pytest.raises(InputError) as error:
        convert_pth(path, folder, **options)
    assert not folder.exists()
    line = str(error.value)
    assert line.startswith(str(path)) and "\n" not in line
    return line


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_is_no_plain_weights_is_refused_and_not_run(tmp_path, legacy):
    canary, path = tmp_path / "canary", tmp_path / "evil.pth"
    state = {"bn_init.weight": torch.ones(1), "dense.weight": Canary(canary)}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    assert "not a file of plain weights" in refused_pth(path, tmp_path / "model")
    path.write_bytes(pickle.dumps(Canary(canary)))
    assert "not a file of plain weights" in refused_pth(path, tmp_path / "model")
    assert not canary.exists()


def test_a_whole_pickled_module_is_refused(tmp_path):
    torch.save(NETWORKS["vgg"](56), tmp_path / "module.pth")
    line = refused_pth(tmp_path / "module.pth", tmp_path / "model")
    assert "torch.save(model.state_dict(), FILE)" in line


@pytest.mark.parametrize("data", [b"hello", b"\x80", b"PK\x03\x04", b"\x00" * 100])
def test_a_foreign_file_is_refused(tmp_path, data):
    path = tmp_path / "file.pth"
    path.write_bytes(data)
    text = "damaged or cut off, or no file of torch.save"
    assert text in refused_pth(path, tmp_path / "model")
    torch.save({"a": torch.ones(300)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert text in refused_pth(path, tmp_path / "model")
    path.write_bytes(b"")
    assert refused_pth(path, tmp_path / "model") == f"{path}: empty"


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused_pth(tmp_path / "pipe", tmp_path / "model")


def test_no_damaged_pth_ends_in_a_traceback(tmp_path, rng):
    path = tmp_path / "weights.pth"
    whole = {}
    for legacy in (False, True):
        torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=not legacy)
        whole[legacy] = path.read_bytes()
    for step in range(150):
        data = bytearray(whole[step % 2 == 1])
        if step % 3 == 0:
            data = data[: int(rng.integers(len(data)))]
        else:
            data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        assert refused_pth(path, tmp_path / "model")


@pytest.mark.parametrize(
    "state, text",
    [
        ([1, 2], "must hold a dict of tensors by name"),
        ({"a": 1}, "must hold a dict of tensors by name"),
        ({"a": torch.eye(2).to_sparse()}, "must hold a dict of tensors by name"),
        ({"a": torch.ones(2, device="meta")}, "must hold a dict of tensors by name"),
        ({}, "unknown layout (first name: nothing)"),
        ({"a.b": torch.ones(1)}, "unknown layout (first name: a.b); known are MTG-Jamendo's"),
    ],
)
def test_plain_data_that_is_no_known_network_is_refused(tmp_path, state, text):
    torch.save(state, tmp_path / "x.pth")
    assert text in refused_pth(tmp_path / "x.pth", tmp_path / "model")


def test_a_network_that_differs_says_where(tmp_path):
    path = tmp_path / "x.pth"
    state = NETWORKS["vgg"](56).state_dict()
    torch.save(state | {"conv_2.weight": torch.ones(128, 64, 5, 5)}, path)
    line = refused_pth(path, tmp_path / "model")
    assert "backbone.conv_2.weight is (128, 64, 5, 5) numbers instead of (128, 64, 3, 3)" in line
    torch.save({k: v for k, v in state.items() if k != "dense.bias"}, path)
    assert "scores no labels" in refused_pth(path, tmp_path / "model")
    state["conv_1.weight"][0] = torch.nan
    torch.save(state, path)
    assert "not finite" in refused_pth(path, tmp_path / "model")


def test_other_numbers_of_labels_need_tags(tmp_path):
    path = tmp_path / "x.pth"
    torch.save(network("vgg", 3).state_dict(), path)
    assert "scores 3 labels" in refused_pth(path, tmp_path / "model")
    line = refused_pth(path, tmp_path / "model", tags=["a", "b"])
    assert "scores 3 labels, but there are 2 tags" in line
    with pytest.raises(InputError, match="'status' is the name of another column"):
        convert_pth(path, tmp_path / "model", ["a", "status", "c"])
    assert convert_pth(path, tmp_path / "model", ["a", "b", "c"]).tags == ("a", "b", "c")


def test_tags_are_read_without_their_prefix(tmp_path):
    path = tmp_path / "tags.txt"
    path.write_text("mood/theme---calm\n\n fun \n", "utf-8-sig")
    assert read_tags(path) == ("calm", "fun")
    for text, error in [("a\nb\na\n", r"tags\.txt:3: tag 'a' is there twice"), ("\n", "no tag")]:
        path.write_text(text)
        with pytest.raises(InputError, match=error):
            read_tags(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a UTF-8 text file"):
        read_tags(path)


def test_thresholds_are_read_in_the_order_of_the_tags(shared, tmp_path):
    published = shared / "data/mtg-baseline/mtg_baseline_vggish_thresholds.txt"
    levels = read_thresholds(published, MOOD_THEME_TAGS)
    assert levels.shape == (56,) and levels[0] == 0.09184513986110687
    path = tmp_path / "t.txt"
    path.write_text("b\t0.5\n\nmood/theme---a\t-1e-3\n", "utf-8-sig")
    assert read_thresholds(path, ["a", "b"]).tolist() == [-1e-3, 0.5]
