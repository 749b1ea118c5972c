"""``fastmte train --processes``: start the processes, and start them again when one has died."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count
from typing import Any

import click
from click.core import ParameterSource

from fastmte.cli._process import INTERRUPTED, SOME_FAILED, TERMINATED, Terminated, terminable
from fastmte.cli._team import LAUNCHED, LOST, SMALLER, STOPPING
from fastmte.data.workers import n_cores

PROGRAM = (sys.executable, "-m", "fastmte")
_GOOD = (None, 0, SOME_FAILED)  # exit codes of a process that runs, or has done its work
_POLL_SECONDS, _GRACE_SECONDS, _PATIENCE_SECONDS = 0.1, 3.0, 20.0
_OWN = ("processes", "max_restarts")


def launch(ctx: click.Context, n_processes: int, max_restarts: int) -> int:
    """Run the command in several processes on this machine; return its exit code.

    When a process has died of a signal, the others are ended, and all begin again from the
    last state on the disk, at most ``max_restarts`` times. Beginning again with smaller batches
    is not counted.
    """
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    arguments = [ctx.info_name or "", *_arguments(ctx)]
    n_deaths = 0
    for life in count():
        processes = [
            subprocess.Popen(
                [*PROGRAM, *arguments],
                env=_environment(rank, n_processes, store.port, life),
                start_new_session=True,  # Ctrl-C comes from here, once
            )
            for rank in range(n_processes)
        ]
        code = _wait(processes, store)
        if code == SMALLER:
            continue
        if code >= 0:
            break
        n_deaths += 1
        number = next(i for i, process in enumerate(processes) if process.returncode == code)
        text = f"process {number} was ended by {signal.Signals(-code).name}"
        if n_deaths > max_restarts:
            kept = "epochs that are finished are kept, --resume goes on"
            click.echo(f"Error: {text}; {kept}", err=True)
            code = 1
            break
        click.echo(f"{text}; all begin again ({n_deaths} of {max_restarts})", err=True)
    return code


def _arguments(ctx: click.Context) -> list[str]:
    """Return the options that were given, as words, without the launcher's own."""
    words = []
    for parameter in ctx.command.params:
        name = parameter.name or ""
        if ctx.get_parameter_source(name) is not ParameterSource.COMMANDLINE or name in _OWN:
            continue
        words.append(parameter.opts[0])
        if not getattr(parameter, "is_flag", False):
            words.append(str(ctx.params[name]))
    return words


def _environment(rank: int, size: int, port: int, life: int) -> dict[str, str]:
    loopback = "lo" if sys.platform == "linux" else "lo0"
    defaults = {
        "OMP_NUM_THREADS": str(max(1, n_cores() // size)),
        "GLOO_SOCKET_IFNAME": loopback,  # a machine need not know its own name
    }
    return {
        **defaults,
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": str(life),
        LAUNCHED: "1",
    }


def _wait(processes: Sequence[subprocess.Popen[bytes]], store: Any) -> int:
    """Return the exit code of all once all have ended: the first's, or that of what went wrong."""
    since = None
    try:
        with terminable():
            while None in (codes := [process.poll() for process in processes]):
                if since is None and any(code not in _GOOD for code in codes):
                    since = time.monotonic()
                # Most find out by themselves, and who is the cause may still be speaking.
                if since is not None and time.monotonic() - since > _GRACE_SECONDS:
                    _end(processes, signal.SIGTERM)
                    break
                time.sleep(_POLL_SECONDS)
    except KeyboardInterrupt as interrupt:
        store.set(STOPPING, "1")
        is_term = isinstance(interrupt, Terminated)
        _end(processes, signal.SIGTERM if is_term else signal.SIGINT)
        return TERMINATED if is_term else INTERRUPTED
    worse = [code for code in codes if code not in _GOOD]
    # Who died of a signal tells more than who was left alone.
    return min(worse, key=lambda code: (code > 0, code == LOST)) if worse else codes[0] or 0


def _end(processes: Sequence[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    """End those that still run, by force if they take too long."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
