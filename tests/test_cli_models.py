import json

import pytest
import torch
from click.testing import CliRunner
from networks import NETWORKS, network

from fastmte.checkpoint import fingerprint, load
from fastmte.cli import main


def run(*arguments):
    return CliRunner().invoke(main, ["models", *map(str, arguments)])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "three.pth"
    torch.save(network("vgg", 3).state_dict(), path)
    (path.parent / "tags.txt").write_text("calm\nmood/theme---dark\nfun\n")
    (path.parent / "thresholds.txt").write_text("fun\t0.3\ncalm\t0.1\nmood/theme---dark\t0.2\n")
    return path


@pytest.fixture(scope="module")
def model(weights):
    folder = weights.parent / "model"
    options = ["--tags", weights.parent / "tags.txt"]
    options += ["--thresholds", weights.parent / "thresholds.txt"]
    result = run("convert", weights, "-o", folder, *options)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{folder}: vgg with 3 tags\n"
    return folder


def test_list_names_every_backbone():
    result = run("list")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *sorted(NETWORKS)]
    assert "448,122" in lines[-1] and "1280-2559" in lines[-1]


def test_list_for_machines():
    rows = {row["name"]: row for row in json.loads(run("list", "--json").stdout)["backbones"]}
    assert rows["vgg"]["parameters"] == 448_122
    assert (rows["vgg"]["min_frames"], rows["vgg"]["max_frames"]) == (1280, 2559)
    assert rows["resnet18-uibk"]["parameters"] == 5_637_496
    assert rows["resnet18"]["max_frames"] is None
    assert rows["resnet18"]["early_stop_patience"] == 30


def test_convert_writes_tags_and_thresholds(model):
    converted = load(model)
    assert converted.tags == ("calm", "dark", "fun")
    assert converted.thresholds.tolist() == [0.1, 0.2, 0.3]


def test_show_for_people(model):
    result = run("show", model)
    assert result.exit_code == 0
    assert "vgg, 444,677 parameters" in result.stdout
    assert "member 0     3 tags: calm dark fun" in result.stdout
    assert fingerprint(model) in result.stdout


def test_show_for_machines(model):
    facts = json.loads(run("show", model, "--json").stdout)
    assert facts["backbone"] == "vgg"
    assert facts["members"] == [["calm", "dark", "fun"]]
    assert facts["thresholds"] == [0.1, 0.2, 0.3]
    assert facts["frames"] == 1366
    assert facts["mel"]["preset"] == "mtg2019"
    assert facts["fingerprint"] == fingerprint(model)


def test_show_without_thresholds(weights, tmp_path):
    run("convert", weights, "-o", tmp_path / "m", "--tags", weights.parent / "tags.txt")
    assert "thresholds   none" in run("show", tmp_path / "m").stdout


@pytest.mark.parametrize("command", ["show", "convert"])
def test_a_path_that_is_not_there_is_a_usage_error(command, tmp_path):
    options = ["-o", tmp_path / "m"] if command == "convert" else []
    result = run(command, tmp_path / "nothing", *options)
    assert result.exit_code == 2
    assert "nothing' does not exist" in result.stderr


def test_convert_needs_an_output(weights):
    result = run("convert", weights)
    assert result.exit_code == 2
    assert "Missing option '-o'" in result.stderr


def one_line(result):
    """Return the only line of a failed run."""
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    return result.stderr


def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(weights, tmp_path):
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no weights")
    assert "no file of torch.save" in one_line(run("convert", bad, "-o", tmp_path / "m"))
    assert "--tags FILE" in one_line(run("convert", weights, "-o", tmp_path / "m"))
    levels = ["--thresholds", weights.parent / "thresholds.txt"]
    line = one_line(run("convert", weights, "-o", tmp_path / "m", *levels))
    assert "no threshold for 'action' (53 missing)" in line
    assert [p.name for p in tmp_path.iterdir()] == ["bad.pth"]


def test_a_folder_that_cannot_be_written_is_one_line(weights, tmp_path):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "model"
    tags = ["--tags", weights.parent / "tags.txt"]
    assert "file: a file is in the way" in one_line(run("convert", weights, "-o", output, *tags))


def test_a_folder_that_is_not_empty_needs_force(weights, tmp_path):
    arguments = ("convert", weights, "-o", tmp_path, "--tags", weights.parent / "tags.txt")
    (tmp_path / "mine.txt").write_text("")
    assert "is not empty; convert into another folder, or add --force" in one_line(run(*arguments))
    assert run(*arguments, "--force").exit_code == 0
    assert "has a model already" in one_line(run(*arguments))
    assert (tmp_path / "mine.txt").is_file() and len(load(tmp_path).tags) == 3


def test_show_of_no_model_is_one_line(tmp_path):
    line = one_line(run("show", tmp_path))
    assert line == f"Error: {tmp_path}: there is no config.json, so this is no model folder\n"
