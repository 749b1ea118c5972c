"""Members are trained at the same time, and nothing but the time depends on it."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tiny import Tiny
from trainings import CONFIG, MEMBER_OF_LABEL, assert_same_bits, songs

from fastmte.ensemble import FusedEnsemble
from fastmte.models import _registry
from fastmte.train import fit
from fastmte.train.crew import Crew


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(_registry._BUILDERS, "tiny", Tiny)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("n_tasks", "n_threads", "each"),
    [(4, 2, 1), (3, 7, 2), (1, 3, 3), (0, 2, 2), (5, 1, 1), (9, 8, 2)],
)
def test_threads_are_shared_out(n_tasks: int, n_threads: int, each: int) -> None:
    torch.set_num_threads(n_threads)
    with Crew(n_tasks) as crew:
        assert crew.threads == each
        assert crew([torch.get_num_threads] * n_tasks) == [each] * n_tasks
    assert torch.get_num_threads() == n_threads


def test_tasks_run_at_the_same_time_and_results_keep_their_order() -> None:
    torch.set_num_threads(2)
    both = threading.Barrier(2, timeout=20)
    with Crew(2) as crew:
        assert crew([lambda: both.wait() >= 0 and "a", lambda: both.wait() >= 0 and "b"]) == [
            "a",
            "b",
        ]


def test_the_first_error_comes_when_all_have_ended() -> None:
    torch.set_num_threads(2)
    ended = []

    def fail(name: str) -> None:
        raise torch.OutOfMemoryError(name)

    with Crew(3) as crew, pytest.raises(torch.OutOfMemoryError, match="second"):
        crew([lambda: ended.append(1), lambda: fail("second"), lambda: fail("third")])
    assert ended == [1]


def test_a_training_has_the_same_bits_on_as_many_threads_as_members() -> None:
    trained = []
    config = replace(CONFIG, epochs=5, patience=None)  # a last member would get all threads
    for n_threads in (1, 2, 3):
        torch.set_num_threads(n_threads)
        ensemble = FusedEnsemble.create("tiny", MEMBER_OF_LABEL, seed=8)
        records: list[dict] = []
        fitted = fit(ensemble, songs(49, 0), songs(24, 1), config, on_epoch=records.append)
        trained.append((fitted, [{**one, "seconds": 0} for one in records]))
    for fitted, records in trained[1:]:
        assert_same_bits(fitted, trained[0][0])
        assert records == trained[0][1]
