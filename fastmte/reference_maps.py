"""What the operators on feature maps mean; see :mod:`fastmte.reference`.

Maps lie channels last, (B, H, W, C). Those of K members lie one member after
another, (K, B, H, W, C).
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from fastmte import _checks


def pool_act(x: Tensor, pool: Sequence[int], activation: str) -> Tensor:
    """See :func:`fastmte.ops.pool_act`."""
    _checks.pool_act(x, pool, activation)
    pooled = F.max_pool2d(x.permute(0, 3, 1, 2), list(pool)).permute(0, 2, 3, 1)
    return _activated(pooled, activation).contiguous()


def _activated(x: Tensor, activation: str) -> Tensor:
    if activation == "elu":
        return F.elu(x)
    return F.relu(x) if activation == "relu" else x
