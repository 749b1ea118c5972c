"""Which plan runs an ensemble fastest."""

import os
from typing import Literal

import torch

from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.plan.choice import Choice
from fastmte.plan.engines import WITHOUT_BFLOAT16
from fastmte.plan.inference import InferencePlan, check, default_choice
from fastmte.plan.precision import Precision, resolve

VARIABLE = "FASTMTE_PLAN"
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def make_plan(
    ensemble: FusedEnsemble,
    batch_size: int,
    frames: int,
    plan: str | None = None,
    precision: Precision = "auto",
) -> InferencePlan:
    """Return the plan that is fastest for batches of one size.

    Args:
        ensemble: on the device where it runs.
        batch_size: songs a batch.
        frames: length of their crops.
        plan: ``NAME`` or ``NAME:CHUNK``, a candidate or an engine and how many songs it takes
            a pass;
            ``"default"``, what is best on most machines; ``"auto"``, what is best here; None
            for what FASTMTE_PLAN says, else ``"auto"``.
        precision: of maps and weights; ``"auto"`` is bf16 where the device has units for it.

    Raises:
        InputError: no such plan for this backbone and device, or an engine that is not
            installed or not for this precision.

    Warns:
        UserWarning: bf16 was asked for, and the device has not got it.
    """
    choice, number = asked(ensemble, plan, precision)
    if choice is None:
        choice = default_choice(ensemble, batch_size, frames)
    return InferencePlan(ensemble, choice, _DTYPES[number])


def asked(
    ensemble: FusedEnsemble, plan: str | None, precision: Precision
) -> tuple[Choice | None, Literal["fp32", "bf16"]]:
    """Return the plan that is asked for, None where the best is to be found, and its precision.

    Arguments, errors and warnings are those of ``make_plan``.
    """
    text = plan or os.environ.get(VARIABLE) or "auto"
    choice = None if text in ("auto", "default") else Choice.parse(text)
    if choice is not None:
        check(ensemble, choice)
        if choice.name in WITHOUT_BFLOAT16:
            if precision == "bf16":
                raise InputError(f"the engine {choice.name} does not compute in bf16")
            precision = "fp32"
    return choice, resolve(precision, ensemble.head.weight.device)
