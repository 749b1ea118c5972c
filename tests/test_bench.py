"""The benchmarks' own machinery; what they measure is not asserted anywhere."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch

ROOT = Path(__file__).parents[1]
if not (ROOT / "bench").is_dir():
    pytest.skip("the benchmarks are not part of an installed package", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from bench import dealing, paper, table  # noqa: E402
from fastmte.cli import COMMANDS, main  # noqa: E402

BENCH = """
import torch
def test_sum(versus):
    x = torch.ones(1000)
    versus(lambda: x.sum(), lambda: sum(x.tolist()) * torch.ones(()), what="sum", size="1000",
           instead="a loop", limit=("copy", lambda: x.clone()), rounds=4)
def test_wrong(versus):
    versus(lambda: torch.ones(2), lambda: torch.zeros(2), what="w", size="1", instead="i")
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Run two small benchmarks in a pytest of their own; return its exit code and JSON."""
    folder = tmp_path_factory.mktemp("bench")
    (folder / "bench_small.py").write_text(BENCH)
    (folder / "conftest.py").write_text((ROOT / "bench" / "conftest.py").read_text())
    command = [sys.executable, "-m", "pytest", "-q", "bench_small.py", "-p", "no:cacheprovider"]
    command += ["--benchmark-json=out.json", "-c", "/dev/null", "--rootdir=."]
    # A parallel run's workers do not measure; this process is none of them.
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done, json.loads((folder / "out.json").read_text())


def test_versus_refuses_sides_that_differ(result):
    done, _ = result
    assert "1 failed, 1 passed" in done.stdout, done.stdout


def test_versus_keeps_the_paired_ratio_and_the_limit(result):
    _, kept = result
    info = kept["benchmarks"][0]["extra_info"]
    low, high = info["speedup_quartiles"]
    assert 0 < low <= info["speedup"] <= high
    assert info["of_limit"] > 0 and info["threads"] == 1
    assert info["instead_seconds"] > 0 and info["seconds"] > 0


def test_results_do_not_name_the_machine(result):
    assert set(result[1]["machine_info"]) == {"cpu", "cores", "python", "torch"}


def test_the_table_has_a_row_a_benchmark(result, tmp_path):
    done = result[1] | {"benchmarks": result[1]["benchmarks"][:1]}
    (tmp_path / "a.json").write_text(json.dumps(done))
    every = table.rows(tmp_path)
    text = table.table(every)
    assert text.count("| sum | 1000 | a loop |") == 1
    assert "of a copy" in text
    assert table.headlines(every, [("sum", "1000", "a loop")]) == every
    with pytest.raises(ValueError, match="0 results of sum, 9, instead of a loop"):
        table.headlines(every, [("sum", "9", "a loop")])


def test_the_tables_are_those_of_the_results():
    assert table.stale(table.texts()) == []


def test_the_readme_names_only_commands_that_exist():
    blocks = (ROOT / "README.md").read_text().split("```sh")[1:]
    shell = "\n".join(block.partition("```")[0] for block in blocks)
    named = set(re.findall(r"^fastmte (\w+)", shell, re.M))
    assert named and named <= set(COMMANDS)


def options_of(command):
    """Return the long options of a command and of those below it."""
    found = {option for param in command.params for option in param.opts}
    if isinstance(command, click.Group):
        for name in command.list_commands(None):
            found |= options_of(command.get_command(None, name))
    return found


def test_the_readme_names_only_options_that_exist():
    readme = (ROOT / "README.md").read_text()
    ours = re.sub(r"torchrun [^`]* -m ", "", readme)
    named = set(re.findall(r"(?<=[\s`])--[a-z][a-z-]*", ours))
    assert {"--model", "--resume", "--force"} <= named <= options_of(main)


WAYS = [
    dealing.by_the_text,
    dealing.by_one_product_a_turn,
    dealing.by_one_product_a_round,
    dealing.by_a_gram_matrix,
]


@pytest.mark.parametrize("deal", WAYS)
def test_the_baselines_deal_alike(deal, rng):
    points = np.array([[0.0], [1.0], [5.0], [6.0]])
    assert deal(points, np.array([0, 1])).tolist() == [0, 1, 3, 2]
    points, seeds = rng.normal(size=(40, 3)), rng.choice(40, 3, replace=False)
    assert deal(points, seeds).tolist() == WAYS[0](points, seeds).tolist()


def test_the_authors_deal_by_the_last_two():
    table = pd.DataFrame([[0.0], [2.0], [7.0], [9.0], [4.0], [1.0]], index=list("abcdef"))
    # The middles are 1, 8; then of 9 and 0 4.5, of 2 and 7 4.5: "b" is as far as "c" and first.
    order = dealing.by_the_authors(table, np.array([0, 5, 2, 4]))
    assert order.tolist() == [0, 5, 2, 4, 3, 1]


def test_the_papers_merge_puts_labels_in_order():
    members = [lambda mels: mels[:, [0, 0]], lambda mels: mels[:, [1]]]
    parts = [torch.tensor([2, 0]), torch.tensor([1])]
    mels = torch.tensor([[1.0, -1.0]])
    scores = paper.one_after_another(members, parts, mels)
    torch.testing.assert_close(scores, torch.sigmoid(torch.tensor([[1.0, -1.0, 1.0]])))
