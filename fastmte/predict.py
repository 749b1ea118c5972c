"""Scores of songs: of files into a tagged folder, and of a mel store into memory."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from fastmte.checkpoint import Checkpoint
from fastmte.crop import FRAMES, MOST_WINDOWS, covering, spread
from fastmte.data.inputs import Found, SongFile, find_songs
from fastmte.data.parts import FAILURES, Row
from fastmte.data.shards import SHARD_SIZE, TagStore, open_store
from fastmte.data.songs import load_windows
from fastmte.data.workers import Decoders, Outcome, n_cores
from fastmte.ensemble import FusedEnsemble
from fastmte.errors import InputError
from fastmte.mel import MelConfig
from fastmte.plan.autotune import asked
from fastmte.plan.precision import Precision
from fastmte.plan.scores import Scores

BATCH_SIZE = 8
DEADLINE = 60.0
_AHEAD = 64  # windows that may wait for the model


class Store(Protocol):
    """What ``predict_store`` needs of a mel store."""

    def __len__(self) -> int: ...

    def gather(self, index: Tensor, frames: int, starts: Literal["centre"]) -> Tensor:
        """Return the crops (B, 96, frames) of the songs ``index`` (B,)."""


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        n_songs: songs asked for.
        n_before: of them, those that earlier runs have done.
        n_done: of them, those done now or before.
        n_kept: of the songs done, those on disk, where no interruption can undo them.
        n_failed: of those done now.
        row: the song that was finished last.
    """

    n_songs: int
    n_before: int
    n_done: int
    n_kept: int
    n_failed: int = 0
    row: Row | None = None

    def add(self, row: Row) -> None:
        """Count a song that is finished."""
        self.n_done += 1
        self.n_failed += row.status in FAILURES
        self.row = row


@dataclass(frozen=True)
class Tagging:
    """What became of the songs of a run.

    Attributes:
        n_songs: songs asked for.
        n_before: of them, those that earlier runs have done.
        statuses: status -> songs, of all that were asked for.
        n_scored: songs with scores.
        seconds: time this run took.
        damaged: names of parts that could not be read and were done again.
    """

    n_songs: int
    n_before: int
    statuses: Counter[str]
    n_scored: int
    seconds: float
    damaged: list[str] = field(default_factory=list)

    @property
    def n_failed(self) -> int:
        """Songs without scores because something is wrong with them."""
        return sum(self.statuses[status] for status in FAILURES)


def tag_paths(
    paths: Sequence[str | os.PathLike[str]] | Found,
    checkpoint: Checkpoint,
    out: str | Path,
    *,
    batch_size: int = BATCH_SIZE,
    workers: int | None = None,
    deadline: float = DEADLINE,
    device: str | torch.device = "cpu",
    plan: str | None = None,
    precision: Precision = "fp32",
    short: Literal["repeat", "skip"] = "repeat",
    windows: int | Literal["all"] = 1,
    force: bool = False,
    retry_failed: bool = False,
    shard_size: int = SHARD_SIZE,
    on_progress: Callable[[Progress], None] | None = None,
) -> Tagging:
    """Score songs into a tagged folder; a run that was ended in any way goes on there.

    A song's scores do not depend on its neighbours: every batch has the full size, and
    the rows without a song are zeros.

    Args:
        paths: files and folders, or what ``find_songs`` found.
        checkpoint: the model.
        out: folder of the collection.
        batch_size: songs a forward pass.
        workers: decoder processes; one a core by default, 0 for none.
        deadline: seconds a song may take to decode.
        device: where the model runs.
        plan: how the model is run; see ``fastmte.plan.make_plan``.
        precision: of the model's maps; likewise.
        short: songs shorter than a crop are repeated, or get no scores.
        windows: of a song, spread over it, or as many as have all of it, of very long songs
            ``crop.MOST_WINDOWS``; its scores are the means over them.
        force: start anew what was made with another model or other settings.
        retry_failed: try again the songs that failed in an earlier run.
        shard_size: songs that become one part, in a new folder.
        on_progress: called at the start, and after each song.

    Raises:
        InputError: ``out`` was made with something else, another run writes there, no such
            plan, or memory does not hold one song.
        OSError: ``out`` cannot be written.
        ValueError: batch_size, workers, deadline or windows is out of range.

    Warns:
        UserWarning: as ``fastmte.plan.Scores``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if windows != "all" and not 1 <= windows <= MOST_WINDOWS:
        raise ValueError(f"windows must be all or in [1, {MOST_WINDOWS}], got {windows}")
    started = time.monotonic()
    found = paths if isinstance(paths, Found) else find_songs(paths)
    mel = MelConfig.from_dict(dict(checkpoint.mel))
    made_with = {
        "model": model_hash(checkpoint.ensemble),
        "mel": mel.to_dict(),
        "frames": checkpoint.frames,
        "short": short,
    }
    ensemble = checkpoint.ensemble.to(device)
    _, precision = asked(ensemble, plan, precision)
    if precision != "fp32":  # folders from before there was a choice are of float32
        made_with["precision"] = precision
    if windows != 1:  # likewise
        made_with["windows"] = windows
    thresholds = None if checkpoint.thresholds is None else checkpoint.thresholds.tolist()
    most = MOST_WINDOWS if windows == "all" else windows
    places = partial(covering, most=most) if windows == "all" else partial(spread, count=most)
    load = partial(load_windows, config=mel, windows=places, frames=checkpoint.frames)
    n_workers = n_cores() if workers is None else workers
    shape = (mel.bands, checkpoint.frames)
    with open_store(
        out, checkpoint.tags, made_with, found.root, thresholds, shard_size, force
    ) as store:
        shards = store.plan(found.songs, retry_failed)
        n_new = sum(len(shard.songs) for shard in shards)
        n_before = len(found.songs) - n_new
        progress = Progress(len(found.songs), n_before, n_before, n_before)
        tell = on_progress or _nobody
        tell(progress)
        if shards:
            least = 0.0 if short == "repeat" else checkpoint.frames * mel.hop / mel.sample_rate
            scores = Scores(ensemble, batch_size, checkpoint.frames, plan, precision)
            scorer = _Scorer(scores, batch_size, shape, least)
            n_workers = min(n_workers, n_new)
            ahead = max(2 * n_workers, _AHEAD // most)
            with Decoders(load, n_workers, deadline, (most, *shape), ahead) as decoders:
                outcomes = decoders.map(song.path for shard in shards for song in shard.songs)
                for shard in shards:
                    rows = []
                    pairs = zip(shard.songs, islice(outcomes, len(shard.songs)), strict=True)
                    for row in scorer.rows(pairs):
                        rows.append(row)
                        progress.add(row)
                        tell(progress)
                    store.write(shard, rows)
                    progress.n_kept += len(rows)
        return _tagging(store, found.songs, n_before, time.monotonic() - started)


def predict_store(
    ensemble: FusedEnsemble,
    store: Store,
    index: Sequence[int] | np.ndarray | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    frames: int = FRAMES,
    plan: str | None = None,
    precision: Precision = "fp32",
) -> np.ndarray:
    """Return the scores of a store's songs, (N, L) float64 in [0, 1].

    Args:
        ensemble: scored in evaluation mode, whatever mode it is in; moved to ``device``.
        store: the mels.
        index: (N,) songs; all by default.
        batch_size: songs a forward pass; every pass has this size.
        device: where the model runs.
        frames: length of the crop in the middle of each song.
        plan: how the ensemble is run; see ``fastmte.plan.make_plan``.
        precision: of its maps; likewise.

    Raises:
        InputError: a score is not finite, no such plan, or memory does not hold one song.
        ValueError: batch_size is not positive.

    Warns:
        UserWarning: as ``fastmte.plan.Scores``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    songs = np.arange(len(store)) if index is None else np.asarray(index, np.int64)
    scores = np.empty((len(songs), ensemble.n_scores), np.float64)
    if len(songs):
        score = Scores(ensemble.to(device), batch_size, frames, plan, precision)
    for start in range(0, len(songs), batch_size):
        some = songs[start : start + batch_size]
        full = np.resize(some, batch_size)  # repeats, so that every batch has one size
        mels = store.gather(torch.from_numpy(full), frames, "centre")
        scores[start : start + len(some)] = score(mels)[: len(some)]
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise InputError(
            f"the model's scores of {len(bad)} songs are not finite (first: song {songs[bad[0]]}); "
            "its weights or the songs' mels are damaged, or training has diverged"
        )
    return scores


def model_hash(ensemble: FusedEnsemble) -> str:
    """Return the SHA-256, in hex, of what scores depend on: layout, partition and weights."""
    layout = f"{ensemble.backbone_name} {ensemble.member_of_label.tolist()}"
    if ensemble.merge is not None:
        layout += f" {ensemble.merge}"
    digest = hashlib.sha256(layout.encode())
    for name, value in sorted(ensemble.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


class _Scorer:
    """Batches of songs through the model, rows out in the order of the songs."""

    def __init__(
        self, scores: Scores, batch_size: int, shape: tuple[int, int], least: float
    ) -> None:
        """Take the model; songs that do not fill a crop of ``least`` seconds get no scores."""
        self._scores, self._least = scores, least
        self._mels = torch.zeros(batch_size, *shape)

    def rows(self, pairs: Iterable[tuple[SongFile, Outcome]]) -> Iterator[Row]:
        """Yield one row a song, its scores the means over its windows."""
        waiting: list[tuple[Row, int]] = []  # songs and their windows
        scores = np.empty((0, 0), np.float32)  # of the windows seen by the model
        n_mels = 0
        for file, outcome in pairs:
            row, mels = self._row(file, outcome)
            waiting.append((row, len(mels)))
            for mel in mels:
                self._mels[n_mels] = torch.from_numpy(mel)
                n_mels += 1
                if n_mels == len(self._mels):
                    scores, n_mels = self._scored(scores, n_mels), 0
                    scores = yield from _given(waiting, scores)
        yield from _given(waiting, self._scored(scores, n_mels))

    def _row(self, file: SongFile, outcome: Outcome) -> tuple[Row, np.ndarray]:
        """Return what is known of a song, and the windows that the model is to see."""
        row, song = _row(file, outcome), outcome.song
        nothing = self._mels.numpy()[:0]
        if song is None:
            return row, nothing
        if song.n_frames >= self._mels.shape[-1] or not self._least:
            return row, song.mel
        text = f"{row.duration_s:.1f} s, less than the crop's {self._least:.1f} s: not scored"
        return replace(row, code="TOO_SHORT", message=text), nothing

    def _scored(self, before: np.ndarray, n_mels: int) -> np.ndarray:
        """Return the scores that wait, and those of the batch's first mels."""
        self._mels[n_mels:] = 0.0
        if not n_mels:
            return before
        scores = self._scores(self._mels)[:n_mels]
        return np.concatenate([before, scores]) if len(before) else scores


def _given(waiting: list[tuple[Row, int]], scores: np.ndarray) -> Generator[Row, None, np.ndarray]:
    """Yield the songs whose windows all have scores, in order; return the scores that are left."""
    used = 0
    while waiting and waiting[0][1] <= len(scores) - used:
        row, n_windows = waiting.pop(0)
        if not n_windows:
            yield row
            continue
        mean = scores[used : used + n_windows].mean(axis=0).astype(np.float32)
        used += n_windows
        if np.isfinite(mean).all():
            yield replace(row, scores=mean)
        else:
            text = "the model's scores are not finite"
            yield replace(row, status="error", code="NONFINITE_SCORE", message=text)
    return scores[used:]


def _row(file: SongFile, outcome: Outcome) -> Row:
    song = outcome.song
    if song is None:
        return Row(file, outcome.status, outcome.code, outcome.message)
    return Row(
        file,
        outcome.status,
        "TRUNCATED" if outcome.status == "truncated" else "",
        "; ".join(song.warnings),
        duration_s=song.duration_s,
        sample_rate=song.sample_rate,
        channels=song.channels,
        start_frame=song.start_frame,
    )


def _tagging(store: TagStore, songs: Sequence[SongFile], n_before: int, seconds: float) -> Tagging:
    held = [song for song in store.held(songs) if song is not None]
    statuses = Counter(song.status for song in held)
    n_scored = sum(song.has_scores for song in held)
    return Tagging(len(songs), n_before, statuses, n_scored, seconds, store.damaged)


def _nobody(progress: Progress) -> None:
    """Listen to no progress."""
