"""What the paper's own code does, step by step: the baselines of the benchmarks.

Written from the description of the paper (Mayerl et al., MediaEval 2021) and of its
published code; each function is what a user would run who has numpy, pandas and torch.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn


def load_crops(paths: Sequence[Path], frames: int) -> Tensor:
    """Return the centre crops of whole mels, read file by file: (B, 96, frames) float32."""
    crops = []
    for path in paths:
        mel = np.load(path)
        start = int((mel.shape[1] - frames) / 2)
        crops.append(mel[:, start : start + frames].astype(np.float32))
    return torch.from_numpy(np.stack(crops))


def centroids_of_table(table: pd.DataFrame, tags: Sequence[str]) -> np.ndarray:
    """Return the mean row of the songs of each tag; one boolean column a tag: (L, D)."""
    features = [name for name in table.columns if name not in set(tags)]
    return np.stack([table.loc[table[tag], features].mean().to_numpy() for tag in tags])


def centroids_by_scipy(features: np.ndarray, labels: "object") -> np.ndarray:
    """Return ``csr.T @ X`` over the counts, the strongest way without a kernel: (L, D)."""
    counts = np.asarray(labels.sum(0)).ravel()  # type: ignore[attr-defined]
    return np.asarray(labels.T @ features) / counts[:, None]  # type: ignore[attr-defined]


def one_after_another(
    members: Sequence[nn.Module], parts: Sequence[Tensor], mels: Tensor
) -> Tensor:
    """Return the scores of K models run in turn, joined and sorted into label order: (B, L)."""
    scores = torch.cat([torch.sigmoid(member(mels)) for member in members], dim=1)
    return scores[:, torch.argsort(torch.cat(list(parts)))]


def step_one_after_another(
    members: Sequence[nn.Module],
    optimisers: Sequence[torch.optim.Optimizer],
    parts: Sequence[Tensor],
    mels: Tensor,
    truth: Tensor,
) -> Tensor:
    """Make one training step of K models in turn; return each label's loss: (L,) float64."""
    losses = torch.empty(truth.shape[1], dtype=torch.float64)
    for member, optimiser, part in zip(members, optimisers, parts, strict=True):
        optimiser.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(
            member(mels), truth[:, part], reduction="none"
        )
        loss.mean().backward()
        optimiser.step()
        losses[part] = loss.detach().mean(0).double()
    return losses
