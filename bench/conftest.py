"""One way to time: candidate, baseline and limit in turn, round by round, on one thread.

A shared machine drifts, so two blocks of rounds cannot be compared; neighbours in
time can. ``versus`` first checks that both sides give the same result, then times
A B A B ... within one process and keeps the ratio of each pair of neighbours. The
limit is something the machine cannot do the job faster than (a copy of the same
bytes, a matrix product of the same size), timed in the same rounds.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported

import warnings
from collections.abc import Callable, Iterator
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import pytest
import torch

LONG = 0.5  # seconds of a function that is called no more often than it is timed
SHORTEST = 2e-3  # seconds a timed block lasts at least; the clock is good to about 1e-7


def _calls_for(function: Callable[[], Any], first: float) -> int:
    """Return how many calls of ``function`` last about SHORTEST seconds; the first is over."""
    if first > LONG:  # another would tell nothing, and cost as much again
        return 1
    start = perf_counter()
    function()
    return max(1, int(SHORTEST / max(perf_counter() - start, 1e-7)))


def _first(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result of a first call, which is also the warm-up, and its seconds."""
    start = perf_counter()
    return function(), perf_counter() - start


def _timed(function: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    """Return the seconds of one call, as the mean of ``calls``."""
    start = clock()
    for _ in range(calls):
        function()
    return (clock() - start) / calls


@pytest.fixture
def versus(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Time ``candidate`` beside ``baseline``; see the head of this file.

    Arguments of the function it gives: candidate and baseline (no arguments, same
    result), ``same`` (a check of the two results, default assert_close), ``what``,
    ``size`` and ``instead`` for the table, ``limit`` = (name, function), ``rounds``.
    """

    def run(
        candidate: Callable[[], Any],
        baseline: Callable[[], Any],
        *,
        what: str,
        size: str,
        instead: str,
        limit: tuple[str, Callable[[], Any]] | None = None,
        same: Callable[[Any, Any], None] = torch.testing.assert_close,
        rounds: int = 15,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        sides = [candidate, baseline] + ([limit[1]] if limit else [])
        results, firsts = zip(*(_first(side) for side in sides), strict=True)
        same(*results[:2])
        del results
        calls = [_calls_for(side, first) for side, first in zip(sides, firsts, strict=True)]
        seconds: list[list[float]] = [[] for _ in sides]

        def time_the_others() -> None:
            for side, n, kept in zip(sides[1:], calls[1:], seconds[1:], strict=True):
                kept.append(_timed(side, n, clock))

        def block() -> None:
            seconds[0].append(_timed(candidate, calls[0], clock))

        benchmark.pedantic(block, setup=time_the_others, rounds=rounds)
        ratios = [b / a for a, b in zip(seconds[0], seconds[1], strict=True)]
        low, _, high = quantiles(ratios, n=4)
        benchmark.extra_info |= {
            "what": what,
            "size": size,
            "instead": instead,
            "seconds": median(seconds[0]),
            "instead_seconds": median(seconds[1]),
            "speedup": median(ratios),
            "speedup_quartiles": [low, high],
            "threads": torch.get_num_threads(),
        }
        if limit:
            of_limit = [c / a for a, c in zip(seconds[0], seconds[2], strict=True)]
            benchmark.extra_info |= {"limit": limit[0], "of_limit": median(of_limit)}

    return run


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict) -> None:
    """Keep what the table needs; leave out the machine's name and the raw rounds."""
    machine = output_json["machine_info"]
    output_json["machine_info"] = {
        "cpu": machine.get("cpu", {}).get("brand_raw", "unknown"),
        "cores": os.cpu_count(),
        "python": machine["python_version"],
        "torch": torch.__version__,
    }
    output_json["commit_info"] = {}
    for row in output_json["benchmarks"]:
        row["stats"] = {"rounds": row["stats"]["rounds"]}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    session = getattr(config, "_benchmarksession", None)
    for bench in session.benchmarks if session else ():
        info = bench.extra_info
        if "speedup" in info:
            low, high = info["speedup_quartiles"]
            terminalreporter.write_line(
                f"{info['speedup']:8.2f} x ({low:.2f}-{high:.2f})  {info['what']}, "
                f"{info['size']}, instead of {info['instead']}"
            )


def pytest_configure(config: pytest.Config) -> None:
    warnings.filterwarnings("ignore", category=UserWarning, module="pytest_benchmark")
