"""Adam with a learning rate for each member of a fused ensemble."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastmte import training_ops


class MemberAdam(torch.optim.Optimizer):
    """Adam in which every row of a parameter moves at the rate of its own member.

    Adam works element by element, so fused rows move exactly as the member's own
    parameters would under ``torch.optim.Adam`` without weight decay.

    Args:
        parameters: name -> parameter, ``(R, ...)``.
        rows: name -> ``(R,)`` int64, the member each row belongs to; a parameter it
            does not name, or one without rows, belongs to member 0.
        rates: one learning rate a member.
        betas: decay of the mean and of the mean square of the gradient.
        eps: added to the denominator.

    Raises:
        ValueError: a learning rate is not positive.

    Reference: Kingma and Ba, "Adam", 2015, algorithm 1; ``torch.optim.Adam``.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, Tensor]],
        rows: Mapping[str, Tensor],
        rates: Sequence[float],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.named = dict(parameters)
        self.rows = {name: rows[name].cpu() for name in self.named if name in rows}
        self.rates: list[float] = []
        super().__init__(list(self.named.values()), {"betas": betas, "eps": eps})
        self.set_rates(rates)

    def set_rates(self, rates: Sequence[float]) -> None:
        """Take ``rates[member]`` as the learning rates from the next step on.

        Raises:
            ValueError: a learning rate is not positive.
        """
        if not all(rate > 0 for rate in rates):
            raise ValueError(f"rates must be positive, got {list(rates)}")
        self.rates = [float(rate) for rate in rates]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Move every parameter that has a gradient; return the closure's value."""
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        for name, parameter in self.named.items():
            if parameter.grad is not None:
                self._move(name, parameter, parameter.grad)
        return value

    def _move(self, name: str, parameter: Tensor, gradient: Tensor) -> None:
        group, state = self.param_groups[0], self.state[parameter]
        beta1, beta2 = group["betas"]
        if not state:
            state["step"] = 0
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        moments = state["exp_avg"], state["exp_avg_sq"]
        if parameter.dim() == 0:
            name, parameter, gradient = "", parameter.view(1), gradient.view(1)
            moments = moments[0].view(1), moments[1].view(1)
        sizes = [-rate / (1 - beta1 ** state["step"]) for rate in self.rates]
        correction = (1 - beta2 ** state["step"]) ** 0.5
        rows = self._per_row(name, sizes, parameter)
        eps = group["eps"]
        training_ops.member_adam_(
            parameter, gradient, *moments, rows, beta1, beta2, correction, eps
        )

    def _per_row(self, name: str, values: list[float], like: Tensor) -> Tensor:
        """Return ``values`` of the member of each row of ``like``, (R,) float64."""
        each = torch.tensor(values, dtype=torch.float64)
        rows = self.rows.get(name)
        is_one = rows is None or len(each) == 1
        return (each[:1].expand(len(like)) if is_one else each[rows]).to(like.device)

    def moments(self) -> dict[str, Tensor]:
        """Return ``NAME.exp_avg`` and ``NAME.exp_avg_sq`` of the parameters that have moved."""
        return {
            f"{name}.{key}": self.state[parameter][key]
            for name, parameter in self.named.items()
            if self.state[parameter]
            for key in ("exp_avg", "exp_avg_sq")
        }

    def load_moments(self, moments: Mapping[str, Tensor], step: int) -> None:
        """Take over what ``moments()`` returned after ``step`` steps."""
        for name, parameter in self.named.items():
            if f"{name}.exp_avg" in moments:
                self.state[parameter] = {"step": step} | {
                    key: torch.empty_like(parameter).copy_(moments[f"{name}.{key}"])
                    for key in ("exp_avg", "exp_avg_sq")
                }
