"""dkmeans_assign beside what one would write in numpy: the order must be the same.

Process time, so that a busy machine counts less. The growth of the time in n, D and K goes to
``results/partition_growth.svg``. About three minutes.
"""

from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import pytest
import torch

from bench import dealing
from fastmte import ops

RESULTS = Path(__file__).parent / "results"
TEXT = ("the paper's text in numpy", dealing.by_the_text)
GRAM = ("numpy, a Gram matrix", dealing.by_a_gram_matrix)
TURN = ("numpy, a product a turn", dealing.by_one_product_a_turn)
ROUND = ("numpy, a product a round", dealing.by_one_product_a_round)
CASES = [
    (56, 22, 4, TEXT, 15),
    (56, 22, 4, GRAM, 15),
    (56, 22, 4, ROUND, 15),
    (2000, 22, 4, TEXT, 5),
    (2000, 22, 4, TURN, 5),
    (2000, 22, 4, GRAM, 5),
    (2000, 22, 4, ROUND, 9),
    (2000, 200, 16, TEXT, 3),
    (2000, 200, 16, GRAM, 9),
    (2000, 200, 16, ROUND, 9),
    (20_000, 22, 16, ROUND, 3),
    (20_000, 200, 16, ROUND, 2),
    (20_000, 512, 100, ROUND, 2),
]


@pytest.mark.parametrize("n, n_features, n_clusters, instead, rounds", CASES)
def test_dkmeans_assign(versus, n, n_features, n_clusters, instead, rounds):
    points, seeds = _space("normal", n, n_features, n_clusters)
    tensors = torch.from_numpy(points), torch.from_numpy(seeds)
    versus(
        lambda: ops.dkmeans_assign(*tensors)[1],
        lambda: torch.from_numpy(instead[1](points, seeds)),
        what="`dkmeans_assign`",
        size=f"{n} x {n_features}, {n_clusters} clusters",
        instead=instead[0],
        same=_equal,
        rounds=rounds,
        clock=process_time,
    )


def test_dkmeans_assign_of_the_authors(versus):
    points, firsts = _space("normal", 56, 22, 8)
    tensors = torch.from_numpy(points), torch.from_numpy(firsts)
    table = pd.DataFrame(points, index=[f"label {i}" for i in range(56)])
    versus(
        lambda: ops.dkmeans_assign(*tensors, last_two=True)[1],
        lambda: torch.from_numpy(dealing.by_the_authors(table, firsts)),
        what="`dkmeans_assign`, the authors' variant",
        size="56 x 22, 4 clusters",
        instead="the loop of the authors' notebook",
        same=_equal,
        rounds=5,
        clock=process_time,
    )


@pytest.mark.parametrize("kind", ["normal", "heavy", "heaps", "beta"])
def test_dkmeans_assign_of_many_points(versus, kind):
    kernels = pytest.importorskip("fastmte._kernels")
    points, seeds = map(torch.from_numpy, _space(kind, 100_000, 22, 16))
    count = torch.ops.fastmte.dkmeans_assign.counted(points, seeds, 1e-10)[2]
    turns = len(points) - len(seeds)
    versus(
        lambda: ops.dkmeans_assign(points, seeds)[1],
        lambda: kernels.dkmeans_assign(points, seeds, 1e-10)[1],
        what=f"`dkmeans_assign`, {kind}: {int(count) / (turns * (turns + 1) / 2):.1%} of distances",
        size="100000 x 22, 16 clusters",
        instead="its numba tier",
        same=_equal,
        rounds=3,
        clock=process_time,
    )


@pytest.mark.parametrize(
    "n, n_features, n_clusters",
    [(56, 22, 4), (2000, 22, 4), (2000, 22, 100), (2000, 200, 16), (20_000, 200, 16)],
)
def test_dkmeans_assign_in_numba(versus, n, n_features, n_clusters):
    kernels = pytest.importorskip("fastmte._kernels")
    tensors = [*map(torch.from_numpy, _space("normal", n, n_features, n_clusters))]
    versus(
        lambda: ops.dkmeans_assign(*tensors)[1],
        lambda: kernels.dkmeans_assign(*tensors, 1e-10)[1],
        what="`dkmeans_assign`",
        size=f"{n} x {n_features}, {n_clusters} clusters",
        instead="its numba tier",
        same=_equal,
        rounds=9 if n <= 2000 else 3,
        clock=process_time,
    )


@pytest.mark.parametrize("instead", [TEXT, ROUND])
def test_numba_dkmeans_assign(versus, instead):
    kernels = pytest.importorskip("fastmte._kernels")
    points, seeds = _space("normal", 56, 22, 4)
    tensors = torch.from_numpy(points), torch.from_numpy(seeds)
    versus(
        lambda: kernels.dkmeans_assign(*tensors, 1e-10)[1],
        lambda: torch.from_numpy(instead[1](points, seeds)),
        what="numba tier of `dkmeans_assign`",
        size="56 x 22, 4 clusters",
        instead=instead[0],
        same=_equal,
        rounds=9,
        clock=process_time,
    )


def test_growth():
    """Draw the time over n, D and K."""
    figure_of = pytest.importorskip("matplotlib.figure").Figure
    figure = figure_of(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    sweeps = {
        "n (D = 22, K = 16)": [(n, 22, 16) for n in (250, 1000, 4000, 16_000)],
        "D (n = 4000, K = 16)": [(4000, d, 16) for d in (8, 32, 128, 512)],
        "K (n = 4000, D = 22)": [(4000, 22, k) for k in (2, 8, 32, 128)],
    }
    for axis, (name, sizes) in zip(axes, sweeps.items(), strict=True):
        varied = [size["nDK".index(name[0])] for size in sizes]
        for label, deal in (("fastmte", None), ROUND):
            axis.loglog(varied, [_seconds(size, deal) for size in sizes], "o-", label=label)
        axis.set_xlabel(name)
    axes[0].set_ylabel("seconds of one core")
    axes[0].legend(frameon=False)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "partition_growth.svg", metadata={"Date": None})


def _seconds(size, deal):
    points, seeds = _space("normal", *size)
    tensors = torch.from_numpy(points), torch.from_numpy(seeds)
    best = float("inf")
    for _ in range(2):
        begin = process_time()
        deal(points, seeds) if deal else ops.dkmeans_assign(*tensors)
        best = min(best, process_time() - begin)
    return best


def _space(kind, n, n_features, n_clusters):
    rng = np.random.default_rng(0)
    points = {
        "normal": lambda: rng.normal(size=(n, n_features)),
        "heavy": lambda: rng.standard_t(5, (n, n_features)),
        "heaps": lambda: (
            2 * rng.normal(size=(20, n_features))[rng.integers(20, size=n)]
            + rng.normal(size=(n, n_features))
        ),
        "beta": lambda: rng.beta(0.5, 0.7, (n, n_features)),
    }[kind]()
    return points, rng.choice(n, n_clusters, replace=False)


def _equal(actual, expected):
    np.testing.assert_array_equal(actual.numpy(), expected.numpy())
