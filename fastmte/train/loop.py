"""The training of a fused ensemble, epoch by epoch."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastmte.data.batches import LabelledMels, batch_order, random_starts
from fastmte.ensemble import FusedEnsemble, fuse
from fastmte.errors import InputError
from fastmte.files import atomic_write
from fastmte.plan import precision
from fastmte.train import state
from fastmte.train.config import TrainConfig
from fastmte.train.group import Group, under
from fastmte.train.member import MemberState, macro_roc_auc
from fastmte.train.schedule import Plateau, Stopping

METRICS = "metrics.jsonl"
OnEpoch = Callable[[dict[str, Any]], None]
OnStep = Callable[[int, int, int], None]


def fit(
    ensemble: FusedEnsemble,
    train_data: LabelledMels,
    validation_data: LabelledMels,
    config: TrainConfig,
    folder: str | Path | None = None,
    resume: bool = False,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
    is_fused: bool | None = None,
) -> FusedEnsemble:
    """Train the members side by side and return them with the weights each is to keep.

    Every member has its own loss (binary cross-entropy over its own labels), learning
    rate, plateau and stopping, and shares the order of songs: it becomes what it would
    have become alone. A member that stops leaves the computation.

    Args:
        ensemble: with its first weights, on the device to train on; it is used up.
        train_data: songs to learn from, labels in the order of the ensemble's.
        validation_data: songs for schedules and stopping.
        config: the settings.
        folder: gets ``metrics.jsonl``, a line an epoch, and the state, after each epoch
            (``state.remove_state`` removes it); None writes nothing.
        resume: go on from the state in ``folder``, if there is one; the weights become the
            bits of an uninterrupted training on the same machine and threads.
        on_epoch: is told each epoch's record, as written to ``metrics.jsonl``.
        on_step: is told (epoch, step, steps of the epoch) after each step.
        is_fused: members are one network, which keeps a GPU busy, or take their turns at each
            batch, which on a CPU needs a third of the memory and is faster: grouped
            convolutions are not (2.4 s instead of 3.2 s a step for four ResNet-18). By default
            whichever suits the device; what members become does not depend on it.

    Raises:
        InputError: no songs, labels of another number than the ensemble's, crops the
            backbone cannot take, a member whose stopping has no label to look at,
            a loss that is not finite, or a state of other settings or data.
        OSError: the folder cannot be written.
    """
    trainer = _Trainer(ensemble, train_data, validation_data, config, is_fused)
    folder = None if folder is None else Path(folder)
    if folder is not None:
        trainer.open(folder, resume)
    while trainer.epoch < config.epochs and trainer.groups:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            record = trainer.run_epoch(on_step)
        if folder is not None:
            with open(folder / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            trainer.save(folder)
        if on_epoch is not None:
            on_epoch(record)
    return trainer.result()


class _Trainer:
    """The members that are still trained, and the states of all.

    Attributes:
        groups: the live members.
        members: the state of every member, live or not.
        epoch: finished epochs.
        step: finished steps.
    """

    def __init__(
        self,
        ensemble: FusedEnsemble,
        train_data: LabelledMels,
        validation_data: LabelledMels,
        config: TrainConfig,
        is_fused: bool | None,
    ) -> None:
        _check_data(ensemble, train_data, validation_data, config)
        self.config, self.train_data, self.validation_data = config, train_data, validation_data
        self.backbone = ensemble.backbone_name
        self.member_of_label = ensemble.member_of_label.tolist()
        self.member_ids = ensemble.member_ids
        self.device, self.dtype = ensemble.head.weight.device, ensemble.head.weight.dtype
        self.is_fused = self.device.type != "cpu" if is_fused is None else is_fused
        self.precision = "fp32"
        if self.dtype == torch.float32:
            self.precision = precision.resolve(config.precision, self.device)
        patience = config.patience
        if isinstance(patience, str):
            patience = ensemble.backbone.early_stop_patience
        self.members = [
            MemberState(
                member,
                [label for label, owner in enumerate(self.member_of_label) if owner == member],
                rate,
                Plateau(config.plateau_patience, config.plateau_factor),
                Stopping(patience),
            )
            for member, rate in enumerate(config.rates(ensemble.n_members))
        ]
        if patience is not None:
            _check_stopping(self.members, validation_data)
        self.epoch = self.step = 0
        self.groups = self._grouped(ensemble)

    def _grouped(self, ensemble: FusedEnsemble) -> list[Group]:
        """Return the live members of the whole ensemble as they are to be trained."""
        live = [member for member in self.members if member.is_live]
        together = [live] if self.is_fused else [[member] for member in live]
        return [
            Group(
                ensemble.select([member.member for member in members]),
                members,
                self.config.clip,
                self.config.plan,
                torch.bfloat16 if self.precision == "bf16" else None,
            )
            for members in together
            if members
        ]

    def run_epoch(self, on_step: OnStep | None) -> dict[str, Any]:
        """Train and validate for one epoch, retire who is done; return the epoch's record."""
        began = time.monotonic()
        self.epoch += 1
        train_losses = self._train(on_step)
        losses, scores = self._validate()
        records = []
        for member in self.members:
            seen = _Seen(
                float(train_losses[member.labels].mean()),
                float(losses[member.labels].mean()),
                macro_roc_auc(
                    scores[:, member.labels], self.validation_data.labels[:, member.labels]
                ),
            )
            records.append(self._advanced(member, seen) if member.is_live else _retired(member))
        groups = [group.retire(self.step) for group in self.groups]
        self.groups = [group for group in groups if group is not None]
        totals = {
            name: sum(record[name] for record in records if record[name] is not None)
            for name in ("train_loss", "validation_loss")
        }
        seconds = round(time.monotonic() - began, 3)
        return {"epoch": self.epoch, **totals, "seconds": seconds, "members": records}

    def _train(self, on_step: OnStep | None) -> np.ndarray:
        """Take every training song once; return the mean loss of each label, NaN if retired."""
        config, data = self.config, self.train_data
        batches = batch_order(len(data), config.batch_size, config.seed, self.epoch)
        starts = None
        if config.crop == "random":
            starts = random_starts(data.lengths, config.frames, config.seed, self.epoch)
        losses = np.full(len(self.member_of_label), np.nan)
        for group in self.groups:
            group.ensemble.train()
            losses[group.labels] = 0.0
        plan = self.groups[0].plan
        for count, rows in enumerate(batches, start=1):
            batch = self._batch(data, rows, None if starts is None else starts[rows])
            shared = plan.shared(batch[0]) if plan.is_fused else None
            for group in self.groups:
                per_label = group.step(*batch, config.seed, self.step, shared)
                losses[group.labels] += per_label.numpy() * len(rows) / len(data)
            self.step += 1
            if on_step is not None:
                on_step(self.epoch, count, len(batches))
        return losses

    @torch.no_grad()
    def _validate(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each label's validation loss (L,) and the logits (N, L); NaN if retired."""
        data = self.validation_data
        losses = np.full(len(self.member_of_label), np.nan)
        scores = np.full((len(data), len(self.member_of_label)), np.nan)
        for group in self.groups:
            group.ensemble.eval()
            losses[group.labels] = 0.0
        for rows in torch.arange(len(data)).split(self.config.batch_size):
            batch = self._batch(data, rows, None)
            for group in self.groups:
                per_label, logits = group.validate(*batch)
                losses[group.labels] += per_label.numpy() * len(rows) / len(data)
                scores[np.ix_(rows.numpy(), group.labels)] = logits.numpy()
        return losses, scores

    def _batch(
        self, data: LabelledMels, rows: Tensor, starts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return mels (B, 96, F) and labels (B, L), both on the device and of the dtype."""
        mels, labels = data.batch(rows, self.config.frames, starts)
        return mels.to(self.device, self.dtype), labels.to(self.device, self.dtype)

    def _advanced(self, member: MemberState, seen: "_Seen") -> dict[str, Any]:
        """Let one member's schedule and stopping see the epoch; return its record."""
        if not math.isfinite(seen.train_loss):
            raise InputError(
                f"member {member.member}: its training loss is {seen.train_loss} in epoch "
                f"{self.epoch}; lower the learning rate, {member.rate:g} now, and train again "
                "with --force"
            )
        rate = member.rate
        member.rate = member.plateau.rate_after(seen.loss, rate)
        is_better = member.stopping.is_better(seen.roc_auc, self.epoch)
        if member.stopping.patience is not None and (is_better or member.best is None):
            member.best = self._alone(member)
        member.is_live = not member.stopping.is_over
        return _record(member, rate, seen)

    def _alone(self, member: MemberState) -> FusedEnsemble:
        """Return a copy of a live member."""
        return next(group.alone(member) for group in self.groups if member in group.members)

    def result(self) -> FusedEnsemble:
        """Return all members, each with its best weights, or its last where none are kept."""
        kept = [
            self._alone(member) if member.best is None else member.best for member in self.members
        ]
        whole = fuse(kept, self.member_of_label).eval()
        # Of one layout, resumed or not, so that scores have the same bits.
        return whole.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def settings(self) -> dict[str, Any]:
        """Return what a resumed training must have in common with the interrupted one."""
        return {
            **asdict(self.config),
            "precision": self.precision,
            "backbone": self.backbone,
            "member_of_label": self.member_of_label,
            "dtype": str(self.dtype),
            "training songs": self.train_data.digest(),
            "validation songs": self.validation_data.digest(),
        }

    def open(self, folder: Path, resume: bool) -> None:
        """Begin in a folder, or go on from the state that is there."""
        folder.mkdir(parents=True, exist_ok=True)
        state.sweep(folder)
        if resume and (folder / state.SETTINGS).is_file():
            state.check_settings(folder, self.settings())
            saved = state.load_state(folder, str(self.device))
            if saved is not None:
                self._restore(*saved)
        else:
            state.remove_state(folder)
            state.save_settings(folder, self.settings())
        _keep_records(folder / METRICS, self.epoch)

    def save(self, folder: Path) -> None:
        """Write everything that the next epoch depends on."""
        tensors: dict[str, Tensor] = {}
        for group in self.groups:
            tensors |= group.tensors()
        for member in self.members:
            # The best weights that are also the present ones need no second copy.
            if member.best is not None and not self._is_at_its_best(member):
                prefix = f"best.{member.member}."
                tensors |= {prefix + k: v for k, v in member.best.state_dict().items()}
        members = [member.to_json() for member in self.members]
        progress = {"epoch": self.epoch, "step": self.step, "members": members}
        state.save_state(folder, progress, tensors)

    def _is_at_its_best(self, member: MemberState) -> bool:
        return member.is_live and member.stopping.best_epoch == self.epoch

    def _restore(self, progress: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.epoch, self.step = progress["epoch"], progress["step"]
        whole = [self._alone(member) for member in self.members]
        for member, value in zip(self.members, progress["members"], strict=True):
            member.take(value)
        self.groups = self._grouped(fuse(whole, self.member_of_label))
        for group in self.groups:
            group.load(tensors, self.step)
        for member in self.members:
            weights = under(f"best.{member.member}.", tensors)
            if weights:
                labels, id_ = [0] * len(member.labels), self.member_ids[member.member]
                member.best = FusedEnsemble.from_state(self.backbone, labels, weights, [id_])
            elif member.stopping.patience is not None:
                member.best = self._alone(member)


class _Seen(NamedTuple):
    """What an epoch showed of one member."""

    train_loss: float
    loss: float
    roc_auc: float


def _record(member: MemberState, rate: float | None, seen: _Seen | None) -> dict[str, Any]:
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


def _retired(member: MemberState) -> dict[str, Any]:
    return _record(member, None, None)


def _keep_records(path: Path, epochs: int) -> None:
    """Drop the records of epochs whose state was never saved."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    with atomic_write(path) as file:
        file.writelines(lines[:epochs])


def _check_stopping(members: list[MemberState], validation: LabelledMels) -> None:
    for member in members:
        own = validation.labels[:, member.labels]
        if not (own.any(axis=0) & ~own.all(axis=0)).any():
            raise InputError(
                f"member {member.member}: no label that some validation song has and some "
                "has not, so its stopping has nothing to look at; add validation songs, or "
                "train to the last epoch with --patience 0"
            )


def _check_data(
    ensemble: FusedEnsemble, train: LabelledMels, validation: LabelledMels, config: TrainConfig
) -> None:
    """Refuse data that the ensemble cannot be trained on, before anything is written."""
    for name, data in (("training", train), ("validation", validation)):
        if len(data) == 0:
            raise InputError(f"{name} songs: there are none")
        if data.labels.shape[1] != ensemble.n_labels:
            raise InputError(
                f"{name} songs: have {data.labels.shape[1]} labels, "
                f"the ensemble has {ensemble.n_labels}"
            )
        data.store.check_width(config.frames, data.index)
    if len(train) < 2:
        raise InputError("training songs: batch normalisation needs 2, got 1")
    if len(config.rates(ensemble.n_members)) != ensemble.n_members:
        raise InputError(f"learning_rate must be {ensemble.n_members} numbers, one a member")
    try:
        ensemble.backbone.check((1, 96, config.frames))
    except ValueError as error:
        raise InputError(f"frames: {error}") from error
