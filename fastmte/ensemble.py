"""The fused ensemble: all members in one forward pass, scores in label order."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastmte.exchange import Exchange
from fastmte.merge import Merge
from fastmte.models import create_backbone
from fastmte.models.layers import BatchNorm2d, Dropout, stream

_INIT = 0x1217  # purpose of a random stream: a member's first weights


class FusedEnsemble(nn.Module):
    """K members, each scoring its own part of the labels, as one network.

    Every row of dimension 0 of every parameter and buffer in the state belongs to one
    member (``member_rows``). The weights start from torch's global generator;
    ``create`` makes them from a seed.

    Where members share labels, "labels" are outputs, one for each label of each member, and
    ``merge`` makes of a label's outputs its score.

    Args:
        backbone: name of the members' backbone.
        member_of_label: (L,) the member that scores each label, each of 0..K-1 at least once.
        member_ids: (K,) which random streams the members use; 0..K-1 by default.

    Attributes:
        merge: how outputs become scores; None where each is one. Ensembles of some or of other
            members (``select``, ``fuse``) have None.

    Shape:
        - Input: (B, 96, F) float32 mels in dB.
        - Output: (B, L) logits in the order of the labels.

    Raises:
        ValueError: no such backbone, or ``member_of_label`` is no partition.
    """

    member_of_label: Tensor  # (L,) int64
    label_index: Tensor  # (L,) int64, which labels of the whole ensemble these are

    def __init__(
        self,
        backbone: str,
        member_of_label: Sequence[int] | Tensor,
        member_ids: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        members = _checked_members(member_of_label)
        n_members = max(members) + 1
        self.member_ids = tuple(range(n_members) if member_ids is None else member_ids)
        if len(set(self.member_ids)) != n_members or len(self.member_ids) != n_members:
            raise ValueError(f"member_ids must be {n_members} different ids, got {member_ids}")
        # On the CPU even while the parameters are built without storage (``from_state``).
        label_index = torch.arange(len(members), device="cpu")
        self.register_buffer("member_of_label", _int64(members), persistent=False)
        self.register_buffer("label_index", label_index, persistent=False)
        self.backbone = create_backbone(backbone, n_members)
        self.dropout = Dropout(self.member_ids, self.backbone.dropout)
        for layer in self._dropouts():
            layer.member_ids = self.member_ids
        self.head = Head(members, self.backbone.n_features)
        self.merge: Merge | None = None

    @classmethod
    def create(
        cls,
        backbone: str,
        member_of_label: Sequence[int] | Tensor,
        seed: int = 0,
        member_ids: Sequence[int] | None = None,
    ) -> "FusedEnsemble":
        """Build an ensemble whose member with id i starts from weights f(seed, i).

        A member built alone, ``create(backbone, [0] * n, seed, member_ids=[i])``, starts
        from the same weights.

        Raises:
            ValueError: as the constructor.
        """
        labels = _checked_members(member_of_label)
        ids = range(max(labels) + 1) if member_ids is None else member_ids
        singles = []
        for k, member in enumerate(ids):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(stream(seed, _INIT, member))
                singles.append(cls(backbone, [0] * labels.count(k), [member]))
        return fuse(singles, labels)

    @classmethod
    def from_state(
        cls,
        backbone: str,
        member_of_label: Sequence[int] | Tensor,
        state: dict[str, Tensor],
        member_ids: Sequence[int] | None = None,
    ) -> "FusedEnsemble":
        """Build an ensemble around the tensors of ``state``, which it takes over.

        Raises:
            ValueError: as the constructor.
            RuntimeError: names or shapes are not those of this ensemble.
        """
        with torch.device("meta"):  # no storage and no random numbers for what is replaced
            ensemble = cls(backbone, member_of_label, member_ids)
        ensemble.load_state_dict(state, assign=True)
        return ensemble.to(ensemble.head.weight.device)

    @property
    def backbone_name(self) -> str:
        """The name the members' backbone is registered under."""
        return self.backbone.name

    @property
    def n_members(self) -> int:
        """Number of members, K."""
        return self.backbone.members

    @property
    def n_labels(self) -> int:
        """Number of labels, L."""
        return len(self.member_of_label)

    @property
    def n_scores(self) -> int:
        """Number of scores: labels, however many members have them."""
        return self.n_labels if self.merge is None else self.merge.n_labels

    def set_merge(self, merge: Merge | None) -> None:
        """Choose how outputs become scores.

        Raises:
            ValueError: it is for another number of outputs.
        """
        if merge is not None and len(merge.label_of_output) != self.n_labels:
            raise ValueError(
                f"merge must be of {self.n_labels} outputs, got {len(merge.label_of_output)}"
            )
        self.merge = merge

    def scores(self, logits: Tensor) -> Tensor:
        """Return scores in [0, 1] of what ``forward`` returns, (B, n_scores)."""
        return logits.sigmoid() if self.merge is None else self.merge(logits)

    def forward(self, mels: Tensor) -> Tensor:
        """Return logits (B, L) of mels (B, 96, F) in dB.

        Raises:
            ValueError: mels of a shape the backbone cannot take.
            RuntimeError: in training with dropout, before ``set_dropout_key``.
        """
        return self.head(self.dropout(self.backbone(mels)))

    def set_dropout_key(self, seed: int, step: int, first: int = 0) -> None:
        """Choose the dropout masks of training step ``step``: f(seed, member id, step).

        Args:
            seed: of the training.
            step: number of the step.
            first: place in the step's batch of the first of the mels that are given, where
                several processes share a batch.
        """
        for layer in self._dropouts():
            layer.set_key(seed, step, first)

    def set_exchange(self, exchange: Exchange | None) -> None:
        """Normalise batches in training by the statistics of all processes' songs.

        Args:
            exchange: the processes that share the batches; None: each its own songs.
        """
        for module in self.modules():
            if isinstance(module, BatchNorm2d):
                module.exchange = exchange

    def _dropouts(self) -> Iterator[Dropout]:
        return (module for module in self.modules() if isinstance(module, Dropout))

    def member_rows(self) -> dict[str, Tensor]:
        """Return, for every name in the state, the member each row of dimension 0 belongs to.

        Returns:
            name -> (rows,) int64 on the ensemble's device.
        """
        device = self.member_of_label.device
        rows = {}
        for name, value in self.state_dict().items():
            if name.startswith("head."):
                rows[name] = self.member_of_label.clone()
            else:
                each = len(value) // self.n_members
                rows[name] = torch.arange(self.n_members, device=device).repeat_interleave(each)
        return rows

    def select(self, members: Sequence[int]) -> "FusedEnsemble":
        """Return an ensemble of some members only, with copies of their weights.

        Labels of the others are gone; ``label_index`` tells which labels of the first
        ensemble remain. Members keep their ids, and so their dropout masks.

        Args:
            members: positions in this ensemble, in the order wanted.

        Raises:
            ValueError: no member, one twice, or one this ensemble has not.
        """
        wanted = [int(member) for member in members]
        if not wanted or len(set(wanted)) != len(wanted) or not set(wanted) <= set(self._positions):
            raise ValueError(
                f"members must be different numbers in [0, {self.n_members - 1}], got {wanted}"
            )
        position = {member: i for i, member in enumerate(wanted)}
        keep = [i for i, m in enumerate(self.member_of_label.tolist()) if m in position]
        labels = [position[m] for m in self.member_of_label[keep].tolist()]
        state = {}
        for name, value in self.state_dict().items():
            if name.startswith("head."):
                state[name] = value[keep]
            else:
                state[name] = value.unflatten(0, (self.n_members, -1))[wanted].flatten(0, 1)
        ids = [self.member_ids[member] for member in wanted]
        part = FusedEnsemble.from_state(self.backbone_name, labels, state, ids)
        part.label_index.copy_(self.label_index[keep])
        return part.train(self.training)

    @property
    def _positions(self) -> range:
        return range(self.n_members)


class Head(nn.Module):
    """One linear layer a member, of as many outputs as the member has labels.

    Rows of ``weight`` (L, D) and ``bias`` (L,) are in label order. Each member's
    product is on its own features alone: what a member cannot know never enters
    its scores, not even as 0 * NaN.

    Args:
        member_of_label: the member that scores each label.
        n_features: features of a member, D.

    Shape:
        - Input: (B, K, D).
        - Output: (B, L), in label order.
    """

    by_member: Tensor  # (L,) int64, the labels sorted by member
    to_label: Tensor  # (L,) int64, its inverse

    def __init__(self, member_of_label: list[int], n_features: int) -> None:
        super().__init__()
        n_labels = len(member_of_label)
        bound = n_features**-0.5  # as torch.nn.Linear
        self.weight = nn.Parameter(torch.empty(n_labels, n_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(n_labels).uniform_(-bound, bound))
        members = _int64(member_of_label)
        by_member = members.argsort(stable=True)
        self.sizes = members.bincount().tolist()
        self.register_buffer("by_member", by_member, persistent=False)
        self.register_buffer("to_label", by_member.argsort(), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, L) of features (B, K, D)."""
        weights = self.weight[self.by_member].split(self.sizes)
        biases = self.bias[self.by_member].split(self.sizes)
        logits = [
            F.linear(feature, weight, bias)
            for feature, weight, bias in zip(features.unbind(1), weights, biases, strict=True)
        ]
        return torch.cat(logits, 1)[:, self.to_label]


def fuse(
    members: Sequence[FusedEnsemble], member_of_label: Sequence[int] | Tensor
) -> FusedEnsemble:
    """Return one ensemble of several single members, with copies of their weights.

    Ids of the members are kept if they all differ, else they are numbered by position.

    Args:
        members: ensembles of one member each, of one backbone. Member k scores, in
            label order, the labels whose ``member_of_label`` is k.
        member_of_label: (L,) the member that scores each label.

    Raises:
        ValueError: not one member each, different backbones, or another number of labels.
    """
    labels = _checked_members(member_of_label)
    if len(members) != max(labels) + 1:
        raise ValueError(f"members must be {max(labels) + 1} ensembles, got {len(members)}")
    for k, member in enumerate(members):
        if member.n_members != 1 or member.n_labels != labels.count(k):
            raise ValueError(
                f"member {k} must be one member of {labels.count(k)} labels, "
                f"got {member.n_members} of {member.n_labels}"
            )
    names = {member.backbone_name for member in members}
    if len(names) > 1:
        raise ValueError(f"members must have one backbone, got {', '.join(sorted(names))}")
    states = [member.state_dict() for member in members]
    order = _int64(labels).argsort(stable=True).argsort()
    state = {name: torch.cat([one[name] for one in states]) for name in states[0]}
    for name in ("head.weight", "head.bias"):
        state[name] = state[name][order.to(state[name].device)]
    ids = [member.member_ids[0] for member in members]
    distinct = ids if len(set(ids)) == len(ids) else None
    fused = FusedEnsemble.from_state(names.pop(), labels, state, distinct)
    return fused.train(members[0].training)


def unfuse(ensemble: FusedEnsemble) -> list[FusedEnsemble]:
    """Return the members of an ensemble as ensembles of one, with copies of their weights.

    ``fuse(unfuse(ensemble), ensemble.member_of_label)`` has the same bits.
    """
    return [ensemble.select([k]) for k in range(ensemble.n_members)]


def _checked_members(member_of_label: Sequence[int] | Tensor) -> list[int]:
    """Return ``member_of_label`` as a list that names each of 0..K-1 at least once."""
    members = [int(member) for member in member_of_label]
    distinct = set(members)
    if not members or min(members) < 0 or len(distinct) != max(members) + 1:
        raise ValueError(
            "member_of_label must name every member from 0 on at least once, "
            f"got {sorted(distinct)}"
        )
    return members


def _int64(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu")
