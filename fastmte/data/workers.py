"""Decoder processes that a bad song cannot take with it, nor its neighbours."""

import ctypes
import errno
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

import numpy as np

from fastmte.audio.decode import display_name
from fastmte.data.songs import SongMel
from fastmte.errors import InputError

Load = Callable[[bytes], SongMel]

START_SECONDS = 120.0  # importing numpy and numba on a loaded machine takes seconds
MAX_FAILED_STARTS = 3
_ONE_THREAD = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
}
_SPAWN = multiprocessing.get_context("spawn")
_NO_MEL = np.empty((0, 0), np.float32)
_CODE_OF_ERRNO = {
    errno.EACCES: "PERMISSION",
    errno.EPERM: "PERMISSION",
    errno.ENOENT: "VANISHED",
    errno.ENOTDIR: "VANISHED",
    errno.ELOOP: "NOT_REGULAR",
    errno.EISDIR: "NOT_REGULAR",
}


def n_cores() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Outcome:
    """What became of one song in the decoder.

    Attributes:
        status: ``ok``, ``ok_short``, ``silent``, ``error``, ``crash`` or ``timeout``.
        code: the stable name of a failure; empty where there is a song.
        message: the failure in words, without the path.
        song: the song's mel; None for the last three states.
    """

    status: str
    code: str = ""
    message: str = ""
    song: SongMel | None = None


def attempt(load: Load, path: bytes) -> Outcome:
    """Return what ``load`` makes of one song, in this process; a failure comes back as data."""
    try:
        song = load(path)
    except InputError as error:
        text = str(error).removeprefix(f"{display_name(path)}: ")
        return Outcome("error", str(getattr(error, "code", "DAMAGED")), text)
    except MemoryError:
        return Outcome("error", "OUT_OF_MEMORY", "not enough memory to decode it")
    except OSError as error:
        code = _CODE_OF_ERRNO.get(error.errno or 0, "UNREADABLE")
        return Outcome("error", code, error.strerror or str(error))
    return Outcome(song.status, song=song)


class Decoders:
    """Processes that load songs, one song in flight in each.

    A process that dies or passes the deadline is replaced, and exactly the song it
    held is blamed. A song whose process died is tried once more while nothing else
    runs, so that a process killed for memory by its neighbours is not the song's
    fault. The processes end with this one, whatever ends it.

    The spawned processes import the caller's main module, so a script that uses this
    keeps its own work under ``if __name__ == "__main__":``.
    """

    def __init__(
        self, load: Load, n_workers: int, deadline: float, shape: tuple[int, ...], ahead: int = 0
    ) -> None:
        """Start the processes.

        Args:
            load: picklable function from a path to its song; raises InputError or OSError.
            n_workers: number of processes; 0 loads in this process, without a deadline.
            deadline: seconds a song may take.
            shape: of the largest mel a song may have, (bands, frames) or (windows, bands, frames).
            ahead: songs that may be finished before a slower one ahead of them; default 64
                or four a process. One costs a mel, 0.5 MB for (96, 1366).

        Raises:
            ValueError: a negative number of workers or a deadline that is not positive.
        """
        if n_workers < 0:
            raise ValueError(f"n_workers must be at least 0, got {n_workers}")
        if not deadline > 0:
            raise ValueError(f"deadline must be positive, got {deadline}")
        self._load, self._deadline = load, deadline
        self._ahead = ahead or max(64, 4 * n_workers)
        self._failed_starts = 0
        self._workers: list[_Worker] = []
        for _ in range(n_workers):
            slot = _SPAWN.RawArray("f", math.prod(shape))
            self._workers.append(_Worker(load, slot))

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes at once; they only read, so nothing is lost."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def map(self, paths: Iterable[bytes]) -> Iterator[Outcome]:
        """Yield one outcome a path, in the order of the paths.

        Raises:
            InputError: the processes do not even start.
        """
        if not self._workers:
            for path in paths:
                yield attempt(self._load, path)
            return
        self._restart_busy()
        todo = _Todo(paths)
        finished: dict[int, Outcome] = {}
        n_out = 0
        while True:
            self._hand_out(todo, n_out + self._ahead)
            if n_out in finished:
                yield finished.pop(n_out)
                n_out += 1
            elif n_out == todo.n_taken and todo.is_empty:
                return
            else:
                finished.update(self._collect(todo))

    def _restart_busy(self) -> None:
        """Replace the processes that still work for an earlier, abandoned map."""
        for i, worker in enumerate(self._workers):
            if worker.song is not None:
                worker.end()
                self._workers[i] = _Worker(self._load, worker.slot)

    def _hand_out(self, todo: "_Todo", end: int) -> None:
        """Give idle processes songs with an index below ``end``; a suspect runs alone."""
        idle = [worker for worker in self._workers if worker.is_ready and worker.song is None]
        if todo.suspects:
            is_calm = all(worker.song is None for worker in self._workers)
            if idle and is_calm:
                idle[0].give(todo.suspects.popleft())
            return
        if any(w.song is not None and w.song.n_deaths for w in self._workers):
            return
        for worker in idle:
            song = todo.take(end)
            if song is None:
                return
            worker.give(song)

    def _collect(self, todo: "_Todo") -> Iterator[tuple[int, Outcome]]:
        """Wait for a sign of life; yield the songs that are through with it, well or badly."""
        now = time.monotonic()
        limits = {w.connection: w.limit(self._deadline) for w in self._workers}
        patience = min(limits.values()) - now
        speaking = wait(list(limits), timeout=min(max(patience, 0.0), 3600.0))
        now = time.monotonic()
        for i, worker in enumerate(self._workers):
            if worker.connection in speaking:
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError):
                    yield from self._bury(i, todo)
                    continue
                if answer is None:
                    worker.is_ready, self._failed_starts = True, 0
                    continue
                outcome, shape = answer
                yield worker.take_song().index, _with_mel(outcome, shape, worker.slot)
            elif now > limits[worker.connection]:
                yield from self._overdue(i)

    def _bury(self, i: int, todo: "_Todo") -> Iterator[tuple[int, Outcome]]:
        """Replace a process that died; its song gets a second trial, once."""
        worker = self._workers[i]
        code = worker.end(patience=5.0)
        self._replace(i, failed_start=not worker.is_ready, how=_exit_text(code))
        song = worker.song
        if song is None:
            return
        if song.n_deaths:
            text = f"the decoder process died twice on this file ({_exit_text(code)})"
            yield song.index, Outcome("crash", "DECODER_CRASH", text)
        else:
            todo.suspects.append(replace(song, n_deaths=1))

    def _overdue(self, i: int) -> Iterator[tuple[int, Outcome]]:
        """Replace a process that is past its time."""
        worker = self._workers[i]
        worker.end()
        self._replace(i, failed_start=not worker.is_ready, how=f"silent for {START_SECONDS:.0f} s")
        if worker.song is not None:
            text = f"not decoded within {self._deadline:g} s"
            yield worker.song.index, Outcome("timeout", "TIMEOUT", text)

    def _replace(self, i: int, failed_start: bool, how: str) -> None:
        if failed_start:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise InputError(
                    f"decoder processes do not start ({how}); with workers=0 songs are decoded in "
                    'this process, and a script needs if __name__ == "__main__":'
                )
        self._workers[i] = _Worker(self._load, self._workers[i].slot)


def _with_mel(outcome: Outcome, shape: tuple[int, ...], slot: Any) -> Outcome:
    """Return an outcome with the mel of this shape that lies in the shared memory."""
    if outcome.song is None:
        return outcome
    mel = np.frombuffer(slot, np.float32)[: math.prod(shape)].reshape(shape).copy()
    return replace(outcome, song=replace(outcome.song, mel=mel))


@dataclass(frozen=True)
class _Song:
    index: int
    path: bytes
    n_deaths: int = 0


class _Todo:
    """The songs that no process has had, and those whose process died."""

    def __init__(self, paths: Iterable[bytes]) -> None:
        self._paths = iter(paths)
        self._next: bytes | None = next(self._paths, None)
        self.suspects: deque[_Song] = deque()
        self.n_taken = 0

    @property
    def is_empty(self) -> bool:
        return self._next is None and not self.suspects

    def take(self, end: int) -> _Song | None:
        if self._next is None or self.n_taken >= end:
            return None
        song = _Song(self.n_taken, self._next)
        self._next = next(self._paths, None)
        self.n_taken += 1
        return song


class _Worker:
    """One process, its pipe and the shared memory its mels come back in."""

    def __init__(self, load: Load, slot: Any) -> None:
        # A RawArray is an unlinked file: nothing of it is left, even after a kill -9.
        self.slot = slot
        self.song: _Song | None = None
        self.is_ready = False
        self._since = time.monotonic()
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=_serve, args=(theirs, slot, load, os.getpid()), daemon=True
        )
        with _calm_start():
            self._process.start()
        theirs.close()

    def limit(self, deadline: float) -> float:
        """Return the moment (monotonic) at which patience ends; infinity for an idle process."""
        if not self.is_ready:
            return self._since + START_SECONDS
        return self._since + deadline if self.song is not None else float("inf")

    def give(self, song: _Song) -> None:
        self.song, self._since = song, time.monotonic()
        with suppress(OSError):  # it died while idle: the next wait sees that
            self.connection.send(song.path)

    def take_song(self) -> _Song:
        song, self.song = self.song, None
        if song is None:
            raise RuntimeError("a decoder process answered without having been asked")
        return song

    def end(self, patience: float = 0.0) -> int | None:
        """Kill the process unless it ends by itself within ``patience`` s; return its exit code."""
        self._process.join(patience)
        self._process.kill()
        self._process.join()
        self.connection.close()
        return self._process.exitcode


@contextmanager
def _calm_start() -> Iterator[None]:
    """Let children inherit one thread a library, and no Ctrl-C even before they can ignore it."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    has_masks = hasattr(signal, "pthread_sigmask")
    if has_masks:
        resource_tracker.ensure_running()  # its own start would lift the mask again
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _serve(connection: Connection, slot: Any, load: Load, parent: int) -> None:
    """Load songs until the pipe closes; this is all that a decoder process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        die_with_parent()
        if os.getppid() != parent:  # it died before the line above
            return
    _silence()
    mels = np.frombuffer(slot, np.float32)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(None)
        while True:
            path = connection.recv()
            try:
                outcome = attempt(load, path)
            except BaseException as error:  # reported, then this process ends of it
                text = f"{type(error).__name__}: {error}"
                connection.send((Outcome("crash", "DECODER_CRASH", text), ()))
                raise
            shape: tuple[int, ...] = ()
            if outcome.song is not None:
                mel = outcome.song.mel
                shape = mel.shape
                mels[: mel.size] = mel.reshape(-1)
                outcome = replace(outcome, song=replace(outcome.song, mel=_NO_MEL))
            connection.send((outcome, shape))


def die_with_parent() -> None:
    """Let this process be killed when the one that started it ends (Linux only)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _silence() -> None:
    """Close the terminal to C libraries: libmpg123 writes thousands of lines of a damaged file."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _exit_text(code: int | None) -> str:
    if code is None:
        return "no exit code"
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
