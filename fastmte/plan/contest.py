"""Plans that run against each other until a time is over, building included."""

import time
from collections import Counter

import torch
from torch import Tensor

from fastmte._library import status
from fastmte.ensemble import FusedEnsemble
from fastmte.plan.choice import Choice
from fastmte.plan.inference import InferencePlan

_HOPELESS = 1.3  # times the best: timed no further, but
_FEW = 2  # times tell little on a shared machine, and then it is
_FAR = 2.0  # times the best
_SLACK = 1.2  # times what is expected, for what a neighbour on the machine may make of it
_ROUNDS = 8


class Contest:
    """Plans that are timed in turn until the time is over.

    Args:
        ensemble: on the device where it runs.
        dtype: of maps and weights.
        mels: (B, 96, F) dB, as many songs as the largest pass takes, on that device.
        end: when it is over, as ``time.monotonic``.

    Attributes:
        seconds: a song, of all members, by every plan that was timed.
    """

    def __init__(
        self, ensemble: FusedEnsemble, dtype: torch.dtype, mels: Tensor, end: float
    ) -> None:
        self._ensemble, self._dtype, self._mels, self._end = ensemble, dtype, mels, end
        self._plans: dict[str, InferencePlan] = {}  # by name: chunks share one
        self._building = 0.0  # seconds a member that the first plan took
        self._n_times: Counter[Choice] = Counter()
        self._lasted: dict[Choice, float] = {}  # the last pass, seconds a song and member
        self.seconds: dict[Choice, float] = {}
        is_one_thread = mels.device.type == "cpu" and torch.get_num_threads() == 1
        # A neighbour that takes the core makes no difference to the thread's own time.
        self._clock = time.thread_time if is_one_thread else time.perf_counter

    def enter(self, choice: Choice) -> None:
        """Time a plan for the first time, if there is time for it."""
        if self.seconds and not self._is_time_for(choice):
            return
        try:
            if choice.name not in self._plans:
                self._build(choice)
                first = self._timed(choice)  # tells little: it lays out the weights
                if not self.seconds:
                    self._begin(choice, first)
                    return
            self.seconds[choice] = self._timed(choice)
        except RuntimeError:  # out of memory, or what this device cannot run
            if not self.seconds:
                raise
        self._drop_hopeless()

    def run(self) -> None:
        """Time all plans again and again, each round in the same order."""
        for _ in range(_ROUNDS):
            rivals = self._rivals()
            for choice in rivals:
                if len(rivals) == 1 or _SLACK * self._pass(choice) > self._left():
                    return
                self.seconds[choice] = min(self.seconds[choice], self._timed(choice))

    def members(self, choice: Choice) -> int:
        """Return how many members' passes tell those of all: they are alike, and one by one."""
        is_one = choice.name == "separate" and self._mels.device.type == "cpu"
        return 1 if is_one else self._ensemble.n_members

    def _build(self, choice: Choice) -> None:
        start = time.monotonic()
        members = self.members(choice)
        part = self._ensemble if members == self._ensemble.n_members else _first_of(self._ensemble)
        self._plans[choice.name] = InferencePlan(part, choice, self._dtype)
        if not self.seconds:
            self._building = (time.monotonic() - start) / members

    def _begin(self, choice: Choice, first: float) -> None:
        """Take the first plan's first pass for what it takes, unless there is time for another.

        Numba compiles in it, as in whatever were the first: that is no part of the contest.
        """
        lasted, self.seconds[choice] = self._pass(choice), first
        is_compiling = status()["tier"] == "numba"
        if is_compiling or _SLACK * lasted < self._left():
            self.seconds[choice] = self._timed(choice)
        if is_compiling:
            self._end += max(0.0, lasted - self._pass(choice))

    def _drop_hopeless(self) -> None:
        """Free the plans, large as they may be, that will not be timed again."""
        used = {choice.name for choice in self._rivals()}
        self._plans = {name: plan for name, plan in self._plans.items() if name in used}

    def _rivals(self) -> list[Choice]:
        """Return the plans that may still turn out best."""
        best = min(self.seconds.values())
        return [
            choice
            for choice, seconds in self.seconds.items()
            if seconds <= best * (_HOPELESS if self._n_times[choice] > _FEW else _FAR)
        ]

    def _is_time_for(self, choice: Choice) -> bool:
        """Tell whether a plan can be built, run, and timed once more beside its rivals."""
        seconds = 2 * self._pass(choice) + sum(map(self._pass, self._rivals()))
        if choice.name not in self._plans:
            seconds += self.members(choice) * self._building + self._pass(choice)
        return _SLACK * seconds < self._left()

    def _pass(self, choice: Choice) -> float:
        """Return how long a pass lasts, as far as is known: as the last, or the shortest."""
        one = self._lasted.get(choice, min(self._lasted.values()))
        return one * self._n_songs(choice) * self.members(choice)

    def _timed(self, choice: Choice) -> float:
        plan = self._plans[choice.name].with_chunk(choice.chunk)
        songs = self._mels[: self._n_songs(choice)]
        self._synchronise()
        start, began = self._clock(), time.monotonic()
        plan.features(songs)
        self._synchronise()
        seconds, lasted = self._clock() - start, time.monotonic() - began
        self._n_times[choice] += 1
        self._lasted[choice] = lasted / len(songs) / self.members(choice)
        return seconds / len(songs) * self._ensemble.n_members / self.members(choice)

    def _n_songs(self, choice: Choice) -> int:
        return min(choice.chunk or len(self._mels), len(self._mels))

    def _left(self) -> float:
        return self._end - time.monotonic()

    def _synchronise(self) -> None:
        if self._mels.device.type == "cuda":
            torch.cuda.synchronize(self._mels.device)


def _first_of(ensemble: FusedEnsemble) -> FusedEnsemble:
    """Return an ensemble of the first member alone, around its own weights, and of one label."""
    state = {
        name: value[: 1 if name.startswith("head.") else len(value) // ensemble.n_members]
        for name, value in ensemble.state_dict().items()
    }
    return FusedEnsemble.from_state(ensemble.backbone_name, [0], state).train(ensemble.training)
