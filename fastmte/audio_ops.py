"""The operators on samples: songs at another rate, and their mels.

A part of :mod:`fastmte.ops`, which names them too. Shapes: B songs, S samples, M mel bands,
F frames.
"""

import torch
from torch import Tensor

from fastmte import reference
from fastmte._library import define


def _fake_resample(
    samples: Tensor,
    filter: Tensor | None,
    sample_rate: int,
    target: int,
    first: int,
    start: int,
    stop: int,
) -> Tensor:
    return samples.new_empty(stop - start)


def _fake_mel_db(
    samples: Tensor,
    window: Tensor,
    weights: Tensor,
    first_bins: Tensor,
    splits: Tensor,
    hop: int,
    offset: int,
    frames: int,
    db_per_decade: float,
    floor_db: float,
) -> Tensor:
    return samples.new_empty((samples.size(0), first_bins.size(0), frames))


define(
    "resample(Tensor samples, Tensor? filter, int sample_rate, int target, int first, int start, "
    "int stop) -> Tensor",
    reference.resample,
    _fake_resample,
)
define(
    "mel_db(Tensor samples, Tensor window, Tensor weights, Tensor first_bins, Tensor splits, "
    "int hop, int offset, int frames, float db_per_decade, float floor_db) -> Tensor",
    reference.mel_db,
    _fake_mel_db,
)


def resample(
    samples: Tensor,
    filter: Tensor | None,
    sample_rate: int,
    target: int,
    first: int,
    start: int,
    stop: int,
) -> Tensor:
    """Return outputs [start, stop) of a song at another rate, the same bits in every window.

    Output k lies at input k / r, with r the float32 of target / sample_rate, as in Essentia.
    Filters are exact every 20480 outputs or so and linear in between, an error below 1e-6.

    Args:
        samples: (S,) float32, inputs [first, first + S) of the song; all others count as 0.
        filter: (H,) float32, half of a symmetric low-pass filter, 491 values from one sample
            of the lower rate to the next; ``fastmte.audio.resample`` has libsamplerate's. None
            for linear interpolation, one input late as libsamplerate's.
        sample_rate: Hz of the input.
        target: Hz of the output, within a factor of 1024.
        first: where in the song ``samples`` begin.
        start: first output.
        stop: one behind the last output.

    Returns:
        (stop - start,) float32. An output whose filter covers a NaN or infinite sample is NaN.

    Raises:
        RuntimeError: a shape, dtype, device or number is wrong.

    Reference:
        libsamplerate, ``src_sinc.c`` and ``src_linear.c``; Essentia, ``Resample``.
    """
    return torch.ops.fastmte.resample(samples, filter, sample_rate, target, first, start, stop)


def mel_db(
    samples: Tensor,
    window: Tensor,
    weights: Tensor,
    first_bins: Tensor,
    splits: Tensor,
    hop: int,
    offset: int,
    frames: int,
    db_per_decade: float,
    floor_db: float,
) -> Tensor:
    """Return sums over bands of the power spectra of overlapping frames, in dB.

    Nothing of a frame depends on the frames around it: windows of a song have the bits of the
    whole. ``fastmte.mel.tables`` gives the four tables of a ``MelConfig``.

    Args:
        samples: (B, S) float32, a window of each song; all outside counts as 0.
        window: (N,) float32, N even and at least 4; fastest where it is a power of two.
        weights: (Z,) float32, of all bands, one after another.
        first_bins: (M,) int64, the first bin of the spectrum that each band adds up.
        splits: (M + 1,) int64, where in ``weights`` each band begins, and Z.
        hop: samples from one frame to the next.
        offset: where in ``samples`` the first frame begins; may be negative.
        frames: F.
        db_per_decade: 10 for the dB of a power.
        floor_db: of all that is quieter, as silence is.

    Returns:
        (B, M, F) float32. A frame that sees a NaN or infinite sample is NaN in all bands.

    Raises:
        RuntimeError: a shape, dtype or device is wrong; a band reaches beyond the N / 2 + 1 bins.

    Reference:
        Essentia: ``Windowing``, ``Spectrum``, ``MelBands(type="power")``, ``lin2db``.
    """
    return torch.ops.fastmte.mel_db(
        samples, window, weights, first_bins, splits, hop, offset, frames, db_per_decade, floor_db
    )
