"""Members that are trained as one network, with their optimiser."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from fastmte.ensemble import FusedEnsemble
from fastmte.exchange import Exchange
from fastmte.plan.choice import Choice
from fastmte.plan.inference import InferencePlan, default_choice
from fastmte.plan.shared_input import SharedInput
from fastmte.plan.training import TrainChoice, TrainPlan
from fastmte.train.adam import MemberAdam
from fastmte.train.clip import clip_members_
from fastmte.train.member import MemberState


class Group:
    """Live members, fused.

    Args:
        ensemble: the members' network, on the device to train on; used up.
        members: their states, in the order of the ensemble's members.
        clip: largest norm of a member's gradient; None for any.
        choice: how they are run in training, as ``TrainPlan``.
        dtype: of the activations, likewise.
        exchange: the processes that share the batches; None for this one alone.
    """

    def __init__(
        self,
        ensemble: FusedEnsemble,
        members: list[MemberState],
        clip: float | None = None,
        choice: TrainChoice = "auto",
        dtype: torch.dtype | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        ensemble.set_exchange(exchange)
        self.exchange = exchange
        self.plan = TrainPlan(ensemble, dtype, choice)
        device = ensemble.head.weight.device
        if device.type == "cpu" and (self.plan.is_fused or ensemble.backbone.channels_last):
            ensemble.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ensemble, self.members, self.clip = ensemble, members, clip
        self.rows = ensemble.member_rows()
        self.labels = ensemble.label_index.cpu().numpy()
        rates = [member.rate for member in members]
        self.optimiser = MemberAdam(ensemble.named_parameters(), self.rows, rates)
        # Members' means are added, never averaged over all labels: each then has the
        # gradient it would have alone.
        sizes = ensemble.member_of_label.bincount()
        self._weights = 1.0 / sizes[ensemble.member_of_label].to(ensemble.head.weight.dtype)

    def step(
        self, mels: Tensor, truth: Tensor, seed: int, step: int, shared: SharedInput | None = None
    ) -> Tensor:
        """Make one step of every member; return each label's mean loss over the batch, (L',).

        Where processes share the batch, it is the part of that mean which this one's songs make.

        Args:
            mels: (B, 96, F) of this process, on the ensemble's device and of its dtype.
            truth: (B, L) of all labels, likewise.
            seed: of the dropout.
            step: number of the step.
            shared: what any group's ``plan.shared(mels)`` gave.
        """
        exchange = self.exchange
        self.ensemble.set_dropout_key(seed, step, 0 if exchange is None else exchange.first)
        losses = self._losses(self.plan(mels, shared), truth)
        if exchange is not None:
            losses = losses * exchange.portion
        (losses * self._weights).sum().backward()
        named = self.ensemble.named_parameters()
        gradients = {name: p.grad for name, p in named if p.grad is not None}
        if exchange is not None:
            exchange.add_gradients(list(gradients.values()))
            losses = losses if exchange.has_songs else torch.zeros_like(losses)
        if self.clip is not None:
            clip_members_(gradients, self.rows, self.clip, len(self.members))
        self.optimiser.step()
        # Of members that take turns, only the one whose turn it is holds gradients.
        self.optimiser.zero_grad(set_to_none=True)
        return losses.detach().double().cpu()

    def scorer(self, batch_size: int) -> InferencePlan:
        """Return what scores batches of songs with the present weights, in the maps' precision.

        It is never tuned: what a training becomes must not depend on what was fastest.
        """
        choice = default_choice(self.ensemble, batch_size)
        if not self.plan.is_fused:
            choice = Choice("module")
        return InferencePlan(self.ensemble, choice, self.plan.dtype)

    def validate(self, scorer: InferencePlan, mels: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Return each label's mean loss (L',) and the logits (B, L') of a batch."""
        logits = scorer(mels)
        return self._losses(logits, truth).double().cpu(), logits.double().cpu()

    def _losses(self, logits: Tensor, truth: Tensor) -> Tensor:
        truth = truth[:, self.ensemble.label_index]
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(0)

    def alone(self, member: MemberState) -> FusedEnsemble:
        """Return a copy of one of the members."""
        return self.ensemble.select([self.members.index(member)])

    def retire(self, step: int) -> "Group | None":
        """Return the group of the members that go on, with their rates; None if none does.

        Args:
            step: steps the optimiser has made.
        """
        stay = [member for member in self.members if member.is_live]
        if not stay:
            return None
        if len(stay) == len(self.members):
            self.optimiser.set_rates([member.rate for member in stay])
            return self
        moments = self.optimiser.moments()
        chosen = [self.members.index(member) for member in stay]
        how = self.clip, self.plan.choice, self.plan.dtype, self.exchange
        group = Group(self.ensemble.select(chosen), stay, *how)
        kept = torch.tensor(chosen, device=self._device)
        # Rows keep their order in ``select``: of the members, and in the head of the labels.
        group.optimiser.load_moments(
            {k: v[torch.isin(self.rows[_parameter(k)], kept)] for k, v in moments.items()}, step
        )
        return group

    def tensors(self) -> dict[str, Tensor]:
        """Return weights and moments of each member under its number: the grouping is not kept."""
        moments = self.optimiser.moments()
        tensors = {}
        for position, member in enumerate(self.members):
            # A slice is the whole without a copy: a state is gigabytes.
            is_alone = len(self.members) == 1
            own = {n: slice(None) if is_alone else r == position for n, r in self.rows.items()}
            prefix = f"live.{member.member}."
            for name, value in self.ensemble.state_dict().items():
                tensors[prefix + name] = value[own[name]]
            prefix = f"adam.{member.member}."
            for key, value in moments.items():
                tensors[prefix + key] = value[own[_parameter(key)]]
        return tensors

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Take over what ``tensors`` returned, after ``step`` steps, of any grouping."""
        state = self.ensemble.state_dict()
        moments: dict[str, Tensor] = {}
        for position, member in enumerate(self.members):
            for name, value in under(f"live.{member.member}.", tensors).items():
                state[name][self.rows[name] == position] = value
            for key, value in under(f"adam.{member.member}.", tensors).items():
                name = _parameter(key)
                whole = moments.setdefault(key, torch.zeros_like(state[name]))
                whole[self.rows[name] == position] = value
        self.optimiser.load_moments(moments, step)

    @property
    def _device(self) -> torch.device:
        return self.ensemble.head.weight.device


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _parameter(key: str) -> str:
    """Return the parameter that a moment, ``NAME.exp_avg``, is of."""
    return key.rpartition(".")[0]
