"""What a command needs of the process and the machine it runs in."""

import re
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

NO_AUDIO, SOME_FAILED, INTERRUPTED, TERMINATED = 4, 3, 130, 143


def device_of(name: str) -> Any:
    """Return the torch device of ``--device``; ``auto`` is the GPU where there is one.

    Raises:
        click.BadParameter: there is no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d{1,2})?", name):
        text = f"{name}: must be auto, cpu, cuda, cuda:N, mps or xpu"
        raise click.BadParameter(text, param_hint="--device")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        text = f"{name}: cannot be used here; there is {', '.join(['cpu', *gpus])}"
        raise click.BadParameter(text, param_hint="--device") from error
    return device


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does, with another exit code."""


@contextmanager
def warnings_told(say: Callable[[str], None]) -> Iterator[None]:
    """Give each warning meant for users to ``say`` as one line, when it comes."""

    def tell(message: Warning | str, category: type[Warning], *rest: Any) -> None:
        if issubclass(category, UserWarning):
            say(f"Warning: {message}")
        else:
            before(message, category, *rest)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        before, warnings.showwarning = warnings.showwarning, tell  # type: ignore[assignment]
        yield


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise ``Terminated``, so that files and terminal are left in order."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
