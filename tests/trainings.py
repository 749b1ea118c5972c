"""Small trainings of a tiny backbone, and what a member alone becomes by torch's own means."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tiny import Tiny

from fastmte.data.batches import LabelledMels, batch_order, random_starts
from fastmte.data.store import MelStore
from fastmte.ensemble import FusedEnsemble
from fastmte.mel import MelConfig
from fastmte.train import TrainConfig
from fastmte.train.member import macro_roc_auc
from fastmte.train.records import METRICS

FRAMES = 8
MEMBER_OF_LABEL = [0, 1, 2, 0, 1, 2, 2, 0, 1, 1]


def songs(n: int, seed: int, lengths: tuple[int, ...] = (12, 20)) -> LabelledMels:
    """Songs whose loudness in a few bands tells, with some noise, which labels they have."""
    random = np.random.default_rng(seed)
    labels = random.random((n, len(MEMBER_OF_LABEL))) < 0.35
    flat, offsets, frames = [], [], []
    for song in range(n):
        mel = random.normal(-30, 10, (96, lengths[song % len(lengths)]))
        for label in np.flatnonzero(labels[song]):
            mel[9 * label : 9 * label + 9] += 6
        offsets.append(sum(map(len, flat)))
        flat.append(mel.astype(np.float16).ravel())
        frames.append(mel.shape[1])
    table = {"id": [str(i) for i in range(n)], "length": frames, "start": [0] * n}
    store = MelStore(
        torch.from_numpy(np.concatenate(flat)),
        torch.tensor(offsets),
        table | {"n_frames": frames},
        MelConfig.of("mtg2019"),
        digest=str(seed),
    )
    return LabelledMels(store, np.arange(n), labels)


CONFIG = TrainConfig(
    epochs=30,
    batch_size=8,
    learning_rate=(1e-2, 2e-3, 5e-3),
    plateau_patience=1,
    frames=FRAMES,
    crop="random",
    seed=7,
)


def whole(dtype: torch.dtype = torch.float64) -> FusedEnsemble:
    return FusedEnsemble.create("tiny", MEMBER_OF_LABEL, seed=8).to(dtype)


@cache  # the same for every way that members are trained
def alone(
    member: int,
    train: LabelledMels,
    validation: LabelledMels,
    clip: float | None = None,
    sizes: tuple[int, ...] = (),
) -> tuple[dict, list, float]:
    """Train one member by itself with torch's own optimiser, clipping and scheduler."""
    labels = [i for i, owner in enumerate(MEMBER_OF_LABEL) if owner == member]
    model = FusedEnsemble.create("tiny", [0] * len(labels), 8, [member]).double()
    adam = torch.optim.Adam(model.parameters(), CONFIG.rates(3)[member])
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, "min", patience=1)
    best, best_state, bad, step, history = -math.inf, {}, 0, 0, []
    truth = torch.from_numpy(validation.labels[:, labels])
    for epoch in range(1, CONFIG.epochs + 1):
        model.train()
        starts = random_starts(train.lengths, FRAMES, CONFIG.seed, epoch)
        size = sizes[epoch - 1] if sizes else CONFIG.batch_size
        for rows in batch_order(len(train), size, CONFIG.seed, epoch):
            mels, target = train.batch(rows, FRAMES, starts[rows])
            model.set_dropout_key(CONFIG.seed, step)
            adam.zero_grad()
            logits = model(mels.double())
            F.binary_cross_entropy_with_logits(logits, target[:, labels].double()).backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            adam.step()
            step += 1
        model.eval()
        with torch.no_grad():
            logits = model(validation.batch(torch.arange(len(validation)), FRAMES)[0].double())
        loss = F.binary_cross_entropy_with_logits(logits, truth.double()).item()
        score = macro_roc_auc(logits.numpy(), truth.numpy())
        history.append((loss, score))
        plateau.step(loss)
        bad += 1
        if score > best:
            best, bad = score, 0
            best_state = {k: v.clone() for k, v in model.state_dict().items()}
        if bad >= Tiny.early_stop_patience:
            break
    return best_state, history, adam.param_groups[0]["lr"]


def of_member(history: list[dict], member: int) -> list[dict]:
    """The records of the epochs in which a member was trained."""
    own = [epoch["members"][member] for epoch in history]
    assert {one["member"] for one in own} == {member}
    assert all((one["validation_loss"] is None) == (one["learning_rate"] is None) for one in own)
    return [one for one in own if one["learning_rate"] is not None]


def records(folder: Path) -> list[dict]:
    lines = (folder / METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def assert_same_bits(left: FusedEnsemble, right: FusedEnsemble) -> None:
    for name, value in left.state_dict().items():
        assert torch.equal(value, right.state_dict()[name]), name
