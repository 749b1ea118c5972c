"""Models in the forms that other programs read: K models of one member, and one ONNX graph."""

import copy
import json
import re
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from networks import FEW, FRAMES, mels_of, network, randomise
from tiny import Tiny
from torch.testing import assert_close

import fastmte
from fastmte import extras
from fastmte.checkpoint import Checkpoint, load, save
from fastmte.cli import main
from fastmte.ensemble import FusedEnsemble, fuse
from fastmte.export import members as members_module
from fastmte.export.members import write_members
from fastmte.models import _registry
from fastmte.partition import Partition

TAGS = ("calm", "dark", "épique", "fun", "happy")
LABELS = [1, 0, 2, 1, 0]
LEVELS = np.array([0.1, 0.2, 1 / 3, 0.4, 0.5])


def checkpoint(backbone, labels=LABELS, thresholds=LEVELS):
    ensemble = FusedEnsemble.create(backbone, labels).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        randomise(ensemble)
    frames = FRAMES.get(backbone, FEW)
    made_by = {"made by": "a test"}
    return Checkpoint(ensemble, TAGS, {"preset": "mtg2019"}, frames, thresholds, made_by)


def scores_of(ensemble, mels):
    with torch.inference_mode():
        return ensemble(mels).sigmoid()


def export(*arguments):
    return CliRunner().invoke(main, ["models", "export", *map(str, arguments)])


def one_line(result, exit_code=1):
    """Return the only line of a failed run, or the last of a wrong command line."""
    assert (result.exit_code, result.stdout) == (exit_code, "")
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("Error: ") and (exit_code == 2 or len(lines) == 1)
    return lines[-1]


@pytest.fixture(scope="module")
def vgg():
    return checkpoint("vgg")


@pytest.fixture(scope="module")
def model(vgg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "vgg"
    save(vgg, folder)
    return folder


@pytest.fixture
def hide(monkeypatch):
    """Let packages look as if they were not installed."""

    def run(*packages):
        real = extras.find_spec
        monkeypatch.setattr(extras, "find_spec", lambda n: None if n in packages else real(n))

    return run


# ----------------------------------------------------------------------------------------- members


def test_members_are_models_of_their_own(vgg, model, tmp_path):
    result = export(model, "--format", "members", "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (0, "")
    names = "member-0 member-1 member-2"
    assert result.stderr == f"{tmp_path / 'out'}: vgg, 3 models ({names})\n"
    mels = mels_of("vgg")
    expected = scores_of(vgg.ensemble, mels)
    for k, tags in enumerate([("dark", "happy"), ("calm", "fun"), ("épique",)]):
        member = load(tmp_path / "out" / f"member-{k}")
        labels = [TAGS.index(tag) for tag in tags]
        assert (member.tags, member.frames) == (tags, 1280)
        assert member.thresholds.tolist() == LEVELS[labels].tolist()
        assert member.provenance == {"made by": "a test", "member": k, "of_members": 3}
        assert_close(scores_of(member.ensemble, mels), expected[:, labels], rtol=0, atol=1e-6)


def test_members_and_partition_make_the_ensemble_again(vgg, tmp_path):
    folders = write_members(vgg, tmp_path / "out")
    partition = Partition.load(tmp_path / "out" / "partition.json")
    assert partition.tags == TAGS
    again = fuse([load(path).ensemble for path in folders], partition.member_of_label)
    expected = vgg.ensemble.state_dict()
    assert again.state_dict().keys() == expected.keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in expected.items())


def test_names_of_many_members_sort_as_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Tiny)
    ensemble = FusedEnsemble.create("tiny", list(range(11)))
    many = Checkpoint(ensemble, tuple("abcdefghijk"), {"preset": "mtg2019"}, 36)
    names = [path.name for path in write_members(many, tmp_path / "out")]
    assert names == sorted(names) and names[0] == "member-00" and names[-1] == "member-10"
    assert load(tmp_path / "out" / "member-10").tags == ("k",)


@pytest.mark.parametrize("backbone", ["vgg", "custom-vgg", "resnet18", "resnet18-uibk"])
def test_plain_pytorch_loads_a_member_as_the_readme_says(backbone, tmp_path, monkeypatch):
    first, *_ = write_members(checkpoint(backbone), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert backbone in text and fastmte.__version__ in text
    code = re.findall(r"```python\n(.*?)```", text, re.S)[1]
    assert "fastmte" not in code
    model = network(backbone, 2, seed=1)
    monkeypatch.chdir(tmp_path)
    exec(code, {"model": model})
    mels = mels_of(backbone)
    expected = scores_of(load(first).ensemble, mels)
    assert_close(scores_of(model, mels), expected, rtol=0, atol=1e-5)


def test_fastmte_fuses_the_members_as_the_readme_says(vgg, tmp_path, monkeypatch):
    write_members(vgg, tmp_path)
    code = re.findall(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(), re.S)[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert torch.equal(names["ensemble"].head.weight, vgg.ensemble.head.weight)


def test_a_folder_in_use_is_refused(model, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    line = one_line(export(model, "--format", "members", "-o", tmp_path))
    assert line == f"Error: {tmp_path}: is not empty; export into another folder"
    line = one_line(export(model, "--format", "members", "-o", tmp_path / "mine.txt" / "x"))
    assert "mine.txt: a file is in the way of the folder" in line
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_failure_leaves_no_folder(vgg, tmp_path, monkeypatch):
    real = members_module.save

    def failing(member, folder):
        if folder.name == "member-1":
            raise OSError(28, "No space left on device", str(folder))
        real(member, folder)

    monkeypatch.setattr(members_module, "save", failing)
    with pytest.raises(OSError, match="No space left"):
        write_members(vgg, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------------- ONNX


@pytest.mark.parametrize("backbone", ["vgg", "custom-vgg", "crnn", "resnet18", "resnet18-uibk"])
def test_onnxruntime_gives_the_models_scores(backbone, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from fastmte.export.onnx import write_onnx

    model = checkpoint(backbone)
    path = tmp_path / "model.onnx"
    difference = write_onnx(model, path)
    assert difference <= 1e-5
    session = onnxruntime.InferenceSession(path)
    for n_songs in (1, 3):
        mels = mels_of(backbone, n_songs, seed=n_songs)
        (scores,) = session.run(["scores"], {"mels": mels.numpy()})
        expected = scores_of(model.ensemble, mels)
        assert_close(torch.from_numpy(scores), expected, rtol=0, atol=2e-6)
        assert expected.std() > 0.01


def test_the_graph_is_folded_named_and_described(vgg):
    onnx = pytest.importorskip("onnx")
    from fastmte.export.onnx import scores_model

    model = scores_model(vgg)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Conv") == 15 and "BatchNormalization" not in kinds
    member = [node.op_type for node in model.graph.node if node.name.startswith("member_1.")]
    assert member == ["Mul", "Add", *["Conv", "MaxPool", "Elu"] * 5, "GlobalAveragePool",
                      "Flatten", "Gemm"]  # fmt: skip
    assert {"member_0.conv_1.weight", "member_2.head.bias"} <= {
        constant.name for constant in model.graph.initializer
    }
    (mels,), (scores,) = model.graph.input, model.graph.output
    sizes = [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
             for value in (mels, scores)]  # fmt: skip
    assert (mels.name, scores.name) == ("mels", "scores")
    assert sizes == [["batch", 96, 1280], ["batch", 5]]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    assert (model.ir_version, model.producer_version) == (8, fastmte.__version__)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["tags"]) == list(TAGS)
    assert json.loads(facts["thresholds"]) == LEVELS.tolist()
    assert json.loads(facts["member_of_label"]) == LABELS
    assert json.loads(facts["mel"])["sample_rate"] == 12000
    assert facts["mel_preset"] == "mtg2019" and facts["frames"] == "1280"
    assert facts["fastmte_version"] == fastmte.__version__ and facts["backbone"] == "vgg"
    onnx.checker.check_model(model, full_check=True)


def test_the_border_is_padded_after_the_normalisation(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from fastmte.export.onnx import scores_model

    model = checkpoint("vgg", thresholds=None)
    with torch.no_grad():
        model.ensemble.backbone.bn_init.bias.fill_(3.0)  # a zero of mels is far from one of these
    session = onnxruntime.InferenceSession(scores_model(model).SerializeToString())
    mels = torch.zeros(1, 96, 1280)
    (scores,) = session.run(None, {"mels": mels.numpy()})
    assert_close(torch.from_numpy(scores), scores_of(model.ensemble, mels), rtol=0, atol=1e-5)


def test_export_says_how_well_the_graph_agrees(model, tmp_path):
    pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    result = export(model, "--format", "onnx", "-o", path)
    assert (result.exit_code, result.stdout) == (0, "")
    text = rf"{path}: vgg, 3 members, 5 tags, ONNX opset 17; onnxruntime's scores differ by at most"
    assert re.fullmatch(rf"{re.escape(text)} \d\.\de-\d\d\n", result.stderr)


@pytest.mark.parametrize("difference", [2e-5, float("nan")])
def test_a_graph_that_disagrees_is_not_written(difference, model, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from fastmte.export import onnx as module

    monkeypatch.setattr(module, "_difference", lambda *_: difference)
    path = tmp_path / "model.onnx"
    path.write_text("old")
    line = one_line(export(model, "--format", "onnx", "-o", path))
    assert line.startswith(f"Error: {path}: not written, as onnxruntime's scores of the graph diff")
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_the_check_finds_wrong_weights(vgg):
    pytest.importorskip("onnxruntime")
    from fastmte.export import onnx as module

    other = copy.deepcopy(vgg)
    assert module._difference(vgg, module.scores_model(other).SerializeToString()) < 1e-5
    with torch.no_grad():
        other.ensemble.head.bias[3] += 0.1
    assert module._difference(vgg, module.scores_model(other).SerializeToString()) > 1e-3


def test_without_onnxruntime_the_graph_is_written_unchecked(model, tmp_path, hide):
    pytest.importorskip("onnx")
    hide("onnxruntime")
    path = tmp_path / "model.onnx"
    result = export(model, "--format", "onnx", "-o", path)
    assert result.exit_code == 0 and path.stat().st_size > 5e6
    assert result.stderr.endswith(
        "; parity unchecked, as onnxruntime is not installed: pip install 'fastmte[onnx]'\n"
    )


def test_without_onnx_the_extra_is_named(model, tmp_path, hide):
    hide("onnx", "onnxruntime")
    result = export(model, "--format", "onnx", "-o", tmp_path / "model.onnx")
    line = one_line(result, 2)
    assert line.endswith("--format onnx: onnx is not installed: pip install 'fastmte[onnx]'")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_package_is_one_line(model, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setattr(extras, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = one_line(export(model, "--format", "onnx", "-o", tmp_path / "model.onnx"))
    assert line.startswith("Error: onnx or onnxruntime is installed but broken: import of")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_found_before_the_work(model, tmp_path):
    pytest.importorskip("onnx")
    (tmp_path / "folder").mkdir()
    line = one_line(export(model, "--format", "onnx", "-o", tmp_path / "folder"), 2)
    assert line.endswith("folder: is a folder; name a file")
    line = one_line(export(model, "--format", "onnx", "-o", tmp_path / "no" / "m.onnx"), 2)
    assert line.endswith("there is no such folder; make it first")


def test_what_onnx_cannot_hold_is_one_line(model, tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    from fastmte.export import onnx as module

    monkeypatch.setattr(module, "_MOST_BYTES", 5_000_000)
    line = one_line(export(model, "--format", "onnx", "-o", tmp_path / "m.onnx"))
    assert "3 members of vgg have 0.0 GiB of weights, and one ONNX file holds 2" in line


def test_a_backbone_that_is_more_than_stages_is_one_line(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Tiny)
    model = Checkpoint(FusedEnsemble.create("tiny", LABELS), TAGS, {"preset": "mtg2019"}, 36)
    save(model, tmp_path / "tiny")
    result = export(tmp_path / "tiny", "--format", "onnx", "-o", tmp_path / "m.onnx")
    assert "tiny is more than convolutions and a mean" in one_line(result)
