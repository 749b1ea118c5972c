"""The training of a fused ensemble, epoch by epoch."""

import json
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastmte.data.batches import LabelledMels
from fastmte.ensemble import FusedEnsemble, fuse
from fastmte.errors import InputError
from fastmte.exchange import Exchange
from fastmte.plan import memory, precision
from fastmte.train import state
from fastmte.train.checks import check_data, check_stopping
from fastmte.train.config import TrainConfig
from fastmte.train.group import Group, under
from fastmte.train.member import MemberState, macro_roc_auc
from fastmte.train.passes import OnStep, Passes
from fastmte.train.records import METRICS, Seen, keep_records, member_record, retired_record
from fastmte.train.schedule import Plateau, Stopping

OnEpoch = Callable[[dict[str, Any]], None]
OnSmaller = Callable[[int, int], None]


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
    on_smaller: OnSmaller | None = None,
    exchange: Exchange | None = None,
) -> FusedEnsemble:
    """Train the members side by side and return them with the weights each is to keep.

    Every member has its own loss (binary cross-entropy over its own labels), learning
    rate, plateau and stopping, and shares the order of songs: it becomes what it would
    have become alone. A member that stops leaves the computation.

    On a CPU live members are trained at the same time, each on its share of torch's threads.
    Weights are the same bits in every run with as many threads, and with any number of threads
    up to that of live members and ``crew.MOST``: each then has one, and oneDNN sums a
    convolution's weight gradients thread by thread.

    A batch that does not fit into memory costs an epoch at most: what the epoch has done is
    undone, and from it on batches are of half the size, as its record says. One of several
    processes can only note it in the folder and end: all are to be started again.

    Several processes that all call this with the same arguments can share the batches: order,
    crops, dropout and batch statistics are those of one process with the whole batches. Only
    the order of sums differs, by which weights are the same bits for one number of processes,
    and close to those for another. The first process alone writes.

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
        on_smaller: is told (epoch, songs a batch) when batches become smaller; by default
            that is a warning.
        exchange: the processes that share the training; None for this one alone.

    Raises:
        InputError: no songs, labels of another number than the ensemble's, crops the
            backbone cannot take, a member whose stopping has no label to look at,
            a loss that is not finite, a state of other settings or data, or too little
            memory for two songs.
        LostError: another process has ended.
        SmallerBatchesError: one of several processes has too little memory.
        OSError: the folder cannot be written.
    """
    trainer = _Trainer(ensemble, train_data, validation_data, config, is_fused, exchange)
    folder = None if folder is None else Path(folder)
    if folder is not None:
        trainer.open(folder, resume)
    else:
        trainer.save(None)
    while trainer.epoch < config.epochs and trainer.groups:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            record = trainer.run_epoch(on_step)
        if record is None:
            trainer.undo_epoch(folder)
            (on_smaller or _warn)(trainer.epoch + 1, trainer.batch_size)
            continue
        if folder is not None and trainer.is_first:
            with open(folder / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        trainer.save(folder)
        if on_epoch is not None:
            on_epoch(record)
    return trainer.result()


class SmallerBatchesError(Exception):
    """Too little memory in one of several processes: all must begin the epoch again.

    Attributes:
        epoch: the epoch.
        batch_size: songs a step with which to go on from the last state.
    """

    def __init__(self, epoch: int, batch_size: int) -> None:
        super().__init__(epoch, batch_size)
        self.epoch, self.batch_size = epoch, batch_size


class _Trainer:
    """The members that are still trained, and the states of all.

    Attributes:
        groups: the live members.
        members: the state of every member, live or not.
        epoch: finished epochs.
        step: finished steps.
        batch_size: songs a step, from the next epoch on.
    """

    def __init__(
        self,
        ensemble: FusedEnsemble,
        train_data: LabelledMels,
        validation_data: LabelledMels,
        config: TrainConfig,
        is_fused: bool | None,
        exchange: Exchange | None,
    ) -> None:
        self.exchange, self.is_first = exchange, exchange is None or exchange.rank == 0
        check_data(ensemble, train_data, validation_data, config)
        self.config, self.train_data, self.validation_data = config, train_data, validation_data
        self.backbone = ensemble.backbone_name
        self.member_of_label = ensemble.member_of_label.tolist()
        self.member_ids = ensemble.member_ids
        self.device, self.dtype = ensemble.head.weight.device, ensemble.head.weight.dtype
        where = self.device, self.dtype
        self.passes = Passes(config, *where, len(self.member_of_label), exchange)
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
            check_stopping(self.members, validation_data)
        self.epoch = self.step = 0
        self.batch_size = config.batch_size
        self.kept: _Kept | None = None  # the state after the last epoch, where no folder has it
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
                self.exchange,
            )
            for members in together
            if members
        ]

    def run_epoch(self, on_step: OnStep | None) -> dict[str, Any] | None:
        """Train and validate for one epoch, retire who is done; return the epoch's record.

        Returns:
            None if there was too little memory; the state is then that of nowhere.
        """
        try:
            return self._epoch(on_step)
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            return None

    def _epoch(self, on_step: OnStep | None) -> dict[str, Any]:
        began = time.monotonic()
        self.epoch += 1
        sizes = self.batch_size, self.epoch, self.step
        train_losses, self.step = self.passes.train(self.groups, self.train_data, *sizes, on_step)
        losses, scores = self.passes.validate(self.groups, self.validation_data, self.batch_size)
        records = []
        for member in self.members:
            seen = Seen(
                float(train_losses[member.labels].mean()),
                float(losses[member.labels].mean()),
                macro_roc_auc(
                    scores[:, member.labels], self.validation_data.labels[:, member.labels]
                ),
            )
            records.append(
                self._advanced(member, seen) if member.is_live else retired_record(member)
            )
        groups = [group.retire(self.step) for group in self.groups]
        self.groups = [group for group in groups if group is not None]
        totals = {
            name: sum(record[name] for record in records if record[name] is not None)
            for name in ("train_loss", "validation_loss")
        }
        seconds = round(time.monotonic() - began, 3)
        rest = {"batch_size": self.batch_size, "seconds": seconds, "members": records}
        return {"epoch": self.epoch, **totals, **rest}

    def undo_epoch(self, folder: Path | None) -> None:
        """Go back to where the epoch began, and go on from there with half the batch."""
        self.groups = []
        memory.free(self.device)
        batch_size = self.batch_size // 2
        if batch_size < 2:
            raise InputError(
                f"not enough memory on {self.device} for batches of {self.batch_size} songs, the "
                "fewest batch normalisation can do with; take narrower crops (--frames), fewer "
                "members or a smaller backbone"
            )
        if self.exchange is not None:  # the others are in the middle of a step
            if folder is not None:
                state.save_batch_size(folder, batch_size)
            raise SmallerBatchesError(self.epoch, batch_size)
        saved = self.kept if folder is None else state.load_state(folder, str(self.device))
        assert saved is not None  # there is one before the first epoch
        progress, tensors = saved
        self._restore(progress, {k: v.to(self.device) for k, v in tensors.items()})
        self.batch_size = batch_size
        self.save(folder)

    def _advanced(self, member: MemberState, seen: Seen) -> dict[str, Any]:
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
        return member_record(member, rate, seen)

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
            "members": len(self.members),
            "member_of_label": self.member_of_label,
            "dtype": str(self.dtype),
            "training songs": self.train_data.digest(),
            "validation songs": self.validation_data.digest(),
        }

    def open(self, folder: Path, resume: bool) -> None:
        """Begin in a folder, or go on from the state that is there.

        Where processes share the training, the first does, and the others take over its state.
        """
        if not self.is_first:
            assert self.exchange is not None
            self.exchange.wait()
            saved = state.load_state(folder, str(self.device))
            assert saved is not None  # the first process has just seen to it
            self._restore(*saved)
            self.batch_size = state.batch_size_at_most(folder, self.batch_size)
            return
        folder.mkdir(parents=True, exist_ok=True)
        state.sweep(folder)
        if resume and (folder / state.SETTINGS).is_file():
            state.check_settings(folder, self.settings())
            saved = state.load_state(folder, str(self.device))
            if saved is not None:
                self._restore(*saved)
            self.batch_size = state.batch_size_at_most(folder, self.batch_size)
        else:
            state.remove_state(folder)
            state.save_settings(folder, self.settings())
            self.save(folder)
        keep_records(folder / METRICS, self.epoch)
        if self.exchange is not None:
            self.exchange.wait()

    def save(self, folder: Path | None) -> None:
        """Write, or without a folder remember, everything that the next epoch depends on."""
        if folder is not None and not self.is_first:
            return
        tensors: dict[str, Tensor] = {}
        for group in self.groups:
            tensors |= group.tensors()
        for member in self.members:
            # The best weights that are also the present ones need no second copy.
            if member.best is not None and not self._is_at_its_best(member):
                prefix = f"best.{member.member}."
                tensors |= {prefix + k: v for k, v in member.best.state_dict().items()}
        progress = {
            "epoch": self.epoch,
            "step": self.step,
            "batch_size": self.batch_size,
            "members": [member.to_json() for member in self.members],
        }
        if folder is not None:
            state.save_state(folder, progress, tensors)
        else:
            self.kept = progress, {k: v.detach().cpu().clone() for k, v in tensors.items()}

    def _is_at_its_best(self, member: MemberState) -> bool:
        return member.is_live and member.stopping.best_epoch == self.epoch > 0

    def _restore(self, progress: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.epoch, self.step = progress["epoch"], progress["step"]
        self.batch_size = progress["batch_size"]
        singles = []
        for member, value in zip(self.members, progress["members"], strict=True):
            member.take(value)
            live = self._single(member, under(f"live.{member.member}.", tensors))
            member.best = self._single(member, under(f"best.{member.member}.", tensors))
            stopping = member.stopping
            if member.best is None and stopping.patience is not None and stopping.best_epoch:
                member.best = self._single(member, under(f"live.{member.member}.", tensors))
            single = live or member.best
            assert single is not None
            singles.append(single)
        self.groups = self._grouped(fuse(singles, self.member_of_label))
        for group in self.groups:
            group.load(tensors, self.step)

    def _single(self, member: MemberState, weights: dict[str, Tensor]) -> FusedEnsemble | None:
        """Return one member with a copy of these weights, if there are any."""
        if not weights:
            return None
        copy = {k: v.to(self.device, copy=True) for k, v in weights.items()}
        labels, id_ = [0] * len(member.labels), self.member_ids[member.member]
        return FusedEnsemble.from_state(self.backbone, labels, copy, [id_])


_Kept = tuple[dict[str, Any], dict[str, Tensor]]


def _warn(epoch: int, batch_size: int) -> None:
    text = f"not enough memory: epoch {epoch} begins again, with batches of {batch_size} songs"
    warnings.warn(text, stacklevel=3)
