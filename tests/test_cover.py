"""Covers: members that share labels, from a file to scores, checkpoints and exports."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from networks import FRAMES, mels_of, randomise
from test_cli_train import TAGS, TRAIN, write_collection
from tiny import Tiny
from torch.testing import assert_close

from fastmte import checkpoint, runs
from fastmte.checkpoint import Checkpoint
from fastmte.cli import main
from fastmte.ensemble import FusedEnsemble, fuse, unfuse
from fastmte.errors import InputError
from fastmte.export.members import write_members
from fastmte.merge import Merge, merge_scores
from fastmte.models import _registry
from fastmte.partition import Cover, Partition, load_split, make_split
from fastmte.plan.scores import Scores
from fastmte.predict import model_hash, predict_store
from fastmte.report.contents import read_contents

PARTS = [["action", "calm", "dark"], ["dark", "epic", "fast", "happy"], ["calm", "dark"]]
OUTPUTS = [0, 0, 2, 0, 1, 2, 1, 1, 1]  # the member of each, label by label
LABELS = [0, 1, 1, 2, 2, 2, 3, 4, 5]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Tiny)
    monkeypatch.delenv("FASTMTE_DATA", raising=False)
    Path("groups.json").write_text(json.dumps(PARTS))


def cover(merge: str = "mean") -> Cover:
    return Cover.of_parts(PARTS, TAGS, merge)


# --- the cover -----------------------------------------------------------------------------------


def test_outputs_are_in_the_order_of_the_labels() -> None:
    made = cover()
    assert made.member_of_output.tolist() == OUTPUTS
    assert made.label_of_output.tolist() == LABELS
    assert made.parts() == PARTS and made.n_members == 3
    assert made.merging() == Merge(tuple(LABELS), "mean")
    partition = Partition.of_parts([["calm", "dark"], ["epic"]], ("calm", "dark", "epic"))
    assert partition.member_of_output.tolist() == [0, 0, 1]
    assert partition.label_of_output.tolist() == [0, 1, 2]
    assert partition.merging() is None


def test_a_cover_of_partitions_has_the_members_of_all() -> None:
    first = Partition(TAGS, np.array([0, 0, 1, 1, 0, 1]), "kmeans")
    other = Partition(TAGS, np.array([2, 0, 1, 1, 0, 2]), "random")
    made = Cover.of_partitions([first, other], "logit")
    assert made.parts() == first.parts() + other.parts()
    assert made.method == "kmeans+random" and made.merge == "logit"
    assert [one["method"] for one in made.details["partitions"]] == ["kmeans", "random"]
    with pytest.raises(ValueError, match="partitions must be of the same tags"):
        Cover.of_partitions([first, Partition(TAGS[:2], np.array([0, 1]), "x")], "mean")


def test_a_saved_cover_is_loaded() -> None:
    made = cover("logit")
    made.save("cover.json")
    for tags, merge, expected in [
        (None, None, "logit"),
        (TAGS, None, "logit"),
        (TAGS, "mean", "mean"),
        (TAGS[::-1], None, "logit"),
    ]:
        again = load_split("cover.json", tags, merge)
        assert isinstance(again, Cover)
        assert again.merge == expected and again.tags == (tags or TAGS)
        assert [sorted(part) for part in again.parts()] == PARTS
    Partition.of_parts([["b"], ["a"]], ("a", "b")).save("partition.json")
    assert isinstance(load_split("partition.json"), Partition)
    shared = load_split("partition.json", merge="mean")
    assert isinstance(shared, Cover) and shared.parts() == [["b"], ["a"]]


@pytest.mark.parametrize(
    ("value", "merge", "text"),
    [
        (PARTS, None, "f.json: no partition of the 6 labels (more than once: calm, dark); "
         "train's --merge mean|logit lets members share labels"),
        ([PARTS[0], PARTS[2]], "mean", "f.json: no cover of the 6 labels (missing: epic, fast, "
         "happy)"),
        ([TAGS, ["calm", "calm"]], "mean", "f.json: no cover of the 6 labels (more than once: "
         "calm)"),
        ([TAGS, ["calm", "jazz"]], "mean", "f.json: no cover of the 6 labels (unknown: jazz)"),
        ([TAGS, []], "mean", "f.json: every part must have a tag, got [6, 0]"),
        ({"format": "fastmte-cover-1", "parts": PARTS}, None,
         "f.json: merge must be one of mean, logit, got None"),
        ({"format": "fastmte-cover-1", "parts": PARTS, "merge": "mean", "details": 3}, None,
         "f.json: details must be a JSON object"),
        ({"format": "other", "parts": PARTS}, "mean",
         "f.json: format must be fastmte-cover-1, got other"),
        (3, "mean", "f.json: no partition: must be a list of lists of tags, or what `fastmte "
         "partition -o` writes"),
    ],
)  # fmt: skip
def test_files_that_hold_no_cover(value: Any, merge: str | None, text: str) -> None:
    Path("f.json").write_text(json.dumps(value))
    with pytest.raises(InputError) as caught:
        load_split("f.json", TAGS, merge)
    assert str(caught.value) == text


def test_a_file_that_is_no_json() -> None:
    Path("f.json").write_text("[")
    with pytest.raises(InputError, match=r"f\.json: no JSON, so no partition"):
        load_split("f.json", TAGS, "mean")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"membership": np.ones((2, 6))}, r"membership must be \(K, 6\) bool"),
        ({"membership": np.ones((2, 5), bool)}, "tags must be 5 distinct texts, got 6"),
        ({"membership": np.eye(6, dtype=bool)[:5]}, r"every label a member, got none of \['happy'"),
        ({"membership": np.zeros((2, 6), bool)}, "every member a label"),
        ({"merge": "rank"}, "merge must be one of mean, logit, got 'rank'"),
    ],
)
def test_arguments_that_are_no_cover(change: dict[str, Any], text: str) -> None:
    whole = {"tags": TAGS, "membership": np.ones((2, 6), bool), "merge": "mean", "method": "x"}
    with pytest.raises(ValueError, match=text):
        Cover(**{**whole, **change})


def test_methods_are_joined_with_a_plus() -> None:
    made = make_split("linear+random", TAGS, None, 2, 0)
    assert isinstance(made, Cover) and made.n_members == 4 and made.merge == "mean"
    assert isinstance(make_split("linear", TAGS, None, 2, 0), Partition)
    assert isinstance(make_split("groups.json", TAGS, None, 2, 0, "logit"), Cover)
    with pytest.raises(InputError, match="linear: its members share no labels"):
        make_split("linear", TAGS, None, 2, 0, "mean")


# --- the model -----------------------------------------------------------------------------------


def model(backbone: str = "resnet18", merge: str = "mean", parts: list = PARTS) -> Checkpoint:
    made = Cover.of_parts(parts, TAGS, merge)
    ensemble = FusedEnsemble.create(backbone, made.member_of_output.tolist()).eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        randomise(ensemble)
        with torch.no_grad():
            ensemble.head.weight.mul_(0.2)  # so that rounding is not all that logits are
    ensemble.set_merge(made.merging())
    levels = np.linspace(0.1, 0.6, 6)
    return Checkpoint(ensemble, TAGS, {"preset": "mtg2019"}, FRAMES.get(backbone, 64), levels)


@pytest.mark.parametrize("merge", ["mean", "logit"])
def test_scores_are_the_members_merged(merge: str) -> None:
    ensemble = model(merge=merge).ensemble
    assert (ensemble.n_labels, ensemble.n_scores, ensemble.n_members) == (9, 6, 3)
    mels = mels_of("resnet18", 3)
    with torch.inference_mode():
        own = [single(mels).double().sigmoid() for single in unfuse(ensemble)]
        outputs = np.empty((3, 9))
        for member, scores in enumerate(own):
            outputs[:, np.array(OUTPUTS) == member] = scores
        merged = ensemble.scores(ensemble(mels))
    expected = merge_scores(outputs, LABELS, merge)
    np.testing.assert_allclose(merged.numpy(), expected, rtol=0, atol=1e-6)
    for plan in ("module", "separate", "grouped"):
        scores = Scores(ensemble, 3, 64, plan)(mels)
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)
    assert expected.std() > 0.01


def test_a_merge_of_another_number_of_outputs_is_refused() -> None:
    ensemble = FusedEnsemble("tiny", [0, 0, 1])
    with pytest.raises(ValueError, match="merge must be of 3 outputs, got 9"):
        ensemble.set_merge(cover().merging())


@pytest.mark.parametrize("merge", ["mean", "logit"])
def test_a_saved_model_is_loaded(merge: str) -> None:
    saved = model("tiny", merge)
    checkpoint.save(saved, "model")
    config = json.loads(Path("model/config.json").read_text())
    assert config["members_of_label"] == [[0], [0, 2], [0, 1, 2], [1], [1], [1]]
    assert config["merge"] == merge and "member_of_label" not in config
    loaded = checkpoint.load("model")
    assert loaded.ensemble.merge == saved.ensemble.merge
    assert loaded.ensemble.member_of_label.tolist() == OUTPUTS
    assert model_hash(loaded.ensemble) == model_hash(saved.ensemble)
    loaded.ensemble.set_merge(Merge(tuple(LABELS), "mean" if merge == "logit" else "logit"))
    assert model_hash(loaded.ensemble) != model_hash(saved.ensemble)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"members_of_label": [[0], [0], 1]}, "members_of_label must be a list of lists of int"),
        ({"members_of_label": None}, "members_of_label must be a list of lists of integers"),
        ({"members_of_label": [[0], [], [1]]}, "members_of_label must name a member of label 1"),
        ({"members_of_label": [[0, 0], [1]]}, "a label's members once, in rising order"),
        ({"merge": 3}, "merge must be a name, got 3"),
        ({"merge": "max"}, "how must be one of mean, logit, got 'max'"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(fields: dict[str, Any], text: str) -> None:
    checkpoint.save(model("tiny"), "model")
    path = Path("model/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(InputError, match=re.escape(text)):
        checkpoint.load("model")


@pytest.mark.parametrize("merge", ["mean", "logit"])
def test_members_make_the_model_again_as_the_readme_says(
    monkeypatch: pytest.MonkeyPatch, merge: str
) -> None:
    whole = model("tiny", merge)
    folders = write_members(whole, "out")
    assert [list(checkpoint.load(folder).tags) for folder in folders] == PARTS
    assert checkpoint.load(folders[2]).thresholds.tolist() == whole.thresholds[[1, 2]].tolist()
    monkeypatch.chdir("out")
    code = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.S)[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["ensemble"].merge == whole.ensemble.merge
    for name, value in whole.ensemble.state_dict().items():
        assert torch.equal(names["ensemble"].state_dict()[name], value), name


@pytest.mark.parametrize(
    ("backbone", "merge"),
    [("vgg", "mean"), ("resnet34", "mean"), ("resnet34-uibk", "logit")],
)
def test_onnxruntime_gives_the_models_scores(backbone: str, merge: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    from fastmte.export.onnx import write_onnx

    parts = PARTS if backbone == "vgg" else [PARTS[1], [*PARTS[0], "epic"]]
    made = model(backbone, merge, parts)
    assert write_onnx(made, "model.onnx") <= 1e-5
    mels = mels_of(backbone, 1)
    (scores,) = onnxruntime.InferenceSession("model.onnx").run(["scores"], {"mels": mels.numpy()})
    with torch.inference_mode():
        expected = made.ensemble.scores(made.ensemble(mels))
    assert_close(torch.from_numpy(scores), expected, rtol=0, atol=5e-6)
    facts = {one.key: one.value for one in onnx.load("model.onnx").metadata_props}
    assert json.loads(facts["label_of_output"]) == list(made.ensemble.merge.label_of_output)
    assert facts["merge"] == merge and len(json.loads(facts["tags"])) == scores.shape[1] == 6


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


def run(*words: object) -> Result:
    return CliRunner().invoke(main, list(map(str, words)))


def test_a_run_from_training_to_report(songs: Path) -> None:
    given = ["train", "--data", songs, *TRAIN[4:], "--partition", "groups.json"]
    result = run(*given, "--merge", "logit", "--out", "run")
    assert result.exit_code == 0, result.output
    assert "3 members over 6 labels (groups)" in result.stderr
    assert "  member 2: calm dark" in result.stderr
    loaded = checkpoint.load("run")
    assert loaded.ensemble.merge == cover("logit").merging() and loaded.tags == TAGS
    settings = json.loads(Path("run/run.json").read_text())["settings"]
    assert settings["merge"] == "logit"
    assert "--merge logit" in " ".join(runs.settings_of(Path("run")).command(Path("x")))
    scores = np.load("run/predictions.npy")
    assert scores.shape == (6, 6)
    shown = json.loads(run("models", "show", "run", "--json").stdout)
    assert (shown["members"], shown["merge"]) == (PARTS, "logit")
    assert run("evaluate", "run").exit_code == 0
    contents = read_contents(Path("run"))
    assert [row["member"] for row in contents.tags] == [0, "0, 2", "0, 1, 2", 1, 1, 1]
    assert run("report", "run").exit_code == 0
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "Figure 1: a label that members share has no one colour" in page
    assert "Members share tags; a score is the sigmoid of the mean of the members' logits" in page
    tagged = run("tag", songs / "audio", "--model", "run", "-o", "tagged", "--workers", 0)
    assert tagged.exit_code == 0, tagged.output


def test_each_member_trains_on_its_own_labels(songs: Path) -> None:
    """The member of a part is that of a partition in which it has the same labels and number."""
    disjoint = [PARTS[0], ["epic", "fast", "happy"]]
    Path("disjoint.json").write_text(json.dumps(disjoint))
    Path("shared.json").write_text(json.dumps([PARTS[0], PARTS[1]]))
    given = ["train", "--data", songs, *TRAIN[4:]]
    for name, merge in (("disjoint", []), ("shared", ["--merge", "mean"])):
        result = run(*given, "--partition", f"{name}.json", *merge, "--out", name)
        assert result.exit_code == 0, result.output
    alone, shared = (unfuse(checkpoint.load(name).ensemble)[0] for name in ("disjoint", "shared"))
    for name, value in alone.state_dict().items():
        assert torch.equal(value, shared.state_dict()[name]), name


def test_the_members_of_two_partitions(songs: Path) -> None:
    given = ["train", "--data", songs, *TRAIN[4:], "--members", 2]
    assert run(*given, "--partition", "linear+random").exit_code == 0
    out = Path("runs/tiny-linear+random")
    made = load_split(out / "partition.json", TAGS)
    assert isinstance(made, Cover) and (made.n_members, made.merge) == (4, "mean")
    assert all(len(made.label_of_output[made.label_of_output == label]) == 2 for label in range(6))


@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        (["--partition", "groups.json"], 1, "groups.json: no partition of the 6 labels (more than "
         "once: calm, dark); train's --merge mean|logit lets members share labels"),
        (["--partition", "few.json", "--merge", "mean"], 1,
         "few.json: no cover of the 6 labels (missing: epic, fast, happy)"),
        (["--partition", "linear", "--merge", "mean"], 1, "linear: its members share no labels, "
         "so there is nothing to merge; join methods with +, or name a file"),
        (["--partition", "linear+nope"], 2, "or a file, got 'nope'"),
        (["--partition", "groups.json", "--merge", "rank"], 2, "'rank' is not one of 'mean'"),
    ],
)  # fmt: skip
def test_what_is_no_cover_is_one_line(songs: Path, given: list, code: int, text: str) -> None:
    Path("few.json").write_text(json.dumps([PARTS[0], PARTS[2]]))
    result = run("train", "--data", songs, *TRAIN[4:], *given, "--out", "run")
    assert (result.exit_code, result.stdout) == (code, "")
    assert text in result.stderr.splitlines()[-1]


def test_predict_store_gives_a_score_a_label() -> None:
    class Songs:
        def __len__(self) -> int:
            return 5

        def gather(self, index: torch.Tensor, frames: int, starts: str) -> torch.Tensor:
            return mels_of("resnet18", 5)[index]

    made = model()
    scores = predict_store(made.ensemble, Songs(), batch_size=2, frames=64)
    with torch.inference_mode():
        expected = made.ensemble.scores(made.ensemble(mels_of("resnet18", 5)))
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-6)


def test_fused_members_have_no_merge() -> None:
    ensemble = model("tiny").ensemble
    assert fuse(unfuse(ensemble), OUTPUTS).merge is None
