"""Which frames of a song a model sees."""

import numpy as np
from numpy.typing import NDArray

FRAMES = 1366  # 29.1 s at 12 kHz, what MTG's weights and the paper were trained on
BANDS = 96


def repeats(n_frames: int, frames: int) -> int:
    """Return how often a song is played so that it lasts ``frames`` frames; 1 for long songs.

    Raises:
        ValueError: a count is not positive.
    """
    if n_frames < 1:
        raise ValueError(f"n_frames must be at least 1, got {n_frames}")
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    return -(-frames // n_frames)


def centre_start(n_frames: int, frames: int) -> int:
    """Return the first frame of the centre crop.

    A song shorter than the crop is repeated whole times until it is long enough,
    and the centre of that is taken; frame i of it is frame i modulo ``n_frames``.
    The result is then always below ``n_frames``.

    Raises:
        ValueError: a count is not positive.

    Reference:
        ``get_windows`` and ``_repeat_sample`` of dbis-uibk/MediaEval2021 (utils.py):
        ``int((T - F) / 2)``, and ``np.tile(song, ceil(F / T))`` for short songs. They
        take the start before they repeat, which leaves an empty window (no song of
        MTG-Jamendo is that short); here it is taken after.
    """
    return (n_frames * repeats(n_frames, frames) - frames) // 2


def crop_mel(
    mel: NDArray[np.floating], frames: int = FRAMES, start: int | None = None
) -> NDArray[np.float32]:
    """Return ``frames`` frames of one song, repeated if the song is shorter.

    Args:
        mel: (M, T), dB, of any float type.
        frames: F, the frames wanted.
        start: the first frame, in [0, T - F] (for a song shorter than the crop in
            [0, T)); None takes the centre.

    Returns:
        (M, F) float32, contiguous, a copy.

    Raises:
        ValueError: ``mel`` is not two-dimensional or has no frames, or ``start`` lies
            outside the song.
    """
    if mel.ndim != 2:
        raise ValueError(f"mel must have 2 dimensions (bands, frames), got {mel.ndim}")
    n_frames = mel.shape[1]
    if start is None:
        start = centre_start(n_frames, frames)
    repeats(n_frames, frames)
    last = n_frames - frames if n_frames >= frames else n_frames - 1
    if not 0 <= start <= last:
        raise ValueError(f"start must be in [0, {last}], got {start}")
    index = np.arange(start, start + frames) % n_frames
    return np.ascontiguousarray(mel[:, index], dtype=np.float32)
