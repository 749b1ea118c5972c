"""Which frames of a song a model sees."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

FRAMES = 1366  # 29.1 s at 12 kHz, what MTG's weights and the paper were trained on
BANDS = 96
MOST_WINDOWS = 32  # of one song: a quarter of an hour without a gap


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


Windows = Callable[[int, int], Sequence[int]]
"""What windows to take: (frames of the song, frames of a window) -> their first frames."""


def centre(n_frames: int, frames: int) -> list[int]:
    """Return the start of the one window in the middle."""
    return [centre_start(n_frames, frames)]


def spread(n_frames: int, frames: int, count: int) -> list[int]:
    """Return the starts of ``count`` windows, the middles of as many equal parts of the song.

    One is the centre; windows that would be the same are one.

    Raises:
        ValueError: ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    room = n_frames - frames
    if room <= 0:
        return centre(n_frames, frames)
    return sorted({room * (2 * i + 1) // (2 * count) for i in range(count)})


def covering(n_frames: int, frames: int, most: int) -> list[int]:
    """Return the starts of the fewest windows that have every frame, evenly apart.

    Of a song that needs more than ``most``, that many of it are spread.

    Raises:
        ValueError: ``most`` is not positive.
    """
    count = -(-n_frames // frames)
    if count > most or count == 1:
        return spread(n_frames, frames, most if count > most else 1)
    return [(n_frames - frames) * i // (count - 1) for i in range(count)]


def sliding(n_frames: int, frames: int, hop: int) -> list[int]:
    """Return the starts 0, hop, 2 hop ... of the windows that lie in the song.

    Raises:
        ValueError: ``hop`` is not positive.
    """
    if hop < 1:
        raise ValueError(f"hop must be at least 1, got {hop}")
    return list(range(0, n_frames - frames + 1, hop)) or centre(n_frames, frames)


def drawn(n_frames: int, frames: int, count: int, seed: int) -> list[int]:
    """Return the starts of ``count`` random windows; any at which one fits is as likely.

    Raises:
        ValueError: ``count`` is not positive.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if n_frames <= frames:
        return centre(n_frames, frames)
    return np.random.default_rng(seed).integers(0, n_frames - frames + 1, count).tolist()


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
