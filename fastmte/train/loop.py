"""The training of a fused ensemble, epoch by epoch."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastmte.data.batches import LabelledMels, batch_order, random_starts
from fastmte.ensemble import FusedEnsemble, fuse
from fastmte.errors import InputError
from fastmte.files import atomic_write
from fastmte.train import state
from fastmte.train.adam import MemberAdam
from fastmte.train.config import TrainConfig
from fastmte.train.member import MemberState, label_weights, macro_roc_auc
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

    Raises:
        InputError: no songs, labels of another number than the ensemble's, crops the
            backbone cannot take, a member whose stopping has no label to look at,
            a loss that is not finite, or a state of other settings or data.
        OSError: the folder cannot be written.
    """
    trainer = _Trainer(ensemble, train_data, validation_data, config)
    folder = None if folder is None else Path(folder)
    if folder is not None:
        trainer.open(folder, resume)
    while trainer.epoch < config.epochs and trainer.live is not None:
        record = trainer.run_epoch(on_step)
        if folder is not None:
            with open(folder / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            trainer.save(folder)
        if on_epoch is not None:
            on_epoch(record)
    return trainer.result()


class _Trainer:
    """The members that are still trained, fused, and the states of all.

    Attributes:
        live: the ensemble of the live members; None when all are done.
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
    ) -> None:
        _check_data(ensemble, train_data, validation_data, config)
        self.config, self.train_data, self.validation_data = config, train_data, validation_data
        self.backbone = ensemble.backbone_name
        self.member_of_label = ensemble.member_of_label.tolist()
        self.member_ids = ensemble.member_ids
        self.device, self.dtype = ensemble.head.weight.device, ensemble.head.weight.dtype
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
            self._check_stopping()
        self.epoch = self.step = 0
        self.live: FusedEnsemble | None = None
        self._adopt(ensemble, {})

    def _check_stopping(self) -> None:
        truth = self.validation_data.labels
        for member in self.members:
            own = truth[:, member.labels]
            if not (own.any(axis=0) & ~own.all(axis=0)).any():
                raise InputError(
                    f"member {member.member}: no label that some validation song has and some "
                    "has not, so its stopping has nothing to look at; add validation songs, or "
                    "train to the last epoch with --patience 0"
                )

    def _adopt(self, ensemble: FusedEnsemble, moments: dict[str, Tensor]) -> None:
        """Go on with this ensemble of the live members, and its optimiser's moments."""
        self.live = ensemble
        self.live_members = [member for member in self.members if member.is_live]
        rates = [member.rate for member in self.live_members]
        self.optimiser = MemberAdam(ensemble.named_parameters(), ensemble.member_rows(), rates)
        self.optimiser.load_moments(moments, self.step)

    def run_epoch(self, on_step: OnStep | None) -> dict[str, Any]:
        """Train and validate for one epoch, retire who is done; return the epoch's record."""
        assert self.live is not None
        began = time.monotonic()
        self.epoch += 1
        train_losses = self._train(self.live, on_step)
        losses, scores = self._validate(self.live)
        truth = self.validation_data.labels
        records = []
        for position, member in enumerate(self.live_members):
            train_loss = float(train_losses[member.labels].mean())
            loss = float(losses[member.labels].mean())
            if not math.isfinite(train_loss):
                raise InputError(
                    f"member {member.member}: its training loss is {train_loss} in epoch "
                    f"{self.epoch}; lower the learning rate, {member.rate:g} now"
                )
            roc_auc = macro_roc_auc(scores[:, member.labels], truth[:, member.labels])
            record = {"member": member.member, "learning_rate": member.rate}
            record |= {"train_loss": train_loss, "validation_loss": loss, "roc_auc": roc_auc}
            self._advance(position, member, loss, roc_auc)
            record |= {"best_epoch": member.stopping.best_epoch, "retired": not member.is_live}
            records.append(record)
        self._retire()
        totals = {
            f"{part}_loss": sum(float(record[f"{part}_loss"]) for record in records)
            for part in ("train", "validation")
        }
        seconds = round(time.monotonic() - began, 3)
        return {"epoch": self.epoch, **totals, "seconds": seconds, "members": records}

    def _train(self, live: FusedEnsemble, on_step: OnStep | None) -> np.ndarray:
        """Take every training song once; return the mean loss of each label, NaN if retired."""
        config, data = self.config, self.train_data
        batches = batch_order(len(data), config.batch_size, config.seed, self.epoch)
        starts = None
        if config.crop == "random":
            starts = random_starts(data.lengths, config.frames, config.seed, self.epoch)
        weights, total = label_weights(live), self._no_losses(live)
        live.train()
        for count, rows in enumerate(batches, start=1):
            where = None if starts is None else starts[rows]
            mels, labels = data.batch(rows, config.frames, where)
            live.set_dropout_key(config.seed, self.step)
            per_label = self._losses(live, live(self._moved(mels)), labels)
            self.optimiser.zero_grad(set_to_none=True)
            (per_label * weights).sum().backward()
            self.optimiser.step()
            self.step += 1
            total += per_label.detach().double() * len(rows)
            if on_step is not None:
                on_step(self.epoch, count, len(batches))
        return self._of_all_labels(live, total / len(data))

    @torch.no_grad()
    def _validate(self, live: FusedEnsemble) -> tuple[np.ndarray, np.ndarray]:
        """Return each label's validation loss (L,) and the logits (N, L); NaN if retired."""
        data, total = self.validation_data, self._no_losses(live)
        live.eval()
        logits = []
        for rows in torch.arange(len(data)).split(self.config.batch_size):
            mels, labels = data.batch(rows, self.config.frames)
            logits.append(live(self._moved(mels)))
            total += self._losses(live, logits[-1], labels).double() * len(rows)
        scores = np.full((len(data), len(self.member_of_label)), np.nan)
        scores[:, live.label_index.cpu().numpy()] = torch.cat(logits).double().cpu().numpy()
        return self._of_all_labels(live, total / len(data)), scores

    def _moved(self, mels: Tensor) -> Tensor:
        return mels.to(self.device, self.dtype)

    def _losses(self, live: FusedEnsemble, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean binary cross-entropy of each live label over the batch, (L',)."""
        truth = labels[:, live.label_index.cpu()].to(self.device, self.dtype)
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(0)

    def _no_losses(self, live: FusedEnsemble) -> Tensor:
        return torch.zeros(live.n_labels, dtype=torch.float64, device=self.device)

    def _of_all_labels(self, live: FusedEnsemble, values: Tensor) -> np.ndarray:
        everywhere = np.full(len(self.member_of_label), np.nan)
        everywhere[live.label_index.cpu().numpy()] = values.cpu().numpy()
        return everywhere

    def _advance(self, position: int, member: MemberState, loss: float, roc_auc: float) -> None:
        """Let one member's schedule and stopping see the epoch."""
        assert self.live is not None
        member.rate = member.plateau.rate_after(loss, member.rate)
        is_better = member.stopping.is_better(roc_auc, self.epoch)
        if member.stopping.patience is not None and (is_better or member.best is None):
            member.best = self.live.select([position])
        member.is_live = not member.stopping.is_over

    def _retire(self) -> None:
        """Take the members that are done out of the ensemble and the optimiser."""
        assert self.live is not None
        stay = [i for i, member in enumerate(self.live_members) if member.is_live]
        if not stay:
            self.live = None
        elif len(stay) == len(self.live_members):
            self.optimiser.set_rates([member.rate for member in self.live_members])
        else:
            chosen = torch.tensor(stay, device=self.device)
            rows = {
                name: torch.isin(owner, chosen) for name, owner in self.live.member_rows().items()
            }
            # Rows keep their order in ``select``: of the members, and in the head of the labels.
            moments = {
                key: value[rows[key.rpartition(".")[0]]]
                for key, value in self.optimiser.moments().items()
            }
            self._adopt(self.live.select(stay), moments)

    def result(self) -> FusedEnsemble:
        """Return all members, each with its best weights, or its last where none are kept."""
        position = {member.member: i for i, member in enumerate(self.live_members)}
        kept = []
        for member in self.members:
            best = member.best
            if best is None:
                assert self.live is not None
                best = self.live.select([position[member.member]])
            kept.append(best)
        return fuse(kept, self.member_of_label).eval()

    def settings(self) -> dict[str, Any]:
        """Return what a resumed training must have in common with the interrupted one."""
        return {
            **asdict(self.config),
            "backbone": self.backbone,
            "member_of_label": self.member_of_label,
            "dtype": str(self.dtype),
            "training songs": self.train_data.digest(),
            "validation songs": self.validation_data.digest(),
        }

    def open(self, folder: Path, resume: bool) -> None:
        """Begin in a folder, or go on from the state that is there."""
        folder.mkdir(parents=True, exist_ok=True)
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
        for member in self.members:
            # The best weights that are also the present ones need no second copy.
            if member.best is not None and not (
                member.is_live and member.stopping.best_epoch == self.epoch
            ):
                prefix = f"best.{member.member}."
                tensors |= {prefix + k: v for k, v in member.best.state_dict().items()}
        if self.live is not None:
            tensors |= {f"live.{k}": v for k, v in self.live.state_dict().items()}
            tensors |= {f"adam.{k}": v for k, v in self.optimiser.moments().items()}
        members = [member.to_json() for member in self.members]
        progress = {"epoch": self.epoch, "step": self.step, "members": members}
        state.save_state(folder, progress, tensors)

    def _restore(self, progress: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self.epoch, self.step = progress["epoch"], progress["step"]
        for member, value in zip(self.members, progress["members"], strict=True):
            member.take(value)
        self._restore_live(tensors)
        for member in self.members:
            weights = _under(f"best.{member.member}.", tensors)
            is_now = self.live is not None and member.stopping.best_epoch == self.epoch
            if weights:
                labels, id_ = [0] * len(member.labels), self.member_ids[member.member]
                member.best = FusedEnsemble.from_state(self.backbone, labels, weights, [id_])
            elif is_now and member.stopping.patience is not None:
                assert self.live is not None
                member.best = self.live.select([self.live_members.index(member)])

    def _restore_live(self, tensors: dict[str, Tensor]) -> None:
        weights = _under("live.", tensors)
        stay = [member.member for member in self.members if member.is_live]
        if not weights:
            self.live, self.live_members = None, []
            return
        assert self.live is not None
        part = self.live.select(stay)
        part.load_state_dict(weights)
        self._adopt(part, _under("adam.", tensors))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _keep_records(path: Path, epochs: int) -> None:
    """Drop the records of epochs whose state was never saved."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    with atomic_write(path) as file:
        file.writelines(lines[:epochs])


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
    if len(train) < 2:
        raise InputError("training songs: batch normalisation needs 2, got 1")
    if len(config.rates(ensemble.n_members)) != ensemble.n_members:
        raise InputError(f"learning_rate must be {ensemble.n_members} numbers, one a member")
    try:
        ensemble.backbone.check((1, 96, config.frames))
    except ValueError as error:
        raise InputError(f"frames: {error}") from error
