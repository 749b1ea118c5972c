"""Which plan runs an ensemble fastest: measured once, then remembered."""

import os
import time
from functools import partial
from typing import Literal

import torch

from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.plan import cache
from fastmte.plan.choice import Choice
from fastmte.plan.engines import WITHOUT_BFLOAT16
from fastmte.plan.inference import InferencePlan, candidates, check, default_choice
from fastmte.plan.precision import Precision, resolve

VARIABLE = "FASTMTE_PLAN"
BUDGET = 2.0  # seconds that measuring may take
GAIN = 0.05  # part of the default's time that another choice must save
_CHUNKS = (1, 2, 4, 8)
_HOPELESS = 1.3  # times the best: measured no further
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_plan(
    ensemble: FusedEnsemble,
    batch_size: int,
    frames: int,
    plan: str | None = None,
    precision: Precision = "fp32",
) -> InferencePlan:
    """Return the plan that is fastest for batches of one size.

    The first time on a device, and for a backbone, number of members, size and
    precision, the candidates are measured, which takes two seconds; the choice is kept
    in ``fastmte/plans.json`` of the user's cache (XDG_CACHE_HOME), so that a model has the
    same scores in every run on a machine. Where it cannot be kept, nothing is measured.

    Args:
        ensemble: on the device where it runs.
        batch_size: songs a batch.
        frames: length of their crops.
        plan: ``NAME`` or ``NAME:CHUNK``, a candidate or an engine and how many songs it takes
            a pass; ``"default"``, what is best on most machines; ``"auto"``, what is best
            here; None for what FASTMTE_PLAN says, else ``"auto"``.
        precision: of maps and weights; ``"auto"`` is bf16 where the device has units for it.

    Raises:
        InputError: no such plan for this backbone and device, or an engine that is not
            installed or not for this precision.

    Warns:
        UserWarning: bf16 was asked for, and the device has not got it.
    """
    choice, number = asked(ensemble, plan, precision)
    if choice is None:
        choice = default_choice(ensemble, batch_size)
        if _wanted(plan) == "auto" and len(candidates(ensemble)) > 1:
            choice = best_choice(ensemble, batch_size, frames, number)
    return InferencePlan(ensemble, choice, _DTYPES[number])


def asked(
    ensemble: FusedEnsemble, plan: str | None, precision: Precision
) -> tuple[Choice | None, Literal["fp32", "bf16"]]:
    """Return the plan that is asked for, None where the best is to be found, and its precision.

    Arguments, errors and warnings are those of ``make_plan``.
    """
    text = _wanted(plan)
    choice = None if text in ("auto", "default") else Choice.parse(text)
    if choice is not None:
        check(ensemble, choice)
        if choice.name in WITHOUT_BFLOAT16:
            if precision == "bf16":
                raise InputError(f"the engine {choice.name} does not compute in bf16")
            precision = "fp32"
    return choice, resolve(precision, ensemble.head.weight.device)


def best_choice(
    ensemble: FusedEnsemble, batch_size: int, frames: int, precision: Literal["fp32", "bf16"]
) -> Choice:
    """Return what is fastest here, from the cache or measured now."""
    device = ensemble.head.weight.device
    setting = cache.Setting(
        cache.device_name(device),
        torch.__version__,
        cache.fastmte_name(),
        torch.get_num_threads(),
        precision,
        ensemble.backbone_name,
        ensemble.n_members,
        frames,
        cache.bucket(batch_size),
    )
    text = cache.find_or_measure(setting, partial(measure, ensemble, setting))
    default = default_choice(ensemble, batch_size)
    if text is None:
        return default
    try:
        choice = Choice.parse(text)
        check(ensemble, choice)
    except InputError:  # the file was edited, or written by another fastmte
        return default
    return choice


def measure(ensemble: FusedEnsemble, setting: cache.Setting, budget: float = BUDGET) -> cache.Found:
    """Measure the candidates in turn and return the choice; the default unless one is better.

    What is timed is one pass, of as many songs as the candidate takes; candidates whose
    pass would not fit into what is left of the time are left out.
    """
    contest = _Contest(ensemble, setting, time.monotonic() + budget)
    default = default_choice(ensemble, setting.batch)
    for choice in [default, *_others(ensemble, setting.batch, default)]:
        contest.enter(choice)
    contest.run()
    best = min(contest.seconds, key=contest.seconds.__getitem__)
    if contest.seconds[best] > (1 - GAIN) * contest.seconds[default]:
        best = default
    milliseconds = {str(c): round(s * 1e3, 4) for c, s in contest.seconds.items()}
    return cache.Found(setting, str(best), milliseconds)


def _others(ensemble: FusedEnsemble, batch: int, default: Choice) -> list[Choice]:
    """Return the other candidates, those with the shortest passes first.

    On a CPU the module is none where there are others: it does all their work and more, and
    one pass of it would take most of the time there is for measuring.
    """
    sizes = sorted({size for size in _CHUNKS if size < batch} | {batch})
    names = candidates(ensemble)
    if ensemble.head.weight.device.type != "cpu":
        return [c for name in names if (c := Choice(name)) != default]  # its memory is large
    own = [Choice("separate", size) for size in sizes if "separate" in names]
    rest = [Choice(name, 1) for name in names if name not in ("separate", "module")]
    return [c for c in own[:2] + rest + own[2:] if c != default]


class _Contest:
    """Plans that are timed in turn until the time is over."""

    def __init__(self, ensemble: FusedEnsemble, setting: cache.Setting, end: float) -> None:
        self._ensemble, self._setting, self._end = ensemble, setting, end
        self._plans: dict[Choice, InferencePlan] = {}
        self._n_songs: dict[Choice, int] = {}
        self.seconds: dict[Choice, float] = {}  # a song
        random = torch.Generator().manual_seed(0)
        mels = torch.randn(setting.batch, 96, setting.frames, generator=random) * 19 - 24
        self._mels = mels.to(ensemble.head.weight.device)

    def enter(self, choice: Choice) -> None:
        """Time a plan for the first time, if there is time for it."""
        n_songs = min(choice.chunk or self._setting.batch, self._setting.batch)
        if self.seconds:  # twice: the first pass lays out the weights
            expected = 2.5 * n_songs * min(self.seconds.values())
            if time.monotonic() + expected > self._end:
                return
        self._n_songs[choice] = n_songs
        try:
            plan = self._plan(choice)
            plan.features(self._mels[:n_songs])
            self._plans[choice] = plan
            self.seconds[choice] = self._timed(choice)
        except RuntimeError:  # out of memory, or what this device cannot run
            self._plans.pop(choice, None)
            if not self.seconds:
                raise
            return
        if self.seconds[choice] > _HOPELESS * min(self.seconds.values()):
            del self._plans[choice]

    def run(self) -> None:
        """Time all plans again and again, each round in the same order."""
        while True:
            for choice in self._plans:
                expected = self.seconds[choice] * self._n_songs[choice]
                if time.monotonic() + expected > self._end:
                    return
                self.seconds[choice] = min(self.seconds[choice], self._timed(choice))

    def _plan(self, choice: Choice) -> InferencePlan:
        for other, plan in self._plans.items():
            if other.name == choice.name:
                return plan.with_chunk(choice.chunk)
        return InferencePlan(self._ensemble, choice, _DTYPES[self._setting.precision])

    def _timed(self, choice: Choice) -> float:
        songs = self._mels[: self._n_songs[choice]]
        self._synchronise()
        start = time.perf_counter()
        self._plans[choice].features(songs)
        self._synchronise()
        return (time.perf_counter() - start) / len(songs)

    def _synchronise(self) -> None:
        if self._mels.device.type == "cuda":
            torch.cuda.synchronize(self._mels.device)


def _wanted(plan: str | None) -> str:
    return plan or os.environ.get(VARIABLE) or "auto"
