"""From the file of a song to the mels a model sees."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastmte.audio.decode import AudioError, AudioFile, open_audio
from fastmte.audio.resample import n_resampled, resample, source_range
from fastmte.crop import FRAMES, Windows, centre, crop_mel
from fastmte.mel import MelConfig, mel_spectrogram, n_frames, sample_range

_TRIES = 3  # a damaged file may turn out shorter than it was just counted


@dataclass(frozen=True)
class SongMel:
    """A song, or the part of it a model sees.

    Attributes:
        mel: (M, F) float32, dB; of ``load_windows`` (W, M, F).
        n_samples: of the whole song, at the mel's sample rate.
        n_frames: of the whole song.
        start_frame: where ``mel`` begins; of ``load_windows`` its first window.
        duration_s: of the whole song as far as it can be decoded, seconds.
        sample_rate: of the file, Hz.
        channels: of the file.
        status: ``"ok"``; ``"ok_short"``, a song shorter than the crop, repeated;
            ``"silent"``, nothing to hear in the crop; ``"truncated"``, a file that was cut
            off or is damaged, whose beginning this is.
        warnings: what is odd about the file, in words.
    """

    mel: NDArray[np.float32]
    n_samples: int
    n_frames: int
    start_frame: int
    duration_s: float
    sample_rate: int
    channels: int
    status: str
    warnings: tuple[str, ...]


def load_mel(path: str | bytes | Path, config: MelConfig, frames: int = FRAMES) -> SongMel:
    """Return the centre crop of a song; only the part of the file it needs is decoded.

    Args:
        path: an audio file; any name, bytes too.
        config: what mels to compute.
        frames: F, the frames of the crop. A shorter song is repeated to fill it.

    Raises:
        AudioError: the file cannot be read as music, or is shorter than one frame.
    """
    song = load_windows(path, config, centre, frames)
    return replace(song, mel=song.mel[0])


def load_windows(
    path: str | bytes | Path, config: MelConfig, windows: Windows, frames: int = FRAMES
) -> SongMel:
    """Return windows of a song, the bits that the whole song's mel has there.

    Only the parts of the file they need are decoded.

    Args:
        path: an audio file; any name, bytes too.
        config: what mels to compute.
        windows: which; see ``fastmte.crop``: ``centre``, ``spread``, ``covering``, ``sliding``,
            ``drawn``, or a function of your own.
        frames: F, the frames of a window. A shorter song is repeated to fill it.

    Raises:
        AudioError: the file cannot be read as music, or is shorter than one frame.
        ValueError: no windows, or one outside the song.
    """
    with open_audio(path) as file:
        for _ in range(_TRIES):
            song = _load(file, config, windows, frames)
            if song is not None:
                return song
            file.measure()
        raise AudioError("DAMAGED", path, "it decodes to another length each time")


def _load(file: AudioFile, config: MelConfig, windows: Windows, frames: int) -> SongMel | None:
    """Return the windows, or None if the file ends before their end."""
    rate = config.sample_rate
    n_samples = n_resampled(file.n_samples, file.sample_rate, rate, config.resampler)
    if n_samples < config.frame_size:
        what = f"{file.n_samples / file.sample_rate:.3f} s is shorter than one frame"
        raise AudioError("TOO_SHORT", file.path, f"{what} ({config.frame_size / rate:.3f} s)")
    total = n_frames(n_samples, config)
    is_short = total < frames
    starts = list(windows(total, frames))
    if not starts:
        raise ValueError(f"windows must give the start of one at least, got none of {total} frames")
    if is_short:
        whole = _part(file, config, n_samples, 0, total)
        mels = None if whole is None else [crop_mel(whole, frames, start) for start in starts]
    else:
        mels = _parts(file, config, n_samples, starts, frames)
    if mels is None:
        return None
    is_silent = all((mel <= config.floor_db).all() for mel in mels)
    warnings = list(file.warnings)
    if is_short:
        seconds = frames * config.hop / rate
        have = n_samples / rate
        warnings.append(f"shorter than the crop: {have:.1f} s repeated to {seconds:.1f} s")
    if is_silent:
        warnings.append("nothing but silence in the crop")
    return SongMel(
        mel=np.stack(mels) if len(mels) > 1 else mels[0][None],
        n_samples=n_samples,
        n_frames=total,
        start_frame=starts[0],
        duration_s=file.n_samples / file.sample_rate,
        sample_rate=file.sample_rate,
        channels=file.channels,
        status=_status(file.is_cut, is_silent, is_short),
        warnings=tuple(warnings),
    )


def _parts(
    file: AudioFile, config: MelConfig, n_samples: int, starts: list[int], frames: int
) -> list[NDArray[np.float32]] | None:
    """Return the windows of a song that is long enough, or None if the file ends too early."""
    last = n_frames(n_samples, config) - frames
    mels = []
    for start in starts:
        if not 0 <= start <= last:
            raise ValueError(f"windows must start in [0, {last}], got {start}")
        mel = _part(file, config, n_samples, start, start + frames)
        if mel is None:
            return None
        mels.append(mel)
    return mels


def _part(
    file: AudioFile, config: MelConfig, n_samples: int, first: int, last: int
) -> NDArray[np.float32] | None:
    """Return frames [first, last) of a song, or None if the file ends before their end."""
    rates = file.sample_rate, config.sample_rate, config.resampler
    begin, end = sample_range(first, last, n_samples, config)
    source = source_range(begin, end, file.n_samples, *rates)
    audio = file.read(*source)
    if len(audio) < source[1] - source[0]:
        return None
    samples = resample(audio, *rates, begin, end, source[0], file.n_samples)
    if not np.isfinite(samples).all():
        raise AudioError("NONFINITE", file.path, "its samples are too large to be music")
    return mel_spectrogram(samples, config, first, last - first, begin, n_samples)


def _status(is_cut: bool, is_silent: bool, is_short: bool) -> str:
    """Return the gravest thing there is to say of a song."""
    if is_cut:
        return "truncated"
    return "silent" if is_silent else "ok_short" if is_short else "ok"
