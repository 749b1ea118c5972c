"""Gradients kept short, each member's by its own norm."""

from collections.abc import Mapping

import torch
from torch import Tensor


@torch.no_grad()
def clip_members_(
    gradients: Mapping[str, Tensor], rows: Mapping[str, Tensor], most: float, n_members: int
) -> Tensor:
    """Scale each member's gradients down to a norm of at most ``most``; return the norms before.

    A member's norm is that of all its rows of all gradients as one vector, so that it is
    scaled as ``torch.nn.utils.clip_grad_norm_`` would scale it alone. A norm that is not
    finite spoils its own member only.

    Args:
        gradients: name -> gradient (R, ...), overwritten.
        rows: name -> (R,) int64, the member each row belongs to, on the gradient's device.
        most: largest norm.
        n_members: number of members, K.

    Returns:
        (K,) norms, 0 for a member without gradients.
    """
    if not gradients:
        return torch.zeros(n_members)
    squares = []
    for name, gradient in gradients.items():
        own = rows[name] == torch.arange(n_members, device=gradient.device)[:, None]  # (K, R)
        each = gradient.square()[..., None].flatten(1).sum(1)
        squares.append(torch.where(own, each, 0).sum(1))  # no atomics, and no 0 * NaN
    norms = torch.stack(squares).sum(0).sqrt()
    factors = (most / (norms + 1e-6)).clamp(max=1.0)  # 1e-6 as torch
    for name, gradient in gradients.items():
        gradient.mul_(factors[rows[name]].view(-1, *[1] * (gradient.dim() - 1)))
    return norms
