"""Embeddings of songs: what a model's backbone makes of the middle of each."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from fastmte.checkpoint import Checkpoint
from fastmte.data.describe import DEADLINE, load_middle, loaded
from fastmte.mel import MelConfig


def embedding_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return what an embedding's numbers are called: member by member."""
    backbone = checkpoint.ensemble.backbone
    members, features = range(backbone.members), range(backbone.n_features)
    return tuple(f"member_{k}.feature_{d}" for k in members for d in features)


def embed_songs(
    paths: Sequence[Path], checkpoint: Checkpoint, n_workers: int | None = None
) -> Iterator[np.ndarray | str]:
    """Yield each song's embedding, (K D,) float64, or why it has none, in order.

    It is what the members' last layers see: D features of each of K members.

    Args:
        paths: audio files, or MTG's mels as .npy (96, T).
        checkpoint: a trained model, on the device where it is to run.
        n_workers: processes that decode; one a core by default, 0 for none.

    Raises:
        RuntimeError: a process cannot even start.
    """
    config = MelConfig.from_dict(dict(checkpoint.mel))
    load = partial(load_middle, config=config, frames=checkpoint.frames)
    shape = (config.bands, checkpoint.frames)
    backbone = checkpoint.ensemble.eval().backbone
    device = checkpoint.ensemble.head.weight.device
    for song in loaded(paths, load, n_workers, DEADLINE, shape):
        if isinstance(song, str):
            yield song
            continue
        # One song at a time: its numbers do not depend on its neighbours.
        mel = torch.from_numpy(song.mel)[None].to(device)
        with torch.inference_mode():
            features = backbone(mel)
        yield features.double().cpu().flatten().numpy()
