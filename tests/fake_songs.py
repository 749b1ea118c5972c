"""Songs that do to a decoder process what their name says; imported by the processes too."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from fastmte.audio.decode import AudioError
from fastmte.data.songs import SongMel

SHAPE = (4, 6)


def load(path: bytes) -> SongMel:
    name = os.path.basename(path).decode()
    what = name.split("-")[0]
    if what == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "exit":
        os._exit(7)
    elif what == "hang":
        time.sleep(3600)
    elif what == "slow":
        time.sleep(0.3)
    elif what == "damaged":
        raise AudioError("DAMAGED", path, "lost sync")
    elif what == "forbidden":
        raise PermissionError(13, "Permission denied", name)
    elif what == "huge":
        raise MemoryError
    elif what == "bug":
        raise KeyError("a mistake")
    elif what == "once":
        crash_once(Path(os.fsdecode(path)))
    elif what == "noisy":
        os.write(1, b"noise on stdout\n")
        os.write(2, b"noise on stderr\n")
    return song(name)


def crash_once(path: Path) -> None:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def song(name: str) -> SongMel:
    mel = np.full(SHAPE, sum(name.encode()), np.float32) + np.arange(SHAPE[1], dtype=np.float32)
    status = "ok_short" if name.startswith("short") else "ok"
    return SongMel(mel, 100, 6, 0, 1.5, 44100, 2, status, ("odd",) if status == "ok_short" else ())


def environment(path: bytes) -> SongMel:
    """Return what a process inherited, as the first values of its mel."""
    threads = float(os.environ["OMP_NUM_THREADS"])
    is_deaf = float(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
    mel = np.zeros(SHAPE, np.float32)
    mel[0, :4] = threads, is_deaf, float("torch" in sys.modules), os.getpid()
    return SongMel(mel, 1, 1, 0, 1.0, 8000, 1, "ok", ())
