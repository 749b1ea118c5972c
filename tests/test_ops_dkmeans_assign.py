"""dkmeans_assign on every tier: the order of points, ties, edges, errors."""

import math

import numpy as np
import pytest
import torch
from op_cases import KINDS, on_threads, points_of, refuses, space_of
from torch import Tensor

from fastmte import _rounds, ops, reference

INF, NAN = math.inf, math.nan


def dealt_by_the_text(points: np.ndarray, seeds: list[int]) -> tuple[list[int], list[int]]:
    """The paper's words: the point farthest from the mean of the member's points, in turn."""
    members = [[seed] for seed in seeds]
    free = [i for i in range(len(points)) if i not in seeds]
    order = [*seeds]
    turn = 0
    while free:
        member = members[turn % len(seeds)]
        mean = points[member].mean(0)
        chosen = free.pop(int(np.argmax(np.linalg.norm(points[free] - mean, axis=1))))
        member.append(chosen)
        order.append(chosen)
        turn += 1
    owner = {point: k for k, member in enumerate(members) for point in member}
    return [owner[point] for point in range(len(points))], order


@pytest.mark.parametrize(
    "n_points, n_features, n_members",
    [(1, 1, 1), (2, 3, 1), (9, 1, 3), (56, 22, 4), (57, 22, 8), (200, 5, 7), (17, 40, 17)],
)
def test_dkmeans_assign_is_the_papers_text(tier, n_points, n_features, n_members, device):
    points, seeds = points_of(n_points, n_features, n_members, device)
    labels, order = tier.dkmeans_assign(points, seeds, 1e-10)
    assert labels.dtype == order.dtype == torch.int64
    expected = dealt_by_the_text(points.cpu().numpy(), seeds.tolist())
    assert (labels.tolist(), order.tolist()) == expected


def test_dkmeans_assign_by_hand(tier, device):
    points = torch.tensor([[0.0], [1.0], [2.0], [7.0], [10.0]], device=device).double()
    seeds = torch.tensor([0, 4], device=device)
    labels, order = tier.dkmeans_assign(points, seeds, 1e-10)
    # 0 takes 7; 10 takes 1; 0 and 7 take the last.
    assert labels.tolist() == [0, 1, 0, 0, 1]
    assert order.tolist() == [0, 4, 3, 1, 2]


@pytest.mark.parametrize("tie_tol", [0.0, 1e-10])
def test_dkmeans_assign_gives_ties_to_the_lowest_index(tier, tie_tol, device):
    corners = torch.tensor([[0, 0], [1, 1], [-1, 1], [1, -1], [-1, -1]], device=device).double()
    labels, order = tier.dkmeans_assign(corners, torch.tensor([0], device=device), tie_tol)
    assert labels.tolist() == [0] * 5
    assert order.tolist() == [0, 1, 4, 2, 3]  # after corner 1 its opposite is farthest
    same = torch.ones(6, 3, dtype=torch.float64, device=device)
    labels, order = tier.dkmeans_assign(same, torch.tensor([2, 4], device=device), tie_tol)
    assert order.tolist() == [2, 4, 0, 1, 3, 5]
    assert labels.tolist() == [0, 1, 0, 0, 1, 1]


def test_dkmeans_assign_ties_within_the_tolerance(tier):
    points = torch.tensor([[0.0], [1.0], [1.0 + 1e-12]], dtype=torch.float64)
    seeds = torch.tensor([0])
    assert tier.dkmeans_assign(points, seeds, 1e-10)[1].tolist() == [0, 1, 2]
    assert tier.dkmeans_assign(points, seeds, 0.0)[1].tolist() == [0, 2, 1]


# The kernels measure all of few points, scan many, and pack blocks of 32 rows and 8 centroids.
SHAPES = [(1, 1, 1), (6, 2, 6), (129, 22, 4), (160, 1, 2), (200, 33, 20), (900, 22, 4)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_points, n_features, n_members", SHAPES)
def test_dkmeans_assign_equals_its_reference(kind, n_points, n_features, n_members):
    points, seeds = space_of(kind, n_points, n_features, n_members)
    numba = pytest.importorskip("fastmte._kernels").dkmeans_assign
    few = n_points <= 160
    for last_two in (False, True) if n_members % 2 == 0 else (False,):
        for tie_tol in (0.0, 1e-10, 0.2):
            case = points, seeds, tie_tol, last_two
            expected = _rounds.dkmeans_assign(*case)
            if few and tie_tol < 0.1:
                literal = reference.dkmeans_assign(*case)
                assert torch.equal(expected[0], literal[0])
                assert torch.equal(expected[1], literal[1])
            for tier in (torch.ops.fastmte.dkmeans_assign, numba):
                for actual, wanted in zip(tier(*case), expected, strict=True):
                    assert torch.equal(actual, wanted)


@pytest.mark.parametrize("kind", ["normal", "ties", "offset"])
def test_dkmeans_assign_on_a_device_equals_the_cpus(tier, kind, device):
    points, seeds = space_of(kind, 70, 6, 5)
    expected = reference.dkmeans_assign(points, seeds, 1e-10)
    labels, order = tier.dkmeans_assign(points.to(device), seeds.to(device), 1e-10)
    assert torch.equal(labels.cpu(), expected[0])
    assert torch.equal(order.cpu(), expected[1])


@pytest.mark.parametrize("n_points", [40, 200])
def test_dkmeans_assign_of_last_two_by_the_authors_loop(tier, n_points):
    points, seeds = points_of(n_points, 5, 6)
    values, order = points.numpy(), seeds.tolist()
    members = [order[i : i + 2] for i in range(0, 6, 2)]
    free = [i for i in range(n_points) if i not in order]
    while free:
        member = members[(len(order) - 6) % 3]
        middle = (values[member[-2]] + values[member[-1]]) / 2
        chosen = free.pop(int(np.argmax(np.linalg.norm(values[free] - middle, axis=1))))
        member.append(chosen)
        order.append(chosen)
    labels, actual = tier.dkmeans_assign(points, seeds, 1e-10, True)
    assert actual.tolist() == order
    assert [(labels == k).nonzero()[:, 0].tolist() for k in range(3)] == [*map(sorted, members)]


@pytest.mark.parametrize("n_points", [30, 200])
def test_dkmeans_assign_of_many_runs(tier, n_points):
    points, _ = points_of(n_points, 4, 1)
    seeds = torch.stack([points_of(n_points, 4, 4, seed=run)[1] for run in range(5)])
    labels, order = tier.dkmeans_assign(points, seeds, 1e-10)
    assert labels.shape == order.shape == (5, n_points)
    for run, row in enumerate(seeds):
        alone = tier.dkmeans_assign(points, row, 1e-10)
        assert torch.equal(labels[run], alone[0]) and torch.equal(order[run], alone[1])
    assert tier.dkmeans_assign(points, seeds[:0], 1e-10)[1].shape == (0, n_points)


def test_the_scan_measures_a_small_share_of_the_distances():
    points, seeds = points_of(4000, 8, 4)
    counts = {}
    for name in (torch.ops.fastmte, pytest.importorskip("fastmte._kernels"), _rounds):
        op = getattr(name, "dkmeans_assign_counted", None) or name.dkmeans_assign.counted
        *_, count = op(points, seeds, 1e-10, False)
        assert count.shape == ()
        counts[name] = int(count) / (3996 * 3997 / 2)
    assert counts[_rounds] > 1
    assert counts[pytest.importorskip("fastmte._kernels")] < 0.15


@pytest.mark.parametrize("power", [-1060, -900, -500, 500, 1000])
def test_dkmeans_assign_has_no_range(tier, power, device):
    points, seeds = points_of(40, 5, 3, device)
    points = (points * 2**20).round()  # so few bits that no subnormal loses any
    moved = points * 2.0 ** (power // 2) * 2.0 ** (power - power // 2)
    assert bool(moved.isfinite().all())
    for actual, expected in zip(
        tier.dkmeans_assign(moved, seeds, 1e-10), tier.dkmeans_assign(points, seeds, 1e-10),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(actual, expected)


def test_dkmeans_assign_without_features_goes_by_index(tier, device):
    points, seeds = torch.zeros(5, 0, dtype=torch.float64), torch.tensor([3, 1])
    labels, order = tier.dkmeans_assign(points.to(device), seeds.to(device), 1e-10)
    assert order.tolist() == [3, 1, 0, 2, 4]
    assert labels.tolist() == [0, 1, 1, 0, 0]


def test_dkmeans_assign_of_strided_tensors(tier, device):
    points, seeds = points_of(30, 4, 3, device)
    expected = tier.dkmeans_assign(points, seeds, 1e-10)
    strided = points.T.contiguous().T, seeds.repeat_interleave(2)[::2]
    for actual, wanted in zip(tier.dkmeans_assign(*strided, 1e-10), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_dkmeans_assign_does_not_depend_on_threads():
    points, seeds = points_of(300, 22, 4)
    one, two = (on_threads(n, lambda: ops.dkmeans_assign(points, seeds)[1]) for n in (1, 2))
    assert torch.equal(one, two)
    runs = torch.stack([seeds, seeds.flip(0), (seeds + 1) % 300])
    one, two = (on_threads(n, lambda: ops.dkmeans_assign(points, runs)[1]) for n in (1, 2))
    assert torch.equal(one, two)


DKMEANS_ERRORS = {
    "1-D": (dict(points=torch.zeros(5).double()), "points must be 2-D, got 1-D"),
    "0-D": (dict(seeds=torch.tensor(1)), "seeds must be 1-D or 2-D, got 0-D"),
    "odd": (
        dict(seeds=torch.arange(3), last_two=True),
        "seeds must name two points of each member with last_two, got 3",
    ),
    "range of a run": (
        dict(seeds=torch.tensor([[0, 1], [2, -1]])),
        "seeds must be in [0, 5), got -1 at [1, 1]",
    ),
    "twice in a run": (
        dict(seeds=torch.tensor([[0, 1], [3, 3]])),
        "seeds must be distinct, got 3 at [1, 0] and [1, 1]",
    ),
    "many of a run": (
        dict(seeds=torch.zeros(2, 6).long()),
        "seeds.size(1) must be in [1, 5], the number of points, got 6",
    ),
    "dtype": (dict(points=torch.zeros(5, 2)), "points must be Double, got Float"),
    "seeds": (dict(seeds=torch.tensor([0.0, 1.0])), "seeds must be Long, got Float"),
    "none": (
        dict(seeds=torch.tensor([]).long()),
        "seeds.size(0) must be in [1, 5], the number of points, got 0",
    ),
    "many": (
        dict(seeds=torch.arange(6)),
        "seeds.size(0) must be in [1, 5], the number of points, got 6",
    ),
    "range": (dict(seeds=torch.tensor([0, 5])), "seeds must be in [0, 5), got 5 at [1]"),
    "twice": (
        dict(seeds=torch.tensor([3, 1, 3])),
        "seeds must be distinct, got 3 at [0] and [2]",
    ),
    "tolerance": (dict(tie_tol=1.0), "tie_tol must be in [0, 1), got 1"),
    "negative": (dict(tie_tol=-1e-10), "tie_tol must be in [0, 1), got -1e-10"),
    "nan tolerance": (dict(tie_tol=NAN), "tie_tol must be in [0, 1), got nan"),
}


@pytest.mark.parametrize("name", DKMEANS_ERRORS)
def test_dkmeans_assign_refuses(tier, name, device):
    changed, text = DKMEANS_ERRORS[name]
    case = dict(points=torch.zeros(5, 2).double(), seeds=torch.tensor([0, 1]), tie_tol=0.0)
    case |= changed
    args = [x.to(device) if isinstance(x, Tensor) else x for x in case.values()]
    with refuses(f"dkmeans_assign: {text}"):
        tier.dkmeans_assign(*args)


@pytest.mark.parametrize("value, text", [(NAN, "nan"), (-NAN, "nan"), (INF, "inf"), (-INF, "-inf")])
def test_dkmeans_assign_refuses_what_is_not_finite(tier, value, text, device):
    points, seeds = points_of(9, 8, 2, device)
    points[3, 7] = points[4, 0] = value
    with refuses(f"dkmeans_assign: points must be finite, got {text} at [3, 7]"):
        tier.dkmeans_assign(points, seeds, 1e-10)


@pytest.mark.parametrize("n_points, n_features, n_members", [(9, 4, 3), (3, 0, 3)])
def test_dkmeans_assign_opcheck(n_points, n_features, n_members, device):
    case = (*points_of(n_points, n_features, n_members, device), 1e-10)
    torch.library.opcheck(torch.ops.fastmte.dkmeans_assign.default, case)
    torch.library.opcheck(torch.ops.fastmte.dkmeans_assign.counted, case)
    runs = case[1].expand(2, -1).contiguous()
    torch.library.opcheck(torch.ops.fastmte.dkmeans_assign.counted, (case[0], runs, 1e-10))
