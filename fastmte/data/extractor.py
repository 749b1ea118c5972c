"""Descriptors of whole songs by Essentia's MusicExtractor, in processes it may bring down."""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from fastmte.audio.decode import AudioError, open_audio
from fastmte.data.describe import loaded
from fastmte.data.songs import SongMel
from fastmte.errors import InputError
from fastmte.features import ACOUSTICBRAINZ_KEYS

DEADLINE = 600.0  # seconds; the extractor takes a thirtieth of a song's length
MOST = 4096  # descriptors of a song
SVM_MODELS = tuple(
    dict.fromkeys(key.split(".")[1] for key in ACOUSTICBRAINZ_KEYS if key.startswith("highlevel."))
)
"""Essentia's classifiers that the paper's descriptors are from, ``NAME.history`` each."""

_GROUPS = ("lowlevel.", "rhythm.", "tonal.")
_STATISTICS = ["mean", "stdev"]
_Described = tuple[tuple[str, ...], np.ndarray]


def svm_files(folder: str | Path) -> list[str]:
    """Return the files of the classifiers in a folder, in the order of ``SVM_MODELS``.

    Raises:
        InputError: some are not there; they are named.
    """
    paths = [Path(folder) / f"{name}.history" for name in SVM_MODELS]
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        raise InputError(
            f"{folder}: lacks {', '.join(absent)}; Essentia's SVM models are at "
            "https://essentia.upf.edu/svm_models/"
        )
    return [str(path) for path in paths]


def extract_songs(
    paths: Sequence[Path], models: Sequence[str], n_workers: int | None = None
) -> Iterator[_Described | str]:
    """Yield each song's names and values of descriptors, or why it has none, in order.

    With models they are the paper's 22 (``ACOUSTICBRAINZ_KEYS``); without, all the numbers that
    the extractor gives of timbre, rhythm and tonality, means and deviations over the song.

    Args:
        paths: audio files.
        models: files of the classifiers; none for the extractor's own numbers.
        n_workers: processes; one a core by default, 0 for none, which a file that brings the
            extractor down takes with it.

    Raises:
        InputError: a file is no model.
        RuntimeError: a process cannot even start.
    """
    if models:
        _algorithms(tuple(models))  # what is no model is found out once, not with every song
    load = partial(_load, models=tuple(models))
    for song in loaded(paths, load, n_workers, DEADLINE, (1, MOST)):
        yield song if isinstance(song, str) else (song.warnings, song.mel[0].astype(np.float64))


def _load(path: bytes, models: tuple[str, ...]) -> SongMel:
    """Return the descriptors in the place of a mel, and their names in that of warnings."""
    with open_audio(path) as file:
        seconds, rate, channels = file.n_samples / file.sample_rate, file.sample_rate, file.channels
    if channels > 2:
        what = f"Essentia reads one or two channels, it has {channels}"
        raise AudioError("UNSUPPORTED", path, what)
    names, values = _described(path, models)
    mel = np.array([values], np.float32)
    if not np.isfinite(mel).all():
        raise AudioError("NONFINITE", path, "descriptors that are not finite")
    return SongMel(mel, 0, 1, 0, seconds, rate, channels, "ok", names)


def _described(path: bytes, models: tuple[str, ...]) -> tuple[tuple[str, ...], list[float]]:
    extract, classify = _algorithms(models)
    try:
        pool, _ = extract(path.decode("utf-8"))
        if classify is not None:
            pool = _merged(pool, classify(pool))
    except UnicodeDecodeError as error:
        what = "Essentia takes no name that is not UTF-8; rename it"
        raise AudioError("UNSUPPORTED", path, what) from error
    except RuntimeError as error:
        raise AudioError("DAMAGED", path, f"Essentia: {' '.join(str(error).split())}") from error
    if classify is None:
        names = sorted(
            name
            for name in pool.descriptorNames()
            if name.startswith(_GROUPS) and _is_real(pool[name])
        )
        return tuple(names), [float(pool[name]) for name in names]
    absent = [key for key in ACOUSTICBRAINZ_KEYS if key not in pool]
    if absent:
        raise InputError(f"{os.fsdecode(path)}: the SVM models do not give {', '.join(absent)}")
    return ACOUSTICBRAINZ_KEYS, [float(pool[key]) for key in ACOUSTICBRAINZ_KEYS]


def _merged(*pools: Any) -> dict[str, Any]:
    return {name: pool[name] for pool in pools for name in pool.descriptorNames()}


def _is_real(value: Any) -> bool:
    return isinstance(value, float | np.floating)


@cache
def _algorithms(models: tuple[str, ...]) -> tuple[Callable[..., Any], Callable[..., Any] | None]:
    """Return the extractor and, where there are models, the classifiers, made once a process.

    The classifiers were trained on the extractor's own choice of statistics.

    Raises:
        InputError: a file is no model.
    """
    import essentia
    import essentia.standard

    essentia.log.infoActive = essentia.log.warningActive = False
    if not models:
        kept = dict.fromkeys(("lowlevelStats", "rhythmStats", "tonalStats"), _STATISTICS)
        return essentia.standard.MusicExtractor(**kept), None
    try:
        classify = essentia.standard.MusicExtractorSVM(svms=list(models))
    except RuntimeError as error:
        folder, reason = Path(models[0]).parent, " ".join(str(error).split())
        raise InputError(f"{folder}: not Essentia's SVM models ({reason})") from error
    return essentia.standard.MusicExtractor(), classify
