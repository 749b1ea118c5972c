"""One of several processes that train together: ``torchrun``'s, or those of ``--processes``."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist

from fastmte.cli._process import INTERRUPTED, TERMINATED, Terminated, device_of
from fastmte.data.workers import die_with_parent
from fastmte.exchange import Exchange, LostError
from fastmte.train import SmallerBatchesError

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LAUNCHED = "FASTMTE_LAUNCHED"  # set by our own launcher, which tells exit codes apart
STOPPING, _OUT = "stopping", "out"
_RUN, _SPOKEN, _ENDED = "run", "spoken", "ended"
LOST = 70  # exit code of a process that ends because another has
SMALLER = 75  # of one that has too little memory: all are to begin again with smaller batches
_TIMEOUT = timedelta(minutes=30)  # of one exchange; the first process writes in between
_POLL_SECONDS = 0.05


def is_in_team() -> bool:
    """Whether this process was started as one of several."""
    return all(name in os.environ for name in _NAMES) and int(os.environ["WORLD_SIZE"]) > 1


class Team:
    """The processes that were started together, seen from one of them.

    What they say goes through the store of whoever started them.

    Attributes:
        rank: this process's number; the first, 0, decides and writes.
        size: number of processes.
        is_restart: whether they were started again after one of them had died.
        is_launched: whether ``--processes`` started them, and not torchrun.
        can_restart: whether torchrun may start them again, and forgets what they told.
    """

    def __init__(self) -> None:
        self.is_launched = LAUNCHED in os.environ
        if self.is_launched and sys.platform == "linux":
            die_with_parent()
        store, self.rank, self.size = next(dist.rendezvous("env://", timeout=_TIMEOUT))
        self.can_restart = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
        life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.is_restart = int(life) > 0
        # Our launcher's store outlives the processes: nobody is to hear of those before.
        self._lasting, self._store = store, dist.PrefixStore(f"life-{life}", store)

    def device(self, name: str) -> torch.device:
        """Return this process's device of ``--device``, a GPU each where there are GPUs.

        Raises:
            click.BadParameter: there is no such device, or there are too few.
        """
        device = device_of(name)
        if device.type != "cuda":
            return device
        local = int(os.environ.get("LOCAL_RANK", self.rank))
        n_local = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        if device.index is not None or n_local > torch.cuda.device_count():
            text = (
                f"{name}: {n_local} processes need a GPU each, there are "
                f"{torch.cuda.device_count()}; start fewer, or take --device cpu"
            )
            raise click.BadParameter(text, param_hint="--device")
        torch.cuda.set_device(local)
        return torch.device("cuda", local)

    def connect(self, device: torch.device) -> Exchange:
        """Return the exchange of all processes, once all are here."""
        is_nccl = device.type == "cuda"
        dist.init_process_group(
            "nccl" if is_nccl else "gloo",
            store=dist.PrefixStore("group", self._store),
            rank=self.rank,
            world_size=self.size,
            timeout=_TIMEOUT,
        )
        return Exchange(self.rank, self.size, device if is_nccl else None)

    def tell(self, value: Any) -> None:
        """Let the others hear ``value``."""
        self._store.set(_RUN, json.dumps(value))

    def hear(self) -> Any:
        """Wait, hours if need be, for what the first process tells.

        Raises:
            LostError: whoever started the processes is gone.
        """
        try:
            while not self._store.check([_RUN]):
                if self._store.check([_ENDED]):
                    raise LostError
                time.sleep(_POLL_SECONDS)
            return json.loads(self._store.get(_RUN))
        except dist.DistError as error:
            raise LostError from error

    def keep_out(self, out: Path) -> None:
        """Remember the run's folder for processes that are started again."""
        self._lasting.set(_OUT, os.fsencode(out).hex())

    def kept_out(self) -> Path | None:
        """Return the folder that processes before a restart were to fill; torchrun forgets it."""
        if not self._lasting.check([_OUT]):
            return None
        return Path(os.fsdecode(bytes.fromhex(self._lasting.get(_OUT).decode())))

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """Let one process alone say why all of them end."""
        try:
            yield
        except LostError:
            sys.exit(LOST)
        except SmallerBatchesError as error:
            if self._note_end():
                text = f"Not enough memory in process {self.rank}: epoch {error.epoch} begins again"
                click.echo(f"{text}, with batches of {error.batch_size} songs", err=True)
            sys.exit(SMALLER)
        except KeyboardInterrupt as interrupt:
            sys.exit(TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED)
        except click.exceptions.Exit:
            self._note_end()
            raise
        except Exception:
            if self._note_end():
                raise
            sys.exit(1)

    def is_to_end(self) -> bool:
        """Whether all have been asked to end; another may have been faster."""
        return bool(self._lasting.check([STOPPING]))

    def _note_end(self) -> bool:
        """Let those who wait know that it is in vain; return whether this is the first to."""
        try:
            self._store.set(_ENDED, "")
            return bool(self._store.add(_SPOKEN, 1) == 1)
        except dist.DistError:
            return self.rank == 0
