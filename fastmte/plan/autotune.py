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
from fastmte.plan.contest import Contest
from fastmte.plan.engines import WITHOUT_BFLOAT16
from fastmte.plan.inference import InferencePlan, candidates, check, default_choice
from fastmte.plan.precision import Precision, resolve

VARIABLE = "FASTMTE_PLAN"
BUDGET = 1.9  # seconds for all of it, building included: two with the slip of a last pass
GAIN = 0.05  # part of the default's time that another choice must save
_CHUNKS = (1, 2, 4, 8, 16)
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
    precision, the candidates are measured, in two seconds at most; the choice is kept
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

    What is timed is one pass, of as many songs as the candidate takes; where members run one
    after the other, of one member, as they are alike. Building counts, too: a candidate is
    left out if it cannot be built, run, and timed once more beside its rivals in what is left
    of the time. Where not even two can be, the default stays.
    """
    end = time.monotonic() + budget
    device = ensemble.head.weight.device
    most = min(_CHUNKS[-1], setting.batch) if device.type == "cpu" else setting.batch
    random = torch.Generator().manual_seed(0)
    mels = torch.randn(most, 96, setting.frames, generator=random) * 19 - 24
    contest = Contest(ensemble, _DTYPES[setting.precision], mels.to(device), end)
    default = default_choice(ensemble, setting.batch)
    for choices in _stages(ensemble, setting.batch, default):
        for choice in choices:
            contest.enter(choice)
        contest.run()
    seconds = contest.seconds
    enough = []
    for choice in seconds:
        # One member alone bears all of a pass's own cost: all of them are a little faster.
        is_alike = contest.members(choice) == contest.members(default)
        if seconds[choice] <= (1 - (GAIN if is_alike else 2 * GAIN)) * seconds[default]:
            enough.append(choice)
    best = min(enough, key=seconds.__getitem__, default=default)
    milliseconds = {str(c): round(s * 1e3, 4) for c, s in seconds.items()}
    return cache.Found(setting, str(best), milliseconds)


def _stages(ensemble: FusedEnsemble, batch: int, default: Choice) -> list[list[Choice]]:
    """Return the candidates, the default first, in the order in which the time is theirs.

    On a CPU the module is none where there are others: it does all their work and more, and
    one pass of it would take most of the time there is for measuring. Grouped convolutions,
    whose weights all members' must be laid out for them, are seldom best and come last.
    """
    names = candidates(ensemble)
    if ensemble.head.weight.device.type != "cpu":  # whole batches: its memory is large
        return [[default, *(choice for name in names if (choice := Choice(name)) != default)]]
    own = [Choice("separate", size) for size in _CHUNKS if size <= batch and "separate" in names]
    stages = [[default, *(choice for choice in own if choice != default)]]
    if "grouped" in names and ensemble.n_members > 1:
        stages.append([Choice("grouped", 1)])
    return stages


def _wanted(plan: str | None) -> str:
    return plan or os.environ.get(VARIABLE) or "auto"
