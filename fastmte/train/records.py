"""What a training tells of its epochs: ``metrics.jsonl``."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from fastmte.files import atomic_write
from fastmte.train.member import MemberState

METRICS = "metrics.jsonl"


class Seen(NamedTuple):
    """What an epoch showed of one member."""

    train_loss: float
    loss: float
    roc_auc: float


def member_record(member: MemberState, rate: float | None, seen: Seen | None) -> dict[str, Any]:
    """Return a member's part of the epoch's record; null where it was not trained."""
    return {
        "member": member.member,
        "learning_rate": rate,
        "train_loss": None if seen is None else seen.train_loss,
        "validation_loss": None if seen is None else seen.loss,
        "roc_auc": None if seen is None or math.isnan(seen.roc_auc) else seen.roc_auc,
        "best_epoch": member.stopping.best_epoch or None,
        "retired": not member.is_live,
    }


def retired_record(member: MemberState) -> dict[str, Any]:
    """Return the record of a member that is no longer trained."""
    return member_record(member, None, None)


def last_batch_size(folder: Path) -> int:
    """Return the songs a step of the last epoch that ``metrics.jsonl`` tells of."""
    lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
    return int(json.loads(lines[-1])["batch_size"])


def keep_records(path: Path, epochs: int) -> None:
    """Drop the records of epochs whose state was never saved."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    with atomic_write(path) as file:
        file.writelines(lines[:epochs])
