"""Recurrent layers of which every one holds all members of an ensemble."""

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """One layer of gated recurrent units a member, all members in one batched product a step.

    The equations, the order of the gates (reset, update, new) and the names of the
    parameters are ``torch.nn.GRU``'s, which are those of Keras with ``reset_after=True``;
    the weights start as Keras': Glorot uniform, orthogonal for the state, no bias.

    Args:
        members: number of members.
        inputs: features each member reads.
        outputs: features each member writes.

    Shape:
        - Input: (K, T, B, ``inputs``).
        - Output: (K, T, B, ``outputs``), the state after each of the T steps.

    Reference: Cho et al. 2014; ``torch.nn.GRU``.
    """

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.members, self.outputs = members, outputs
        rows = members * 3 * outputs
        self.weight_ih_l0 = nn.Parameter(torch.empty(rows, inputs))
        self.weight_hh_l0 = nn.Parameter(torch.empty(rows, outputs))
        self.bias_ih_l0 = nn.Parameter(torch.zeros(rows))
        self.bias_hh_l0 = nn.Parameter(torch.zeros(rows))
        for weight in self.weight_ih_l0.chunk(members):
            nn.init.xavier_uniform_(weight)
        for weight in self.weight_hh_l0.chunk(members):
            nn.init.orthogonal_(weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the states of every member, which begin at 0."""
        n_steps, n_songs = x.shape[1:3]
        given = self._gates(x.flatten(1, 2), self.weight_ih_l0, self.bias_ih_l0)
        state = x.new_zeros(self.members, n_songs, self.outputs)
        states = []
        for step in given.unflatten(1, (n_steps, n_songs)).unbind(1):
            own = self._gates(state, self.weight_hh_l0, self.bias_hh_l0)
            reset, update = (step + own)[..., : 2 * self.outputs].sigmoid().chunk(2, -1)
            new = step[..., 2 * self.outputs :] + reset * own[..., 2 * self.outputs :]
            new = new.tanh()
            state = (state - new) * update + new
            states.append(state)
        return torch.stack(states, 1)

    @torch.no_grad()
    def of(self, member: int) -> nn.GRU:
        """Return one member's layer as torch's own, ``batch_first``, with copies of its weights."""
        single = nn.GRU(self.weight_ih_l0.shape[1], self.outputs, batch_first=True)
        for name, value in self.named_parameters():
            getattr(single, name).copy_(value.chunk(self.members)[member])
        return single

    def _gates(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return (K, N, 3 * outputs) of (K, N, features), each member by its own weights."""
        weight = weight.unflatten(0, (self.members, -1)).mT
        return torch.baddbmm(bias.view(self.members, 1, -1), x, weight)
