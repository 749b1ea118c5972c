"""What a training refuses before it begins."""

from fastmte.data.batches import LabelledMels
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.train.config import TrainConfig
from fastmte.train.member import MemberState


def check_stopping(members: list[MemberState], validation: LabelledMels) -> None:
    """Refuse a member whose stopping has no label to look at.

    Raises:
        InputError: names the member.
    """
    for member in members:
        own = validation.labels[:, member.labels]
        if not (own.any(axis=0) & ~own.all(axis=0)).any():
            raise InputError(
                f"member {member.member}: no label that some validation song has and some "
                "has not, so its stopping has nothing to look at; add validation songs, or "
                "train to the last epoch with --patience 0"
            )


def check_data(
    ensemble: FusedEnsemble, train: LabelledMels, validation: LabelledMels, config: TrainConfig
) -> None:
    """Refuse data that the ensemble cannot be trained on, before anything is written.

    Raises:
        InputError: says what does not fit.
    """
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
