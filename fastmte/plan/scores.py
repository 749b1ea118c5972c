"""Scores of batches of songs by the plan that is fastest, in smaller batches if memory is short."""

import warnings

import numpy as np
import torch
from torch import Tensor

from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.plan import memory
from fastmte.plan.autotune import asked, make_plan
from fastmte.plan.precision import Precision


class Scores:
    """Turns batches of mels, all of one size, into scores.

    Once memory does not hold a batch, this and all later ones are run in halves, and
    halves of those; this is said once.

    Args:
        ensemble: on the device where it runs; its weights are a snapshot.
        batch_size: songs a batch.
        frames: length of the crops.
        plan: as for ``make_plan``.
        precision: likewise.

    Raises:
        InputError: no such plan.

    Warns:
        UserWarning: batches are halved, or bf16 was asked for and is not to be had.
    """

    def __init__(
        self,
        ensemble: FusedEnsemble,
        batch_size: int,
        frames: int,
        plan: str | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self._ensemble, self._size = ensemble, batch_size
        _, precision = asked(ensemble, plan, precision)  # warns once, not with every plan
        self._make = frames, plan, precision
        self._has_halved = False
        self._plan = make_plan(ensemble, batch_size, *self._make)

    def __call__(self, mels: Tensor) -> np.ndarray:
        """Return scores (B, L) float64 of mels (B, 96, F) in dB, on any device.

        A song's score has the same bits at every place of a batch.

        Raises:
            InputError: memory does not hold one song.
        """
        while True:
            try:
                return self._scores(mels)
            except (RuntimeError, MemoryError) as error:
                if not memory.is_out_of_memory(error):
                    raise
            # Only here, outside the handler, are the failed batch's maps free.
            self._halve()

    def _scores(self, mels: Tensor) -> np.ndarray:
        device = self._ensemble.head.weight.device
        parts = []
        # One algorithm always, and float32 means float32: no TF32.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            for songs in mels.split(self._size):
                n_songs = len(songs)
                if n_songs < self._size:
                    blank = songs.new_zeros(self._size - n_songs, *songs.shape[1:])
                    songs = torch.cat([songs, blank])
                logits = self._plan(songs.to(device))[:n_songs]
                parts.append(self._ensemble.scores(logits.double()).cpu().numpy())
        return np.concatenate(parts)

    def _halve(self) -> None:
        device = self._ensemble.head.weight.device
        if self._size == 1:
            raise InputError(
                f"not enough memory on {device} for one song; run on another device, "
                "or end what else uses its memory"
            )
        self._size = -(-self._size // 2)
        if not self._has_halved:
            self._has_halved = True
            warnings.warn(
                f"not enough memory on {device} for the batch: it is run {self._size} songs at a "
                "time from here on, and fewer if need be",
                stacklevel=3,
            )
        del self._plan
        memory.free(device)
        self._plan = make_plan(self._ensemble, self._size, *self._make)
